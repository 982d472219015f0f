"""The action model: observation -> chunk. Torch alone; the VL feature comes in as an array, made by another process."""

from __future__ import annotations

import time
from dataclasses import fields

import numpy as np
import torch
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.experts import EXPERTS, FlowMatchingExpert, RegressionExpert
from rtvla.models.fusion import ConcatFusion
from rtvla.models.normalize import Normalizer, Statistics
from rtvla.models.robot_state_encoder import RobotStateEncoder
from rtvla.models.sensor_encoder import SensorEncoder
from rtvla.models.spec import ModelSpec
from rtvla.schema import F32, Observation, Prediction


class VlaModel(nn.Module):
    """Encoders, fusion, expert: what is trained. Takes raw units and normalises inside: no caller can forget it."""

    def __init__(self, spec: ModelSpec, statistics: Statistics) -> None:
        super().__init__()
        self.spec, self.statistics = spec, statistics
        self.normalizer = Normalizer(statistics)
        self.sensor_encoder, self.robot_encoder = SensorEncoder(spec), RobotStateEncoder(spec)
        self.fusion = ConcatFusion(spec)
        self.expert: FlowMatchingExpert | RegressionExpert = EXPERTS[spec.expert](spec)

    def encode_sensor(self, sensor: torch.Tensor) -> torch.Tensor:
        """(B, T, 1026) raw -> (B, sensor_dim)."""
        return self.sensor_encoder(self.normalizer.apply_to("sensor", sensor))

    def encode_robot(self, robot: torch.Tensor) -> torch.Tensor:
        """(B, R, 12) deg and mm -> (B, robot_dim)."""
        return self.robot_encoder(self.normalizer.apply_to("robot", robot))

    def act(
        self, vl: torch.Tensor, sensor: torch.Tensor, robot: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The three features (B, ...) -> (B, H, 7) in mm and deg."""
        return self.normalizer.invert("action", self.expert.sample(self.fusion(vl, sensor, robot), generator))

    def loss(
        self,
        sensor: torch.Tensor,
        robot: torch.Tensor,
        vl_feature: torch.Tensor,
        actions: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Scalar. Shapes (B, T, 1026), (B, R, 12), (B, vl_dim), (B, H, 7); raw units; actions are the target only."""
        condition = self.fusion(vl_feature, self.encode_sensor(sensor), self.encode_robot(robot))
        return self.expert.loss(condition, self.normalizer.apply_to("action", actions), generator)


class VlaPolicy:
    """Runs a trained VlaModel. numpy in, numpy out; one caller at a time; not real-time safe (torch allocates)."""

    def __init__(self, model: VlaModel, device: str = "cpu") -> None:
        self.spec = spec = model.spec
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._shapes = {
            "sensor": (spec.sensor_window, spec.sensor_channels),
            "robot": (spec.robot_window, spec.robot_channels),
            "vl_feature": (spec.vl_dim,),
        }

    @torch.inference_mode()
    def predict(self, obs: Observation, seed: int) -> Prediction:
        """The same observation and seed give the same chunk: the noise of the flow comes from `seed` alone."""
        self._check(obs)
        generator = torch.Generator().manual_seed(int(seed))
        stamps = [time.perf_counter_ns()]
        sensor = self._model.encode_sensor(self._tensor(obs.sensor))
        stamps.append(self._stamp())
        robot = self._model.encode_robot(self._tensor(obs.robot))
        stamps.append(self._stamp())
        actions = self._model.act(self._tensor(obs.vl_feature), sensor, robot, generator)[0].cpu().numpy()
        stamps.append(self._stamp())
        return Prediction(actions, *(int(ns) for ns in np.diff(stamps)))

    def _check(self, obs: Observation) -> None:
        for field in fields(obs):
            given, expected = getattr(obs, field.name).shape, self._shapes[field.name]
            if given != expected:
                raise CheckpointError(
                    f"observation {field.name} is {given}: checkpoint {self.spec.name} needs {expected}; "
                    "cut the window as its spec says"
                )

    def _tensor(self, array: F32) -> torch.Tensor:
        """With a batch axis of 1. Copied, so that a view of shared memory is let go at once."""
        return torch.tensor(array, dtype=torch.float32, device=self._device)[None]

    def _stamp(self) -> int:
        if self._device.type == "cuda":
            torch.cuda.synchronize(
                self._device
            )  # kernels run behind the host: without it a stage costs its launch only
        return time.perf_counter_ns()
