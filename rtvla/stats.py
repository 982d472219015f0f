"""Durations in constant memory: a histogram of fixed log-spaced bins. The same code for health, bench and analysis.

256 bins a decade from 1 us to 1000 s (2304 bins, 18 KiB), all values in integer nanoseconds. Count, sum, sum of
squares, minimum and maximum are exact (Python integers), so mean and standard deviation are too. A percentile differs
from numpy's (method "linear") by less than 1 % of it, because each of the two order statistics that it lies between is
off by less than the width of its bin, 0.91 %. Values below 1 us and from 1000 s on share one bin at each end and are
only known to lie between that border and the extreme value that was seen.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FLOOR_NS, CEILING_NS = 1_000, 1_000_000_000_000
BINS_PER_DECADE = 256
RELATIVE_ERROR = 0.01  # of a percentile between FLOOR_NS and CEILING_NS

# Integer edges, looked up by bisection: one value lands in the same bin by add() and by add_many().
_EDGES = [round(FLOOR_NS * 10 ** (k / BINS_PER_DECADE)) for k in range(9 * BINS_PER_DECADE + 1)]
_EDGE_ARRAY = np.array(_EDGES, np.int64)


class Histogram:
    """Counts of durations. Not thread-safe; add() allocates nothing that stays and takes about a microsecond."""

    def __init__(self) -> None:
        self.count = 0
        self.sum_ns = 0
        self.sum_squares_ns2 = 0
        self.min_ns = 0  # 0 while count is 0
        self.max_ns = 0
        self._bins = np.zeros(len(_EDGES) + 1, np.int64)  # bin k is [edge k-1, edge k); first and last are open

    def add(self, value_ns: int) -> None:
        self._bins[bisect_right(_EDGES, value_ns)] += 1
        self._note(1, value_ns, value_ns * value_ns, value_ns, value_ns)

    def add_many(self, values_ns: npt.NDArray[np.integer] | Sequence[int]) -> None:
        """The same as add() for each value."""
        values = np.asarray(values_ns).ravel()
        if not values.size:
            return
        if values.dtype.kind not in "iu":
            raise TypeError(f"values_ns is {values.dtype}: durations are whole nanoseconds, round them first")
        self._bins += np.bincount(np.searchsorted(_EDGE_ARRAY, values, side="right"), minlength=len(self._bins))
        whole: list[int] = values.tolist()
        self._note(len(whole), sum(whole), sum(v * v for v in whole), min(whole), max(whole))

    def merge(self, other: Histogram) -> None:
        """Add all that `other` has counted; `other` stays as it is."""
        if other.count:
            self._bins += other._bins
            self._note(other.count, other.sum_ns, other.sum_squares_ns2, other.min_ns, other.max_ns)

    def _note(self, count: int, total: int, squares: int, low: int, high: int) -> None:
        self.min_ns = low if not self.count else min(self.min_ns, low)
        self.max_ns = high if not self.count else max(self.max_ns, high)
        self.count += count
        self.sum_ns += total
        self.sum_squares_ns2 += squares

    @property
    def mean_ns(self) -> float:
        """NaN while empty."""
        return self.sum_ns / self.count if self.count else math.nan

    @property
    def std_ns(self) -> float:
        """Standard deviation of the whole (numpy's ddof 0); NaN while empty."""
        if not self.count:
            return math.nan
        return math.sqrt((self.count * self.sum_squares_ns2 - self.sum_ns**2) / self.count**2)

    def percentile_ns(self, q: float) -> float:
        """The q-th percentile (0 to 100), interpolated; NaN while empty. 0 and 100 are the exact extremes."""
        if not 0 <= q <= 100:
            raise ValueError(f"q = {q}: a percentile lies between 0 and 100")
        if not self.count:
            return math.nan
        cumulative = np.cumsum(self._bins)
        rank = q / 100 * (self.count - 1)
        below = int(rank)
        low = self._order(below, cumulative)
        if rank == below:
            return low
        return low + (rank - below) * (self._order(below + 1, cumulative) - low)

    def describe_ms(self) -> dict[str, float]:
        """count, and mean, std, min, max, p50, p95, p99 in ms under names that end in `_ms`; NaN while empty."""
        low, high = (self.min_ns, self.max_ns) if self.count else (math.nan, math.nan)
        values_ns = {"mean_ms": self.mean_ns, "std_ms": self.std_ns, "min_ms": low, "max_ms": high}
        values_ns |= {f"p{q}_ms": self.percentile_ns(q) for q in (50, 95, 99)}
        return {"count": self.count} | {name: value / 1e6 for name, value in values_ns.items()}

    def _order(self, k: int, cumulative: npt.NDArray[np.int64]) -> float:
        """About the k-th smallest value: those of one bin are taken as evenly spread over it."""
        if k in (0, self.count - 1):
            return float(self.min_ns if k == 0 else self.max_ns)
        at = int(np.searchsorted(cumulative, k, side="right"))
        inside = int(self._bins[at])
        position = k - (int(cumulative[at]) - inside)
        first = self.min_ns if at == 0 else max(_EDGES[at - 1], self.min_ns)
        last = self.max_ns if at == len(_EDGES) else min(_EDGES[at] - 1, self.max_ns)
        return first + (last - first) * (position + 0.5) / inside
