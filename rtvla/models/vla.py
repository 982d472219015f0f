"""The action model: windows and VL feature -> chunk. Torch alone; the VL feature is made by another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from rtvla.models.experts import EXPERTS, Expert
from rtvla.models.fusion import FUSIONS, Fusion
from rtvla.models.normalize import Normalizer, Statistics
from rtvla.models.robot_state_encoder import RobotStateEncoder
from rtvla.models.sensor_encoder import SENSOR_ENCODERS
from rtvla.models.spec import ModelSpec
from rtvla.models.window import read_window
from rtvla.schema import Observation


class Inputs(NamedTuple):
    """A batch of observations as tensors, in raw units; the fields of schema.Observation."""

    sensor: torch.Tensor  # (B, T, 1026) force first
    robot: torch.Tensor  # (B, R, 12)
    vl_feature: torch.Tensor  # (B, vl_dim)
    sensor_missing: torch.Tensor  # (B, T) bool
    robot_missing: torch.Tensor  # (B, R) bool
    vl_age_s: torch.Tensor  # (B,)

    @classmethod
    def stack(cls, observations: Sequence[Observation], device: torch.device | str = "cpu") -> Inputs:
        columns = ([getattr(one, name) for one in observations] for name in cls._fields)
        stacked = (torch.from_numpy(np.stack(column)) for column in columns)
        return cls(*(one if one.dtype == torch.bool else one.float() for one in stacked)).to(device)

    def to(self, device: torch.device | str) -> Inputs:
        return Inputs(*(one.to(device) for one in self))


class VlaModel(nn.Module):
    """Encoders, fusion, expert: what is trained. Takes raw units and normalises inside: no caller can forget it.

    A modality that the spec disables has no weights, and whatever is given for it changes nothing.
    """

    def __init__(self, spec: ModelSpec, statistics: Statistics) -> None:
        super().__init__()
        self.spec, self.statistics = spec, statistics
        self.normalizer = Normalizer(statistics)
        uses = spec.feature_widths
        self.sensor_encoder = SENSOR_ENCODERS[spec.sensor_encoder](spec) if "sensor" in uses else None
        self.robot_encoder = RobotStateEncoder(spec) if "robot" in uses else None
        self.fusion: Fusion = FUSIONS[spec.fusion](spec)
        self.expert: Expert = EXPERTS[spec.expert](spec)

    def encode_sensor(self, sensor: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """(B, T, 1026) raw, (B, T) bool -> (B, sensor_dim), or (B, 0) if the sensor is disabled.

        CheckpointError if T is not the window of the spec and the spec does not say how to resample.
        """
        if self.sensor_encoder is None:
            return sensor.new_zeros(len(sensor), 0)
        return self.sensor_encoder(self.read_sensor(sensor, missing))

    def encode_robot(self, robot: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """(B, R, 12) deg and mm, (B, R) bool -> (B, robot_dim), or (B, 0) if the robot state is disabled."""
        if self.robot_encoder is None:
            return robot.new_zeros(len(robot), 0)
        return self.robot_encoder(self.read_robot(robot, missing))

    def read_sensor(self, sensor: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """What the encoder reads: normalised, filled, marked. See read_window."""
        spec, window = self.spec, self.normalizer.apply_to("sensor", sensor)
        return read_window("sensor", window, missing, spec.sensor_window, spec.sensor_resample, spec.missing_mask)

    def read_robot(self, robot: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        window = self.normalizer.apply_to("robot", robot)
        return read_window("robot", window, missing, self.spec.robot_window, "none", self.spec.missing_mask)

    def noise(self, batch: int, generator: torch.Generator | None) -> torch.Tensor:
        """All random numbers that one chunk needs, drawn on the CPU. See the expert for the shape."""
        return self.expert.noise(batch, generator)

    def act(
        self,
        vl: torch.Tensor,
        vl_age_s: torch.Tensor,
        sensor: torch.Tensor,
        robot: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """The three features (B, ...), the age of the first (B,), `noise` -> (B, H, 7) in mm and deg."""
        condition = self.fusion(vl, vl_age_s, sensor, robot)
        return self.normalizer.invert("action", self.expert.sample(condition, noise))

    def predict(self, inputs: Inputs, noise: torch.Tensor) -> torch.Tensor:
        """Inputs and what `noise()` gave -> (B, H, 7) in mm and deg."""
        return self.act(inputs.vl_feature, inputs.vl_age_s, *self._encode(inputs), noise.to(inputs.vl_feature))

    def loss(self, inputs: Inputs, actions: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Scalar. `actions` (B, H, 7) in mm and deg: the target, never an input."""
        condition = self.fusion(inputs.vl_feature, inputs.vl_age_s, *self._encode(inputs))
        return self.expert.loss(condition, self.normalizer.apply_to("action", actions), generator)

    def _encode(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            self.encode_sensor(inputs.sensor, inputs.sensor_missing),
            self.encode_robot(inputs.robot, inputs.robot_missing),
        )
