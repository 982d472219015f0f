"""The black box after real kills: written by itself, complete to the last command, and back onto the wires."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
from conftest import Pipeline
from standalone_peer import PICTURE

from rtvla.clock import now_ns
from rtvla.dump_file import Dump
from rtvla.schema import COMMAND_KINDS, HOLD_REASONS

pytestmark = pytest.mark.e2e

PEER = Path(__file__).with_name("standalone_peer.py")
DPOSE, HOLD = COMMAND_KINDS.index("dpose"), COMMAND_KINDS.index("hold")


def boxes(folder: Path) -> list[Path]:
    """Everything in the folder of the black boxes; whatever else lies there would be a failure to open it."""
    return sorted((folder / "blackbox").iterdir()) if (folder / "blackbox").exists() else []


def rtvla(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rtvla", *map(str, words)], capture_output=True, text=True, check=False
    )


def last_dpose(file: Path) -> list[float]:
    with Dump(file) as box:
        commands = box.records("command")
    sent: list[float] = commands["sent_mm_deg"][commands["kind"] == DPOSE][-1].tolist()
    return sent


def test_each_unexpected_end_leaves_one_black_box_and_the_rest_goes_on(pipeline: Pipeline) -> None:
    pipeline.start("--sim", "--set", "blackbox.min_free_mb=0")
    pipeline.until(pipeline.moving, "motion")
    pid, chunks = pipeline.rows()["policy"]["pid"], pipeline.hub.reader("action_chunk").head
    os.kill(pid, signal.SIGKILL)
    killed_ns = now_ns()
    pipeline.until(lambda: pipeline.counter("supervisor", "blackbox.written") == 1, "the black box")
    sent = pipeline.counter("commander", "dpose")
    pipeline.until(lambda: pipeline.counter("commander", "dpose") >= sent + 3, "motion going on")
    (first,) = boxes(pipeline.folder())
    assert first.name.startswith("0001_") and first.name.endswith("_policy_killed_by_SIGKILL.zip")
    with Dump(first) as box:
        policy, robot = box.streams["health.policy"], box.records("robot")["received_ns"]
        assert (policy["writer"], policy["claim"]["writer_pid"]) == ("dead", pid)
        assert box.streams["health.commander"]["writer"] == "alive"
        assert box.streams["action_chunk"]["count"] >= chunks
        assert robot[0] < killed_ns < robot[-1], "the moment of death is in it"
        held = box.records("command")[-1]
        assert (held["kind"], HOLD_REASONS[held["reason"]]) == (HOLD, "policy_dead") and held["decided_ns"] > killed_ns

    hung = pipeline.rows()["robot_ingest"]["pid"]
    os.kill(hung, signal.SIGSTOP)
    pipeline.until(lambda: pipeline.counter("supervisor", "blackbox.written") == 2, "the black box of the hang")
    pipeline.until(lambda: pipeline.rows()["robot_ingest"]["pid"] != hung, "its end")  # its row still says ready
    pipeline.until(lambda: pipeline.is_ready("robot_ingest"), "its return")
    assert pipeline.stop() == 0, pipeline.output
    _, second = boxes(pipeline.folder())
    assert second.name.startswith("0002_") and "_robot_ingest_hung_no_round_for_" in second.name
    with Dump(second) as box:
        assert box.streams["health.robot_ingest"]["writer"] == "alive", "it was taken before the end"
    counted = pipeline.summary()["counters"]["supervisor"]
    assert counted["blackbox.written"] == 2 and not counted.get("blackbox.failed") and not counted.get("blackbox.busy")
    assert "black boxes: 2 in " in pipeline.output


def test_wrong_settings_leave_no_black_box(pipeline: Pipeline) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", pipeline.ports["sensor"]))
        pipeline.start()
        assert pipeline.wait_end() == 78
    assert boxes(pipeline.folder()) == [] and not (pipeline.folder() / "logs/blackbox.log").exists()


class Lab:
    """A plain receiver of each wire that keeps what comes."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.samples, self.states, self.pictures = bytearray(), bytearray(), []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self._udp.bind(("127.0.0.1", ports["sensor"]))
        self._udp.settimeout(0.2)
        self._context: zmq.Context[Any] = zmq.Context()
        self._pull, self._sub = self._context.socket(zmq.PULL), self._context.socket(zmq.SUB)
        self._pull.bind(f"tcp://127.0.0.1:{ports['camera']}")
        self._sub.setsockopt(zmq.SUBSCRIBE, b"")
        self._sub.setsockopt(zmq.RECONNECT_IVL, 20)
        self._sub.connect(f"tcp://127.0.0.1:{ports['robot']}")
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=take) for take in (self._take_samples, self._take_messages)]
        for thread in self._threads:
            thread.start()

    def _take_samples(self) -> None:
        while True:
            try:
                self.samples += self._udp.recv(1 << 17)[4:]
            except TimeoutError:
                if self._ending.is_set():
                    return

    def _take_messages(self) -> None:
        poller = zmq.Poller()
        poller.register(self._pull, zmq.POLLIN)
        poller.register(self._sub, zmq.POLLIN)
        while (there := dict(poller.poll(200))) or not self._ending.is_set():
            if self._pull in there:
                self.pictures.append(self._pull.recv_multipart()[1])
            if self._sub in there:
                self.states += self._sub.recv_multipart()[1]

    def close(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._context.destroy(linger=0)


def kill_everything_at_once(pipeline: Pipeline) -> None:
    """In the middle between two commands: what the robot has received is then also on record."""
    commands = pipeline.hub.reader("command")
    head = commands.head
    pipeline.until(lambda: commands.head > head, "one more command")
    time.sleep(0.02)
    assert pipeline.process is not None
    supervisor = psutil.Process(pipeline.process.pid)
    everybody = [supervisor, *supervisor.children(recursive=True)]  # the supervisor first: it starts nothing any more
    for process in everybody:
        os.kill(process.pid, signal.SIGKILL)
    pipeline.process.wait()
    assert not psutil.wait_procs(everybody, timeout=20)[1]
    commands.close()


def test_after_kill_9_of_everything_the_last_command_is_found_and_all_can_be_sent_again(
    pipeline: Pipeline, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (tmp_path / "peer").mkdir()
    pipeline.start("--auto-start", "--set", "blackbox.min_free_mb=0")
    pipeline.until(lambda: pipeline.is_ready("robot_ingest"), "readiness")
    ports = [str(pipeline.ports[name]) for name in ("sensor", "camera", "robot", "command")]
    command = [sys.executable, str(PEER), *ports, "100", str(tmp_path / "peer")]
    peer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        pipeline.until(lambda: pipeline.counter("commander", "dpose") >= 20, "motion")
        kill_everything_at_once(pipeline)
    finally:
        peer.terminate()
        report = json.loads(peer.communicate(timeout=30)[0])

    dumped = rtvla("shm", "dump", tmp_path / "box.zip", "--because", "power of the test gone")
    assert dumped.returncode == 0, dumped.stderr
    assert last_dpose(tmp_path / "box.zip") == report["received"]["last"]
    analyzed = json.loads(rtvla("analyze", tmp_path / "box.zip", "--json").stdout)
    sent = [row for row in analyzed["commands"] if row["kind"] == "dpose"]
    assert sent[-1]["sent_mm_deg"] == report["received"]["last"]
    assert {row["writer"] for row in analyzed["processes"].values()} == {"dead"}

    replayed_is_what_the_peer_sent(tmp_path, {name: free_port() for name in ("sensor", "camera", "robot")})

    pipeline.start("--sim", "--seconds", "1", "--set", "blackbox.min_free_mb=0")  # and what it finds it keeps
    assert pipeline.wait_end() == 0, pipeline.output
    assert "segments that an unfinished run left in /dev/shm" in pipeline.output
    old, new = sorted(pipeline.out.glob("async_inference_*"))
    assert boxes(old) == []
    (kept,) = boxes(new)
    assert kept.name.startswith("0001_") and kept.name.endswith("_left_by_an_unfinished_run.zip")
    assert last_dpose(kept) == report["received"]["last"]


def replayed_is_what_the_peer_sent(folder: Path, ports: dict[str, int]) -> None:
    lab = Lab(ports)
    flags = ("--port", ports["sensor"], "--server-port", ports["camera"], "--state-port", ports["robot"])
    done = rtvla("send", "replay", folder / "box.zip", "--speed", 3, *flags)
    lab.close()
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    with Dump(folder / "box.zip") as box:
        held = {name: about["records"] for name, about in box.streams.items()}
    assert len(lab.samples) == 4120 * held["sensor"] == 4120 * report["samples_sent"] > 0
    assert len(lab.states) == 68 * held["robot"] == 68 * report["states_sent"] > 0
    assert bytes(lab.samples) in (folder / "peer/samples").read_bytes(), "samples, in the order of the peer"
    assert bytes(lab.states) in (folder / "peer/states").read_bytes(), "states, in the order of the peer"
    assert {picture[:2] + picture[10:] for picture in lab.pictures} == {PICTURE}, "but for the comment with a number"
    assert len(lab.pictures) == sum(count for name, count in held.items() if name.startswith("frame."))
    assert np.isfinite(report["largest_lateness_ms"])
