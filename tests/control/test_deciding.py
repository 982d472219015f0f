"""Parts of the decision that stand alone: what is under way, what latches, what the settings mean."""

from __future__ import annotations

import math

import pytest

from rtvla.clock import MS, SECOND
from rtvla.config import Config
from rtvla.control.degrade import Row, judge
from rtvla.control.latch import Latch
from rtvla.control.pending import UNSEEN_NS, Pending
from rtvla.control.settings import degrade_table, guard_limits, latch_of


def test_what_is_under_way_is_the_worst_of_all_that_it_can_be_the_way_one_goes() -> None:
    pending = Pending()
    for at_ms, x in ((0, 0.1), (100, 0.1), (200, -0.3)):
        pending.add(at_ms * MS, (x, 0.0, 0.05))
    now_seen = 200 * MS
    assert pending.farthest_mm(now_seen, (1, 1, 1)) == (0.0, 0.0, pytest.approx(0.15)), "the pose may show all of x"
    assert pending.farthest_mm(now_seen, (-1, 0, -1)) == (pytest.approx(-0.3), 0.0, 0.0)
    assert pending.farthest_mm(UNSEEN_NS + 150 * MS, (1, 0, 1)) == (0.0, 0.0, pytest.approx(0.05)), "two are seen"
    assert pending.farthest_mm(UNSEEN_NS + 200 * MS, (-1, 0, 1)) == (0.0, 0.0, 0.0)


def test_refusals_latch_by_time_whatever_the_rate() -> None:
    for period_ms, refusals in ((100, 3), (10, 11)):
        latch, k = Latch(3, SECOND), 0
        while not latch.cause:
            latch.refused("force", k * period_ms * MS)
            k += 1
        assert k <= refusals, "three in 200 ms and less than 100 Hz would have it in 30 ms"
        assert k * period_ms >= 100
    slow = Latch(3, SECOND)
    for k in range(100):
        slow.refused("force", k * 600 * MS)
    assert slow.cause == "", "never three within a second"
    never = Latch(0, SECOND)
    for k in range(100):
        never.refused("force", k * 100 * MS)
    assert never.cause == ""


def test_the_first_cause_of_a_latch_stays_and_its_end_is_that_of_this_latch_only() -> None:
    latch = Latch(1, SECOND)
    latch.refused("force", 5)
    latch.set("robot_gone", 9)
    assert (latch.cause, latch.since_ns) == ("force", 5)
    assert not latch.release(9) and latch.cause
    assert latch.release(5) and not latch.cause
    assert not latch.release(0), "nothing is latched"


def test_a_stale_limit_has_one_home_and_the_table_follows_it() -> None:
    table = degrade_table(Config.load(None, ["stale_ms.sensor=80", "stale_ms.frame.View3=400", "stale_ms.robot=300"]))
    assert table["sensor"] == Row(80 * MS, 80 * MS, 180 * MS), "late at 100 ms would be after stale"
    assert (table["View3"].stale_ns, table["View2"].stale_ns) == (400 * MS, 1000 * MS)
    assert table["robot"].gone_ns == table["robot"].stale_ns == 300 * MS and table["robot"].at_stale == "hold"
    assert table["chunk"].stale_ns == 250 * MS and table["vl_feature"].gone_ns == 1600 * MS


def test_zero_and_empty_mean_no_limit() -> None:
    limits = guard_limits(Config())
    assert limits.step == (0.1, 0.1) and limits.acceleration == (10, 10)
    assert limits.velocity == limits.jerk == (math.inf, math.inf) and limits.force == limits.force_rate == math.inf
    assert limits.workspace is None and limits.keep_out == () and limits.joints_deg == () and not limits.reject
    given = ["guard.keep_out_mm=[1,2,3,4,5,6,7,8,9,10,11,12]", 'guard.reject=["jerk"]', "guard.jerk_mm_s3=50"]
    given += ["guard.joint_min_deg=[-1,-2,-3,-4,-5,-6]", "guard.joint_max_deg=[1,2,3,4,5,6]"]
    limits = guard_limits(Config.load(None, given))
    assert limits.keep_out == (((1, 2, 3), (4, 5, 6)), ((7, 8, 9), (10, 11, 12))) and limits.reject == {"jerk"}
    assert limits.jerk == (50, math.inf) and limits.joints_deg[5] == (-6, 6)
    assert latch_of(Config())._refusals is not None


def test_the_speed_of_a_slow_commander_is_the_mean_of_its_period() -> None:
    table = {"sensor": Row(50 * MS, 150 * MS, 250 * MS)}
    assert judge(table, {"sensor": 151 * MS}, 100 * MS).speed == pytest.approx(0.49)
    assert judge(table, {"sensor": 210 * MS}, 100 * MS).speed == 0.0
    assert judge(table, {}).action == "act", "an input that is not in use"
