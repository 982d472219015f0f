"""OriginModel: an imported model behind the same interface as ours, so that the same policy process runs it.

It computes in float32 (the old system in bfloat16). What the old live receiver did with it is done here, too: the chunk
that the old experts add to is zeros, and nothing is normalised.
"""

from __future__ import annotations

import torch
from torch import nn

from rtvla import schema
from rtvla.errors import CheckpointError
from rtvla.models.normalize import MeanStd, Statistics
from rtvla.models.origin.classes import build
from rtvla.models.origin.diffusion import V1DiffusionActionExpert
from rtvla.models.origin.facts import Origin, Part
from rtvla.models.origin.flow import FlowMatchingActionExpert
from rtvla.models.spec import ModelSpec

ROBOT = len(schema.ROBOT_CHANNEL_NAMES)
IDENTITY = Statistics(
    force=MeanStd((0.0,), (1.0,)),
    aline=MeanStd((0.0,), (1.0,)),
    robot=MeanStd((0.0,) * ROBOT, (1.0,) * ROBOT),
    action=MeanStd((0.0,) * schema.ACTION_DIM, (1.0,) * schema.ACTION_DIM),
)
# What its parts must agree on with the spec, as far as the spec says it: (part, argument or attribute, field).
_AGREE = (
    ("sensor_encoder", "input_channels", "sensor_channels"),
    ("sensor_encoder", "output_dim", "sensor_dim"),
    ("robot_state_encoder", "temporal_length", "robot_window"),
    ("robot_state_encoder", "output_dim", "robot_dim"),
    ("action_expert", "horizon", "horizon"),
    ("action_expert", "action_dim", "action_dim"),
)


class OriginModel(nn.Module):
    """The names of its weights are those of the old model_state_dict."""

    def __init__(self, spec: ModelSpec, statistics: Statistics = IDENTITY) -> None:
        super().__init__()
        if spec.origin is None:
            raise CheckpointError(f"spec {spec.name}: has no origin, so it is not an imported model")
        if statistics != IDENTITY:
            raise CheckpointError(f"stats of {spec.name}: an imported model takes raw units; means 0 and deviations 1")
        self.spec, self.statistics = spec, statistics
        origin: Origin = spec.origin
        self.sensor_encoder, self.robot_state_encoder = _built(origin.sensor), _built(origin.robot)
        self.action_expert = build(origin.expert.kind, origin.expert.arguments)
        self._check()

    def _check(self) -> None:
        for part, attribute, field in _AGREE:
            module, wanted = getattr(self, part), getattr(self.spec, field)
            if module is not None and getattr(module, attribute) != wanted:
                raise CheckpointError(
                    f"spec {field} = {wanted}, but the {part} of {self.spec.name} has {getattr(module, attribute)}"
                )

    def encode_sensor(self, sensor: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """(B, T, 1026) raw, force first -> (B, sensor_dim), or (B, 0) without sensor. It cannot see what is missing."""
        if self.sensor_encoder is None:
            return sensor.new_zeros(len(sensor), 0)
        if self.spec.sensor_order == "force_last":
            sensor = sensor.roll(-1, dims=-1)
        return self.sensor_encoder(sensor)

    def encode_robot(self, robot: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """(B, R, 12) deg and mm -> (B, robot_dim), or (B, 0) without robot state. It cannot see what is missing."""
        return robot.new_zeros(len(robot), 0) if self.robot_state_encoder is None else self.robot_state_encoder(robot)

    def noise(self, batch: int, generator: torch.Generator | None) -> torch.Tensor:
        """All random numbers of one chunk, drawn on the CPU: (B, H, 7), for ddpm (timesteps, B, H, 7), or (B, 0)."""
        spec = self.spec
        if spec.expert == "regression":
            return torch.zeros(batch, 0)
        chunk = (batch, spec.horizon, spec.action_dim)
        ddpm = spec.expert == "diffusion" and spec.diffusion_sampler == "ddpm"
        return torch.randn((spec.diffusion_timesteps, *chunk) if ddpm else chunk, generator=generator)

    def act(
        self, vl: torch.Tensor, vl_age_s: torch.Tensor, sensor: torch.Tensor, robot: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """The three features (B, ...) -> (B, H, 7) in mm and deg. The age of the VL feature is no input of it."""
        spec, expert, tokens = self.spec, self.action_expert, vl[:, None]
        features = [one if one.shape[-1] else None for one in (sensor, robot)]
        if isinstance(expert, FlowMatchingActionExpert):
            return expert.sample(noise, expert.condition(tokens, *features), spec.flow_steps, spec.flow_solver)
        if isinstance(expert, V1DiffusionActionExpert):
            condition = expert.condition(tokens, features[0])  # its signature had no place for the robot state
            if spec.diffusion_sampler == "ddpm":
                return expert.ddpm(noise, condition)
            return expert.ddim(noise, condition, spec.diffusion_steps)
        z_chunk = vl.new_zeros(len(vl), spec.horizon, spec.action_dim)
        return expert(tokens, z_chunk, *features)[0]


def _built(part: Part | None) -> nn.Module | None:
    return None if part is None else build(part.kind, part.arguments)
