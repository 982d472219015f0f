"""Action models with random weights at the sizes of the old system, to be measured. Not for a robot.

Two families: `origin` is the old system's own modules (v2), `ours` what this runtime trains, both with the windows,
widths and layers that were deployed: sensor (65, 1026), robot (100, 12), feature width 2048, hidden 1024, 4 layers, 8
steps. The old diffusion expert has the hidden width of its class, 512. Time depends on shapes, not on values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rtvla.models.normalize import MeanStd, Statistics
from rtvla.models.origin.facts import Origin, Part
from rtvla.models.origin.model import OriginModel
from rtvla.models.spec import ModelSpec
from rtvla.models.vla import VlaModel

_KINDS = {
    "flow_matching": "v2.FlowMatchingActionExpert",
    "regression": "v2.RegressionActionExpert",
    "diffusion": "v2.DiffusionActionExpert",
}
# The deployed sizes; a test takes smaller ones.
FULL = {
    "features": 2048,
    "hidden": 1024,
    "diffusion_hidden": 512,
    "sensor_hidden": 512,
    "robot_hidden": 256,
    "layers": 4,
}
SMALL = {"features": 64, "hidden": 64, "diffusion_hidden": 64, "sensor_hidden": 32, "robot_hidden": 32, "layers": 2}


def random_action_model(
    family: str, expert: str, steps: int, seed: int = 0, sizes: dict[str, int] | None = None
) -> VlaModel | OriginModel:
    """In eval mode, on the CPU. `steps`: of the sampling, for the experts that sample."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _MAKE[family](expert, steps, FULL | (sizes or {}))
        model.eval().requires_grad_(False)
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                value.normal_(0.0, 0.1)
    return model


def _spec(expert: str, steps: int, size: dict[str, int], **more: Any) -> ModelSpec:
    hidden = size["hidden"]
    return ModelSpec(
        name=f"random-{expert}",
        vl_backbone="in-memory",
        vl_fingerprint="0" * 64,
        trained=False,
        expert=expert,
        flow_steps=steps,
        diffusion_steps=steps,
        vl_dim=size["features"],
        sensor_dim=size["features"],
        robot_dim=size["features"],
        sensor_stages=(size["sensor_hidden"], *(2 * size["sensor_hidden"],) * 3),
        robot_hidden=size["robot_hidden"],
        expert_hidden=hidden,
        expert_ff=4 * hidden,
        expert_layers=size["layers"],
        **more,
    )


def _ours(expert: str, steps: int, size: dict[str, int]) -> VlaModel:
    one = MeanStd((0.0,), (1.0,))
    action = MeanStd((0.0,) * 7, (1.0,) * 7)
    return VlaModel(_spec(expert, steps, size), Statistics(one, one, MeanStd((0.0,) * 12, (1.0,) * 12), action))


def _origin(expert: str, steps: int, size: dict[str, int]) -> OriginModel:
    width = size["features"]
    hidden = size["diffusion_hidden" if expert == "diffusion" else "hidden"]
    features = width if expert == "diffusion" else 2 * width  # that expert has no place for the robot state
    sensor = {"temporal_length": 65, "hidden_dim": size["sensor_hidden"], "output_dim": width}
    robot = {"temporal_length": 100, "num_layers": 3, "model_dim": size["robot_hidden"], "output_dim": width}
    own = {"vl_dim": width, "sensor_dim": features, "hidden_dim": hidden, "num_layers": size["layers"]}
    origin = Origin(
        "random",
        Part("v2.SensorEncoder", sensor),
        Part("v2.RobotStateEncoder", robot),
        Part(_KINDS[expert], own),
        faults=(),
    )
    return OriginModel(_spec(expert, steps, size, origin=origin, missing_mask=False, vl_age_input=False))


_MAKE: dict[str, Callable[[str, int, dict[str, int]], VlaModel | OriginModel]] = {"origin": _origin, "ours": _ours}
