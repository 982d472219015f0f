"""The model itself, operation by operation in torch: what every other engine is checked against."""

from __future__ import annotations

import torch

from rtvla.models.engines.inputs import FixedInputs
from rtvla.models.origin.model import OriginModel
from rtvla.models.vla import VlaModel
from rtvla.schema import F32


class EagerEngine:
    def __init__(self, model: VlaModel | OriginModel, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        self.inputs = FixedInputs(model.spec, tuple(model.noise(1, None).shape))

    def new_vl(self) -> None:
        self._vl = self._input("vl")

    def encode_sensor(self) -> None:
        self._sensor = self._model.encode_sensor(self._input("sensor"), self._input("sensor_missing"))
        self._wait()

    def encode_robot(self) -> None:
        self._robot = self._model.encode_robot(self._input("robot"), self._input("robot_missing"))
        self._wait()

    def act(self) -> F32:
        told = (self._vl, self._input("vl_age_s"), self._sensor, self._robot, self._input("noise"))
        return self._model.act(*told)[0].cpu().numpy()

    def _input(self, name: str) -> torch.Tensor:
        return self.inputs.tensors[name].to(self._device)

    def _wait(self) -> None:
        if self._device.type == "cuda":  # kernels run behind the host: without it a stage costs its launch only
            torch.cuda.synchronize(self._device)
