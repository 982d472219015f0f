"""Execution and guard together, under random inference delays of 0 to 600 ms, at every rate and in every mode."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from rtvla.cli import main
from rtvla.schema import STEP_NS
from rtvla.tools import bench_chunks
from rtvla.tools.bench_chunks import HORIZON, report, simulate


@pytest.mark.parametrize("rate_hz", [10, 25, 100])
@pytest.mark.parametrize("mode", ["switch", "blend", "ensemble"])
def test_nothing_leaves_over_a_limit_and_no_moment_is_executed_twice_or_out_of_turn(mode: str, rate_hz: int) -> None:
    outcome = simulate(mode, seconds=60, rate_hz=rate_hz, delay_ms=600, seed=rate_hz)
    assert outcome.broken == []
    spans = [(start, end) for start, end, _, _ in outcome.covered]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), "no moment twice, none backwards"
    for start, end, chunk, step in outcome.covered:
        assert 0 <= step < HORIZON
        # what is executed is the step of its own moment, unless the chunk begins inside the command
        assert start < (chunk + step + 1) * STEP_NS and (chunk + step) * STEP_NS < end
    assert outcome.late_chunks > 0, "some come behind a newer one"
    assert outcome.clamped > 10, "and some would have jumped"
    # skipped is only what late ticks have missed: 41 % of one tick in six, 3 % of another
    assert report(outcome)["executed_share"] == pytest.approx(1 - (0.41 + 0.03) / 6, abs=0.02)


def test_a_broken_rule_is_reported_and_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unguarded(bench_chunks.Guard):
        def _slowed(self, velocity, _period_s):  # type: ignore[no-untyped-def]
            return velocity, []

    monkeypatch.setattr(bench_chunks, "Guard", Unguarded)
    monkeypatch.setattr(bench_chunks, "truth", lambda at_ns: (0.3, 0.0))
    assert main(["bench", "chunks", "--seconds", "2"]) == 1
    assert any("speed" in text for text in json.loads(capsys.readouterr().out)["broken"])


def test_the_trajectory_can_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["bench", "chunks", "--seconds", "5", "--rate", "50", "--out", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(capsys.readouterr().out)["broken"] == []
