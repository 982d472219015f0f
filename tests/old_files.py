"""Small files in the layouts of the old training scripts, made of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rtvla.models.origin.classes import build

VL_DIM, SENSOR, ROBOT = 24, 16, 16
_SENSOR = {"temporal_length": 65, "hidden_dim": 8, "output_dim": SENSOR, "num_transformer_layers": 1}
_FORCE_AWARE = {"dist_hidden_dim": 8, "force_hidden_dim": 4, "output_dim": SENSOR, "num_transformer_layers": 1}
_EXPERT = {"vl_dim": VL_DIM, "hidden_dim": 16, "num_layers": 1}
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "v1.SensorEncoder": _SENSOR,
    "v2.SensorEncoder": _SENSOR,
    "v2.ForceAwareSensorEncoder": _FORCE_AWARE,
    "v2.RobotStateEncoder": {"model_dim": 8, "output_dim": ROBOT, "num_layers": 1, "temporal_length": 100},
    "v1.QwenActionExpert": _EXPERT,
    "v1.QwenActionExpertWithSensor": _EXPERT | {"sensor_dim": SENSOR},
    "v1.DiffusionActionExpert": _EXPERT | {"sensor_dim": SENSOR},
    "v2.DiffusionActionExpert": _EXPERT | {"sensor_dim": SENSOR},
    "v2.RegressionActionExpert": _EXPERT | {"sensor_dim": SENSOR + ROBOT},
    "v2.FlowMatchingActionExpert": _EXPERT | {"sensor_dim": SENSOR + ROBOT, "time_embed_dim": 16},
    "v2.MAERobotStateModel": {"model_dim": 8, "output_dim": ROBOT, "layers": 2, "decoder_dim": 8},
    "v2.CLIPModel": {
        "sensor_output_dim": SENSOR,
        "embedding_dim": 8,
        "image_dim": VL_DIM,
        "dist_hidden_dim": 8,
        "force_hidden_dim": 4,
        "num_transformer_layers": 1,
    },
}


def module(kind: str, seed: int = 0, **arguments: Any) -> nn.Module:
    """In float32, but of numbers that bfloat16 can hold; batch statistics are random, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(kind, {**ARGUMENTS[kind], **arguments})
        for name, value in made.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))
            value.copy_(value.bfloat16() if value.is_floating_point() else value + 7)
    return made


def stored(made: nn.Module) -> dict[str, torch.Tensor]:
    """As the old scripts stored it: bfloat16, batch norms in float32."""
    return {
        name: value if ".bn" in name or not value.is_floating_point() else value.bfloat16()
        for name, value in made.state_dict().items()
    }


def training(**more: Any) -> dict[str, Any]:
    weight = torch.zeros(3)
    return {
        "epoch": 12,
        "optimizer_state_dict": {
            "state": {0: {"step": torch.tensor(5.0), "exp_avg": weight}},
            "param_groups": [{"lr": 1e-4}],
        },
        "scheduler_state_dict": {"last_epoch": 3, "lr_lambdas": [None]},
        "val_loss": 0.25,
        **more,
    }


def whole(**parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": one for part, tensors in parts.items() for name, one in tensors.items()}


def v2_content(expert: str, sensor: str | None, robot: bool = True, **arguments: Any) -> dict[str, Any]:
    """The file of TRAIN_Regression, TRAIN_FlowMatching or TRAIN_Unified: encoder and expert are in it twice."""
    parts = {}
    if sensor is not None:
        parts["sensor_encoder"] = stored(module(sensor, 1))
    if robot:
        parts["robot_state_encoder"] = stored(module("v2.RobotStateEncoder", 2))
    parts["action_expert"] = stored(module(expert, 3, **arguments))
    again = {"sensor_encoder": parts.get("sensor_encoder"), "action_expert": parts["action_expert"]}
    return training(model_state_dict=whole(**parts), **again)


def v1_stage1_content(expert: str = "v1.QwenActionExpertWithSensor", **arguments: Any) -> dict[str, Any]:
    sensor, made = module("v1.SensorEncoder", 1), module(expert, 3, **arguments)
    return training(
        sensor_encoder={
            name: one.bfloat16() if one.is_floating_point() else one for name, one in sensor.state_dict().items()
        },
        action_expert=stored(made),
    )


def save(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    torch.save(content, path)
    return path
