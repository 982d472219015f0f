"""Sizes of models with random weights, to be measured: time depends on shapes, not on values. Not for a robot.

`full` is what this runtime was made for: Qwen2.5-VL-3B (configs/qwen2_5_vl_3b.json holds the numbers of the hub's
config.json) and the deployed action models. `small` and `tiny` are for machines without a GPU.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rtvla.models import random_action
from rtvla.models.normalize import MeanStd, Statistics
from rtvla.models.spec import ModelSpec
from rtvla.models.vla import VlaModel

_CONFIGS = Path(__file__).parent / "configs"
_VL = {"full": "qwen2_5_vl_3b", "small": "qwen2_5_vl_small", "tiny": "qwen2_5_vl_tiny"}
_DTYPE = {"full": "bfloat16", "small": "float32", "tiny": "float32"}
PRESETS = tuple(_VL)
# of random_action.random_action_model
ACTION_SIZES = {
    "full": random_action.FULL,
    "small": {
        "features": 256,
        "hidden": 256,
        "diffusion_hidden": 256,
        "sensor_hidden": 128,
        "robot_hidden": 96,
        "layers": 4,
    },
    "tiny": random_action.SMALL,
}


def vl_config(preset: str) -> dict[str, Any]:
    """The backbone's config.json in the flat form of the hub."""
    config: dict[str, Any] = json.loads((_CONFIGS / f"{_VL[preset]}.json").read_text())
    return config


def vl_spec(preset: str, **changes: Any) -> ModelSpec:
    """Of a VL encoder of this size, with some fields changed. In no checkpoint, so its fingerprint is all zeros."""
    spec = ModelSpec(
        name=f"random-{preset}",
        vl_backbone="in-memory",
        vl_fingerprint="0" * 64,
        trained=False,
        dtype=_DTYPE[preset],
        vl_dim=vl_config(preset)["hidden_size"],
    )
    return replace(spec, **changes)


def without(spec: ModelSpec, *, sensor: bool, robot: bool) -> ModelSpec:
    """The same model made without the modalities that are False. Without both only VL remains: nothing is fused."""
    changes: dict[str, Any] = {}
    if not sensor:
        changes["sensor_encoder"] = "none"
    if not robot:
        changes["robot_encoder"] = "none"
    made = {"sensor_encoder": spec.sensor_encoder, "robot_encoder": spec.robot_encoder, **changes}
    if changes and set(made.values()) == {"none"}:
        changes["fusion"] = "none"
    return replace(spec, **changes)


def twin(spec: ModelSpec) -> VlaModel:
    """A model of this spec with random weights, always the same ones, and plain statistics."""
    one = MeanStd((0.0,), (1.0,))
    statistics = Statistics(one, one, MeanStd((0.0,) * 12, (1.0,) * 12), MeanStd((0.0,) * 7, (1.0,) * 7))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VlaModel(replace(spec, trained=False), statistics)
