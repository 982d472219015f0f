"""Time in queues and losses over a restart, from stamps alone."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeMe

from rtvla import schema
from rtvla.clock import MS, SECOND
from rtvla.procs.arrival import QueueDelay, RestartGap
from rtvla.shm.hub import Hub

OFFSET_S = 1.7e9  # the sender counts from another zero


def queue(hub: Hub) -> tuple[QueueDelay, FakeMe]:
    me = FakeMe(hub)
    return QueueDelay(me, "robot"), me  # type: ignore[arg-type]


def test_a_message_that_waited_is_as_old_as_it_is(hub: Hub) -> None:
    """Regression: after the ingest was stopped for a second, states from before counted as just arrived."""
    delay, me = queue(hub)
    for k in range(100):
        assert delay.delay_ns(OFFSET_S + k * 0.01, 10 * SECOND + k * 10 * MS) < MS
    backlog = [delay.delay_ns(OFFSET_S + k * 0.01, 10 * SECOND + 2500 * MS) for k in range(100, 250)]
    assert backlog[0] == pytest.approx(1500 * MS, abs=MS) and backlog[-1] == pytest.approx(10 * MS, abs=MS)
    assert me.counted["queued.robot"] > 100


def test_an_offset_of_the_clocks_is_no_age(hub: Hub) -> None:
    for offset_s in (0.0, 5.0, OFFSET_S):
        delay, me = queue(hub)
        assert [delay.delay_ns(offset_s + k * 0.2, (k + 50) * 200 * MS) for k in range(1, 20)] == pytest.approx(
            [0] * 19, abs=MS
        )
        assert me.counted == {}


def test_a_clock_that_steps_back_looks_old_until_the_window_has_passed(hub: Hub) -> None:
    delay, _me = queue(hub)
    old = []
    for k in range(200):
        stamp = OFFSET_S + k - (5 if k >= 50 else 0)
        old.append(delay.delay_ns(stamp, (100 + k) * SECOND) > SECOND)
    assert not any(old[:50]) and all(old[50:75]) and not any(old[120:])


def test_a_stamp_that_stands_still_says_nothing(hub: Hub) -> None:
    delay, _me = queue(hub)
    assert [delay.delay_ns(0.0, k * SECOND) for k in range(1, 50)] == [0] * 49


def test_drift_of_a_sender_clock_is_not_taken_for_age(hub: Hub) -> None:
    delay, me = queue(hub)
    ages = [delay.delay_ns(OFFSET_S + k * 0.01 * (1 - 50e-6), 10 * SECOND + k * 10 * MS) for k in range(60_000)]
    assert max(ages) < 5 * MS and me.counted == {}


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
