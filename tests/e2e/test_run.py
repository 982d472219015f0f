"""The main job, as a newcomer runs it: simulated senders, ten seconds, files on disk."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import Pipeline

from rtvla.config import Config
from rtvla.procs.table import PROCESSES, cores_of
from rtvla.schema import VIEWS

pytestmark = pytest.mark.e2e

SEED_KEYS = {
    "timestamp",
    "action_id",
    "vl_update_number",
    "vl_update_time",
    "sensor_encoding_time",
    "robot_encoding_time",
    "action_prediction_time",
    "total_time",
    "sensor_buffer_size",
    "robot_buffer_size",
}


def sent_by(output: str) -> dict[str, dict]:
    """The last words of each simulated sender: what it says it sent."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith('{"sender"')]
    return {line["sender"]: line for line in found}


def test_everything_that_was_sent_is_on_disk_and_the_robot_was_moved(pipeline: Pipeline) -> None:
    pipeline.start("--sim", "--save-data", "--seconds", "10")
    pipeline.until(pipeline.moving, "motion")
    status = subprocess.run([sys.executable, "-m", "rtvla", "status", "--json"], capture_output=True, check=False)
    look = json.loads(status.stdout)
    cores = {name: psutil.Process(row["pid"]).cpu_affinity() for name, row in look["processes"].items() if row["alive"]}
    assert pipeline.wait_end() == 0, pipeline.output

    sent, folder = sent_by(pipeline.output), pipeline.folder()
    sensor = np.load(next(folder.glob("sensor_data_*.npz")))
    assert sensor["alines"].shape == (sent["sensor"]["samples_sent"], 1025)
    assert len(sensor["timestamps"]) == len(sensor["forces"]) == len(sensor["alines"]) > 6000
    assert (np.diff(sensor["timestamps"]) > 0).all()
    for view in VIEWS:
        assert len(list((folder / "images" / view).glob("*.jpg"))) == sent["camera"]["images_sent"][view]
    rows = next(folder.glob("robot_state_*.csv")).read_text().splitlines()
    assert rows[0].startswith("recv_timestamp,origin_timestamp,send_timestamp,force_placeholder,joint_1")
    assert len(rows) - 1 == sent["robot"]["states_sent"]

    timings = pipeline.lines("performance_timings")
    # ten a second; a tick that this machine had no time for, or data that came too late for it, is counted
    policy = pipeline.summary()["counters"]["policy"]
    late = sum(n for name, n in policy.items() if name == "tick_skipped" or name.endswith(("_stale", "_gap")))
    assert abs(len(timings) + late - 100) <= 2, policy
    for line in timings:
        assert set(line) >= SEED_KEYS
        assert line["sensor_age_ms"] >= 0 and line["vl_age_ms"] >= 0 and set(line["view_age_ms"]) == set(VIEWS)
    assert [line["action_id"] for line in timings] == list(range(1, len(timings) + 1))
    results = json.loads(next(folder.glob("inference_results_*.json")).read_text())
    assert len(results) == len(timings) and np.array(results[0]["actions"]).shape == (8, 7)

    commands = [line for line in pipeline.lines("commands") if line["kind"] == "dpose"]
    assert sent["robot"]["commands"]["dpose"] == len(commands) > 50
    assert sent["robot"]["commands"]["start"] == 1
    assert max(abs(v) for line in commands for v in line["sent_mm_deg"]) <= 0.1 + 1e-9
    assert sent["robot"]["dpose_path_mm"] > 0
    assert "--- Status (" in pipeline.output and "Sensor buffer: 65/65" in pipeline.output
    assert look["commands"]["last"] in ("dpose", "hold")
    for name, process in PROCESSES.items():
        assert sorted(cores[name]) == sorted(cores_of(process, Config())), f"{name} is not pinned as the table says"
    assert pipeline.summary()["lost"] == {} and pipeline.summary()["restarts"] == {}


def test_without_a_checkpoint_it_says_how_to_get_one(tmp_path: Path) -> None:
    for option in ([], ["--checkpoint", str(tmp_path / "none")]):
        command = [sys.executable, "-m", "rtvla", "infer", *option]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 78
        assert "rtvla model make-tiny DIR" in done.stderr


def test_a_checkpoint_of_another_type_ends_it_at_once_with_the_reason(pipeline: Pipeline) -> None:
    pipeline.start("--sim", "--model-type", "regression")
    assert pipeline.wait_end() == 78
    assert "expert is flow_matching, but regression was asked for" in pipeline.output
    assert not list(pipeline.out.iterdir()), "nothing is started, so there is nothing to record"


def test_a_port_in_use_ends_it_at_once_with_the_name_of_the_setting(pipeline: Pipeline) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", pipeline.ports["sensor"]))
        pipeline.start()
        assert pipeline.wait_end() == 78
    assert f"network.sensor_port = {pipeline.ports['sensor']}" in pipeline.output


def test_down_stops_it_in_order_and_leaves_nothing(pipeline: Pipeline) -> None:
    pipeline.start("--sim")
    pipeline.until(lambda: pipeline.is_ready("commander"), "readiness")
    done = subprocess.run([sys.executable, "-m", "rtvla", "down"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "stopped supervisor" in done.stdout
    assert pipeline.wait_end() == 0
    absent = subprocess.run([sys.executable, "-m", "rtvla", "status", "--json"], capture_output=True, check=False)
    assert absent.returncode == 3 and json.loads(absent.stdout)["processes"] == {}


def test_a_second_pipeline_in_the_same_namespace_is_refused(pipeline: Pipeline, checkpoint: Path) -> None:
    pipeline.start("--sim")
    pipeline.until(lambda: pipeline.is_ready("sensor_ingest"), "readiness")
    command = [sys.executable, "-m", "rtvla", "infer", "--checkpoint", str(checkpoint), "--out", str(pipeline.out)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and "is in use" in second.stderr and "rtvla down" in second.stderr
    assert pipeline.stop() == 0
