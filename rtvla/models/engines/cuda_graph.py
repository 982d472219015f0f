"""The whole tick as one CUDA graph: encoders, fusion and every step of the sampling, replayed with a single launch.

A tick of hundreds of small kernels is bound by launching them one by one. Static inputs: they are copied to where the
graph reads them, the noise, too. The VL part runs outside, when the VL feature changes. The graph has a memory pool of
its own and shares nothing with other graphs; beside a VL encoder on the same GPU its kernels still take turns.

It was written without a GPU at hand: its tick runs in the tests on the CPU, its capture has never run.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from rtvla.models.engines.compiled import reduced
from rtvla.models.engines.inputs import FixedInputs
from rtvla.models.engines.lean import LeanModel, run_stage, run_tick
from rtvla.schema import F32

PRECISIONS = ("float32", "bfloat16")
PINNED = True  # the host's side of the copies: memory that the GPU reads without waiting
_WARM_UPS = 3  # cuBLAS and the allocator settle before a capture


class CudaGraphEngine:
    @torch.inference_mode()
    def __init__(self, lean: LeanModel, precision: str, device: str) -> None:
        self._device = torch.device(device)
        self._lean = moved(lean, precision, self._device)
        self.inputs = FixedInputs(lean.spec, lean.noise_shape, PINNED)
        self._values = {name: one.to(self._device) for name, one in self.inputs.tensors.items()}
        self._result = torch.empty(lean.spec.horizon, lean.spec.action_dim, pin_memory=PINNED)
        self._stream = torch.cuda.Stream(self._device, priority=-1)  # before the kernels of a VL encoder beside it
        self._vl: dict[str, torch.Tensor] = {}  # what the vl stage gives, at fixed places
        self._run_vl()
        self._graph, self._actions = self._capture()
        self.replays = 0

    def new_vl(self) -> None:
        with torch.cuda.stream(self._stream):
            self._copy_in("vl")
            self._run_vl()

    def encode_sensor(self) -> None:
        """Nothing: it is inside the graph, so its time is counted with the action's."""

    def encode_robot(self) -> None:
        """Likewise."""

    def act(self) -> F32:
        with torch.cuda.stream(self._stream):
            self._copy_in(*(name for name in self.inputs.tensors if name != "vl"))
            self._graph.replay()
            self._result.copy_(self._actions[0], non_blocking=True)
        self._stream.synchronize()
        self.replays += 1
        return self._result.numpy()

    def _run_vl(self) -> None:
        values = {"vl": self._values["vl"]}
        run_stage(self._lean, "vl", values)
        for name, value in values.items():
            if name in self._vl:
                self._vl[name].copy_(value)
            elif name != "vl":
                self._vl[name] = value.clone()

    def _tick(self) -> torch.Tensor:
        return run_tick(self._lean, {**self._values, **self._vl})

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which has made weights and inputs
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                self._tick()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            actions = self._tick()
        return graph, actions

    def _copy_in(self, *names: str) -> None:
        for name in names:
            self._values[name].copy_(self.inputs.tensors[name], non_blocking=True)


def moved(lean: LeanModel, precision: str, device: torch.device) -> LeanModel:
    """On the device, in the precision; the modules are copies of their own. Nothing that a tick reads stays behind: a
    capture cannot hold a copy from the host."""
    stages = {
        stage: tuple(part._replace(module=copy.deepcopy(reduced(part, precision)).to(device)) for part in parts)
        for stage, parts in lean.stages.items()
    }
    units = lean.units and (lean.units[0].to(device), lean.units[1].to(device))
    return replace(lean, stages=stages, times=lean.times.to(device), units=units)
