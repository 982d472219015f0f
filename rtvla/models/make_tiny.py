"""make_tiny: a whole small checkpoint with random weights, so that the pipeline runs on a laptop and in tests.

Its actions are random and small (hundredths of a millimetre a step). It is not for a robot.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rtvla.errors import CheckpointError
from rtvla.models.backbone import fingerprint_backbone
from rtvla.models.checkpoint import save_checkpoint
from rtvla.models.normalize import MeanStd, Statistics
from rtvla.models.presets import vl_config
from rtvla.models.qwen_tiny import make_tiny_qwen
from rtvla.models.spec import ModelSpec
from rtvla.models.vla import VlaModel

_BACKBONE = "vl"

# Round numbers around the start pose of the lab's robot; actions of 0.03 mm and 0.02 deg, gripper fixed near 1.
_STATISTICS = Statistics(
    force=MeanStd((0.0,), (1.0,)),
    aline=MeanStd((0.0,), (1.0,)),
    robot=MeanStd((0.0,) * 6 + (191.0, 1.0, 309.0, 1.0, 91.0, 1.0), (60.0,) * 6 + (50.0,) * 3 + (60.0,) * 3),
    action=MeanStd((0.0,) * 6 + (1.0,), (0.03,) * 3 + (0.02,) * 3 + (0.01,)),
)


def make_tiny(folder: str | Path, seed: int = 0, vl_size: str = "tiny", **changes: Any) -> ModelSpec:
    """Writes a new checkpoint folder of about 4 MB. The same seed gives the same bytes of weights.

    `vl_size`: of the VL backbone, a name of presets.py; the action model stays as small as it is.
    `changes` are fields of its spec, such as expert, fusion or vl_sequence. CheckpointError if they do not go together.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} exists: choose a new folder for the small model")
    with tempfile.TemporaryDirectory() as workplace:
        backbone = Path(workplace) / _BACKBONE
        make_tiny_qwen(backbone, seed, vl_size)
        spec = replace(_spec(fingerprint_backbone(backbone), vl_config(vl_size)["hidden_size"]), **changes)
        spec = replace(spec, name=f"tiny-{spec.expert}-{spec.fusion}-{spec.vl_sequence}-{seed}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = VlaModel(spec, _STATISTICS)
        save_checkpoint(folder, model, backbone)
    return spec


def _spec(fingerprint: str, vl_dim: int) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        vl_backbone=_BACKBONE,
        vl_fingerprint=fingerprint,
        trained=False,
        sensor_stages=(32, 48, 64, 64),
        sensor_layers=1,
        sensor_heads=4,
        sensor_dim=64,
        robot_hidden=48,
        robot_layers=1,
        robot_heads=4,
        robot_dim=64,
        expert_hidden=96,
        expert_layers=2,
        expert_heads=4,
        expert_ff=192,
        dtype="float32",
        vl_dim=vl_dim,
        image_height=108,  # 16:9, so that a 640x360 frame gives the grid that it is made for
        image_width=192,
    )
