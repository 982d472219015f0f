"""Windows by capture time: which sample takes which place of a window, and what is missing in it. Numpy only; the run
loop and (later) training cut the same windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Times = np.ndarray[Any, np.dtype[np.int64]]
SECOND = 1_000_000_000


@dataclass(frozen=True)
class WindowSpec:
    """What a model was trained on: so many samples at a nominal rate. Of ModelSpec.

    `by_time`: places on a grid of capture times, of which some may be missing. Otherwise the newest samples by their
    count, for a model that cannot be told what is missing (`ModelSpec.missing_mask`). Not `used`: no input of the
    model, which gets zeros, all missing; the stream may be silent, or not exist.
    """

    count: int
    rate_hz: int
    by_time: bool
    used: bool = True

    @property
    def period_ns(self) -> int:
        return SECOND // self.rate_hz

    def reach(self, behind_ns: int) -> int:
        """How many records to look at, if the observation time may be `behind_ns` before the newest."""
        return self.count + -(-behind_ns // self.period_ns)


@dataclass(frozen=True)
class Stream:
    """The capture times of the newest records of the sensor or the robot, in the order of arrival."""

    name: str
    captured_ns: Times
    spec: WindowSpec
    stale_ns: int

    @property
    def newest_ns(self) -> int:
        return int(self.captured_ns.max())


class Window(NamedTuple):
    """For each place, oldest first: the record that takes it (of a missing one the nearest there is), and whether it is
    missing. `newest`: the record at the last place that is not."""

    at: np.ndarray[Any, np.dtype[np.int64]]
    missing: np.ndarray[Any, np.dtype[np.bool_]]
    newest: int


def in_order(captured_ns: Times, period_ns: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Times]:
    """Positions of the samples in the order of capture, those of a frozen input once, and their times.

    A sample cannot have been taken less than a period before the one after it. Where stamps say so, as they do when the
    arrival must stand for the capture and samples come in bunches, the earlier one counts as that much older.
    """
    order = np.argsort(captured_ns, kind="stable")
    times = captured_ns[order]
    keep = np.ones(len(times), np.bool_)
    keep[1:] = times[1:] > times[:-1]
    order, times = order[keep], times[keep]
    grid = np.arange(len(times)) * period_ns
    return order, np.minimum.accumulate((times - grid)[::-1])[::-1] + grid


def window(captured_ns: Times, spec: WindowSpec, observation_ns: int) -> Window | None:
    """The window that ends at `observation_ns`, or None if nothing is in it (by count: if there are too few).

    By time: the last place is at the newest sample not after `observation_ns`, or by whole periods later, so that it is
    less than one before it. Each place takes the sample within half a period of it, or is missing.
    """
    usable = np.flatnonzero(captured_ns <= observation_ns)
    if not spec.by_time:
        last = usable[np.argsort(captured_ns[usable], kind="stable")][-spec.count :]
        if len(last) < spec.count:
            return None
        return Window(last, np.zeros(spec.count, np.bool_), int(last[-1]))
    if not len(usable):
        return None
    order, times = in_order(captured_ns[usable], spec.period_ns)
    end_ns = observation_ns - (observation_ns - times[-1]) % spec.period_ns
    place = spec.count - 1 - (end_ns - times + spec.period_ns // 2) // spec.period_ns
    inside = place >= 0
    place, order = place[inside], usable[order[inside]]
    if not len(place):
        return None
    missing = np.ones(spec.count, np.bool_)
    missing[place] = False
    right = np.searchsorted(place, np.arange(spec.count)).clip(0, len(place) - 1)
    left = (right - 1).clip(0)
    wanted = np.arange(spec.count)
    nearest = np.where(np.abs(place[left] - wanted) <= np.abs(place[right] - wanted), left, right)
    return Window(order[nearest], missing, int(order[-1]))


def spans_too_much(times_ns: Times, spec: WindowSpec, max_missing: float) -> bool:
    """Of a window by count: whether it has holes for more samples than may be missing."""
    return bool(times_ns.max() - times_ns.min() > (spec.count - 1 + max_missing * spec.count) * spec.period_ns)


def cut(stream: Stream, observation_ns: int, now_ns: int, max_missing: float) -> tuple[Window | None, str]:
    """(the window of a stream, "") or (None, reason): too old at `now_ns`, or with too many holes."""
    captured_ns, spec = stream.captured_ns, stream.spec
    found = window(captured_ns, spec, observation_ns)
    if found is None:
        return None, f"{stream.name}_gap"
    if now_ns - int(captured_ns[found.newest]) > stream.stale_ns:
        return None, f"{stream.name}_stale"
    holes = found.missing.mean() > max_missing
    if holes or (not spec.by_time and spans_too_much(captured_ns[found.at], spec, max_missing)):
        return None, f"{stream.name}_gap"
    return found, ""
