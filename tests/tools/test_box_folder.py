"""Automatic black boxes: the first ones and the newest stay, the disk is never filled, and a kill leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rtvla import schema
from rtvla.clock import now_ns
from rtvla.config_sections import BlackBox
from rtvla.dump_file import Dump
from rtvla.shm import blackbox
from rtvla.shm.hub import Hub
from rtvla.tools import box_folder
from rtvla.tools.exits import ABSENT, OK, REFUSED

FREE = {"max_mb": 1000.0, "min_free_mb": 0.0}


@pytest.fixture
def filled(hub: Hub) -> Hub:
    """A namespace with 42 MB of noise in its frames, as five cameras leave it, and a few states."""
    rng = np.random.default_rng(0)
    for view in schema.VIEWS:
        frames = hub.writer(f"frame.{view}")
        for _ in range(16):
            frames.record()["received_ns"] = now_ns()
            frames.record()["jpeg"] = rng.integers(0, 256, schema.MAX_JPEG_BYTES, np.uint8)
            frames.commit()
        frames.close()
    return put(hub)


def put(hub: Hub) -> Hub:
    robot = hub.writer("robot")
    record = np.zeros((), schema.ROBOT)
    for _ in range(10):
        record["received_ns"] = now_ns()
        robot.put(record)
    robot.close()
    return hub


def add(hub: Hub, folder: Path, because: str, **bounds: float) -> Path:
    return box_folder.add(folder, BlackBox(**FREE | bounds), *blackbox.take(hub.namespace, because))


def causes(folder: Path) -> list[str]:
    found = []
    for path in box_folder.boxes(folder):
        with Dump(path) as box:
            found.append(f"{path.name[:4]} {box.manifest['because']}")
    return found


def test_the_first_ones_and_the_newest_are_kept(hub: Hub, tmp_path: Path) -> None:
    put(hub)
    for number in range(1, 8):
        add(hub, tmp_path, f"crash {number}", keep=4)
    assert causes(tmp_path) == ["0001 crash 1", "0002 crash 2", "0003 crash 3", "0007 crash 7"]
    assert len(list(tmp_path.iterdir())) == 4


def test_with_one_place_the_first_has_it(hub: Hub, tmp_path: Path) -> None:
    put(hub)
    add(hub, tmp_path, "crash 1", keep=1)
    with pytest.raises(box_folder.BoundReached, match="keep 1"):
        add(hub, tmp_path, "crash 2", keep=1)
    assert causes(tmp_path) == ["0001 crash 1"]


def test_bytes_are_bounded_in_the_same_way(hub: Hub, tmp_path: Path) -> None:
    put(hub)
    one_mb = add(hub, tmp_path, "crash 1").stat().st_size / 1e6
    for number in range(2, 7):
        add(hub, tmp_path, f"crash {number}", keep=100, max_mb=3.5 * one_mb)
    assert causes(tmp_path) == ["0001 crash 1", "0002 crash 2", "0006 crash 6"]
    with pytest.raises(box_folder.BoundReached, match="max_mb"):
        add(hub, tmp_path / "other", "too large", max_mb=0.5 * one_mb)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_name_says_when_and_why_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    put(hub)
    file = add(hub, tmp_path, "policy/../x: 'killed' by\nSIGKILL" + "!" * 300)
    number, date, clock, *words = file.name.split("_")
    assert (number, len(date), len(clock)) == ("0001", 8, 6) and file.parent == tmp_path
    assert "_".join(words) == "policy_.._x_killed_by_SIGKILL.zip"
    assert add(hub, tmp_path, "").name.endswith("_no_cause_given.zip")


def test_other_files_in_the_folder_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    put(hub)
    for name in ("mine.zip", "0009_notes.txt", "9_x.zip"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".0001_x.zip.77.tmp").write_text("of a writer that was killed")
    for number in range(3):
        add(hub, tmp_path, f"crash {number}", keep=2)
    assert causes(tmp_path) == ["0001 crash 0", "0003 crash 2"]
    assert {path.name for path in tmp_path.iterdir()} >= {"mine.zip", "0009_notes.txt", "9_x.zip"}
    assert len(list(tmp_path.iterdir())) == 5


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 60 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this user may not mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_would_become_too_full_is_left_as_it_is(filled: Hub, disk: Path) -> None:
    file = add(filled, disk, "fits", min_free_mb=10.0)
    assert file.stat().st_size > 35e6, "noise cannot be compressed"
    with pytest.raises(box_folder.BoundReached, match="min_free_mb is 10"):
        add(filled, disk, "does not fit", min_free_mb=10.0)
    assert list(disk.iterdir()) == [file]


def dump(*options: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rtvla", "shm", "dump", "--min-free-mb=0", *map(str, options)]
    everything = {**os.environ, **environment}
    return subprocess.Popen(command, env=everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_dumper_killed_in_the_middle_leaves_nothing_and_hinders_nobody(filled: Hub, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes"
    victim = dump("--into", boxes, "--because", "killed")
    while not any("(deleted)" in name for name in open_files(victim.pid, boxes)):
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert list(boxes.iterdir()) == []
    successor = dump("--into", boxes, "--because", "whole")
    assert successor.communicate()[0].startswith(str(boxes)) and successor.returncode == OK
    assert causes(boxes) == ["0001 whole"]


def open_files(pid: int, folder: Path) -> list[str]:
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.append(os.readlink(link))
        except FileNotFoundError:  # closed meanwhile
            continue
    return [name for name in names if name.startswith(str(folder))]


def test_dumps_at_the_same_time_take_turns(filled: Hub, tmp_path: Path) -> None:
    """As the units of a pipeline do that all end at once."""
    all_at_once = [dump("--into", tmp_path, "--because", f"unit-{at}", "--keep=2") for at in range(3)]
    for one in all_at_once:
        assert one.communicate()[0].startswith(str(tmp_path)) and one.returncode == OK
    assert [cause[:4] for cause in causes(tmp_path)] == ["0001", "0003"]
    assert len(list(tmp_path.iterdir())) == 2


def test_it_yields_to_whatever_runs(filled: Hub, tmp_path: Path) -> None:
    one, seen = dump("--into", tmp_path), set()
    while one.poll() is None:
        seen.add(int(Path(f"/proc/{one.pid}/stat").read_bytes().rpartition(b")")[2].split()[16]))
        time.sleep(0.001)
    assert one.communicate()[0].startswith(str(tmp_path))
    assert seen & {5, 10} == {5, 10}


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "SEGV"}, "u_signal_killed_SEGV.zip"),
        ({"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1"}, "u_exit-code_exited_1.zip"),
        ({"SERVICE_RESULT": "watchdog", "EXIT_CODE": "killed", "EXIT_STATUS": "ABRT"}, "u_watchdog_killed_ABRT.zip"),
        ({"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}, None),
        ({"SERVICE_RESULT": "success", "EXIT_CODE": "killed", "EXIT_STATUS": "TERM"}, None),
        ({"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "78"}, None),
    ],
)
def test_what_systemd_says_decides(hub: Hub, tmp_path: Path, told: dict[str, str], name: str | None) -> None:
    put(hub)
    one = dump("--into", tmp_path / "boxes", "--because", "u", **told)
    said = one.communicate()[0]
    assert one.returncode == OK, said
    if name is None:
        assert "no black box: " in said and not (tmp_path / "boxes").exists()
    else:
        (file,) = (tmp_path / "boxes").iterdir()
        assert file.name.endswith(name) and str(file) in said


def test_bounds_on_the_command_line(hub: Hub, tmp_path: Path) -> None:
    put(hub)
    for options, code, says in (
        (("--keep=0",), OK, "keep or max_mb is 0"),
        (("--min-free-mb=1e9",), REFUSED, "min_free_mb is 1e+09"),
        (("--max-mb=0",), OK, "keep or max_mb is 0"),
        (("--max-mb=0.0001",), REFUSED, "max_mb 0.0001"),
        (("--max-mb=-1",), 78, "blackbox.max_mb = -1"),
        (("--namespace=nobody-here",), ABSENT, "nothing to dump"),
        (("FILE",), 2, "not allowed with argument"),
    ):
        one = dump("--into", tmp_path, *options)
        said = one.communicate()[0]
        assert (one.returncode, says in said) == (code, True), said
    assert list(tmp_path.iterdir()) == []
