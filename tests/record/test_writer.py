import json
from pathlib import Path

import numpy as np
import pytest

from record import make
from rtvla.errors import RtvlaError
from rtvla.record.folder import new_run_folder
from rtvla.schema import SENSOR

TIMING_KEYS = [
    *("timestamp", "action_id", "vl_update_number", "vl_update_time", "sensor_encoding_time", "robot_encoding_time"),
    *("action_prediction_time", "total_time", "sensor_buffer_size", "robot_buffer_size"),
    *("vl_reuse", "sensor_age_ms", "robot_age_ms", "vl_age_ms", "view_age_ms"),
    *("sensor_index", "robot_index", "vl_index", "sensor_missing", "robot_missing", "view_index"),
    *("sensor_captured_ns", "robot_captured_ns", "view_captured_ns"),
]


def test_timings_have_the_keys_and_values_of_the_chunk(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer, records = make.open_writer(folder), make.chunks(0, 9)
    records["view_age_ns"][3, 2], records["view_captured_ns"][3, 2] = -1, 0
    records["sensor_missing"], records["view_index"] = 4, [1, 2, 3, 4, 5]
    writer.chunks(records[:3])
    writer.chunks(records[3:])
    writer.close()
    rows = make.json_lines(make.only(folder, "performance_timings_*.jsonl"))
    assert [list(row) for row in rows] == [TIMING_KEYS] * 9
    row, record = rows[5], records[5]
    assert (row["action_id"], row["timestamp"]) == (6, record["wall_s"])
    assert row["total_time"] == record["total_ns"] / 1e6 and row["sensor_age_ms"] == record["sensor_age_ns"] / 1e6
    assert row["sensor_buffer_size"] == 65 and row["view_age_ms"]["View5"] == record["view_age_ns"][4] / 1e6
    assert rows[3]["view_age_ms"]["View3"] is None and rows[3]["view_captured_ns"]["View3"] is None
    assert (row["sensor_missing"], row["robot_missing"], row["view_index"]["View2"]) == (4, 0, 2)
    assert row["sensor_captured_ns"] == record["sensor_captured_ns"]
    assert row["view_captured_ns"]["View5"] == record["view_captured_ns"][4]
    assert [row["vl_update_time"] > 0 for row in rows] == [index % 4 == 0 for index in range(9)]


def test_results_are_what_the_model_said(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer, records = make.open_writer(folder), make.chunks(0, 2, horizon=5)
    writer.chunks(records)
    (_, second) = json.loads(make.only(folder, "inference_results_*.json").read_text())
    assert set(second) == {
        *("timestamp", "action_id", "actions", "delta", "inference_time", "vl_update_number", "robot_state")
    }
    assert second["delta"] == second["actions"]
    assert np.array_equal(np.array(second["actions"], np.float32), records["actions"][1, :5])
    assert second["inference_time"] == records["total_ns"][1] / 1e9
    state = second["robot_state"]
    assert np.array_equal(np.array(state["joints"] + state["pose"], np.float32), records["robot_state"][1])
    assert state["timestamp"] == pytest.approx(records["wall_s"][1] - records["robot_age_ns"][1] / 1e9, abs=1e-6)


def test_results_are_valid_json_after_each_append(tmp_path: Path) -> None:
    folder, stamp = make.run_folder(tmp_path)
    writer, path = make.open_writer(folder), folder / f"inference_results_{stamp}.json"
    assert json.loads(path.read_text()) == []
    for first in range(0, 12, 3):
        writer.chunks(make.chunks(first, 3))
        assert [row["action_id"] for row in json.loads(path.read_text())] == list(range(1, first + 4))


def test_commands_say_what_was_decided_and_why(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer, records = make.open_writer(folder), make.commands(0, 3)
    records[1]["kind"], records[1]["reason"], records[1]["step"], records[1]["chunk_age_ns"] = 0, 1, -1, -1
    records[2]["reason"] = 4000
    writer.commands(records)
    sent, held, unknown = make.json_lines(make.only(folder, "commands_*.jsonl"))
    assert (sent["kind"], sent["reason"], sent["step"], sent["action_id"]) == ("dpose", "none", 2, 6)
    assert sent["sent_mm_deg"] == [0.25] * 6 and sent["chunk_age_ms"] == 7 and sent["timestamp"] == make.START_S
    assert (held["kind"], held["reason"]) == ("hold", "no_chunk")
    assert held["step"] is held["action_id"] is held["chunk_age_ms"] is None
    assert unknown["reason"] == "unknown_4000"


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer, records, commands = make.open_writer(folder), make.chunks(0, 2), make.commands(0, 1)
    records["actions"][0, 0, 0], records["actions"][0, 0, 1], records["wall_s"][1] = np.nan, np.inf, np.nan
    commands["requested_mm_deg"][0, 2] = -np.inf
    writer.chunks(records)
    writer.commands(commands)
    writer.summary({}, {}, {})
    for path in folder.glob("*.json"):
        make.strict_json(path.read_text())
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    rows = [make.strict_json(line) for line in lines]
    assert len(rows) == 3 and any(row.get("requested_mm_deg", [0])[2:3] == [None] for row in rows)


def test_robot_states_are_the_old_columns(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer, records = make.open_writer(folder, save_data=True), make.robot(0, 5)
    writer.robot(records)
    path = make.only(folder, "robot_state_*.csv")
    assert path.read_text().splitlines()[0] == (
        "recv_timestamp,origin_timestamp,send_timestamp,force_placeholder,"
        "joint_1,joint_2,joint_3,joint_4,joint_5,joint_6,pose_x,pose_y,pose_z,pose_a,pose_b,pose_r"
    )
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    assert np.array_equal(table[:, 1], records["sampled_s"]) and np.array_equal(table[:, 2], records["sent_s"])
    assert np.array_equal(table[:, 0], [make.to_wall_s(int(ns)) for ns in records["received_ns"]])
    assert np.array_equal(table[:, 4:10].astype(np.float32), records["joints_deg"])
    assert np.array_equal(table[:, 10:].astype(np.float32), records["pose_mm_deg"])


def test_without_save_data_no_data_files(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder)
    writer.robot(make.robot(0, 5))
    writer.sensor(make.sensor(0, 5))
    writer.frame("View1", make.frame(0))
    writer.finish()
    names = sorted(path.name.split("_")[0] for path in folder.iterdir())
    assert names == ["commands", "inference", "performance"]
    assert "sensor" not in writer.next_index


def test_sensor_records_of_another_form_are_refused(tmp_path: Path) -> None:
    """Records at slot distance would put their padding into the file."""
    folder, _ = make.run_folder(tmp_path)
    padded = np.zeros(2, np.dtype({"names": ["index"], "formats": ["<u8"], "itemsize": SENSOR.itemsize + 24}))
    with pytest.raises(RtvlaError, match=r"schema\.SENSOR"):
        make.open_writer(folder, save_data=True).sensor(padded)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder)
    with pytest.raises(RtvlaError, match="another process is recording"):
        make.open_writer(folder)
    writer.close()
    make.open_writer(folder).close()


def test_new_run_folder_never_uses_a_name_twice(tmp_path: Path) -> None:
    made = [new_run_folder(tmp_path / "runs", make.START_S + 0.4) for _ in range(3)]
    assert len({folder for folder, _ in made}) == 3 and all(not any(folder.iterdir()) for folder, _ in made)
    assert all(folder.name == f"async_inference_{stamp}" for folder, stamp in made)
