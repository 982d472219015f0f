"""Any process may be killed at any time: the rest goes on, the robot holds, the process comes back."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import Pipeline

from rtvla.clock import now_ns
from rtvla.procs.table import PROCESSES
from rtvla.schema import COMMAND_KINDS

pytestmark = pytest.mark.e2e

MODELS = ("vl_encoder", "policy")
DPOSE = COMMAND_KINDS.index("dpose")


def kill_and_wait(pipeline: Pipeline, name: str) -> tuple[int, int]:
    """SIGKILL one process; the times (ns) of the kill and of it being ready again."""
    row = pipeline.rows()[name]
    others = {n: r["pid"] for n, r in pipeline.rows().items() if n != name}
    os.kill(row["pid"], signal.SIGKILL)
    killed_ns = now_ns()
    pipeline.until(
        lambda: pipeline.rows()[name]["generation"] > row["generation"] and pipeline.is_ready(name),
        f"{name} being back",
    )
    back_ns = now_ns()
    for other, pid in others.items():
        assert pipeline.rows()[other]["pid"] == pid, f"{other} was restarted because {name} was killed"
    return killed_ns, back_ns


def test_each_process_killed_in_turn_comes_back_and_the_robot_holds_meanwhile(pipeline: Pipeline) -> None:
    pipeline.start("--sim", "--save-data")
    pipeline.until(pipeline.moving, "motion")
    commands = pipeline.hub.reader("command")
    for name in PROCESSES:
        killed_ns, back_ns = kill_and_wait(pipeline, name)
        print(f"{name} was back after {(back_ns - killed_ns) / 1e9:.1f} s")
        sent = pipeline.counter("commander", "dpose")
        pipeline.until(lambda sent=sent: pipeline.counter("commander", "dpose") >= sent + 3, f"motion after {name}")
        if name in MODELS:
            window = commands.latest(min(commands.head, 60))
            assert window is not None
            down = window[(window["decided_ns"] > killed_ns + 100e6) & (window["decided_ns"] < back_ns - 50e6)]
            assert len(down) > 0 and not (down["kind"] == DPOSE).any(), f"motion was commanded without {name}"
    assert pipeline.stop() == 0, pipeline.output
    assert pipeline.summary()["restarts"] == dict.fromkeys(PROCESSES, 1)
    robot = next(json.loads(line) for line in pipeline.output.splitlines() if line.startswith('{"sender": "robot"'))
    assert robot["commands"]["start"] == 1, "a restarted commander must not move the arm to its start pose again"
    timings = pipeline.lines("performance_timings")
    ids = [line["action_id"] for line in timings]
    assert ids == sorted(set(ids)) and len(ids) == ids[-1], "chunks were lost or written twice"


def test_a_hung_process_counts_as_dead(pipeline: Pipeline) -> None:
    pipeline.start("--sim")
    pipeline.until(pipeline.moving, "motion")
    row = pipeline.rows()["robot_ingest"]
    os.kill(row["pid"], signal.SIGSTOP)
    pipeline.until(lambda: pipeline.rows()["robot_ingest"]["generation"] > row["generation"], "the hang being seen")
    pipeline.until(lambda: pipeline.is_ready("robot_ingest"), "its return")
    assert pipeline.stop() == 0
    assert pipeline.summary()["counters"]["supervisor"]["hung.robot_ingest"] == 1


def test_killing_the_supervisor_leaves_no_process_and_the_next_start_cleans_up(
    pipeline: Pipeline, checkpoint: Path
) -> None:
    pipeline.start("--sim", "--save-data")
    pipeline.until(pipeline.moving, "motion")
    assert pipeline.process is not None
    family = psutil.Process(pipeline.process.pid).children(recursive=True)
    assert len(family) >= len(PROCESSES) + 3
    pipeline.process.kill()
    pipeline.process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, alive
    # the recorder had the time to close its files
    assert len(list(pipeline.folder().glob("sensor_data_*.npz"))) == 1
    for line in next(pipeline.folder().glob("performance_timings_*.jsonl")).read_text().splitlines():
        json.loads(line)
    assert pipeline.hub.segments(), "the crash leaves its segments"
    pipeline.start("--sim", "--seconds", "1")
    assert pipeline.wait_end() == 0, pipeline.output
    assert "segments that an unfinished run left in /dev/shm" in pipeline.output


def kill_again_and_again(pipeline: Pipeline, name: str, times: int = 5) -> None:
    pipeline.until(lambda: pipeline.is_ready(name), "readiness")
    seen: set[int] = set()
    deadline = time.monotonic() + 60
    while len(seen) < times and time.monotonic() < deadline:
        row = pipeline.rows().get(name)
        if row and row["alive"] and row["pid"] not in seen and row["state"] == "ready":
            seen.add(row["pid"])
            os.kill(row["pid"], signal.SIGKILL)
        time.sleep(0.02)
    assert len(seen) == times


def test_a_crash_loop_stops_the_pipeline_and_says_so(pipeline: Pipeline) -> None:
    pipeline.start("--sim")
    kill_again_and_again(pipeline, "robot_ingest")
    assert pipeline.wait_end() == 1
    assert "robot_ingest stays down, it crashed too often" in pipeline.output


def test_a_monitor_that_stays_down_ends_nothing(pipeline: Pipeline) -> None:
    pipeline.start("--sim")
    kill_again_and_again(pipeline, "monitor")
    pipeline.until(pipeline.moving, "motion without a monitor")
    assert pipeline.stop() == 0
    assert "monitor stays down" in pipeline.output and "the others go on" in pipeline.output


@pytest.mark.long
def test_three_signals_at_once_end_it_for_good(pipeline: Pipeline) -> None:
    """Regression: three signals before the supervisor's next round killed all children and started them again."""
    pipeline.start("--sim")
    pipeline.until(pipeline.moving, "motion")
    assert pipeline.process is not None
    children = psutil.Process(pipeline.process.pid).children(recursive=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        pipeline.process.send_signal(number)
    assert pipeline.wait_end() == 4
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert "rtvla record finish" in pipeline.output


def test_a_process_runs_alone_in_a_terminal(namespace: str, pipeline: Pipeline) -> None:
    command = [sys.executable, "-m", "rtvla", "run", "monitor", "--set", "monitor.period_s=0.2"]
    alone = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert alone.stdout is not None
    text = ""
    while "[WAIT] Sensor: False (0/65)" not in text:
        text += alone.stdout.readline()
    alone.terminate()
    alone.communicate(timeout=20)
    assert alone.returncode == 0
    pipeline.hub.purge()


@pytest.mark.long
def test_a_full_disk_is_counted_and_said_and_stops_nothing(pipeline: Pipeline) -> None:
    """Regression: with a full disk everything was lost and status said that all is well."""
    pipeline.start("--sim", "--save-data")
    pipeline.until(pipeline.moving, "motion")
    recorder = pipeline.rows()["recorder"]["pid"]
    resource.prlimit(recorder, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # as a full disk
    pipeline.until(lambda: pipeline.counter("recorder", "write_failed.sensor") > 0, "the loss being counted")
    sent = pipeline.counter("commander", "dpose")
    pipeline.until(lambda: pipeline.counter("commander", "dpose") >= sent + 5, "motion going on")
    status = subprocess.run([sys.executable, "-m", "rtvla", "status"], capture_output=True, text=True, check=False)
    assert status.returncode == 1 and "write_failed.sensor" in status.stdout
    assert pipeline.stop() == 1, "the recorder could not finish its files"
    assert "write_failed.sensor" in pipeline.output
    assert pipeline.rows() == {} and not pipeline.hub.segments()


@pytest.mark.long
def test_output_that_nobody_reads_holds_nobody_up(pipeline: Pipeline) -> None:
    """Regression: with a full pipe behind its output the supervisor waited for ever, and nothing was restarted."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    while True:
        try:
            os.write(write_fd, b"." * 4096)
        except BlockingIOError:
            break
    os.set_blocking(write_fd, True)
    pipeline.start("--sim", out_fd=write_fd)
    os.close(write_fd)
    pipeline.until(pipeline.moving, "motion")
    kill_and_wait(pipeline, "robot_ingest")
    pipeline.until(lambda: pipeline.counter("monitor", "block_not_printed") >= 1, "the monitor going on")
    with os.fdopen(read_fd, "rb") as out:
        assert pipeline.process is not None
        pipeline.process.send_signal(signal.SIGTERM)
        said = out.read().decode()
    assert pipeline.wait_end() == 0 and "run folder" in said


def test_a_robot_that_does_not_follow_is_a_problem(pipeline: Pipeline) -> None:
    pipeline.start("--sim", "--set", "commander.auto_start=false")
    pipeline.until(lambda: pipeline.counter("commander", "dpose") >= 40, "steps being sent")

    def said() -> bool:
        status = subprocess.run([sys.executable, "-m", "rtvla", "status"], capture_output=True, text=True, check=False)
        return "the robot does not follow the commands" in status.stdout

    pipeline.until(said, "the problem being said")
    assert pipeline.stop() == 0
