"""What the parts of `rtvla bench gpu` do with the device: memory, the peak of its matrix products, unfused graphs."""

from __future__ import annotations

import contextlib

import torch

from rtvla.tools.bench_gpu_rows import Rows
from rtvla.tools.latency import took_ns

_SIDES = {"cpu": (256, 512), "cuda": (2048, 4096, 8192)}  # of the square products that look for the peak
_REPEATS = 10


def start_measuring_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def memory() -> float | None:
    """Bytes of tensors on the GPU at most since start_measuring_memory; None where there is no GPU."""
    return float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


def peak(rows: Rows, device: str, dtype: str) -> float:
    """FLOP/s of the best square matrix product on random values: what the roofline is held against."""
    best = 0.0
    for side in _SIDES[device.partition(":")[0]]:
        shape, kind = (side, side), getattr(torch, dtype)
        one, other = (torch.randn(shape, device=device, dtype=kind) for _ in range(2))

        def products(one: torch.Tensor = one, other: torch.Tensor = other) -> float:
            for _ in range(_REPEATS):
                product = one @ other
            return float(product[0, 0])  # waits for all of them

        rate = _REPEATS * 2.0 * side**3 / min(took_ns(products, 5)) * 1e9
        rows.add("peak", side=side, dtype=dtype, tflops=rate / 1e12)
        best = max(best, rate)
    return best


def unfused(device: str) -> contextlib.AbstractContextManager[object]:
    """Inside, torch.compile leaves a module as it is: a CUDA graph of an encoder takes seconds to make, not minutes."""
    if device == "cpu":  # nothing is compiled there, and to load the compiler takes a second
        return contextlib.nullcontext()
    manager: contextlib.AbstractContextManager[object] = torch._dynamo.config.patch(disable=True)
    return manager


def graphs_of(device: str) -> str:
    """The encoder's engine that a GPU is for, or what there is on a CPU."""
    return "cuda_graph" if device.startswith("cuda") else "eager"
