"""Chunks become motion by time alone, whatever the delays of inference and of the ticks."""

from __future__ import annotations

import itertools
import random

import pytest

from rtvla.clock import MS
from rtvla.control.execution import Execution, Motion
from rtvla.schema import STEP_NS

H = 8
PERIOD = STEP_NS


def steps(*x_mm: float) -> list[list[float]]:
    return [[x, 0, 0, 0, 0, 0, 0] for x in x_mm]


def x_of(motion: Motion | None) -> float:
    assert motion is not None
    return motion.delta[0]


def test_a_command_is_the_integral_over_its_own_time() -> None:
    execution = Execution("switch", H, 0)
    assert execution.add(1, 0, steps(1, 3, 5), now_ns=10 * MS) == ""
    assert x_of(execution.motion(50 * MS, 150 * MS)) == pytest.approx(0.5 * 1 + 0.5 * 3)
    assert x_of(execution.motion(150 * MS, 160 * MS)) == pytest.approx(0.3)
    last = execution.motion(250 * MS, 350 * MS)
    assert x_of(last) == pytest.approx(2.5) and last is not None and last.covered_ns == 50 * MS
    assert execution.motion(300 * MS, 400 * MS) is None


def test_no_moment_is_executed_twice_and_none_is_skipped_in_an_undisturbed_run() -> None:
    """Every chunk says what time it is: the sum of all commands must be the integral of the truth."""
    execution, total = Execution("switch", H, 0), 0.0
    for k in range(50):
        now = k * STEP_NS + 50 * MS
        execution.add(k, k * STEP_NS, steps(*(float(k + i) for i in range(H))), now)
        total += x_of(execution.motion(now, now + PERIOD))
    truth = sum(range(50)) + 0.5 * 50 - 0.5 * 0
    assert total == pytest.approx(truth)


def test_the_rate_of_the_commander_does_not_change_the_way() -> None:
    sums = []
    for period_ms in (100, 50, 20, 10):
        execution, total, now = Execution("blend", H, 50 * MS), 0.0, 0
        for k in range(20):
            execution.add(k, k * STEP_NS, steps(*(0.1 * (k + i) for i in range(H))), k * STEP_NS)
            while now < (k + 1) * STEP_NS:
                total += x_of(execution.motion(now, now + period_ms * MS))
                now += period_ms * MS
        sums.append(total)
    assert sums == pytest.approx([sums[0]] * 4)


def test_a_late_chunk_is_cut_to_what_is_ahead_or_refused() -> None:
    execution = Execution("switch", H, 0)
    assert execution.add(1, 0, steps(1, 2, 3), now_ns=250 * MS) == ""
    motion = execution.motion(250 * MS, 300 * MS)
    assert x_of(motion) == pytest.approx(1.5) and motion is not None and motion.step == 2
    assert execution.add(2, 10 * MS, steps(1, 2), now_ns=210 * MS) == "late"


def test_a_chunk_of_an_earlier_observation_never_replaces_a_later_one() -> None:
    execution = Execution("switch", H, 0)
    execution.add(5, 100 * MS, steps(*[1.0] * H), now_ns=120 * MS)
    assert execution.add(4, 0, steps(*[9.0] * H), now_ns=130 * MS) == "backwards"
    assert execution.add(5, 100 * MS, steps(*[9.0] * H), now_ns=130 * MS) == "backwards"
    assert x_of(execution.motion(200 * MS, 300 * MS)) == pytest.approx(1)


def test_only_the_action_horizon_is_executed() -> None:
    execution = Execution("switch", 2, 0)
    execution.add(1, 0, steps(*[1.0] * H), now_ns=0)
    assert execution.motion(150 * MS, 250 * MS) == Motion((0.5, 0, 0, 0, 0, 0), 50 * MS, 1, 1)
    assert execution.motion(200 * MS, 300 * MS) is None


def test_a_blend_goes_from_the_old_to_the_new_and_ends() -> None:
    execution = Execution("blend", H, 100 * MS)
    execution.add(1, 0, steps(*[0.0] * H), now_ns=0)
    execution.add(2, 100 * MS, steps(*[1.0] * H), now_ns=100 * MS)
    parts = [x_of(execution.motion(t * MS, (t + 20) * MS)) * 5 for t in range(100, 240, 20)]
    assert parts == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1, 1])


def test_an_ensemble_averages_what_chunks_say_of_the_same_moment() -> None:
    execution = Execution("ensemble", H, 0)
    for k in range(3):
        execution.add(k, k * STEP_NS, steps(*[float(k)] * H), now_ns=k * STEP_NS)
    value = x_of(execution.motion(2 * STEP_NS, 3 * STEP_NS))
    weights = [0.99**0, 2.718281828**-0.01, 2.718281828**-0.02]
    assert value == pytest.approx(sum(w * k for k, w in enumerate(weights)) / sum(weights), rel=1e-4)


def test_after_a_hold_nothing_of_before_is_executed() -> None:
    execution = Execution("blend", H, 50 * MS)
    execution.add(1, 0, steps(*[1.0] * H), now_ns=0)
    execution.clear()
    assert execution.motion(100 * MS, 200 * MS) is None


@pytest.mark.parametrize("mode", ["switch", "blend", "ensemble"])
def test_under_random_inference_delays_of_0_to_600_ms_time_never_runs_backwards(mode: str) -> None:
    """The bench without a simulator. Each step's value is the time that it is meant for, so what a command carries says
    which moments it executed: they must be its own, once, and only late ones may be missing."""
    draw = random.Random(mode)
    execution = Execution(mode, H, 50 * MS)
    ready: list[tuple[int, int]] = []  # (when it is there, observed)
    executed: list[tuple[int, int]] = []
    refused = 0
    now = 50 * MS
    for k in range(2000):
        ready.append((k * STEP_NS + draw.randrange(0, 600) * MS, k * STEP_NS))
    for _ in range(2000):
        for at, observed in [one for one in ready if one[0] <= now]:
            chunk = [[float(observed // STEP_NS + i)] + [0.0] * 6 for i in range(H)]
            refused += execution.add(observed // STEP_NS, observed, chunk, now) != ""
            ready.remove((at, observed))
        late = draw.choice([0, 0, 0, 0, 37 * MS, 180 * MS])  # a tick that comes late begins late
        start, end = now + late, now + PERIOD
        if start < end and (motion := execution.motion(start, end)) is not None:
            share = motion.covered_ns / STEP_NS
            first, last = start // STEP_NS, (end - 1) // STEP_NS
            assert share * first - 1e-6 <= x_of(motion) <= share * last + 1e-6, "only steps of its own time"
            executed.append((start, end))
        now += PERIOD
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(executed)), "no moment twice"
    assert len(executed) > 1600 and refused > 100
