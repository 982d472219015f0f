"""Action chunks -> the motion of one command, by time alone.

chunk 7   observed at 0       |step 0|step 1|step 2| ...     each step is a constant velocity for 100 ms
chunk 8   observed at 100            |step 0|step 1| ...     takes over when it comes, over a short blend
commands at 50, 150, ...         |______|______|______|      each is the integral over its own stretch of time

A command covers the time from the end of the last one to the end of its own period, so no moment is executed twice and
none twice skipped: what a late chunk or a late tick has missed is past, and is never made up for. Rotations are
differences of Euler angles, as the robot takes them; for the fractions of a degree of one step they add up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rtvla.schema import MAX_HORIZON, STEP_NS

Six = tuple[float, float, float, float, float, float]
_ZERO: Six = (0.0,) * 6


@dataclass(frozen=True)
class Plan:
    """One chunk as it is executed: `action_horizon` of its steps from `observed_ns`, in charge since `since_ns`."""

    chunk: int
    observed_ns: int
    end_ns: int
    since_ns: int
    deltas: tuple[Six, ...]  # mm and deg per 100 ms

    def covers(self, at_ns: int) -> bool:
        return self.observed_ns <= at_ns < self.end_ns

    def step(self, at_ns: int) -> int:
        return (at_ns - self.observed_ns) // STEP_NS


@dataclass(frozen=True)
class Motion:
    """What one command should do: `delta` in mm and deg, over `covered_ns` of its time; the rest has no chunk."""

    delta: Six
    covered_ns: int
    chunk: int
    step: int


class Execution:
    """Holds the chunks that still matter. `mode`: "switch" at once, "blend" over `blend_ns`, or "ensemble": the
    average over all chunks that cover a moment, weighted exp(-0.01 i) from the oldest on (temporal ensembling, Zhao et
    al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", RSS 2023)."""

    _DECAY = 0.01

    def __init__(self, mode: str, action_horizon: int, blend_ns: int) -> None:
        self._mix = {"switch": self._blended, "blend": self._blended, "ensemble": self._averaged}[mode]
        self._blend_ns = blend_ns if mode == "blend" else 0
        self._keeps = MAX_HORIZON if mode == "ensemble" else 3
        self._action_horizon = action_horizon
        self._plans: list[Plan] = []

    def add(self, chunk: int, observed_ns: int, deltas: Sequence[Sequence[float]], now_ns: int) -> str:
        """Take a chunk over from `now_ns` on. "" or why not: "late", nothing of it is ahead; "backwards", a chunk of a
        later observation is there."""
        steps = min(len(deltas), self._action_horizon)
        end_ns = observed_ns + steps * STEP_NS
        if end_ns <= now_ns:
            return "late"
        if self._plans and observed_ns <= self._plans[-1].observed_ns:
            return "backwards"
        taken = tuple(_six(delta) for delta in deltas[:steps])
        self._plans.append(Plan(chunk, observed_ns, end_ns, now_ns, taken))
        self._plans = [plan for plan in self._plans if plan.end_ns > now_ns][-self._keeps :]
        return ""

    def clear(self) -> None:
        """After a hold nothing of before is executed."""
        self._plans.clear()

    def motion(self, start_ns: int, end_ns: int) -> Motion | None:
        """The integral over [start, end), or None if no chunk covers any of it."""
        cuts = sorted({start_ns, end_ns, *(t for t in self._edges(start_ns, end_ns) if start_ns < t < end_ns)})
        total, covered_ns = [0.0] * 6, 0
        first: Plan | None = None
        for a, b in itertools.pairwise(cuts):
            middle = (a + b) // 2
            plans = [plan for plan in self._plans if plan.covers(middle)]
            if not plans:
                continue
            share = (b - a) / STEP_NS
            for axis, value in enumerate(self._mix(plans, middle)):
                total[axis] += value * share
            covered_ns, first = covered_ns + b - a, first or plans[-1]
        if first is None:
            return None
        return Motion(_six(total), covered_ns, first.chunk, first.step(max(start_ns, first.observed_ns)))

    def _edges(self, start_ns: int, end_ns: int) -> list[int]:
        """Where the velocity or the slope of a blend changes."""
        edges: list[int] = []
        for plan in self._plans:
            first = plan.step(max(start_ns, plan.observed_ns))
            count = (end_ns - start_ns) // STEP_NS + 2
            edges += [plan.observed_ns + k * STEP_NS for k in range(first, first + count)]
            edges += [plan.end_ns, plan.since_ns, plan.since_ns + self._blend_ns]
        return edges

    def _blended(self, plans: list[Plan], at_ns: int) -> Six:
        """From the oldest to the newest, each fading in over the blend."""
        value = plans[0].deltas[plans[0].step(at_ns)]
        for plan in plans[1:]:
            since_ns = at_ns - plan.since_ns
            weight = min(1.0, max(0.0, since_ns / self._blend_ns)) if self._blend_ns else float(since_ns >= 0)
            value = _mixed(value, plan.deltas[plan.step(at_ns)], weight)
        return value

    def _averaged(self, plans: list[Plan], at_ns: int) -> Six:
        value, total = _ZERO, 0.0
        for i, plan in enumerate(plans):
            weight = math.exp(-self._DECAY * i)
            total += weight
            value = _mixed(value, plan.deltas[plan.step(at_ns)], weight / total)
        return value


def _six(values: Sequence[float]) -> Six:
    x, y, z, a, b, c = map(float, values[:6])
    return (x, y, z, a, b, c)


def _mixed(a: Six, b: Six, weight: float) -> Six:
    if weight == 1.0:
        return b
    x, y, z, p, q, r = (u + weight * (v - u) for u, v in zip(a, b, strict=True))
    return (x, y, z, p, q, r)
