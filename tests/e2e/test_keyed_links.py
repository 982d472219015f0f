"""Real processes with keys, over real sockets on loopback: the right ones work, strangers are counted and dropped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import LOAD_S, Pipeline

from rtvla.procs.table import PROCESSES
from rtvla.security import keys as key_files
from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows

TAG_FAULTS = ("dropped.no_tag", "dropped.bad_tag", "dropped.replayed", "dropped.source")
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "lab"
    key_files.make(folder)
    return folder


@pytest.fixture(scope="module")
def other_lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "lab"
    key_files.make(folder)
    return folder


class Ingests:
    """Processes of one host and the senders that speak to them."""

    def __init__(self, namespace: str, port: int) -> None:
        self.hub, self.port = Hub(namespace), port
        self.hub.create(PROCESSES)
        self._running: list[subprocess.Popen[str]] = []

    def run(self, *command: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "rtvla", *command]
        self._running.append(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return self._running[-1]

    def ingest(self, kind: str, *settings: str) -> None:
        flags = [flag for setting in settings for flag in ("--set", setting)]
        self.run("run", f"{kind}_ingest", "--set", f"network.{kind}_port={self.port}", *flags)
        self.until(lambda: process_rows(self.hub)[f"{kind}_ingest"]["state"] == "ready", f"{kind}_ingest ready")

    def counters(self, kind: str) -> dict[str, int]:
        return dict(process_rows(self.hub)[f"{kind}_ingest"]["counters"])

    def until(self, what: Callable[[], bool], why: str) -> None:
        deadline = time.monotonic() + LOAD_S
        while not what():
            assert time.monotonic() < deadline, f"{why} did not happen: {process_rows(self.hub)}"
            time.sleep(0.02)

    def close(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.communicate(timeout=30)
        self.hub.purge()


@pytest.fixture
def ingests(namespace: str, free_port: Callable[[], int]) -> Iterator[Ingests]:
    ingests = Ingests(namespace, free_port())
    yield ingests
    ingests.close()


def report(sender: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = sender.communicate(timeout=LOAD_S)
    assert sender.returncode == 0, err
    return dict(json.loads(out.splitlines()[-1]))


def test_cameras_with_the_right_keys_come_in_and_others_do_not(ingests: Ingests, lab: Path, other_lab: Path) -> None:
    ingests.ingest("camera", f'security.keys="{lab / "host"}"')
    send = ["send", "camera", "--server-port", str(ingests.port), "--width", "32", "--height", "32", "--seconds", "3"]
    strangers = [ingests.run(*send), ingests.run(*send, "--keys", str(other_lab))]
    for stranger in strangers:
        said = report(stranger)
        assert said["images_sent_total"] == 0 and sum(said["refused"].values()) > 0
    counters = ingests.counters("camera")
    assert sum(n for name, n in counters.items() if name.startswith("refused.")) > 0
    assert not [name for name in counters if name.startswith(("frames.", "dropped."))]
    sent = report(ingests.run(*send, "--keys", str(lab / "cameras")))["images_sent_total"]
    assert sent > 0
    ingests.until(lambda: _frames(ingests) == sent, f"{sent} frames")


def _frames(ingests: Ingests) -> int:
    return sum(n for name, n in ingests.counters("camera").items() if name.startswith("frames."))


def test_the_host_takes_states_only_from_the_robot_side_with_the_right_key(
    ingests: Ingests, lab: Path, other_lab: Path, free_port: Callable[[], int]
) -> None:
    ingests.ingest("robot", f'security.keys="{lab / "host"}"')
    send = ["send", "robot", "--state-port", str(ingests.port), "--command-port", str(free_port()), "--seconds"]
    for flags in ([], ["--keys", str(other_lab)]):
        said = report(ingests.run(*send, "4", *flags))
        assert said["states_sent"] == 0 and said["states_unheard"] > 0 and sum(said["refused"].values()) > 0
    assert "states" not in ingests.counters("robot")
    right = ingests.run(*send, "60", "--keys", str(lab / "robot"))
    ingests.until(lambda: ingests.counters("robot").get("states", 0) > 10, "states of the right robot side")
    right.terminate()
    assert report(right)["states_sent"] > 0


def test_the_robot_side_takes_commands_only_from_the_host(
    ingests: Ingests, lab: Path, free_port: Callable[[], int]
) -> None:
    """An old-style commander without keys, against a robot side with them."""
    port = free_port()
    ports = ["--state-port", str(ingests.port), "--command-port", str(port)]
    robot = ingests.run("send", "robot", *ports, "--keys", str(lab / "robot"), "--seconds", "3")
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 0)
        push.connect(f"tcp://127.0.0.1:{port}")
        push.send(json.dumps({"cmd": "start", "start_joints": [191, 1, 309, 1, 91, 1], "lock_j6": False}).encode())
        said = report(robot)
    assert said["commands"] == {} or not any(said["commands"].values())
    assert sum(said["refused"].values()) > 0 and not said["malformed"]


def test_tagged_samples_are_taken_and_untagged_ones_counted(ingests: Ingests, lab: Path, other_lab: Path) -> None:
    ingests.ingest("sensor", f'security.keys="{lab / "host"}"', "security.udp_tag=true")
    send = ["send", "sensor", "--port", str(ingests.port), "--rate", "60", "--seconds", "0.5"]
    plain = report(ingests.run(*send))["datagrams_sent"]
    forged = report(ingests.run(*send, "--keys", str(other_lab)))["datagrams_sent"]
    twice = report(ingests.run(*send, "--keys", str(lab / "sensor"), "--duplicate", "1"))
    all_sent = plain + forged + twice["datagrams_sent"]
    ingests.until(lambda: ingests.counters("sensor").get("datagrams") == all_sent, f"{all_sent} datagrams")
    counters = ingests.counters("sensor")
    assert counters["dropped.no_tag"] == plain > 0 and counters["dropped.bad_tag"] == forged > 0
    assert counters["samples"] == counters["dropped.replayed"] == twice["samples_sent"] / 2 > 0


def test_samples_from_another_address_are_counted_and_dropped(ingests: Ingests) -> None:
    ingests.ingest("sensor", 'security.udp_sources=["127.0.0.9"]')
    sent = report(ingests.run("send", "sensor", "--port", str(ingests.port), "--rate", "60", "--seconds", "0.5"))[
        "datagrams_sent"
    ]
    ingests.until(lambda: ingests.counters("sensor").get("datagrams") == sent, f"{sent} datagrams")
    counters = ingests.counters("sensor")
    assert counters["dropped.source"] == sent > 0 and "samples" not in counters


def test_the_whole_pipeline_moves_the_arm_with_keys_on_every_link(pipeline: Pipeline, lab: Path) -> None:
    pipeline.start("--sim", "--keys", str(lab), "--set", "security.udp_tag=true")
    pipeline.until(pipeline.moving, "motion")
    rows = pipeline.rows()
    assert pipeline.stop() == 0
    for name, row in rows.items():
        refused = [counter for counter in row["counters"] if counter.startswith("refused.") or counter in TAG_FAULTS]
        assert not refused, (name, refused)
    folder = pipeline.folder() / "logs"
    robot = json.loads([line for line in (folder / "send_robot.log").read_text().splitlines() if line[:1] == "{"][-1])
    assert robot["commands"]["dpose"] > 0 and not robot["refused"] and not robot["malformed"]
