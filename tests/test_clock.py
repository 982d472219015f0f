"""Pacing is arithmetic on a clock, so it is tested with a clock made of arithmetic."""

from __future__ import annotations

import pytest

from rtvla.clock import Pacer, WallOffset, now_ns

MS = 1_000_000


class FakeClock:
    """Time stands still until somebody sleeps or works. `late_ns` models a late wake-up."""

    def __init__(self, at_ns: int = 1_000_000_123, late_ns: int = 0) -> None:
        self.at_ns, self.late_ns = at_ns, late_ns

    def now(self) -> int:
        return self.at_ns

    def sleep(self, seconds: float) -> None:
        self.at_ns += round(seconds * 1e9) + self.late_ns

    def work(self, ns: int) -> None:
        self.at_ns += ns


def pacer(clock: FakeClock, period_ms: int = 100, phase_ms: int = 0) -> Pacer:
    return Pacer(period_ms * MS, phase_ms * MS, now=clock.now, sleep=clock.sleep)


def test_ticks_lie_on_the_grid_and_do_not_drift() -> None:
    clock = FakeClock(late_ns=3 * MS)
    pace = pacer(clock)
    for _ in range(1000):
        tick = pace.wait()
        assert tick is not None
        assert tick.due_ns % (100 * MS) == 0
        assert tick.late_ns == 3 * MS
        clock.work(20 * MS)
    assert tick.due_ns - 1_000_000_123 == pytest.approx(1000 * 100 * MS, abs=100 * MS)
    assert pace.misses == 0


def test_two_pacers_keep_their_phase_whenever_they_were_started() -> None:
    early, late = FakeClock(7), FakeClock(987_654_321)
    first, second = pacer(early).wait(), pacer(late, phase_ms=50).wait()
    assert first is not None and second is not None
    assert (second.due_ns - first.due_ns) % (100 * MS) == 50 * MS


def test_a_short_miss_is_counted_once_and_the_next_tick_starts_at_once() -> None:
    clock = FakeClock()
    pace = pacer(clock)
    first = pace.wait()
    clock.work(130 * MS)
    second = pace.wait()
    third = pace.wait()
    assert first is not None and second is not None and third is not None
    assert second.due_ns - first.due_ns == 100 * MS
    assert (second.late_ns, second.skipped, pace.misses) == (30 * MS, 0, 1)
    assert third.due_ns - second.due_ns == 100 * MS and third.late_ns == 0


def test_after_a_stall_whole_periods_are_skipped_and_there_is_no_burst() -> None:
    clock = FakeClock()
    pace = pacer(clock)
    first = pace.wait()
    clock.work(1050 * MS)
    ticks = [pace.wait() for _ in range(3)]
    assert first is not None
    assert [tick.skipped for tick in ticks if tick] == [9, 0, 0]
    assert [tick.due_ns - first.due_ns for tick in ticks if tick] == [1000 * MS, 1100 * MS, 1200 * MS]
    assert pace.misses == 1


def test_a_sleep_that_was_cut_short_is_no_tick() -> None:
    clock = FakeClock()
    pace = Pacer(100 * MS, now=clock.now, sleep=lambda _seconds: None)
    assert pace.wait() is None
    clock.work(100 * MS)
    assert pace.wait() is not None


def test_wall_and_monotonic_convert_into_each_other() -> None:
    wall = WallOffset()
    t = now_ns()
    assert wall.to_monotonic_ns(round(wall.to_wall_s(t) * 1e9)) == pytest.approx(t, abs=1_000)
