"""VlaPolicy: numpy in, numpy out, around an action model and the engine that computes it."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from rtvla.errors import CheckpointError
from rtvla.models.engines.engine import EngineChoice
from rtvla.models.engines.opening import open_engine
from rtvla.models.origin.model import OriginModel
from rtvla.models.vla import VlaModel
from rtvla.schema import Observation, Prediction


class VlaPolicy:
    """Runs a trained model. One caller at a time; not real-time safe (torch allocates, and frees again each tick).

    The part of the VL feature is computed when its values change, not by any number that came with them.
    """

    def __init__(
        self,
        model: VlaModel | OriginModel,
        device: str = "cpu",
        choice: EngineChoice | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        """`choice`: default is the model itself in torch. `checkpoint`: its folder, where built engines are kept."""
        self.spec = spec = model.spec
        model.eval().requires_grad_(False)
        self._engine, self.engine_report = open_engine(model, device, choice or EngineChoice(), checkpoint)
        self._shapes = {
            "sensor": (spec.sensor_window, spec.sensor_channels),
            "robot": (spec.robot_window, spec.robot_channels),
            "vl_feature": (spec.vl_dim,),
            "sensor_missing": (spec.sensor_window,),
            "robot_missing": (spec.robot_window,),
            "vl_age_s": (),
        }

    @torch.inference_mode()
    def predict(self, obs: Observation, seed: int) -> Prediction:
        """The same observation and seed give the same chunk, bit for bit: all its noise comes from `seed` alone.

        A new VL feature counts with the action's time; a CUDA graph has no stages, there all of it does.
        """
        self._check(obs)
        engine, stamps = self._engine, [time.perf_counter_ns()]
        is_new_vl = engine.inputs.take(obs, seed)
        engine.encode_sensor()
        stamps.append(time.perf_counter_ns())
        engine.encode_robot()
        stamps.append(time.perf_counter_ns())
        if is_new_vl:
            engine.new_vl()
        actions = engine.act().copy()
        stamps.append(time.perf_counter_ns())
        return Prediction(actions, *(int(ns) for ns in np.diff(stamps)))

    def _check(self, obs: Observation) -> None:
        for field in fields(obs):
            given, expected = np.shape(getattr(obs, field.name)), self._shapes[field.name]
            if given != expected:
                raise CheckpointError(
                    f"observation {field.name} is {given}: checkpoint {self.spec.name} needs {expected}; "
                    "cut the window as its spec says"
                )
