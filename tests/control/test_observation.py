"""Windows by capture time, cut to one observation time. Plain arrays, no process, no clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtvla import schema
from rtvla.control.observation import Limits, observe
from rtvla.control.window import Window, WindowSpec, window

MS = 1_000_000
LIMITS = Limits(150 * MS, 150 * MS, 1500 * MS, 0.2)
NOW = 10_000 * MS
SENSOR, ROBOT = WindowSpec(65, 650, True), WindowSpec(100, 100, True)
BY_COUNT = WindowSpec(65, 650, False), WindowSpec(100, 100, False)
PERIOD = SENSOR.period_ns


def times(newest_ns: int = NOW, count: int = 163, period_ns: int = PERIOD) -> np.ndarray:
    return newest_ns - np.arange(count)[::-1] * period_ns


def sensor(captured_ns: np.ndarray | None = None) -> np.ndarray:
    captured_ns = times() if captured_ns is None else captured_ns
    records = np.zeros(len(captured_ns), schema.SENSOR)
    records["index"] = np.arange(len(records))
    records["captured_ns"] = records["received_ns"] = captured_ns
    records["wire"]["force"] = np.arange(len(records))
    records["wire"]["aline"] = np.arange(schema.ALINE_BINS)
    return records


def robot(newest_ns: int = NOW, count: int = 115) -> np.ndarray:
    records = np.zeros(count, schema.ROBOT)
    records["index"] = np.arange(count)
    records["captured_ns"] = records["received_ns"] = times(newest_ns, count, 10 * MS)
    records["joints_deg"], records["pose_mm_deg"] = np.arange(count)[:, None], 2
    return records


def features(*newest_view_ns: int, fingerprint: int = 7) -> np.ndarray:
    """One for each time of its newest view; the oldest view is 300 ms before now."""
    records = np.zeros(len(newest_view_ns) or 1, schema.VL_FEATURE)
    records["index"], records["fingerprint"], records["dim"] = np.arange(len(records)), fingerprint, 4
    for record, newest_ns in zip(records, newest_view_ns or (NOW - 50 * MS,), strict=True):
        record["view_captured_ns"] = newest_ns
        record["view_captured_ns"][1] = NOW - 300 * MS
        record["view_received_ns"] = record["view_captured_ns"] + 9 * MS
    records["feature"][:, :4] = [1, 2, 3, 4]
    return records


def look(s: np.ndarray | None, r: np.ndarray | None, f: np.ndarray | None, windows: tuple = (SENSOR, ROBOT)) -> tuple:
    return observe(s, r, f, 7, NOW, windows, LIMITS)


def cut(captured_ns: np.ndarray, at_ns: int = NOW, spec: WindowSpec = SENSOR) -> Window:
    found = window(captured_ns, spec, at_ns)
    assert found is not None
    return found


def test_an_observation_holds_force_first_and_the_age_of_each_part() -> None:
    seen, why = look(sensor(times(NOW - 5 * MS)), robot(NOW - 9 * MS), features())
    assert why == "" and seen is not None
    observation = seen.observation
    assert observation.sensor.shape == (65, 1026) and observation.sensor[-1, 1025] == 1024
    assert (np.diff(observation.sensor[:, 0]) == 1).all()
    assert observation.robot.shape == (100, 12) and observation.robot[-1, 0] == 114
    assert observation.vl_feature.tolist() == [1, 2, 3, 4]
    assert not observation.sensor_missing.any() and not observation.robot_missing.any()
    assert (seen.robot_age_ns, seen.vl_age_ns) == (9 * MS, 300 * MS)
    assert seen.view_age_ns.tolist() == [50 * MS, 300 * MS, 50 * MS, 50 * MS, 50 * MS]


def test_sensor_robot_and_views_are_cut_to_the_newest_time_for_which_all_is_there() -> None:
    behind = NOW - 40 * MS
    fresh = features(behind - 30 * MS, behind - 10 * MS, behind + 5 * MS)
    seen, _ = look(sensor(times(NOW - 2 * MS)), robot(behind), fresh)
    assert seen.observation_ns == behind == int(seen.robot["captured_ns"])
    assert behind - PERIOD < int(seen.sensor["captured_ns"]) <= behind, "no force from after the pose"
    assert int(seen.feature["index"]) == 1, "no picture from after it either"
    assert seen.observation.vl_age_s == pytest.approx(0.26)  # what the model is told is of the observation time
    assert seen.sensor_age_ns == NOW - int(seen.sensor["captured_ns"])  # what is recorded is of the tick
    ahead, _ = look(sensor(times(NOW - 30 * MS)), robot(NOW - 1 * MS), fresh)
    assert ahead.observation_ns == NOW - 30 * MS and int(ahead.robot["captured_ns"]) == NOW - 31 * MS


def test_without_a_feature_from_before_the_oldest_one_at_hand_is_used() -> None:
    seen, _ = look(sensor(), robot(NOW - 60 * MS), features(NOW - 50 * MS, NOW - 40 * MS))
    assert int(seen.feature["index"]) == 0 and seen.observation.vl_age_s == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((None, robot(), features()), "sensor_short"),
        ((sensor(), None, features()), "robot_short"),
        ((sensor(), robot(), None), "no_vl_feature"),
        ((sensor(), robot(), np.zeros(1, schema.VL_FEATURE)), "vl_of_another_model"),
        ((sensor(), robot(), features(fingerprint=8)), "vl_of_another_model"),
        ((sensor(times(NOW - 151 * MS)), robot(), features()), "sensor_stale"),
        ((sensor(), robot(NOW - 151 * MS), features()), "robot_stale"),
    ],
)
@pytest.mark.parametrize("windows", [(SENSOR, ROBOT), BY_COUNT], ids=["by time", "by count"])
def test_what_is_missing_or_old_gives_no_observation_and_its_name(parts: tuple, why: str, windows: tuple) -> None:
    assert look(*parts, windows) == (None, why)


def test_a_feature_is_as_old_as_its_oldest_view() -> None:
    old = features()
    old["view_captured_ns"][:, 3] = NOW - 1501 * MS
    assert look(sensor(), robot(), old) == (None, "vl_stale")
    old["view_received_ns"][:, 3] = 0  # a view that the feature does not have
    seen, why = look(sensor(), robot(), old)
    assert why == "" and seen.view_age_ns[3] == -1


def test_lost_samples_are_marked_where_they_are_missing_and_stood_in_for_by_the_nearest() -> None:
    captured = np.delete(times(), [-3, -10, -11, -12])
    found = cut(captured)
    assert np.flatnonzero(found.missing).tolist() == [65 - 12, 65 - 11, 65 - 10, 65 - 3]
    distance = np.abs(captured[found.at] - times(count=65)) / PERIOD
    assert (distance[~found.missing] < 0.01).all() and distance[found.missing].round().tolist() == [1, 2, 1, 1]


@pytest.mark.parametrize(("lost", "why"), [(13, ""), (14, "sensor_gap")])
def test_more_missing_than_configured_gives_no_observation(lost: int, why: str) -> None:
    captured = np.delete(times(), np.arange(len(times()) - 1 - lost, len(times()) - 1))
    seen, found = look(sensor(captured), robot(), features())
    assert found == why and (seen is None or seen.observation.sensor_missing.sum() == lost)


def test_a_window_with_a_hole_is_refused_although_its_newest_sample_is_fresh() -> None:
    captured = times()
    captured[:-1] -= 5_000 * MS
    for windows in ((SENSOR, ROBOT), BY_COUNT):
        assert look(sensor(captured), robot(), features(), windows) == (None, "sensor_gap")


def test_a_hole_at_the_observation_time_itself_is_missing_too() -> None:
    captured = np.delete(times(), np.arange(len(times()) - 9, len(times()) - 2))
    found = cut(captured, int(captured[-1]) - 2 * PERIOD)
    assert np.flatnonzero(found.missing).tolist() == list(range(58, 65)), "the seven at its end"
    assert captured[found.newest] == captured[-3] and (found.at[58:] == found.newest).all()


def test_samples_out_of_order_are_put_in_order_of_their_capture() -> None:
    shuffled = times()
    shuffled[-20:-10] = shuffled[-20:-10][::-1]
    found = cut(shuffled)
    assert not found.missing.any() and (np.diff(shuffled[found.at]) > 0).all()


def test_a_frozen_input_is_one_sample_and_what_came_after_it_does_not_count() -> None:
    frozen = times()
    frozen[-30:] = frozen[-30]
    found = cut(frozen, int(frozen[-1]))
    assert not found.missing.any() and found.newest == len(frozen) - 30
    seen, _ = look(sensor(frozen), robot(), features())
    assert seen.observation_ns == frozen[-30], "the robot is cut to it as well"


@pytest.mark.parametrize("batch", [1, 5, 15])
def test_where_arrival_stands_for_capture_bunches_are_spread_over_the_time_before(batch: int) -> None:
    captured, back = times(), np.arange(163)[::-1]
    arrival = captured[162 - back // batch * batch] - back  # with the last of their batch, and a little apart
    found = cut(arrival, int(arrival[-1]))
    assert not found.missing.any() and found.at.tolist() == list(range(163 - 65, 163))


def test_a_jitter_of_less_than_a_quarter_of_a_period_loses_nothing() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        jittered = times() + draw.integers(-PERIOD // 4, PERIOD // 4, 163)
        found = cut(np.sort(jittered), int(jittered.max()))
        assert not found.missing.any()


@pytest.mark.parametrize("rate", [0.98, 1.0, 1.02])
def test_a_sensor_that_is_a_little_off_its_nominal_rate_still_fills_its_windows(rate: float) -> None:
    captured = times(period_ns=int(PERIOD / rate))
    found = cut(captured)
    assert found.missing.sum() <= 2 and captured[found.at[0]] == pytest.approx(NOW - 64 * PERIOD, abs=2 * PERIOD)


def test_each_sample_takes_one_place() -> None:
    draw = np.random.default_rng(1)
    for _ in range(200):
        captured = np.sort(NOW - draw.integers(0, 250 * MS, draw.integers(1, 200)))
        found = cut(captured, int(captured[-1]))
        taken = found.at[~found.missing]
        assert len(set(taken.tolist())) == len(taken)
        assert (np.diff(captured[found.at]) >= 0).all(), "never back in time"


def test_a_model_that_cannot_be_told_gets_the_newest_samples_by_count() -> None:
    captured = np.delete(times(), [-3, -10])
    seen, why = look(sensor(captured), robot(), features(), BY_COUNT)
    assert why == "" and not seen.observation.sensor_missing.any()
    assert (np.diff(seen.observation.sensor[:, 0]) == 1).all() and int(seen.sensor["index"]) == len(captured) - 1


def test_nothing_before_the_observation_time_is_no_window() -> None:
    assert window(times(), SENSOR, NOW - 1000 * MS) is None
    assert window(times(count=64), BY_COUNT[0], NOW) is None


def test_enough_is_read_for_an_observation_that_lies_behind() -> None:
    assert SENSOR.reach(150 * MS) == 65 + 98 and ROBOT.reach(150 * MS) == 115


def test_a_feature_without_a_view_that_the_model_was_trained_with_is_none() -> None:
    """Regression: right after a start the mean of one view out of five drove the arm."""
    incomplete, needs = features(), replace(LIMITS, views=(0, 1, 4))
    incomplete["view_received_ns"][:, 4] = 0
    assert observe(sensor(), robot(), incomplete, 7, NOW, (SENSOR, ROBOT), needs) == (None, "view_missing")
    incomplete["view_received_ns"][:, 4], incomplete["view_received_ns"][:, 3] = NOW, 0  # one that it does not know
    assert observe(sensor(), robot(), incomplete, 7, NOW, (SENSOR, ROBOT), needs)[1] == ""


@pytest.mark.parametrize("unused", ["sensor", "robot"])
def test_what_is_no_input_of_the_model_need_not_exist(unused: str) -> None:
    windows = tuple(replace(one, used=name != unused) for name, one in (("sensor", SENSOR), ("robot", ROBOT)))
    parts = {"sensor": sensor(), "robot": robot()} | {unused: None}
    seen, why = look(parts["sensor"], parts["robot"], features(), windows)
    assert why == "" and seen is not None and getattr(seen, unused) is None
    observation = seen.observation
    assert not getattr(observation, unused).any() and getattr(observation, f"{unused}_missing").all()
    assert (observation.sensor.shape, observation.robot.shape) == ((65, 1026), (100, 12))
    assert getattr(seen, f"{unused}_age_ns") == -1
