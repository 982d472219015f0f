"""Capture times, time in queues and losses over a restart, from stamps alone. No real time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from fakes import FakeMe

from rtvla import schema
from rtvla.clock import MS, SECOND
from rtvla.config import Config
from rtvla.procs.arrival import UNTRUSTED, Frozen, RestartGap, SenderTimes, shortest_way_ns, stamp_ns
from rtvla.shm.hub import Hub

OFFSET_S = 1.7e9  # the sender counts from another zero


def sender(hub: Hub, stream: str = "robot", way_ns: int = 0) -> tuple[SenderTimes, FakeMe]:
    me = FakeMe(hub)
    return SenderTimes(me, stream, way_ns), me  # type: ignore[arg-type]


def run(times: SenderTimes, stamps_s: Iterable[float], taken_ns: Iterable[int]) -> list[tuple[int, int, int]]:
    """For each message: how old it is by its capture when it is taken, the uncertainty, and how old by its arrival."""
    found = []
    for stamp_s, taken in zip(stamps_s, taken_ns, strict=True):
        captured_ns, uncertainty_ns, received_ns = times.take(stamp_ns(stamp_s), taken)
        assert captured_ns <= received_ns <= taken
        found.append((taken - captured_ns, uncertainty_ns, taken - received_ns))
    return found


def steady(n: int, first: int = 0, ppm: float = 0.0, offset_s: float = OFFSET_S) -> tuple[list[float], list[int]]:
    """n states at 100 Hz, each 1 ms on its way; `ppm`: how much faster our clock runs."""
    at = range(first, first + n)
    return [offset_s + k * 0.01 * (1 - ppm * 1e-6) for k in at], [10 * SECOND + k * 10 * MS + MS for k in at]


def test_a_message_that_waited_is_as_old_as_it_is(hub: Hub) -> None:
    """Regression: after the ingest was stopped for a second, states from before counted as just arrived."""
    for known in (100, 1000):  # before the sender's clock is trusted, and after
        times, me = sender(hub)
        assert max(age for age, _, _ in run(times, *steady(known))) < MS
        stamps, sent = steady(150, known)
        backlog = run(times, stamps, [sent[-1] + 10 * MS] * 150)
        assert backlog[0][0] == pytest.approx(1500 * MS, abs=MS) and backlog[-1][0] == pytest.approx(10 * MS, abs=MS)
        assert backlog[0][2] == pytest.approx(1500 * MS, abs=MS), "its arrival is not the moment of taking either"
        assert me.counted["queued.robot"] > 100 and "clock_steps.robot" not in me.counted


def test_an_offset_of_the_clocks_is_no_age(hub: Hub) -> None:
    for offset_s in (1.0, 5.0, OFFSET_S):
        times, me = sender(hub)
        found = run(times, *steady(1000, offset_s=offset_s))
        assert max(age for age, _, _ in found) < MS and me.counted == {}
        assert found[0][1] == UNTRUSTED and 0 <= found[-1][1] < MS, "arrival counts first, then the stamps do"
        assert me.gauges["clock.robot.trusted"] == 1 and me.gauges["clock.robot.drift_ppm"] == pytest.approx(0, abs=1)


def test_drift_of_a_sender_clock_is_not_taken_for_age(hub: Hub) -> None:
    for ppm in (-100, 100):
        times, me = sender(hub)
        ages = [age for age, _, _ in run(times, *steady(60_000, ppm=ppm))]
        assert max(ages[1000:]) < MS // 10 and max(ages) < 2 * MS and me.counted == {}
        assert me.gauges["clock.robot.drift_ppm"] == pytest.approx(ppm, abs=2)


@pytest.mark.parametrize("stream", ["robot", "frame.View1", "sensor"])
@pytest.mark.parametrize("step_s", [-0.25, 0.25])
def test_a_clock_that_steps_is_counted_and_no_old_data_looks_fresh(hub: Hub, stream: str, step_s: float) -> None:
    """Negative: the sender's clock jumps back, and all it sends looks old until that is sure."""
    times, me = sender(hub, stream)
    hz = {"robot": 100, "frame.View1": 5, "sensor": 43}[stream]  # a batch of 15 samples each
    n = 30 * hz
    taken = [10 * SECOND + k * SECOND // hz for k in range(2 * n)]
    stamps = [OFFSET_S + k / hz + (step_s if k >= n else 0) for k in range(2 * n)]
    found = run(times, stamps, taken)
    wrong = [k for k, (age, _, _) in enumerate(found) if age > 5 * MS]
    assert me.counted["clock_steps." + stream] == 1 and me.gauges[f"clock.{stream}.trusted"] == 1
    assert len(wrong) <= hz and all(n <= k < 2 * n for k in wrong), "for a second at most it looks older than it is"
    assert found[-1][1] >= 0 and any(uncertainty == UNTRUSTED for _, uncertainty, _ in found[n:])


def test_a_sender_that_was_restarted_with_another_clock_begins_anew(hub: Hub) -> None:
    times, me = sender(hub)
    run(times, *steady(1000))
    stamps, taken = steady(1000, first=1500, offset_s=-14.0)  # counts from its own start
    found = run(times, stamps, taken)
    assert me.counted["clock_steps.robot"] == 1 and max(age for age, _, _ in found[25:]) < MS
    assert found[-1][1] >= 0


def test_a_camera_whose_frames_come_out_of_order_has_no_clock_that_steps(hub: Hub) -> None:
    times, me = sender(hub, "frame.View1")
    stamps = [OFFSET_S + k / 5 for k in range(300)]
    for k in range(50, 290, 20):
        stamps[k], stamps[k + 1] = stamps[k + 1], stamps[k]
    run(times, stamps, [10 * SECOND + k * SECOND // 5 for k in range(300)])
    assert me.counted["out_of_order.frame.View1"] == 12 and "clock_steps.frame.View1" not in me.counted


def test_stamps_that_never_move_say_nothing_and_the_arrival_counts(hub: Hub) -> None:
    times, me = sender(hub)
    assert run(times, [0.0] * 500, steady(500)[1]) == [(0, UNTRUSTED, 0)] * 500
    assert me.counted == {}


def test_stamps_that_stop_moving_are_counted_and_say_nothing_after_a_while(hub: Hub) -> None:
    times, me = sender(hub)
    run(times, *steady(1000))
    stamps, taken = steady(100, first=1000)
    ages = [age for age, _, _ in run(times, stamps[:1] * 100, taken)]
    assert ages[5] == pytest.approx(50 * MS, abs=MS), "at first they are of the time that they say"
    assert ages[30:] == [0] * 70 and me.counted == {"repeated_stamp.robot": 99}


def test_the_shortest_way_that_a_site_has_measured_is_part_of_age_and_uncertainty(hub: Hub) -> None:
    cfg = Config.load(None, ["shortest_way_ms.robot=0.8"])
    told, _ = sender(hub, way_ns=shortest_way_ns(cfg, "robot"))
    found = run(told, *steady(1000))
    assert found[0][0] == 0 and found[-1][0] == pytest.approx(800_000, abs=2000)
    assert 800_000 <= found[-1][1] < MS and shortest_way_ns(cfg, "sensor") == 0


def test_frozen_contents_are_counted_each_and_told_once(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    me = FakeMe(hub)
    frozen = Frozen(me, "frame.View1")  # type: ignore[arg-type]
    assert [frozen.see(same) for same in (False, True, True, True, False)] == [False, True, True, True, False]
    assert me.counted == {"frozen.frame.View1": 3} and len(caplog.messages) == 1


def test_what_was_sent_while_the_ingest_was_down_is_counted(hub: Hub) -> None:
    me, ring = FakeMe(hub), hub.writer("robot")
    record = np.zeros((), schema.ROBOT)
    record["sampled_s"] = 100.0
    ring.put(record)
    gap = RestartGap(me, ring, "robot", 100, lambda r: float(r["sampled_s"]))  # type: ignore[arg-type]
    for stamp in (100.51, 100.52, 107.0):
        record["sampled_s"] = stamp
        gap.first(record)
    assert me.counted == {"lost.restart.robot": 50}


def test_a_fresh_ring_has_lost_nothing(hub: Hub) -> None:
    me = FakeMe(hub)
    gap = RestartGap(me, hub.writer("robot"), "robot", 100, lambda r: float(r["sampled_s"]))  # type: ignore[arg-type]
    record = np.zeros((), schema.ROBOT)
    record["sampled_s"] = 5.0
    gap.first(record)
    assert me.counted == {}
