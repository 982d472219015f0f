"""Models of our own small enough to train in a test: every part is there, every width is different."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rtvla.models.normalize import MeanStd, Statistics
from rtvla.models.spec import ModelSpec
from rtvla.models.vla import Inputs, VlaModel

STATISTICS = Statistics(
    force=MeanStd((0.5,), (2.0,)),
    aline=MeanStd((1.0,), (3.0,)),
    robot=MeanStd(tuple(map(float, range(12))), (1.5,) * 12),
    action=MeanStd((0.0,) * 6 + (1.0,), (0.5,) * 7),
)


def small_spec(**changes: Any) -> ModelSpec:
    sizes: dict[str, Any] = {
        "horizon": 4,
        "sensor_window": 16,
        "robot_window": 6,
        "sensor_stages": (16, 24),
        "sensor_layers": 1,
        "sensor_heads": 2,
        "sensor_dim": 32,
        "robot_hidden": 16,
        "robot_layers": 1,
        "robot_heads": 2,
        "robot_dim": 20,
        "expert_hidden": 28,
        "expert_layers": 1,
        "expert_heads": 2,
        "expert_ff": 36,
        "flow_steps": 3,
        "diffusion_steps": 4,
        "vl_dim": 40,
        "trained": False,
    }
    return ModelSpec(name="small", vl_backbone="vl", vl_fingerprint="ab" * 32, **{**sizes, **changes})


def small_model(**changes: Any) -> VlaModel:
    torch.manual_seed(0)
    return VlaModel(small_spec(**changes), STATISTICS)


def small_batch(spec: ModelSpec, size: int, missing: bool = False) -> tuple[Inputs, torch.Tensor]:
    """Inputs and actions; with `missing`, some samples of each window never came."""
    inputs = Inputs.stack([spec.fake_observation(seed) for seed in range(size)])
    draw = np.random.default_rng(0)
    actions = torch.from_numpy(draw.normal(0.0, 0.5, (size, spec.horizon, spec.action_dim)).astype(np.float32))
    if missing:
        inputs.sensor_missing[:, 3:5] = True
        inputs.robot_missing[:, :2] = True
    return inputs._replace(vl_age_s=torch.linspace(0.1, 2.0, size)), actions


# Every way to put the parts together: (fusion, sensor_encoder, robot_encoder).
COMBINATIONS = [
    (fusion, sensor, robot)
    for fusion in ("concat", "cross_attention", "gated", "none")
    for sensor in ("plain", "force_aware", "none")
    for robot in ("transformer", "none")
    if (fusion == "none") == (sensor == robot == "none") or (fusion == "concat")
]
