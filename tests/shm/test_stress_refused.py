"""Who may not write, and what must not be read: real processes, real SIGKILL, and the sentence that is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rtvla.cli import main
from rtvla.errors import ShmError
from rtvla.shm import verify
from rtvla.shm.hub import Hub, layout_of
from rtvla.shm.segment import OFFSETS, Segment, path_of
from rtvla.streams import STREAMS

pytestmark = pytest.mark.stress
Process = subprocess.Popen[str]
NOBODY = 65534
HOLDER = """
import multiprocessing, os, subprocess, sys, time
from rtvla.shm.hub import Hub
writer = Hub(sys.argv[1]).writer("robot")
child = 0
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        os.closerange(3, 256)  # every descriptor: the mapping alone keeps the lock
        time.sleep(3600)
elif sys.argv[2] == "subprocess":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], close_fds=False).pid
print(child, flush=True)
time.sleep(3600)
"""


@pytest.fixture
def hold(hub: Hub) -> Iterator[Callable[[str], tuple[Process, int]]]:
    """A process that writes the stream `robot`, and perhaps started another: (it, the pid of that one or 0)."""
    holders: list[Process] = []
    children: list[int] = []

    def start(starts: str = "") -> tuple[Process, int]:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, hub.namespace, starts], stdout=subprocess.PIPE, text=True
        )
        holders.append(holder)
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        children.extend([child] if child else [])
        return holder, child

    yield start
    for pid in children:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    for holder in holders:
        holder.kill()
        holder.communicate()


def kill(holder: Process) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()


def test_a_second_writer_is_refused_by_pid_until_the_first_is_killed(
    hub: Hub, hold: Callable[[], tuple[Process, int]]
) -> None:
    for generation in range(1, 4):
        holder, _ = hold()
        with pytest.raises(ShmError, match=rf"already has a writer \(pid {holder.pid}\); stop it first: rtvla down"):
            hub.writer("robot")
        kill(holder)
        assert hub.reader("robot")._segment["epoch"] == generation, "the refused one became writer"
    hub.writer("robot").close()


def test_a_stopped_writer_is_still_the_writer(hub: Hub, hold: Callable[[], tuple[Process, int]]) -> None:
    holder, _ = hold()
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    with pytest.raises(ShmError, match=f"pid {holder.pid}"):
        hub.writer("robot")
    assert hub.reader("robot").writer_alive()


def test_a_program_that_the_writer_started_does_not_keep_its_lock(
    hub: Hub, hold: Callable[[str], tuple[Process, int]]
) -> None:
    holder, _child = hold("subprocess")
    kill(holder)
    hub.writer("robot").close()


def test_a_forked_child_keeps_the_lock_of_its_dead_parent_and_that_is_said(
    hub: Hub, hold: Callable[[str], tuple[Process, int]]
) -> None:
    """rtvla forks nothing that lives on; who does it in a process that writes finds out by this."""
    holder, child = hold("fork")
    kill(holder)
    with pytest.raises(ShmError, match=rf"pid {holder.pid}, which does not run here\): a process that it forked"):
        hub.writer("robot")
    assert not hub.reader("robot").writer_alive(), "readers must not wait for a writer that is gone"
    assert any("a child of it" in finding.problem for finding in verify.verify(hub.namespace, 0.02)[1])
    os.kill(child, signal.SIGKILL)
    for _ in range(100):  # it is not our child: nobody tells us when it is gone
        try:
            hub.writer("robot").close()
            return
        except ShmError:
            continue
    pytest.fail("the lock outlived the child that had it")


def spoiled(hub: Hub, field: str) -> Path:
    """The stream `robot` with another value in one field of its header, or one page too long."""
    hub.reader("robot").close()
    path = path_of(hub.namespace, "robot")
    if field == "size":
        os.truncate(path, path.stat().st_size + 4096)
    else:
        np.memmap(path, "<u8", "r+")[OFFSETS[field] // 8] += 1
    return path


VERSION = "it was left by another version: rtvla down --purge"


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("magic", "it is no segment of rtvla: rtvla down --purge"),
        *((name, VERSION) for name in ("layout_version", "schema_hash", "capacity", "stride", "record_bytes", "burst")),
        ("boot_id", "it is from before this machine was started: rtvla down --purge"),
        ("size", VERSION),
    ],
)
@pytest.mark.parametrize("writable", [False, True])
def test_what_does_not_fit_is_refused_by_field_and_the_remedy_works(
    hub: Hub, field: str, reason: str, writable: bool
) -> None:
    path, layout = spoiled(hub, field), layout_of(STREAMS["robot"])
    with pytest.raises(ShmError) as refused:
        Segment(path, layout, writable=writable)
    wanted = layout.header().get(field)
    found = (
        f"has {field} {wanted + 1:#x}, this version needs {wanted:#x}"
        if wanted
        else f"this version needs {layout.size}"
    )
    assert str(path) in str(refused.value) and found in str(refused.value) and reason in str(refused.value)
    assert main(["down", "--purge"]) == 0
    assert not hub.segments()


def test_the_remedy_works_where_the_supervisors_row_does_not_fit_either(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: `rtvla down --purge` read the supervisor's row first and was refused with the words that name it."""
    hub.create(["supervisor"])
    count = len(hub.segments())
    for path in hub.segments():
        np.memmap(path, "<u8", "r+")[OFFSETS["layout_version"] // 8] += 1
    assert main(["down"]) == 1
    assert "rtvla down --purge" in capsys.readouterr().err
    assert main(["down", "--purge"]) == 0
    assert f"removed {count} segments" in capsys.readouterr().out and not hub.segments()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users: run this test as root")
AS_NOBODY = """
import os, sys
import rtvla.cli, rtvla.procs.pipeline, rtvla.procs.robot_ingest, rtvla.procs.supervisor, rtvla.tools.shm_cli
from rtvla.shm.hub import Hub
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # what is imported by now is all that this user can read
"""


def as_nobody(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_NOBODY + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


OPEN_ALL = """
from rtvla.errors import ShmError
hub = Hub(sys.argv[1])
attempts = (lambda: hub.reader("robot"), lambda: hub.writer("robot"), lambda: hub.health_row("policy"), hub.claimed)
for attempt in attempts:
    try:
        print("opened", attempt())
    except ShmError as error:
        print(error)
"""


@needs_root
def test_a_segment_of_another_user_is_refused_and_says_so(hub: Hub) -> None:
    hub.writer("robot").close()
    hub.health_row("policy").close()
    done = as_nobody(OPEN_ALL, hub.namespace)
    said = done.stdout.splitlines()
    assert len(said) == 4, done.stderr
    assert all(line.endswith("belongs to another user: use another RTVLA_NAMESPACE") for line in said), said


@needs_root
@pytest.mark.parametrize("verb", ["infer", "down", "run"])
def test_a_namespace_of_another_user_ends_every_verb_with_the_remedy(hub: Hub, verb: str, tmp_path: Path) -> None:
    hub.create(["supervisor", "robot_ingest"])
    before = hub.segments()
    options = {"infer": ["--checkpoint", "."], "down": ["--purge"], "run": ["robot_ingest"]}[verb]
    code = "rtvla.procs.pipeline.require_checkpoint = lambda cfg: None\nsys.exit(rtvla.cli.main(sys.argv[1:]))"
    done = as_nobody(code, verb, *options)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "belongs to another user: use another RTVLA_NAMESPACE" in done.stderr.splitlines()[-1]
    assert hub.segments() == before


@needs_root
def test_another_users_segment_cannot_be_removed_or_written_by_us(hub: Hub) -> None:
    hub.writer("robot").close()
    before = path_of(hub.namespace, "robot").read_bytes()
    done = as_nobody("Hub(sys.argv[1]).purge()", hub.namespace)
    assert done.returncode == 1 and "Operation not permitted" in done.stderr
    assert path_of(hub.namespace, "robot").read_bytes() == before
