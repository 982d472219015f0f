"""What a crash leaves in /dev/shm, and whose it is: the next start removes it, and nothing of anybody else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from rtvla import schema
from rtvla.cli import main
from rtvla.errors import ShmError
from rtvla.procs.supervisor import clear_leftovers
from rtvla.shm.hub import Hub
from rtvla.shm.segment import path_of

pytestmark = pytest.mark.stress
Process = subprocess.Popen[bytes]
# A process of a run, which may write robot states at full speed, each value of them its mark, until it is killed.
WRITER = """
import sys
import numpy as np
from rtvla import schema
from rtvla.shm.hub import Hub
hub, mark = Hub(sys.argv[1]), float(sys.argv[2])
row = hub.health_row(sys.argv[3])
writers = [hub.writer(name) for name in sys.argv[4:]]
record = np.zeros((), schema.ROBOT)
record["joints_deg"], record["pose_mm_deg"] = mark, mark
print("up", flush=True)
while True:
    for writer in writers:
        writer.put(record)
"""
# Ends by SIGKILL at one step of making a segment.
KILLED = """
import os, signal, sys
from rtvla.shm.hub import Hub
setattr(os, sys.argv[2], lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
Hub(sys.argv[1]).writer("robot")
"""


@pytest.fixture
def write(hub: Hub) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(namespace: str, mark: float, process: str, *streams: str) -> Process:
        command = [sys.executable, "-c", WRITER, namespace, str(mark), process, *streams]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(child)
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def killed(*processes: Process) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()


def test_what_a_run_left_whose_every_process_was_killed_is_removed_and_said(
    hub: Hub, write: Callable[..., Process]
) -> None:
    hub.create(["supervisor"])
    crew = [write(hub.namespace, 1, "robot_ingest", "robot"), write(hub.namespace, 1, "policy")]
    count = len(hub.segments())
    killed(crew[0])
    with pytest.raises(ShmError, match=r"in use .*health.policy.*rtvla down, or set RTVLA_NAMESPACE"):
        clear_leftovers(hub)
    assert len(hub.segments()) == count, "somebody of it still writes: nothing may be removed"
    killed(crew[1])
    assert clear_leftovers(hub) == f"removed {count} segments that an unfinished run left in /dev/shm"
    assert clear_leftovers(hub) == "" and not hub.segments()


def test_down_names_who_of_a_crashed_run_still_lives(
    hub: Hub, write: Callable[..., Process], capsys: pytest.CaptureFixture[str]
) -> None:
    survivor = write(hub.namespace, 1, "robot_ingest", "robot")
    assert main(["down"]) == 1
    assert f"robot_ingest (kill -9 {survivor.pid})" in capsys.readouterr().out
    assert main(["down", "--purge"]) == 1
    assert "in use" in capsys.readouterr().err
    killed(survivor)
    assert main(["down"]) == 1
    assert "rtvla down --purge" in capsys.readouterr().out
    assert main(["down", "--purge"]) == 0
    assert not hub.segments()


@pytest.mark.parametrize("step", ["posix_fallocate", "link"])
def test_who_is_killed_while_making_a_segment_leaves_nothing_that_anybody_takes_for_one(hub: Hub, step: str) -> None:
    for _ in range(3):  # also where one was left before
        died = subprocess.run([sys.executable, "-c", KILLED, hub.namespace, step], check=False)
        assert died.returncode == -signal.SIGKILL
    assert not path_of(hub.namespace, "robot").exists()
    assert len(hub.segments()) == 3 and hub.claimed() == []
    writer = hub.writer("robot")
    writer.commit()
    assert hub.reader("robot").head == 1
    writer.close()
    assert clear_leftovers(hub).startswith("removed 4 segments")


def test_two_namespaces_hold_the_same_stream_without_knowing_of_each_other(
    hub: Hub, write: Callable[..., Process]
) -> None:
    names = [hub.namespace, f"{hub.namespace}-b"]  # one begins like the other
    other = Hub(names[1])
    try:
        writers = [write(name, mark, "robot_ingest", "robot") for mark, name in enumerate(names, 1)]
        readers = [hub.reader("robot"), other.reader("robot")]
        for _ in range(300):
            for mark, reader in enumerate(readers, 1):
                window = reader.latest(min(100, reader.head))
                assert window is not None
                assert (window["joints_deg"] == mark).all() and (window["pose_mm_deg"] == mark).all()
        killed(writers[0])
        assert clear_leftovers(hub).startswith("removed 2 segments") and not hub.segments()
        assert readers[1].writer_alive() and len(other.segments()) == 2
        before = readers[1].head
        while readers[1].head == before:
            time.sleep(0.001)
        with pytest.raises(ShmError, match="in use"):
            clear_leftovers(other)
        killed(writers[1])
    finally:
        other.purge()


def test_a_reader_of_a_removed_segment_keeps_what_it_had(hub: Hub) -> None:
    """Its pages live on in whoever has them mapped: no SIGBUS, no change."""
    writer = hub.writer("robot")
    record = np.zeros((), schema.ROBOT)
    for _ in range(10):
        writer.put(record)
    reader = hub.reader("robot")
    hub.purge()
    window = reader.latest(10)
    assert window is not None and window["index"].tolist() == list(range(10))
    assert hub.reader("robot").head == 0, "who opens it now gets a new one"
    assert len(hub.segments()) == 1
