"""The last look at a step before it is sent: finite, inside the workspace, no longer than the robot executes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Six = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Guard:
    """Limits of one 100 ms step. What is too long is shortened along its own direction, and says so."""

    max_step_mm: float
    max_step_deg: float
    workspace_min_mm: tuple[float, ...] = ()
    workspace_max_mm: tuple[float, ...] = ()

    def check(self, step_mm_deg: Sequence[float], pose_mm_deg: Sequence[float]) -> tuple[Six | None, bool, str]:
        """(what may be sent, whether it was shortened, "") or (None, False, reason)."""
        if not all(map(math.isfinite, step_mm_deg)) or not all(map(math.isfinite, pose_mm_deg)):
            return None, False, "not_finite"
        dx, dy, dz, short_mm = _shorten(step_mm_deg[:3], self.max_step_mm)
        da, db, dg, short_deg = _shorten(step_mm_deg[3:6], self.max_step_deg)
        if self._leaves_workspace((dx, dy, dz), pose_mm_deg):
            return None, False, "outside_workspace"
        return (dx, dy, dz, da, db, dg), short_mm or short_deg, ""

    def _leaves_workspace(self, step: Sequence[float], pose: Sequence[float]) -> bool:
        """True if an axis would end outside and farther out than it is: a way back in stays open."""
        for low, high, at, move in zip(self.workspace_min_mm, self.workspace_max_mm, pose, step, strict=False):
            then = at + move
            if (then < low and then < at) or (then > high and then > at):
                return True
        return False


def _shorten(vector: Sequence[float], limit: float) -> tuple[float, float, float, bool]:
    """Scale so that no component exceeds `limit` (the robot PC clamps each axis by itself); keeps the direction."""
    x, y, z = (float(v) for v in vector)
    largest = max(abs(x), abs(y), abs(z))
    if largest <= limit:
        return x, y, z, False
    scale = limit / largest
    x, y, z = (max(-limit, min(limit, v * scale)) for v in (x, y, z))  # rounding must not end above the limit
    return x, y, z, True
