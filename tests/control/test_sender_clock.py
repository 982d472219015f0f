"""A sender's clock is followed by one-way stamps, and lies about it do no harm. Simulated links, no real time."""

from __future__ import annotations

import pytest
from clock_links import CASES, HARD, HZ, WAY_NS, Link, measure, steady, stepped

from rtvla.clock import MS, SECOND
from rtvla.control.sender_clock import Reading, SenderClock


def readings_of(clock: SenderClock, link: Link, seconds: float, ppm: float) -> list[Reading]:
    return [clock.add(stamp, received) for _, stamp, received in link.samples(seconds, steady(ppm))]


@pytest.mark.parametrize("name", CASES)
def test_capture_times_are_as_good_as_the_link_allows(name: str) -> None:
    link, offset, p50, p99 = CASES[name]
    found = measure(link, offset)
    assert found.p50 <= 2 * p50 and found.p99 <= 2 * p99  # of a study of such links; twice that is still as good
    assert found.steps == 0 and found.trusted > 0.95
    assert found.within > 0.95 and found.uncertainty_p50 <= 20 * p99, "the uncertainty is of the size of the error"


@pytest.mark.parametrize("name", [name for name in HARD if "90 s" not in name])
def test_what_stamps_cannot_tell_at_once_looks_old_and_uncertain_but_never_fresh(name: str) -> None:
    link, offset = HARD[name]
    found = measure(link, offset, confirm=5 if link.hz == 5 else 20)
    assert found.freshest < 500, "us by which a sample looked younger than it was"
    assert found.within > 0.97
    assert found.steps == ("jumps" in name or "same" in name) - (name == "the clock jumps 50 ms back")


def test_a_queue_that_stands_for_longer_than_the_window_looks_like_a_longer_way() -> None:
    """It cannot be told from one by stamps of one way alone: the limit of the method, on record."""
    found = measure(*HARD["a queue of 3 ms for 90 s"])
    assert 2900 < found.freshest < 3200


def test_drift_is_measured() -> None:
    for ppm in (-100, 0, 30, 100):
        clock = SenderClock(confirm=20)
        readings_of(clock, Link(), 60, ppm)
        assert clock.drift_ppm == pytest.approx(ppm, abs=1)


def test_a_clock_that_drifts_like_no_quartz_is_not_trusted_and_arrival_counts() -> None:
    clock = SenderClock(confirm=20)
    readings = readings_of(clock, Link(), 30, 2000)
    assert not clock.trusted
    assert all(not reading.trusted for reading in readings[-1000:])


def test_the_arrival_counts_until_the_clock_is_known() -> None:
    clock = SenderClock(confirm=20)
    for _, stamp, received in Link().samples(4, steady(30)):
        reading = clock.add(stamp, received)
        assert not reading.trusted and reading.captured_ns == received


@pytest.mark.parametrize("step_ms", [250, -250])
def test_a_clock_that_steps_is_noticed_at_once_and_never_makes_old_data_fresh(step_ms: int) -> None:
    """+250 ms: the sender's clock jumps ahead."""
    clock, captured_before, wrong = SenderClock(confirm=20), 0, 0
    for captured, stamp, received in Link().samples(120, stepped(60, step_ms)):
        reading = clock.add(stamp, received)
        assert reading.captured_ns <= received
        late_us = (captured + WAY_NS - reading.captured_ns) / 1000
        assert late_us > -2000, "it must not look fresher than it is"
        wrong += abs(late_us) > 5000
        captured_before = max(captured_before, reading.captured_ns)
    assert clock.steps == 1 and clock.trusted
    assert wrong <= 20, "as many as are needed to be sure"


def test_a_queue_that_builds_up_is_age_not_a_step() -> None:
    clock = SenderClock(confirm=20)
    seen = readings_of(clock, Link(queue=(30, 40, 400)), 60, 30)
    queued_ms = [reading.queued_ns / MS for reading in seen[31 * HZ : 39 * HZ]]
    assert clock.steps == 0
    assert min(queued_ms) == pytest.approx(400, abs=1)


def test_reordered_datagrams_are_no_step() -> None:
    clock = SenderClock(confirm=20)
    samples = list(Link().samples(30, steady(0)))
    for i in range(0, len(samples) - 8, 40):
        (_, s0, r0), (_, s1, r1) = samples[i], samples[i + 7]
        samples[i], samples[i + 7] = (0, s1, r0), (0, s0, r1)
    for _, stamp, received in samples:
        clock.add(stamp, received)
    # a stamp from the future of 35 ms is what a swap looks like: single ones are ignored
    assert clock.steps == 0


def test_the_configured_shortest_way_is_part_of_the_age_and_of_the_uncertainty() -> None:
    plain, told = SenderClock(confirm=20), SenderClock(confirm=20, shortest_way_ns=WAY_NS)
    for captured, stamp, received in Link().samples(30, steady(30)):
        a, b = plain.add(stamp, received), told.add(stamp, received)
        if b.trusted:
            assert a.captured_ns - b.captured_ns == WAY_NS
            assert b.captured_ns == pytest.approx(captured, abs=5000)
    assert told.uncertainty_ns - plain.uncertainty_ns == WAY_NS
    assert told.offset_ns(int(1e12)) == plain.offset_ns(int(1e12)) - WAY_NS


def test_a_queue_at_the_start_is_not_taken_for_the_way() -> None:
    """What was sooner before the first line was known makes it too steep for any quartz."""
    clock = SenderClock(confirm=20)
    seen = readings_of(clock, Link(queue=(2, 40, 300)), 39, 30)
    assert min(reading.queued_ns for reading in seen[3 * HZ :]) > 290 * MS


def test_a_clock_that_stepped_before_it_was_known_is_known_in_the_end() -> None:
    clock, trusted = SenderClock(confirm=20), []
    for captured, stamp, received in Link().samples(60, stepped(3, 250)):
        reading = clock.add(stamp, received)
        assert reading.captured_ns <= received
        trusted.append(reading.trusted)
        assert not reading.trusted or abs(reading.captured_ns - captured - WAY_NS) < MS
    assert trusted[-1] and not trusted[4 * HZ]


def test_one_stamp_from_far_ahead_changes_nothing() -> None:
    clock = SenderClock(confirm=20)
    for at, (captured, stamp, received) in enumerate(Link().samples(40, steady(30))):
        garbage = at == 20 * HZ
        reading = clock.add(stamp + 10**9 * SECOND if garbage else stamp, received)
        assert garbage or at < 20 * HZ or abs(reading.captured_ns - captured - WAY_NS) < MS
    assert clock.steps == 0 and clock.trusted


def test_after_a_long_silence_the_arrival_counts_until_the_clock_is_known_again() -> None:
    clock, trusted = SenderClock(confirm=20), []
    for captured, stamp, received in Link().samples(700, steady(30)):
        if not 20 * SECOND < captured - 7_000 * SECOND < 640 * SECOND:
            reading = clock.add(stamp, received)
            assert not reading.trusted or abs(reading.captured_ns - captured - WAY_NS) < MS
            trusted.append(reading.trusted)
    assert clock.steps == 0 and trusted[-1] and not trusted[22 * HZ]
