"""What a tally says of a sender, on a fake clock."""

from __future__ import annotations

import pytest

from rtvla.clock import MS, SECOND
from rtvla.control.tally import Tally

EPOCH_NS = 1_800_000_000 * SECOND


def tally_of(count: int, period_ns: int, *, behind_ns: int = 0, way_ns: int = MS) -> Tally:
    """A sender with an even period whose clock is `behind_ns` behind ours."""
    tally = Tally(5, ordered=True)
    for number in range(count):
        sent_ns = number * period_ns
        tally.add((EPOCH_NS + sent_ns - behind_ns) / SECOND, sent_ns + way_ns, EPOCH_NS + sent_ns + way_ns, 100)
    return tally


def test_an_even_sender_has_its_rate_and_its_period_as_longest_gap() -> None:
    figures = tally_of(100, 10 * MS).figures(100 * 10 * MS)
    assert figures["rate_hz"] == pytest.approx(100)
    assert figures["longest_gap_ms"] == pytest.approx(10)
    assert figures["bytes"] == [100, 100]
    assert figures["faults"] == {}


def test_records_of_a_batch_count_each_but_those_of_the_first_message_have_no_time_before_them() -> None:
    tally = Tally(8, ordered=False)
    for number in range(11):
        tally.add(2e9 + number / 10, number * SECOND // 10, EPOCH_NS + number * SECOND // 10, 500, records=5)
    assert tally.figures(SECOND)["records"] == 55
    assert tally.figures(SECOND)["rate_hz"] == pytest.approx(50)


def test_silence_at_the_end_is_a_gap() -> None:
    assert tally_of(10, 10 * MS).figures(5 * SECOND)["longest_gap_ms"] > 4000


def test_a_clock_an_hour_behind_is_seen_with_the_shortest_way() -> None:
    figures = tally_of(100, 10 * MS, behind_ns=3600 * SECOND).figures(SECOND)
    assert figures["clock"] == "epoch"
    assert figures["offset_ms"] == pytest.approx(3_600_001, abs=0.01)


def test_drift_is_told_only_once_it_is_known() -> None:
    assert tally_of(100, 10 * MS).figures(SECOND)["drift_ppm"] is None
    assert tally_of(1000, 10 * MS).figures(10 * SECOND)["drift_ppm"] == pytest.approx(0, abs=1)


def test_stamps_that_stand_still_are_no_clock() -> None:
    tally = Tally(5, ordered=True)
    for number in range(10):
        tally.add(0.0, number * MS, EPOCH_NS + number * MS)
    figures = tally.figures(10 * MS)
    assert figures["clock"] == "none" and figures["offset_ms"] is None
    assert figures["faults"] == {"repeated_stamp": 9}


def test_stamps_since_start_are_no_time_of_day() -> None:
    tally = Tally(5, ordered=True)
    for number in range(10):
        tally.add(77.0 + number, number * SECOND, EPOCH_NS + number * SECOND)
    assert tally.figures(10 * SECOND)["clock"] == "since_start"
    assert tally.figures(10 * SECOND)["offset_ms"] is None


def test_a_stamp_that_runs_back_is_counted() -> None:
    tally = Tally(5, ordered=True)
    for number, stamp_s in enumerate((2e9, 2e9 + 2, 2e9 + 1, 2e9 + 3)):
        tally.add(stamp_s, number * SECOND, EPOCH_NS + number * SECOND)
    assert tally.figures(4 * SECOND)["faults"] == {"out_of_order": 1}


def test_nothing_at_all_has_figures_too() -> None:
    figures = Tally(5, ordered=True).figures(SECOND)
    assert (figures["messages"], figures["rate_hz"], figures["longest_gap_ms"]) == (0, 0.0, None)
