"""Imported models small enough for a test, one of each old expert, encoder and fusion."""

from __future__ import annotations

from typing import Any

import torch
from old_files import ARGUMENTS, ROBOT, SENSOR, VL_DIM

from rtvla.models.origin.facts import Origin, Part
from rtvla.models.origin.model import OriginModel
from rtvla.models.spec import ModelSpec

FLOW, REGRESSION, DIFFUSION = (f"v2.{name}ActionExpert" for name in ("FlowMatching", "Regression", "Diffusion"))
_SPEC_EXPERTS = {FLOW: "flow_matching", DIFFUSION: "diffusion", "v1.DiffusionActionExpert": "diffusion"}

# name -> what old_model is given
OLD_MODELS: dict[str, dict[str, Any]] = {
    "flow": {"expert": FLOW},
    "flow rk4": {"expert": FLOW, "flow_solver": "rk4"},
    "flow gated": {"expert": FLOW, "fusion": "gated"},
    "flow, resampled window": {"expert": FLOW, "sensor_window": 40, "sensor_resample": "linear"},
    "flow, force-aware, force last": {
        "expert": FLOW,
        "sensor": "v2.ForceAwareSensorEncoder",
        "sensor_order": "force_last",
    },
    "regression": {"expert": REGRESSION},
    "regression cross attention": {"expert": REGRESSION, "fusion": "cross_attention"},
    "regression, VL alone": {"expert": REGRESSION, "fusion": "none"},
    "diffusion ddim": {"expert": DIFFUSION},
    "diffusion ddpm": {"expert": DIFFUSION, "diffusion_sampler": "ddpm", "diffusion_timesteps": 6},
    "v1 regression": {"expert": "v1.QwenActionExpertWithSensor", "sensor": "v1.SensorEncoder", "robot": None},
    "v1 diffusion": {"expert": "v1.DiffusionActionExpert", "sensor": "v1.SensorEncoder", "robot": None},
    "v1 without sensor": {"expert": "v1.QwenActionExpert", "sensor": None, "robot": None, "fusion": "none"},
}


def old_model(
    expert: str,
    sensor: str | None = "v2.SensorEncoder",
    robot: str | None = "v2.RobotStateEncoder",
    fusion: str = "concat",
    **more: Any,
) -> OriginModel:
    """In eval mode; every weight is random, those of the norms, too."""
    kind = _SPEC_EXPERTS.get(expert, "regression")
    arguments = dict(ARGUMENTS[expert], num_layers=2)
    if expert != "v1.QwenActionExpert":
        takes = SENSOR if kind == "diffusion" else SENSOR * (sensor is not None) + ROBOT * (robot is not None)
        arguments |= {"sensor_dim": takes, "fusion_strategy": fusion}
    if kind == "diffusion":
        arguments["timesteps"] = more.get("diffusion_timesteps", 100)
    encoder = None if sensor is None else Part(sensor, ARGUMENTS[sensor] | {"temporal_length": 65})
    state = None if robot is None else Part(robot, ARGUMENTS[robot])
    spec = ModelSpec(
        name="old",
        vl_backbone="vl",
        vl_fingerprint="ab" * 32,
        trained=False,
        missing_mask=False,
        vl_age_input=False,
        origin=Origin("test", encoder, state, Part(expert, arguments), ()),
        expert=kind,
        fusion=fusion,
        sensor_encoder="plain" if sensor else "none",
        robot_encoder="transformer" if robot else "none",
        sensor_dim=SENSOR,
        robot_dim=ROBOT,
        vl_dim=VL_DIM,
        expert_hidden=16,
        flow_steps=3,
        diffusion_steps=4,
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OriginModel(spec).eval().requires_grad_(False)
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))
    return model
