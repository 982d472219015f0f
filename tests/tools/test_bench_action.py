"""The benchmark of the engines compares what it says it compares. No speed is asserted."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from rtvla.errors import RtvlaError
from rtvla.tools.bench_action import Job, Worker, _rows, add_arguments, jobs, ratios

CASE = ("origin", "flow_matching", 10, 2)
JOBS = [Job(*CASE, "eager", "float32"), Job(*CASE, "eager", "float32", spins=True)]
JOBS += [Job(*CASE, "openvino", precision) for precision in ("float32", "int8")]
BUILT = {"build_s": 0.0, "load_s": 0.0}


def rows() -> list[dict[str, object]]:
    """Three turns: the machine is half as fast in the second; the spinning base is the faster one."""
    times = np.array([[40.0, 36.0, 12.0, 4.0], [80.0, 72.0, 24.0, 8.0], [40.0, 36.0, 12.0, 6.0]])
    answers = np.zeros((4, 2, 8, 7))
    answers[2:, 1, 3, 2] = 1e-6, 0.02
    return _rows(JOBS, times, answers, [BUILT] * 4)


def test_a_ratio_is_the_median_over_the_turns_against_the_faster_base() -> None:
    found = rows()
    assert [row["is_base"] for row in found] == [False, True, False, False]
    assert [row["ratio"] for row in found] == pytest.approx([0.9, 1.0, 3.0, 9.0])
    assert [row["deviation"] for row in found] == pytest.approx([0, 0, 1e-6, 0.02])


def test_the_ratios_of_the_last_line_are_of_the_old_models_and_of_engines_alone() -> None:
    found = ratios(rows(), threads=2)
    assert {name: best["ratio"] for name, best in found.items()} == pytest.approx(
        {"flow10_float32": 3.0, "flow10_fastest": 9.0}
    )
    assert [best["label"] for best in found.values()] == ["openvino float32", "openvino int8"]
    assert all(best["met"] for best in found.values())
    assert ratios([row | {"family": "ours"} for row in rows()], threads=2) == {}
    assert ratios(rows(), threads=1) == {}


def test_what_is_fast_but_off_has_not_met_what_is_wanted_of_float32() -> None:
    given = [row | ({"deviation": 2e-5} if row["precision"] == "float32" else {}) for row in rows()]
    assert [best["met"] for best in ratios(given, threads=2).values()] == [False, True]
    slow = [row | {"ratio": row["ratio"] / 1.01} for row in rows()]  # type: ignore[operator]
    assert ratios(slow, threads=2)["flow10_float32"]["met"] is False


def test_every_precision_of_every_engine_meets_the_module_on_the_same_case() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    wanted = jobs(parser.parse_args(["--engine", "openvino", "compiled"]), "ours", "regression", 1)
    assert [job.label for job in wanted] == [
        "eager float32",
        "eager float32, spinning",
        "openvino float32",
        "openvino bfloat16",
        "openvino int8",
        "compiled float32",
        "compiled bfloat16",
    ]
    assert {job[:4] for job in wanted} == {("ours", "regression", 10, 1)}


def test_a_worker_answers_a_tick_and_repeats_it_to_the_last_bit(tmp_path: Path) -> None:
    worker = Worker(Job("origin", "regression", 2, 1, "openvino", "float32"), small=True, place=tmp_path)
    try:
        assert worker.hear()["build_s"] > 0
        first, again, other = (worker.tick(number) for number in (0, 8, 1))
        assert first[0] > 0 and first[1].shape == (8, 7)
        np.testing.assert_array_equal(first[1], again[1])
        assert not np.array_equal(first[1], other[1])
    finally:
        worker.close()


def test_an_engine_that_cannot_run_is_named(tmp_path: Path) -> None:
    worker = Worker(Job("origin", "regression", 2, 1, "cuda_graph", "float32"), small=True, place=tmp_path)
    try:
        with pytest.raises(RtvlaError, match="cuda_graph float32.*not for device cpu"):
            worker.hear()
    finally:
        worker.close()
