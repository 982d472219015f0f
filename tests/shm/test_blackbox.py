"""The black box: what a kill leaves is all in the file, whole, and comes back as segments that every tool can read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rtvla import schema
from rtvla.clock import now_ns
from rtvla.dump_file import Dump
from rtvla.errors import DumpError, ShmError
from rtvla.shm import blackbox, decode, inspect, verify
from rtvla.shm.health import read_row
from rtvla.shm.hub import Hub
from rtvla.shm.segment import FOLDER, Layout, ensure, path_of

WORDS = 64
# every word of a record is its own index: any mixture of two writes shows
RUNNING = f"""
import sys
import numpy as np
from pathlib import Path
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingWriter
from rtvla.shm.segment import Layout, Segment
dtype = np.dtype([("index", "<u8"), ("words", "<u8", ({WORDS},))])
writer = RingWriter(Segment(Path(sys.argv[1]), Layout(dtype, 64, 4), writable=True))
print("up", flush=True)
while True:
    for count in (1, 4, 2):
        for ahead in range(count):
            writer.slot(ahead)
            writer.record(ahead)["words"] = writer.next_index + ahead
        writer.commit(count)
"""
STATES = """
import sys
import numpy as np
from rtvla import schema
from rtvla.clock import now_ns
from rtvla.shm.hub import Hub
hub = Hub(sys.argv[1])
robot, row = hub.writer("robot"), hub.health_row("policy")
row.state("ready")
row.count("chunks", 7)
row.beat()
record = np.zeros((), schema.ROBOT)
while True:
    for _ in range(100):
        record["received_ns"], record["joints_deg"] = now_ns(), robot.next_index
        robot.put(record)
    print(robot.next_index, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def copy(hub: Hub) -> Iterator[Hub]:
    """A namespace to load into."""
    copy = Hub(f"{hub.namespace}-copy")
    yield copy
    copy.purge()


def run(code: str, *arguments: str) -> tuple[subprocess.Popen[bytes], bytes]:
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    return child, child.stdout.readline()


def kill(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def put(hub: Hub, count: int) -> None:
    writer = hub.writer("robot")
    record = np.zeros((), schema.ROBOT)
    for _ in range(count):
        record["received_ns"], record["force"] = now_ns(), writer.next_index
        writer.put(record)
    writer.close()


def test_a_dump_after_kill_9_holds_the_last_record_and_loads_again(hub: Hub, copy: Hub, tmp_path: Path) -> None:
    child, first = run(STATES, hub.namespace)
    assert child.stdin is not None and child.stdout is not None
    for _ in range(15):
        child.stdin.write(b"\n")
        child.stdin.flush()
        last = int(child.stdout.readline()) - 1
    kill(child)
    assert int(first) == 100 and last == 1599
    manifest = blackbox.dump(hub.namespace, tmp_path / "box")
    with Dump(tmp_path / "box") as box:
        states, health = box.records("robot"), box.records("health.policy")
    assert states["index"].tolist() == list(range(1600 - 1023, 1600))
    assert (states["joints_deg"] == states["index"][:, None]).all()
    assert decode.decoded("health.policy", health[0])["counters"] == {"chunks": 7}
    assert manifest["streams"]["robot"]["writer"] == "dead" and manifest["skipped"] == {}
    assert manifest["streams"]["robot"]["claim"]["writer_pid"] == child.pid

    blackbox.load(tmp_path / "box", copy.namespace)
    reader = copy.reader("robot")
    window = reader.latest(1023)
    assert window is not None and window["index"].tolist() == states["index"].tolist()
    assert reader.head == last + 1 and not reader.writer_alive()
    assert verify.verify(copy.namespace, 0)[1] == []
    segment = copy.health_segment("policy")
    assert segment is not None
    row = read_row(segment)
    assert (row["state"], row["alive"], row["pid"], row["counters"]) == ("ready", False, child.pid, {"chunks": 7})
    again = blackbox.dump(copy.namespace, tmp_path / "again")
    with Dump(tmp_path / "again") as box:
        assert (box.records("robot") == states).all()
    assert again["streams"]["robot"]["claim"]["epoch"] == manifest["streams"]["robot"]["claim"]["epoch"]


def test_a_dump_beside_a_writer_at_full_speed_holds_only_whole_records(hub: Hub, tmp_path: Path) -> None:
    dtype = np.dtype([("index", "<u8"), ("words", "<u8", (WORDS,))])
    path = path_of(hub.namespace, "words")
    ensure(path, Layout(dtype, 64, 4))
    child, _ = run(RUNNING, str(path))
    held = 0
    for at in range(20):
        blackbox.dump(hub.namespace, tmp_path / f"{at}.box")
        with Dump(tmp_path / f"{at}.box") as box:
            records = box.records("words")
        assert (np.diff(records["index"].astype(np.int64)) == 1).all()
        assert (records["words"] == records["index"][:, None]).all()
        held += len(records)
    assert child.poll() is None and held > 100
    kill(child)


def test_loading_a_ring_with_fewer_records_than_slots_gives_no_made_up_ones(
    hub: Hub, copy: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, 2000)
    whole = blackbox._whole
    monkeypatch.setattr(blackbox, "_whole", lambda one: whole(one)[-10:])  # the writer lapped all that was older
    blackbox.dump(hub.namespace, tmp_path / "box")
    blackbox.load(tmp_path / "box", copy.namespace)
    assert verify.verify(copy.namespace, 0)[1] == []
    found = inspect.examine(path_of(copy.namespace, "robot"))
    assert found is not None and len(inspect.Mapped(found).last(1000)) == 10


def test_times_of_a_loaded_dump_are_compared_with_the_dump(hub: Hub, copy: Hub, tmp_path: Path) -> None:
    put(hub, 3)
    manifest = blackbox.dump(hub.namespace, tmp_path / "box")
    blackbox.load(tmp_path / "box", copy.namespace)
    (row,) = inspect.listing(copy.namespace, 0.05)
    newest = manifest["monotonic_ns"] - copy.reader("robot").latest(1)["received_ns"][0]  # type: ignore[index]
    assert row["age_ms"] == newest / 1e6 and row["loaded"]["namespace"] == hub.namespace
    assert row["writer"] == "dead" and not copy.reader("robot").writer_alive()  # though process `pid`, we, do live


def test_numpy_opens_it_without_pickle(hub: Hub, tmp_path: Path) -> None:
    put(hub, 3)
    blackbox.dump(hub.namespace, tmp_path / "box.npz")
    with np.load(tmp_path / "box.npz", allow_pickle=False) as box:
        assert box["robot"]["force"].tolist() == [0, 1, 2]


def test_a_stream_without_records_and_a_misfit_are_no_obstacle(hub: Hub, copy: Hub, tmp_path: Path) -> None:
    hub.reader("command").close()
    put(hub, 1)
    path_of(hub.namespace, "sensor").write_bytes(b"no segment")
    manifest = blackbox.dump(hub.namespace, tmp_path / "box")
    assert set(manifest["streams"]) == {"command", "robot"}
    assert "less than a header" in manifest["skipped"][f"rtvla.{hub.namespace}.sensor"]
    blackbox.load(tmp_path / "box", copy.namespace)
    assert copy.reader("command").newest() is None and copy.reader("robot").newest() is not None


def test_nothing_is_overwritten(hub: Hub, tmp_path: Path) -> None:
    put(hub, 1)
    blackbox.dump(hub.namespace, tmp_path / "box")
    before = (tmp_path / "box").read_bytes()
    with pytest.raises(ShmError, match="never overwritten"):
        blackbox.dump(hub.namespace, tmp_path / "box")
    with pytest.raises(ShmError, match="exists: load into a new one"):
        blackbox.load(tmp_path / "box", hub.namespace)
    assert (tmp_path / "box").read_bytes() == before


def test_a_failed_dump_leaves_no_file(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, 1)

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        blackbox.dump(hub.namespace, tmp_path / "box")
    assert list(tmp_path.iterdir()) == []


def changed(source: Path, target: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = members.get(name.replace(".", "_"), old.read(name))
            new.writestr(name, data)
    return target


def test_a_spoiled_black_box_is_refused_by_name_and_leaves_nothing(hub: Hub, copy: Hub, tmp_path: Path) -> None:
    put(hub, 5)
    good = tmp_path / "good"
    blackbox.dump(hub.namespace, good)
    with Dump(good) as box:
        manifest = box.manifest
    stream = manifest["streams"]["robot"]
    evil = manifest | {"streams": {"robot": stream, "../robot": stream}}
    other = manifest | {"streams": {"robot": stream | {"schema_hash": "0" * 16}}}
    later = manifest | {"version": 99}
    (tmp_path / "text").write_text("no zip")
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-200])
    for file, reason in (
        (tmp_path / "text", "no black box"),
        (tmp_path / "cut", "no black box"),
        (changed(good, tmp_path / "1", manifest_json=b"{}"), "no manifest"),
        (changed(good, tmp_path / "2", manifest_json=json.dumps(later).encode()), "rtvla-blackbox 99"),
        (changed(good, tmp_path / "3", manifest_json=json.dumps(other).encode()), "another record type"),
        (changed(good, tmp_path / "4", robot_npy=b"\x93NUMPY"), "no whole records of robot"),
        (changed(good, tmp_path / "5", manifest_json=json.dumps(evil).encode()), "cannot be a file of ours"),
    ):
        with pytest.raises(DumpError, match=reason):
            blackbox.load(file, copy.namespace)
        assert copy.segments() == [] and not list(FOLDER.glob("*robot*.tmp"))
