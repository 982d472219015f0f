"""The file of the black box: a whole one or none, and nothing in it believed unchecked."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtvla import dump_file
from rtvla.dump_file import Dump
from rtvla.errors import DumpError
from rtvla.shm.segment import Layout

TYPE = np.dtype([("index", "<u8"), ("received_ns", "<i8"), ("value", "<f4", (7,)), ("nested", [("a", "<i2")])])
WRITER = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_dump_file import made
from rtvla import dump_file
manifest, records = made(400_000)
print("up", flush=True)
dump_file.write(Path(sys.argv[1]), manifest, records)
"""


def made(count: int, seed: int = 0) -> tuple[dict[str, Any], dict[str, dump_file.Records]]:
    """A manifest and records that cannot be compressed."""
    records = np.zeros(count, TYPE)
    records["value"] = np.random.default_rng(seed).random((count, 7), np.float32)
    records["index"] = records["received_ns"] = np.arange(count)
    layout = Layout(TYPE, 1 << 20)
    about = {
        "records": count,
        "count": count,
        "read_ns": count + 5,
        "schema_hash": f"{layout.header()['schema_hash']:016x}",
        "capacity": layout.capacity,
        "burst": 1,
        "time_field": "received_ns",
        "type": json.loads(layout.text()),
        "writer": "dead",
        "claim": {"writer_pid": 1},
    }
    origin = {"namespace": "x", "host": "here", "boot_id": "b", "monotonic_ns": count + 5, "wall_s": 1.5}
    return origin | {"streams": {"robot": about}}, {"robot": records}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    manifest, records = made(100)
    dump_file.write(tmp_path / "box", manifest, records)
    with Dump(tmp_path / "box") as box:
        assert (box.records("robot") == records["robot"]).all()
        assert (box.dtype("robot"), box.time_field("robot"), box.read_ns("robot")) == (TYPE, "received_ns", 105)
        assert box.manifest["namespace"] == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "box").write_text("mine")
    with pytest.raises(FileExistsError):
        dump_file.write(tmp_path / "box", *made(5))
    assert (tmp_path / "box").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_file_system_without_nameless_files_gets_a_private_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "O_TMPFILE", os.O_DIRECTORY
    )  # the kernel answers EISDIR, as one does that knows no O_TMPFILE
    manifest, records = made(5)
    dump_file.write(tmp_path / "box", manifest, records)
    with Dump(tmp_path / "box") as box:
        assert (box.records("robot") == records["robot"]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def open_files(pid: int) -> list[str]:
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]


def test_a_writer_killed_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "box"), str(Path(__file__).parent)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"up\n"
    while not any(name.startswith(str(tmp_path)) and "(deleted)" in name for name in open_files(writer.pid)):
        assert writer.poll() is None, "it was done before it could be killed"
        time.sleep(0.001)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this user may not mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("nameless", [True, False])
def test_a_full_disk_leaves_nothing(small_disk: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    if not nameless:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    with pytest.raises(OSError, match="No space left"):
        dump_file.write(small_disk / "box", *made(200_000))
    assert list(small_disk.iterdir()) == []
    disk = os.statvfs(small_disk)
    assert disk.f_bavail >= disk.f_blocks - 2, "its blocks are free again"


def test_any_damage_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    manifest, records = made(40)
    dump_file.write(tmp_path / "box", manifest, records)
    good, rng, refused = (tmp_path / "box").read_bytes(), random.Random(3), 0
    for at in range(1500):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        if at % 3 == 0:
            bad = bad[: rng.randrange(len(bad))]
        (tmp_path / "bad").write_bytes(bad)
        try:
            with Dump(tmp_path / "bad") as box:
                assert (box.records("robot") == records["robot"]).all()
                assert box.manifest["streams"] == manifest["streams"]
        except DumpError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"namespace": 3}, "namespace = 3"),
        ({"streams": [1]}, "streams"),
        ({"streams": {"../../x": {}}}, "cannot be a file of ours"),
        ({"streams": {"": {}}}, "cannot be a file of ours"),
        ({"streams": {"robot": {"records": True}}}, "records = True"),
        ({"wall_s": None}, "wall_s"),
    ],
)
def test_a_manifest_that_promises_too_little_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    manifest, records = made(3)
    dump_file.write(tmp_path / "box", manifest | change, records)
    with pytest.raises(DumpError, match=says):
        Dump(tmp_path / "box")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_hash": "0" * 16}, "another record type"),
        ({"records": 4}, "holds other records"),
        ({"capacity": 2}, "holds other records"),
        ({"capacity": 0}, "capacity of 0"),
        ({"type": {}}, "does not describe the records"),
        ({"type": {"descr": [["index", "|O"]], "itemsize": 8}}, "does not describe the records"),
    ],
)
def test_records_that_do_not_fit_their_manifest_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    manifest, records = made(3)
    manifest["streams"]["robot"] |= change
    dump_file.write(tmp_path / "box", manifest, records)
    with pytest.raises(DumpError, match=says), Dump(tmp_path / "box") as box:
        box.records("robot")


def test_what_cannot_be_opened_is_said_with_its_reason(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DumpError, match=says):
            Dump(path)
