"""Nothing over a limit leaves, whatever asks for it."""

from __future__ import annotations

import math
import random

import pytest

from rtvla.control.guard import CLAMPABLE, Guard, Limits, Measured

REST = Measured((190.0, 0.0, 310.0, 0.0, 90.0, 0.0), (0.0,) * 6)
BOX = ((180.0, -10.0, 300.0), (200.0, 10.0, 320.0))
KEEP_OUT = ((190.0, 0.0, 309.0), (195.0, 5.0, 312.0))
# in a normal run; the stress run does a million
MANY = 40_000


def six(*values: float) -> tuple[float, ...]:
    return (*values, *(0.0,) * (6 - len(values)))


def test_what_is_within_all_limits_passes_unchanged() -> None:
    guard = Guard(Limits(workspace=BOX))
    assert guard.check(six(0.05, -0.02, 0, 0.1), 0.1, REST).delta == pytest.approx(six(0.05, -0.02, 0, 0.1))


def test_what_is_too_long_is_shortened_along_its_own_direction() -> None:
    ruling = Guard(Limits()).check(six(0.4, 0.2, 0, 0.05), 0.1, REST)
    assert ruling.clamped and ruling.violated == ("step",)
    assert ruling.delta == pytest.approx(six(0.1, 0.05, 0, 0.05))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["request", "pose", "joint", "force"])
def test_what_is_not_finite_is_never_sent(bad: float, where: str) -> None:
    given = {
        "request": (six(bad), REST),
        "pose": (six(0.01), Measured((bad, *REST.pose_mm_deg[1:]), REST.joints_deg)),
        "joint": (six(0.01), Measured(REST.pose_mm_deg, (0.0, bad, 0.0, 0.0, 0.0, 0.0))),
        "force": (six(0.01), Measured(REST.pose_mm_deg, REST.joints_deg, force=bad)),
    }
    ruling = Guard(Limits()).check(given[where][0], 0.1, given[where][1])
    assert ruling.delta is None and ruling.violated == ("not_finite",)


def test_the_next_motion_after_a_rejected_one_begins_from_rest() -> None:
    guard = Guard(Limits(acceleration=(1.0, 1.0)))
    for _ in range(20):
        guard.check(six(0.1), 0.1, REST)
    guard.check(six(math.nan), 0.1, REST)
    first = guard.check(six(0.1), 0.1, REST)
    assert first.delta == pytest.approx(six(1.0 * 0.1 * 0.1)), "acceleration 1 mm/s2 for 0.1 s, moved for 0.1 s"


def test_acceleration_is_limited_from_command_to_command() -> None:
    guard, speeds = Guard(Limits(acceleration=(2.0, 2.0))), []
    for wanted in [0.1] * 8 + [-0.1] * 8:
        ruling = guard.check(six(wanted), 0.1, REST)
        assert ruling.delta is not None
        speeds.append(ruling.delta[0] / 0.1)
    assert speeds == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, -0.2, -0.4, -0.6])


def test_a_check_that_is_set_to_reject_sends_nothing_at_all() -> None:
    for name in CLAMPABLE:
        limits = {name: (0.01, 0.01)}
        ruling = Guard(Limits(reject=frozenset({name}), **limits)).check(six(0.09), 0.1, REST)
        assert ruling.delta is None and ruling.violated[-1] == name
    with pytest.raises(ValueError, match="force"):
        Limits(reject=frozenset({"force"}))


def test_the_workspace_is_not_left_and_a_way_back_stays_open() -> None:
    guard = Guard(Limits(workspace=BOX))
    edge = Measured((199.95, 0, 310, 0, 90, 0), (0.0,) * 6)
    assert guard.check(six(0.1), 0.1, edge).violated == ("workspace",)
    assert guard.check(six(-0.1), 0.1, edge).delta is not None
    outside = Measured((203, 0, 310, 0, 90, 0), (0.0,) * 6)
    assert guard.check(six(-0.1), 0.1, outside).delta is not None
    assert guard.check(six(0.01), 0.1, outside).delta is None


def test_what_is_sent_but_not_yet_measured_counts_for_the_workspace() -> None:
    """Regression: against the measured pose alone, the motion of the last 200 ms leaves the box unseen."""
    at = (199.85, 0, 310, 0, 90, 0)
    assert Guard(Limits(workspace=BOX)).check(six(0.1), 0.1, Measured(at, (0.0,) * 6)).delta is not None
    late = Measured(at, (0.0,) * 6, pending_mm=(0.1, 0, 0))
    assert Guard(Limits(workspace=BOX)).check(six(0.1), 0.1, late).delta is None


def test_a_keep_out_box_is_not_entered_and_can_be_left() -> None:
    guard = Guard(Limits(keep_out=(KEEP_OUT,)))
    before = Measured((189.95, 2, 310, 0, 90, 0), (0.0,) * 6)
    assert guard.check(six(0.1), 0.1, before).violated == ("workspace",)
    assert guard.check(six(0, 0.1), 0.1, before).delta is not None
    inside = Measured((190.5, 2, 310, 0, 90, 0), (0.0,) * 6)
    assert guard.check(six(-0.1), 0.1, inside).delta is not None
    assert guard.check(six(0.1), 0.1, inside).delta is None


def test_a_joint_at_its_limit_and_a_force_over_its_limit_stop_all_motion_but_backing_off() -> None:
    limits = Limits(joints_deg=((-175, 175), (-70, 90)), force=2.0, force_rate=50.0)
    for name, measured in {
        "joint_limit": Measured(REST.pose_mm_deg, (0, 90.5, 0, 0, 0, 0)),
        "force": Measured(REST.pose_mm_deg, (0.0,) * 6, force=-2.1),
        "force_rate": Measured(REST.pose_mm_deg, (0.0,) * 6, force=1.0, force_rate=60.0),
    }.items():
        assert Guard(limits).check(six(0.01), 0.1, measured).violated == (name,)
        backs = Guard(limits).check(six(-0.01), 0.1, measured, backing_off=True)
        assert (backs.delta is None) == (name == "joint_limit")


def adversary(draw: random.Random) -> tuple[list[float], float]:
    """(request, period): plausible ones, huge ones, tiny ones, poisoned ones."""
    kind = draw.random()
    if kind < 0.1:
        poison = (math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -0.0)
        return [draw.choice(poison) if draw.random() < 0.3 else draw.gauss(0, 0.1) for _ in range(6)], 0.1
    scale = 10 ** draw.uniform(-6, 6) if kind < 0.5 else 0.05
    return [draw.gauss(0, scale) for _ in range(6)], draw.choice((0.1, 0.1, 0.05, 0.01))


def assault(motions: int, seed: int) -> int:
    """Send `motions` random and adversarial requests, check every one that leaves. How many left."""
    limits = Limits((0.1, 0.1), (1.2, 1.0), (8, 8), (200, 200), BOX, (KEEP_OUT,), ((-170, 170),) * 6, 5)
    draw, guard, left = random.Random(seed), Guard(limits), 0
    velocity = acceleration = (0.0,) * 6
    pose = list(REST.pose_mm_deg)
    for _ in range(motions):
        request, period_s = adversary(draw)
        force = draw.gauss(0, 2)
        ruling = guard.check(request, period_s, Measured(pose, REST.joints_deg, force))
        if ruling.delta is None:
            velocity = acceleration = (0.0,) * 6
            assert ruling.violated
            continue
        left += 1
        now = tuple(d / period_s for d in ruling.delta)
        change = tuple((v - u) / period_s for v, u in zip(now, velocity, strict=True))
        jolt = tuple((v - u) / period_s for v, u in zip(change, acceleration, strict=True))
        for half in (slice(0, 3), slice(3, 6)):
            assert max(map(abs, now[half])) <= 1.0 * (1 + 1e-6), "step"
            assert math.hypot(*now[half]) <= (1.2, 1.0)[half.start > 0] * (1 + 1e-6), "velocity"
            assert math.hypot(*change[half]) <= 8 * (1 + 1e-6), "acceleration"
            assert math.hypot(*jolt[half]) <= 200 * (1 + 1e-6), "jerk"
        pose = [p + d for p, d in zip(pose, ruling.delta, strict=True)]
        assert all(low - 1e-9 <= p <= high + 1e-9 for p, low, high in zip(pose, *BOX, strict=False)), "workspace"
        assert not all(low < p < high for p, low, high in zip(pose, *KEEP_OUT, strict=False)), "keep-out"
        assert abs(force) <= 5, "force"
        velocity, acceleration = now, change
    return left


def test_none_of_many_random_and_adversarial_motions_leaves_over_a_limit() -> None:
    assert assault(MANY, seed=1) > MANY // 2


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 7))
def test_none_of_a_million_motions_leaves_over_a_limit(seed: int) -> None:
    assert assault(200_000, seed) > 100_000
