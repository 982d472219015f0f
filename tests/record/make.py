"""Records with every field filled, and run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rtvla.record.folder import new_run_folder
from rtvla.record.writer import RunWriter
from rtvla.schema import CHUNK, COMMAND, FRAME, ROBOT, SENSOR

START_S = 1_762_300_000.0  # epoch s at monotonic 0


def to_wall_s(monotonic_ns: int) -> float:
    return START_S + monotonic_ns / 1e9


def run_folder(tmp_path: Path) -> tuple[Path, str]:
    return new_run_folder(tmp_path, START_S)


def open_writer(folder: Path, save_data: bool = False) -> RunWriter:
    return RunWriter(folder, folder.name.removeprefix("async_inference_"), save_data, to_wall_s)


def chunks(first: int, count: int, reuse: int = 4, horizon: int = 8) -> np.ndarray:
    """One chunk each 100 ms; a new feature every `reuse` chunks, encoded in 200 ms and more."""
    records = np.zeros(count, CHUNK)
    for record, index in zip(records, range(first, first + count), strict=True):
        rng = np.random.default_rng(index)
        update = index // reuse + 1
        ns = {name: int(rng.integers(10**6, 5 * 10**7)) for name in CHUNK.names or () if name.endswith("_ns")}
        for name, value in ns.items():
            record[name] = value
        record["index"], record["wall_s"], record["horizon"] = index, START_S + index * 0.1, horizon
        record["sensor_count"], record["robot_count"], record["vl_reuse"] = 65, 10, index % reuse
        record["vl_index"], record["vl_update_number"], record["vl_update_ns"] = update, update, 200_000_000 + update
        record["sensor_index"], record["robot_index"] = index * 65, index * 10
        record["robot_state"] = rng.normal(size=12)
        record["actions"][:horizon] = rng.normal(size=(horizon, 7))
    return records


def commands(first: int, count: int) -> np.ndarray:
    records = np.zeros(count, COMMAND)
    records["index"] = np.arange(first, first + count)
    records["decided_ns"] = records["index"] * 100_000_000
    records["kind"], records["step"], records["chunk_index"] = 1, 2, records["index"] + 5
    records["requested_mm_deg"], records["sent_mm_deg"] = 0.5, 0.25
    for name in ("sensor_age_ns", "robot_age_ns", "vl_age_ns", "chunk_age_ns"):
        records[name] = 7_000_000
    return records


def robot(first: int, count: int) -> np.ndarray:
    records = np.zeros(count, ROBOT)
    records["index"] = np.arange(first, first + count)
    records["received_ns"] = records["index"] * 10_000_000
    records["sampled_s"] = START_S + records["index"] * 0.01 - 0.002
    records["sent_s"] = records["sampled_s"] + 0.001
    records["joints_deg"] = records["index"][:, None] + np.arange(6) / 10
    records["pose_mm_deg"] = -records["index"].astype(float)[:, None] - np.arange(6) / 10
    return records


def sensor(first: int, count: int) -> np.ndarray:
    records = np.zeros(count, SENSOR)
    index = np.arange(first, first + count)
    records["index"], records["received_ns"] = index, index * 1_538_462
    records["captured_ns"], records["clock_uncertainty_ns"] = records["received_ns"] - 300_000, index % 7 - 1
    wire = records["wire"]
    wire["sampled_s"], wire["sent_s"], wire["force"] = START_S + index / 650, START_S + index / 650 + 0.001, index / 7
    wire["aline"] = index[:, None] * 10 + np.arange(1025) / 1000
    return records


def frame(
    index: int, camera: bytes = b"ZED_41182735_left", sampled_s: float = START_S, jpeg: bytes = b"\xff\xd8"
) -> Any:
    record = np.zeros((), FRAME)
    record["index"], record["camera"], record["sampled_s"] = index, camera, sampled_s
    record["n_bytes"] = len(jpeg)
    record["jpeg"][: len(jpeg)] = np.frombuffer(jpeg, np.uint8)
    return record[()]


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def action_ids(folder: Path) -> tuple[list[int], list[int]]:
    """The chunks in the timings and in the results."""
    timings = json_lines(only(folder, "performance_timings_*.jsonl"))
    results = json.loads(only(folder, "inference_results_*.json").read_text())
    return [row["action_id"] for row in timings], [row["action_id"] for row in results]


def strict_json(text: str) -> Any:
    """Refuses NaN and Infinity, which json.loads takes."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)
