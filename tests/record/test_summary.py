import json
from pathlib import Path

import numpy as np
import pytest

from record import make


def read(folder: Path) -> dict:
    return make.strict_json(make.only(folder, "performance_summary_*.json").read_text())


def test_numbers_are_those_of_numpy_over_the_timings(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer, records = make.open_writer(folder), make.chunks(0, 101)
    writer.chunks(records)
    writer.summary({"policy": 2}, {"policy": {"chunks": 101}}, {"sensor": {"overrun": 7}})
    summary = read(folder)
    assert summary["total_actions"] == 101
    assert summary["elapsed_time_sec"] == pytest.approx(10) and summary["average_fps"] == pytest.approx(10)
    assert (summary["restarts"], summary["lost"]) == ({"policy": 2}, {"sensor": {"overrun": 7}})
    assert summary["counters"] == {"policy": {"chunks": 101}}
    assert summary["recorded"] == {"action_chunk": 101, "inference_results": 101, "command": 0}
    assert summary["vl_encoding"]["count"] == 26 and summary["vl_encoding"]["min_ms"] == 200.000001
    action_ms = records["action_ns"] / 1e6
    action = summary["action_prediction"]
    assert action["mean_ms"] == pytest.approx(action_ms.mean()) and action["std_ms"] == pytest.approx(action_ms.std())
    assert (action["min_ms"], action["max_ms"]) == (action_ms.min(), action_ms.max())
    for q in (50, 95, 99):
        assert action[f"p{q}_ms"] == pytest.approx(np.percentile(action_ms, q), rel=0.01)
    assert set(summary["total_inference"]) == {"mean_ms", "std_ms", "min_ms", "max_ms"}
    assert set(summary["sensor_encoding"]) == set(summary["robot_encoding"]) == {"mean_ms", "std_ms"}
    assert set(summary["ages"]) == {"sensor", "robot", "vl"}
    assert all(set(age) == {"p50_ms", "p99_ms", "max_ms"} for age in summary["ages"].values())
    assert summary["ages"]["sensor"]["max_ms"] == records["sensor_age_ns"].max() / 1e6


def test_an_empty_run_has_nulls_and_no_division_by_zero(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    make.open_writer(folder).summary({}, {}, {})
    summary = read(folder)
    assert (summary["total_actions"], summary["average_fps"], summary["elapsed_time_sec"]) == (0, 0, 0)
    assert summary["action_prediction"]["p50_ms"] is None and summary["vl_encoding"]["count"] == 0


def test_a_restarted_writer_comes_to_the_same_summary(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder)
    writer.chunks(make.chunks(0, 30))
    writer.close()
    writer = make.open_writer(folder)
    writer.chunks(make.chunks(30, 31))
    writer.summary({}, {}, {})
    restarted = read(folder)

    other, _ = make.run_folder(tmp_path)
    writer = make.open_writer(other)
    writer.chunks(make.chunks(0, 61))
    writer.summary({}, {}, {})
    assert restarted == read(other)


def test_the_summary_is_replaced_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder)
    for first in range(3):
        writer.chunks(make.chunks(first, 1))
        writer.summary({}, {}, {})
        assert json.loads(make.only(folder, "performance_summary_*").read_text())["total_actions"] == first + 1
    assert not list(folder.glob(".*"))


def test_a_long_history_is_read_in_slices_and_the_old_summary_stays_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder)
    writer.chunks(make.chunks(0, 30))
    writer.summary({}, {}, {})
    writer.close()
    monkeypatch.setattr("rtvla.record.summary._SLICE_BYTES", 6000)  # about ten rows
    writer = make.open_writer(folder)
    writer.chunks(make.chunks(30, 5))
    seen = []
    for _ in range(6):
        writer.summary({}, {}, {})
        seen.append(read(folder)["total_actions"])
    assert seen[:2] == [30, 30] and seen[-1] == 35 and set(seen) == {30, 35}
    writer.close()

    writer = make.open_writer(folder)
    writer.summary({"recorder": 1}, {}, {})
    assert read(folder)["restarts"] == {}
    writer.finish()
    assert (read(folder)["restarts"], read(folder)["total_actions"]) == ({"recorder": 1}, 35)
