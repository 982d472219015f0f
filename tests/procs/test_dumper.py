"""The supervisor's side of the black box: started at once, one at a time, every outcome counted."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from rtvla import schema
from rtvla.clock import now_ns
from rtvla.config_sections import BlackBox
from rtvla.dump_file import Dump
from rtvla.procs.dumper import Dumper
from rtvla.shm.hub import Hub

CORES = tuple(sorted(os.sched_getaffinity(0)))
BOUNDS = BlackBox(min_free_mb=0)


@pytest.fixture
def states(hub: Hub) -> Iterator[Hub]:
    robot = hub.writer("robot")
    record = np.zeros((), schema.ROBOT)
    for _ in range(10):
        record["received_ns"] = now_ns()
        robot.put(record)
    yield hub
    robot.close()


def dumper(folder: Path, bounds: BlackBox = BOUNDS, cores: tuple[int, ...] = CORES) -> Dumper:
    return Dumper(bounds, folder / "boxes", folder / "logs/blackbox.log", cores)


def test_it_returns_before_the_file_is_there_and_tells_later(states: Hub, tmp_path: Path) -> None:
    one = dumper(tmp_path)
    assert one.news() == [] and not one.running
    one.take("policy killed by SIGKILL")
    assert one.running and not (tmp_path / "boxes").exists() and one.news() == []
    one.wait()
    assert one.news() == ["written"] and one.news() == []
    (file,) = (tmp_path / "boxes").iterdir()
    assert file.name.endswith("_policy_killed_by_SIGKILL.zip")
    with Dump(file) as box:
        assert box.manifest["because"] == "policy killed by SIGKILL" and len(box.records("robot")) == 10


def test_a_second_crash_meanwhile_is_counted_as_busy(
    states: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = dumper(tmp_path)
    one.take("first")
    one.take("second")
    one.take("third")
    one.wait()
    assert one.news() == ["busy", "busy", "written"]
    assert "no black box of 'second': the one of 'first' is still being written" in caplog.text
    one.take("fourth")
    one.wait()
    assert one.news() == ["written"] and len(list((tmp_path / "boxes").iterdir())) == 2


def test_a_killed_one_is_a_failure_and_the_next_one_works(states: Hub, tmp_path: Path) -> None:
    one = dumper(tmp_path)
    one.take("first")
    one.kill()
    one.wait()
    assert one.news() == ["failed"]
    one.take("second")
    one.wait()
    assert one.news() == ["written"] and len(list((tmp_path / "boxes").iterdir())) == 1


def test_what_a_bound_forbids_is_counted_each_time_and_said_once(
    states: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = dumper(tmp_path, BlackBox(min_free_mb=1e9))
    for because in ("first", "second"):
        one.take(because)
        one.wait()
        assert one.news() == ["refused"]
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1 and "min_free_mb is 1e+09" in said[0].getMessage()
    assert list((tmp_path / "boxes").iterdir()) == []


def test_a_failure_is_said_with_its_reason_and_stops_nothing(
    states: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "boxes").write_text("a file where the folder should be")
    one = dumper(tmp_path)
    one.take("first")
    one.wait()
    assert one.news() == ["failed"] and "File exists" in caplog.text
    (tmp_path / "logs/blackbox.log").unlink()
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("no folder either")
    one.take("second")
    assert one.news() == ["failed"] and not one.running


@pytest.mark.parametrize("bounds", [BlackBox(keep=0), BlackBox(max_mb=0)])
def test_switched_off_it_starts_nothing(states: Hub, tmp_path: Path, bounds: BlackBox) -> None:
    one = dumper(tmp_path, bounds)
    one.take("first")
    assert not one.running and one.news() == [] and list(tmp_path.iterdir()) == []


def test_it_runs_on_the_cores_of_the_background_and_not_under_ctrl_c(states: Hub, tmp_path: Path) -> None:
    one = dumper(tmp_path, cores=CORES[-1:])
    before = {child.pid for child in psutil.Process().children()}
    one.take("first")
    (child,) = [child for child in psutil.Process().children() if child.pid not in before]
    assert child.cpu_affinity() == list(CORES[-1:])
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    one.wait()


def test_a_stopped_one_does_not_hold_up_the_asking_process(states: Hub, tmp_path: Path) -> None:
    one = dumper(tmp_path)
    before = {child.pid for child in psutil.Process().children()}
    one.take("first")
    (child,) = [child for child in psutil.Process().children() if child.pid not in before]
    child.send_signal(signal.SIGSTOP)
    asked = 0
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        assert one.running and one.news() == []
        asked += 1
    assert asked > 100
    child.send_signal(signal.SIGCONT)
    one.wait()
    assert one.news() == ["written"]
