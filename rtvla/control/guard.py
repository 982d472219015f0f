"""The last look at a motion before it is sent. Knows no policy: whatever asks, nothing over a limit leaves.

In this order, and counted by these names:

not_finite         a value of the request or of what is measured is NaN or infinite
joint_limit        a measured joint is at its limit
force, force_rate  the measured force, or how fast it rises, is too high
step               mm and deg per axis of a 100 ms step, as the robot PC would cut it off     clamped or rejected
velocity           mm/s and deg/s                                                             clamped or rejected
acceleration       change of the velocity                                                     clamped or rejected
jerk               change of the acceleration                                                 clamped or rejected
workspace          the end would leave the box, or enter a keep-out box; a way back stays open

To clamp is to shorten: along the direction that was asked for, or for acceleration and jerk along the change from the
last motion. Speed limits are convex and the last motion kept them, so what lies between keeps them too; only jerk can
disagree with them (too fast to ease off in time), and then the motion is rejected. A rejected motion is not replaced by
zeros: nothing is sent, and the robot stops by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rtvla.clock import SECOND
from rtvla.schema import CLAMPABLE_CHECKS as CLAMPABLE
from rtvla.schema import STEP_NS

Six = tuple[float, float, float, float, float, float]
Pair = tuple[float, float]  # of translation in mm, of rotation in deg
Box = tuple[tuple[float, float, float], tuple[float, float, float]]  # low and high corner, mm
_NONE: Pair = (math.inf, math.inf)
_ZERO: Six = (0.0,) * 6
_ROUNDING = 1 + 1e-9  # what was clamped is at its limit but for the last bits
_STEP_S = STEP_NS / SECOND


@dataclass(frozen=True)
class Limits:
    """Infinite: no such limit. `reject` names the checks that refuse instead of shortening."""

    step: Pair = (0.1, 0.1)
    velocity: Pair = _NONE
    acceleration: Pair = _NONE
    jerk: Pair = _NONE
    workspace: Box | None = None
    keep_out: tuple[Box, ...] = ()
    joints_deg: tuple[Pair, ...] = ()  # (lowest, highest) of each joint
    force: float = math.inf
    force_rate: float = math.inf  # per second
    reject: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        unknown = self.reject - set(CLAMPABLE)
        if unknown:
            raise ValueError(f"reject {sorted(unknown)}: only {', '.join(CLAMPABLE)} can be either clamped or rejected")


@dataclass(frozen=True)
class Measured:
    """What sensor and robot say now. `pending_mm`: sent, but not yet in the measured pose."""

    pose_mm_deg: Sequence[float]
    joints_deg: Sequence[float]
    force: float = 0.0  # in the sensor's own unit
    force_rate: float = 0.0
    pending_mm: Sequence[float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Ruling:
    """`delta` may be sent; None: nothing may, because of the last of `violated`, which are in the order of
    schema.GUARD_CHECKS."""

    delta: Six | None
    violated: tuple[str, ...] = ()

    @property
    def clamped(self) -> bool:
        return self.delta is not None and bool(self.violated)


class Guard:
    """Remembers the last motion that was sent, for acceleration and jerk. One caller, once a command."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._velocity = self._acceleration = _ZERO

    def stopped(self) -> None:
        """Nothing was sent: the robot stops, and the next motion begins from rest."""
        self._velocity = self._acceleration = _ZERO

    def check(
        self, delta: Sequence[float], period_s: float, measured: Measured, *, backing_off: bool = False
    ) -> Ruling:
        """`delta` in mm and deg, to be executed within `period_s`. `backing_off`: force does not forbid this one."""
        cause = self._forbidden(delta, period_s, measured, backing_off)
        if cause:
            self.stopped()
            return Ruling(None, (cause,))
        velocity, violated = self._slowed(_six([value / period_s for value in delta]), period_s)
        rejected = next((name for name in violated if name in self.limits.reject), "")
        if not rejected and "jerk" in violated and self._breaks_speed(velocity, period_s):
            rejected = "jerk"
        allowed = _six([value * period_s for value in velocity])
        if not rejected and self._leaves(allowed, measured):
            violated, rejected = [*violated, "workspace"], "workspace"
        if rejected:
            self.stopped()
            return Ruling(None, (*violated[: violated.index(rejected)], rejected))
        self._acceleration = _six([(v - u) / period_s for v, u in zip(velocity, self._velocity, strict=True)])
        self._velocity = velocity
        return Ruling(allowed, tuple(violated))

    def _forbidden(self, delta: Sequence[float], period_s: float, measured: Measured, backing_off: bool) -> str:
        pose, joints, limits = measured.pose_mm_deg, measured.joints_deg, self.limits
        numbers = (*delta, *pose, *joints, *measured.pending_mm, measured.force, measured.force_rate)
        if len(delta) != 6 or not 0 < period_s < math.inf or not all(map(math.isfinite, numbers)):
            return "not_finite"
        if any(not low <= at <= high for at, (low, high) in zip(joints, limits.joints_deg, strict=False)):
            return "joint_limit"
        return "" if backing_off else self.force_cause(measured)

    def force_cause(self, measured: Measured) -> str:
        """ "force", "force_rate" or "": what forbids all motion but backing off."""
        if abs(measured.force) > self.limits.force:
            return "force"
        return "force_rate" if measured.force_rate > self.limits.force_rate else ""

    def _slowed(self, velocity: Six, period_s: float) -> tuple[Six, list[str]]:
        limits, violated = self.limits, []
        shorter = _within(velocity, (limits.step[0] / _STEP_S, limits.step[1] / _STEP_S), _largest)
        if shorter is not velocity:
            violated.append("step")
        fits = _within(shorter, limits.velocity, math.hypot)
        if fits is not shorter:
            violated.append("velocity")
        eased = self._eased(fits, period_s, limits.acceleration)
        if eased is not fits:
            violated.append("acceleration")
        smooth = self._smoothed(eased, period_s, limits.jerk)
        if smooth is not eased:
            violated.append("jerk")
        return smooth, violated

    def _eased(self, velocity: Six, period_s: float, limit: Pair) -> Six:
        change = _minus(velocity, self._velocity)
        shorter = _within(change, (limit[0] * period_s, limit[1] * period_s), math.hypot)
        return velocity if shorter is change else _plus(self._velocity, shorter)

    def _smoothed(self, velocity: Six, period_s: float, limit: Pair) -> Six:
        coasting = _plus(self._velocity, _six([a * period_s for a in self._acceleration]))
        change = _minus(velocity, coasting)
        shorter = _within(change, (limit[0] * period_s**2, limit[1] * period_s**2), math.hypot)
        return velocity if shorter is change else _plus(coasting, shorter)

    def _breaks_speed(self, velocity: Six, period_s: float) -> bool:
        limits = self.limits
        step = (limits.step[0] / _STEP_S, limits.step[1] / _STEP_S)
        return (
            _within(velocity, step, _largest) is not velocity
            or _within(velocity, limits.velocity, math.hypot) is not velocity
            or self._eased(velocity, period_s, limits.acceleration) is not velocity
        )

    def _leaves(self, delta: Six, measured: Measured) -> bool:
        at = [p + q for p, q in zip(measured.pose_mm_deg[:3], measured.pending_mm, strict=True)]
        then = [p + d for p, d in zip(at, delta[:3], strict=True)]
        box = self.limits.workspace
        if box is not None and _outside(then, box) > max(0.0, _outside(at, box)):
            return True
        return any(_depth(then, kept) > max(0.0, _depth(at, kept)) for kept in self.limits.keep_out)


def _outside(point: Sequence[float], box: Box) -> float:
    """mm of the axis that is farthest outside; at most 0 inside."""
    return max(max(low - p, p - high) for p, low, high in zip(point, *box, strict=True))


def _depth(point: Sequence[float], box: Box) -> float:
    """mm to the nearest face from within; at most 0 outside."""
    return min(min(p - low, high - p) for p, low, high in zip(point, *box, strict=True))


def _largest(*values: float) -> float:
    return max(map(abs, values))


def _within(vector: Six, limit: Pair, measure: Callable[..., float]) -> Six:
    """The same object if both halves are within; else each too long half shortened along its own direction."""
    x, y, z, a, b, c = vector
    long_mm, long_deg = measure(x, y, z), measure(a, b, c)
    if long_mm <= limit[0] * _ROUNDING and long_deg <= limit[1] * _ROUNDING:
        return vector
    p = limit[0] / long_mm if long_mm > limit[0] else 1.0
    q = limit[1] / long_deg if long_deg > limit[1] else 1.0
    return (x * p, y * p, z * p, a * q, b * q, c * q)


def _six(values: Sequence[float]) -> Six:
    x, y, z, a, b, c = values
    return (x, y, z, a, b, c)


def _plus(u: Six, v: Six) -> Six:
    return _six([p + q for p, q in zip(u, v, strict=True)])


def _minus(u: Six, v: Six) -> Six:
    return _six([p - q for p, q in zip(u, v, strict=True)])
