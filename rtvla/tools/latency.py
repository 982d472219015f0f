"""How long a call takes: repeated after a warm-up, and summed up exactly (no histogram: there are few values)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rtvla.clock import now_ns

WARM_UP = 3  # calls: the first ones allocate, choose kernels, capture graphs
_PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p99_9_ms": 99.9}


def took_ns(call: Callable[[], Any], iterations: int, warm_up: int = WARM_UP) -> list[int]:
    """Of each call. `call` must return what it made on the host, so that nothing of it is still under way on a GPU."""
    for _ in range(warm_up):
        call()
    stamps = [now_ns()]
    for _ in range(iterations):
        call()
        stamps.append(now_ns())
    return [end - begin for begin, end in pairwise(stamps)]


def spread(values_ns: Sequence[int]) -> dict[str, float]:
    """count, and mean, std, min, max, p50, p95, p99, p99.9 in ms. Above 1 - 1 / count a percentile is the maximum."""
    values_ms = np.asarray(values_ns, np.float64) / 1e6
    summary = {"count": len(values_ms), "mean_ms": values_ms.mean(), "std_ms": values_ms.std()}
    summary |= {"min_ms": values_ms.min(), "max_ms": values_ms.max()}
    summary |= dict(zip(_PERCENTILES, np.percentile(values_ms, list(_PERCENTILES.values())), strict=True))
    return {name: round(float(value), 4) for name, value in summary.items()}


def where(machine: Mapping[str, Any], run: Mapping[str, float]) -> str:
    """What was measured on, and how quiet it was: of bench_machine.describe and Bystanders.look."""
    busy = f"other programs used {run['foreign_cpu_percent']:.0f} % of a core meanwhile"
    return f"{machine['cpu']}, {machine['cores']} cores, torch {machine['versions']['torch']}; {busy}"
