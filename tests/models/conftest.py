"""Tiny checkpoints, made once a session. A test that changes one copies it first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rtvla.models.checkpoint import load_vl_encoder
from rtvla.models.make_tiny import make_tiny
from rtvla.models.qwen_vl import VLEncoder

torch.set_num_threads(1)  # spinning workers of two runs on two cores can slow each other down a hundredfold


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flow matching, per_view."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Regression, joint."""
    folder = tmp_path_factory.mktemp("models") / "regression"
    make_tiny(folder, expert="regression", vl_sequence="joint")
    return folder


@pytest.fixture(scope="session")
def encoder(tiny: Path) -> VLEncoder:
    return load_vl_encoder(tiny, "eye")


@pytest.fixture(scope="session")
def joint_encoder(tiny_regression: Path) -> VLEncoder:
    return load_vl_encoder(tiny_regression, "eye")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever lies in the hub's cache of this machine is none of the test's business."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
