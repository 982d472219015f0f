"""What runs a static module: as it is, or as one CUDA graph. OpenVINO has a file of its own.

An engine prepares a module for inputs of given shapes. What it gives back takes such tensors and returns the module's
outputs on the device, valid until the next call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import util
from typing import Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rtvla.errors import CheckpointError
from rtvla.models.feature import Approximation

LOG = logging.getLogger(__name__)

Outputs = torch.Tensor | tuple[torch.Tensor, ...]
Call = Callable[..., Outputs]
NAMES = ("auto", "eager", "openvino", "cuda_graph")
_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
_GRAPHS = 4096  # of one forward in one process: as good as no limit
_WARM_UPS = 3  # cuBLAS and the allocator settle before a capture
_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # a compiled graph sums in another order


class Engine(Protocol):
    name: str
    replays: int  # of CUDA graphs, over all that was prepared

    def prepare(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call: ...


def choose(name: str, device: torch.device, approximation: Approximation) -> Engine:
    """ "auto" is a CUDA graph on a GPU; on a CPU OpenVINO if it is installed, else the module as it is."""
    if name not in NAMES:
        raise CheckpointError(f'engine "{name}": must be one of {", ".join(NAMES)}')
    on_gpu, has_openvino = device.type == "cuda", util.find_spec("openvino") is not None
    in_8_bits = approximation.quantize != "none"
    if name == "auto":
        name = "cuda_graph" if on_gpu else "openvino" if has_openvino and not in_8_bits else "eager"
    if (name == "cuda_graph" and not on_gpu) or (name == "openvino" and on_gpu):
        raise CheckpointError(f'vl_encoder.engine = "{name}" does not run on {device}: leave it at "auto"')
    if name == "openvino" and not has_openvino:
        raise CheckpointError('vl_encoder.engine = "openvino": not installed; pip install "rtvla[openvino]"')
    if name == "openvino" and in_8_bits:
        raise CheckpointError(
            f'vl_encoder.engine = "openvino" cannot run quantize = "{approximation.quantize}": leave it at "auto"'
        )
    if name == "openvino":
        from rtvla.models.qwen_openvino import OpenVino

        return OpenVino()
    return CudaGraph(device) if name == "cuda_graph" else Eager(device)


class Eager:
    """The module as it is."""

    name, replays = "eager", 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def prepare(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call:
        @torch.inference_mode()
        def call(*given: torch.Tensor) -> Outputs:
            outputs: Outputs = module(*(one.to(self._device) for one in given))
            return outputs

        return call


class CudaGraph:
    """Compiled into few kernels, captured once, started with one launch.

    Written without a GPU at hand: its parts run in the tests on a CPU, the capture itself has never run.
    """

    name = "cuda_graph"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.replays = 0

    def prepare(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call:
        statics = tuple(one.to(self._device) for one in inputs)
        with torch.inference_mode():
            expected = as_tuple(module(*statics))
            warn_if_attention_falls_back(module, statics)
            run = compiled(module, statics)
            graph, outputs = self._capture(run, statics)

            def call(*given: torch.Tensor) -> Outputs:
                for static, new in zip(statics, given, strict=True):
                    if new is not static:
                        static.copy_(new, non_blocking=True)
                graph.replay()
                self.replays += 1
                return outputs

            check_replay(lambda: call(*statics), as_tuple(outputs), expected)
        return torch.inference_mode()(call)

    def _capture(self, run: Call, statics: tuple[torch.Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, Outputs]:
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run(*statics)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = run(*statics)
        return graph, outputs


def compiled(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call:
    """As one graph of fused kernels, or, said loudly, as it is where that cannot be built."""
    run: Call = torch.compile(module, fullgraph=True, dynamic=False)
    try:
        # every module is another graph of the same forward: eight, the limit of torch, is less than two sizes of frames
        # of five streamed views
        with torch._dynamo.config.patch(cache_size_limit=_GRAPHS, accumulated_cache_size_limit=_GRAPHS):
            run(*inputs)
    except RuntimeError as error:
        LOG.warning("the VL encoder is NOT COMPILED, and slower by a fifth: %s", str(error).strip()[:500])
        return module
    return run


def warn_if_attention_falls_back(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bool:
    """Whether any attention call in the module has no fused kernel here. It then builds the whole matrix of scores."""
    try:
        with sdpa_kernel(_FUSED):
            module(*inputs)
    except RuntimeError as error:
        LOG.warning("attention FALLS BACK to the unfused kernel, which is slow: %s", str(error).strip()[:500])
        return True
    return False


def check_replay(
    replay: Callable[[], object], outputs: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]
) -> None:
    """The outputs are spoiled and must come back right: else what is replayed is not the encode. CheckpointError."""
    for output in outputs:
        output.fill_(float("nan"))
    replay()
    for output, expected in zip(outputs, wanted, strict=True):
        error = float((output.float() - expected.float()).norm() / expected.float().norm())
        if not error <= _CLOSE[expected.dtype]:
            raise CheckpointError(
                f"the replayed CUDA graph differs from the module by {error:.1e}: it is not what was captured; "
                "set vl_encoder.engine to eager and report this"
            )


def as_tuple(outputs: Outputs) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
