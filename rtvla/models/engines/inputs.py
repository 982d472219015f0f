"""The inputs of one tick at places that never move, so that an engine binds to them once."""

from __future__ import annotations

import numpy as np
import torch

from rtvla.models.spec import ModelSpec
from rtvla.schema import Observation

_FROM = {"vl": "vl_feature"}  # names that differ from the observation's


class FixedInputs:
    """`arrays` and `tensors` are the same memory by the same names, batch 1. One writer, one reader, one thread."""

    def __init__(self, spec: ModelSpec, noise_shape: tuple[int, ...], pinned: bool = False) -> None:
        """`pinned`: where a GPU copies from without waiting."""
        floats = {
            "sensor": (1, spec.sensor_window, spec.sensor_channels),
            "robot": (1, spec.robot_window, spec.robot_channels),
            "vl": (1, spec.vl_dim),
            "vl_age_s": (1,),
            "noise": noise_shape,
        }
        flags = {"sensor_missing": (1, spec.sensor_window), "robot_missing": (1, spec.robot_window)}
        self.tensors = {name: torch.zeros(shape, pin_memory=pinned) for name, shape in floats.items()}
        self.tensors |= {name: torch.zeros(s, dtype=torch.bool, pin_memory=pinned) for name, s in flags.items()}
        self.arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        self._generator = torch.Generator()
        self._has_vl = False

    def take(self, obs: Observation, seed: int) -> bool:
        """Copy an observation of the right shapes and draw the noise. True if the VL feature is another than before."""
        is_new = not self._has_vl or not np.array_equal(self.arrays["vl"][0], obs.vl_feature)
        for name, array in self.arrays.items():
            if name != "noise":
                array[0] = getattr(obs, _FROM.get(name, name))
        noise = self.tensors["noise"]
        if noise.numel():
            self._generator.manual_seed(int(seed))
            torch.randn(noise.shape, generator=self._generator, out=noise)
        self._has_vl = True
        return is_new
