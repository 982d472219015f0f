"""What the numbers mean: windows, due steps, limits. Plain arrays, no process, no clock."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rtvla import schema
from rtvla.control.chunk import due_step
from rtvla.control.observation import Limits, observe, window_fault
from rtvla.control.safety import Guard

MS = 1_000_000
LIMITS = Limits(150 * MS, 150 * MS, 1500 * MS, 100 * MS)
NOW = 10_000 * MS


def sensor(newest_ns: int = NOW, count: int = 65) -> np.ndarray:
    records = np.zeros(count, schema.SENSOR)
    records["received_ns"] = newest_ns - np.arange(count)[::-1] * 1_538_461
    records["wire"]["force"] = np.arange(count)
    records["wire"]["aline"] = np.arange(schema.ALINE_BINS)
    return records


def robot(newest_ns: int = NOW, count: int = 100) -> np.ndarray:
    records = np.zeros(count, schema.ROBOT)
    records["received_ns"] = newest_ns - np.arange(count)[::-1] * 10 * MS
    records["joints_deg"], records["pose_mm_deg"] = 1, 2
    return records


def feature(oldest_ns: int = NOW - 300 * MS, fingerprint: int = 7) -> np.void:
    record = np.zeros((), schema.VL_FEATURE)
    record["fingerprint"], record["dim"] = fingerprint, 4
    record["view_received_ns"][:5] = [NOW, oldest_ns, NOW, NOW, NOW]
    record["feature"][:4] = [1, 2, 3, 4]
    return record[()]


def test_an_observation_holds_force_first_and_the_age_of_each_part() -> None:
    seen, ages, why = observe(sensor(NOW - 5 * MS), robot(NOW - 9 * MS), feature(), 7, NOW, LIMITS)
    assert why == "" and seen is not None and ages is not None
    assert seen.sensor.shape == (65, 1026) and seen.sensor[-1, 0] == 64 and seen.sensor[0, 1025] == 1024
    assert seen.robot.shape == (100, 12) and seen.vl_feature.tolist() == [1, 2, 3, 4]
    assert (ages.sensor_ns, ages.robot_ns, ages.vl_ns) == (5 * MS, 9 * MS, 300 * MS)
    assert seen.vl_age_s == 0.3  # the model is told of the oldest view, too
    assert (seen.sensor_missing.shape, seen.robot_missing.shape) == ((65,), (100,))
    assert not seen.sensor_missing.any() and not seen.robot_missing.any()  # a window is never padded


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((None, robot(), feature()), "sensor_short"),
        ((sensor(), None, feature()), "robot_short"),
        ((sensor(), robot(), None), "no_vl_feature"),
        ((sensor(), robot(), feature(fingerprint=8)), "vl_of_another_model"),
        ((sensor(NOW - 151 * MS), robot(), feature()), "sensor_stale"),
        ((sensor(), robot(NOW - 151 * MS), feature()), "robot_stale"),
        ((sensor(), robot(), feature(NOW - 1501 * MS)), "vl_stale"),
    ],
)
def test_what_is_missing_or_old_gives_no_observation_and_its_name(parts: tuple, why: str) -> None:
    assert observe(*parts, 7, NOW, LIMITS)[2] == why


def test_a_window_with_a_hole_is_refused_although_its_newest_sample_is_fresh() -> None:
    received = sensor()["received_ns"].copy()
    received[:-1] -= 5_000 * MS
    assert window_fault("sensor", received, 650, NOW, 150 * MS, 100 * MS) == "sensor_gap"


@pytest.mark.parametrize(
    ("now_ms", "step"), [(-1, -1), (0, 0), (50, 0), (99, 0), (100, 1), (150, 1), (750, 7), (800, 8), (9000, 8)]
)
def test_the_due_step_follows_from_time_alone(now_ms: int, step: int) -> None:
    assert due_step(NOW, 8, schema.STEP_NS, NOW + now_ms * MS) == step


POSE = [191.0, 1.0, 309.0, 1.0, 91.0, 1.0]


def test_a_step_within_the_limits_passes_unchanged() -> None:
    step = [0.1, -0.05, 0.0, 0.1, 0.0, -0.1]
    assert Guard(0.1, 0.1).check(step, POSE) == (tuple(step), False, "")


def test_a_step_that_is_too_long_keeps_its_direction() -> None:
    sent, shortened, why = Guard(0.1, 0.1).check([0.4, -0.2, 0.0, 0.0, 0.3, 0.6], POSE)
    assert shortened and why == "" and sent is not None
    assert sent == pytest.approx((0.1, -0.05, 0.0, 0.0, 0.05, 0.1))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", range(6))
def test_nothing_that_is_not_finite_passes(bad: float, at: int) -> None:
    step = [0.0] * 6
    step[at] = bad
    assert Guard(0.1, 0.1).check(step, POSE) == (None, False, "not_finite")
    pose = list(POSE)
    pose[at] = bad
    assert Guard(0.1, 0.1).check([0.0] * 6, pose) == (None, False, "not_finite")


def test_the_box_cannot_be_left_but_a_way_back_in_stays_open() -> None:
    guard = Guard(0.1, 0.1, (190.0, 0.0, 300.0), (200.0, 2.0, 310.0))
    edge = [199.95, *POSE[1:]]
    assert guard.check([0.1, 0, 0, 0, 0, 0], edge)[2] == "outside_workspace"
    assert guard.check([0.04, 0, 0, 0, 0, 0], edge)[2] == ""
    outside = [205.0, *POSE[1:]]
    assert guard.check([0.1, 0, 0, 0, 0, 0], outside)[2] == "outside_workspace"
    assert guard.check([-0.1, 0, 0, 0, 0, 0], outside)[2] == ""


def test_the_box_is_judged_by_what_would_be_sent_not_by_what_was_asked() -> None:
    guard = Guard(0.1, 0.1, (190.0, 0.0, 300.0), (191.2, 2.0, 310.0))
    sent, shortened, why = guard.check([5.0, 0, 0, 0, 0, 0], POSE)
    assert (sent, shortened, why) == ((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), True, "")
