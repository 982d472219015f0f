"""The inspector looks at whatever lies under our prefix: live, killed, cut off, of another version, no segment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rtvla import schema
from rtvla.clock import now_ns
from rtvla.errors import ShmError
from rtvla.shm import decode, inspect, verify, watch
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingWriter
from rtvla.shm.segment import OFFSETS, Layout, Segment, ensure, path_of

Writer = subprocess.Popen[bytes]
WRITER = """
import sys, time
import numpy as np
from rtvla import schema
from rtvla.clock import now_ns
from rtvla.shm.hub import Hub
hub, count = Hub(sys.argv[1]), int(sys.argv[2])
robot, row = hub.writer("robot"), hub.health_row("policy")
row.state("ready")
row.count("chunks", 7)
row.beat()
record = np.zeros((), schema.ROBOT)
for _ in range(count):
    record["received_ns"], record["joints_deg"] = now_ns(), robot.next_index
    robot.put(record)
robot.slot()[:] = b"\\xff" * schema.ROBOT.itemsize  # in the middle of a record
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start_writer(hub: Hub) -> Iterator[Callable[[int], Writer]]:
    """A process that publishes so many robot states, stays, and is killed by the test or at its end."""
    started: list[Writer] = []

    def start(count: int) -> Writer:
        command = [sys.executable, "-c", WRITER, hub.namespace, str(count)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(child)
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def killed(child: Writer) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()


def rows(hub: Hub) -> dict[str, dict[str, object]]:
    return {str(row["stream"]): row for row in inspect.listing(hub.namespace, 0.02)}


def words_of(path: Path) -> np.ndarray:
    return np.memmap(path, "<u8", "r+")


def problems(hub: Hub) -> list[str]:
    return [finding.problem for finding in verify.verify(hub.namespace, 0.02)[1]]


def test_a_live_and_then_a_killed_writer_are_told_apart(hub: Hub, start_writer: Callable[[int], Writer]) -> None:
    child = start_writer(5)
    live = rows(hub)
    assert {row["writer"] for row in live.values()} == {"alive"} and live["robot"]["pid"] == child.pid
    assert (live["robot"]["records"], live["robot"]["epoch"]) == (5, 1)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but nobody has waited for it yet: a zombie
    assert {row["writer"] for row in rows(hub).values()} == {"dead"}
    child.wait()
    assert {row["writer"] for row in rows(hub).values()} == {"dead"}
    assert problems(hub) == []


def test_a_stream_that_was_let_go_and_one_that_never_had_a_writer(hub: Hub) -> None:
    hub.writer("robot").close()
    hub.reader("command").close()
    assert (rows(hub)["robot"]["writer"], rows(hub)["command"]["writer"]) == ("closed", "none")
    assert problems(hub) == []


@pytest.mark.parametrize(
    ("spoil", "kind", "fault"),
    [
        (lambda path: os.truncate(path, 8192), "misfit", "8192 bytes, its header says"),
        (lambda path: os.truncate(path, 100), "misfit", "less than a header"),
        (lambda path: words_of(path).__setitem__(OFFSETS["magic"] // 8, 7), "misfit", "has magic 0x7"),
        (lambda path: words_of(path).__setitem__(OFFSETS["layout_version"] // 8, 99), "misfit", "layout version 99"),
        (lambda path: words_of(path).__setitem__(OFFSETS["capacity"] // 8, 1000), "misfit", "power of two"),
        (lambda path: words_of(path).__setitem__(OFFSETS["stride"] // 8, 72), "misfit", "has stride 0x48"),
        (lambda path: words_of(path).__setitem__(OFFSETS["schema_hash"] // 8, 1), "misfit", "has schema_hash"),
        (lambda path: words_of(path).__setitem__(inspect.TEXT_AT // 8, 1), "misfit", "what its records are"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/null")), "foreign", "not a regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "foreign", "not a regular file"),
    ],
)
def test_what_is_no_segment_of_ours_is_named_and_not_mapped(
    hub: Hub, spoil: Callable[[Path], object], kind: str, fault: str
) -> None:
    hub.writer("robot").close()
    path = path_of(hub.namespace, "robot")
    spoil(path)
    (row,) = inspect.listing(hub.namespace, 0)
    assert row["kind"] == kind and fault in row["fault"]
    count, findings = verify.verify(hub.namespace, 0)
    assert count == 1 and fault in findings[0].problem and path.name in findings[0].remedy
    found = inspect.examine(path)
    assert found is not None
    with pytest.raises(ShmError, match="robot"):
        inspect.Mapped(found)


def test_random_bytes_never_crash_the_inspector(hub: Hub) -> None:
    path = path_of(hub.namespace, "noise")
    hub.writer("robot").close()
    good = path_of(hub.namespace, "robot").read_bytes()
    random = np.random.default_rng(1)
    for _ in range(200):
        data = bytearray(good)
        for at in random.integers(0, 2048, 4):
            data[at] = random.integers(0, 256)
        path.write_bytes(data)
        inspect.listing(hub.namespace, 0)


def test_a_half_made_segment_is_a_leftover_once_its_maker_is_gone(hub: Hub) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = path_of(hub.namespace, f"robot.{child.pid}.tmp")
    being_made = path_of(hub.namespace, f"sensor.{os.getpid()}.tmp")
    left.write_bytes(b"")
    being_made.write_bytes(b"")
    assert {row["kind"] for row in rows(hub).values()} == {"leftover"}
    assert len(problems(hub)) == 1 and "which is gone" in problems(hub)[0]
    kept = {one.path: verify.kept_because(one, {}) for one in inspect.files(hub.namespace)}
    assert kept == {left: "", being_made: f"is being made by process {os.getpid()}"}


def test_another_version_of_a_stream_is_decoded_by_its_own_description(hub: Hub) -> None:
    old = np.dtype([("index", "<u8"), ("received_ns", "<i8"), ("inner", [("force", "<f4"), ("xy", "<f4", (2, 3))])])
    path, layout = path_of(hub.namespace, "robot"), Layout(old, 8)
    ensure(path, layout)
    writer = RingWriter(Segment(path, layout, writable=True))
    record = np.zeros((), old)
    record["received_ns"], record["inner"]["force"] = now_ns(), 2.5
    writer.put(record)
    found = inspect.examine(path)
    assert found is not None
    one = inspect.Mapped(found)
    fields = decode.decoded("robot", one.last(1)[0])
    assert fields["inner.force"] == 2.5 and fields["inner.xy"].shape == (2, 3)
    assert "schema_hash" in str(rows(hub)["robot"]["fault"]) and "schema_hash" in problems(hub)[0]


def spoiled(hub: Hub, change: Callable[[Segment], None]) -> list[str]:
    writer = hub.writer("robot")
    record = np.zeros((), schema.ROBOT)
    record["received_ns"] = now_ns()
    for _ in range(10):
        writer.put(record)
    writer.close()
    assert problems(hub) == []
    change(Segment(path_of(hub.namespace, "robot"), Hub(hub.namespace).reader("robot")._segment.layout, writable=True))
    return problems(hub)


def in_record(at: int, field: str, value: int) -> Callable[[Segment], None]:
    def change(segment: Segment) -> None:
        segment.array()[at, : schema.ROBOT.itemsize].view(schema.ROBOT)[field] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (in_record(4, "index", 99), "1 records carry another index"),
        (in_record(4, "received_ns", 2**62), "1 records are from the future by received_ns"),
        (lambda segment: segment.__setitem__("epoch", 0), "epoch 0: nobody ever claimed it"),
        (lambda segment: segment.__setitem__("writer_pid", 2**40), "is no process number"),
        (lambda segment: segment.__setitem__("writer_start_ticks", 2**60), "not of this boot"),
        (lambda segment: segment.__setitem__("epoch_first_index", 11), "begins at record 11, the head is at 10"),
    ],
)
def test_each_broken_invariant_is_found(hub: Hub, change: Callable[[Segment], None], problem: str) -> None:
    found = spoiled(hub, change)
    assert len(found) == 1 and problem in found[0]


def test_a_head_that_goes_back_is_found(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = hub.writer("robot")
    record = np.zeros((), schema.ROBOT)
    for _ in range(3):
        writer.put(record)

    def between_the_looks(_seconds: float) -> None:
        writer._head.store(2)

    monkeypatch.setattr(inspect.time, "sleep", between_the_looks)
    assert problems(hub) == ["its head went back from 3 to 2"]


def test_pieces_give_every_record_that_a_reader_may_have_and_no_other(
    hub: Hub, start_writer: Callable[[int], Writer]
) -> None:
    killed(start_writer(3000))
    found = inspect.examine(path_of(hub.namespace, "robot"))
    assert found is not None
    one = inspect.Mapped(found)
    pieces = list(one.pieces())
    indices = np.concatenate([records["index"] for _, records in pieces])
    assert indices.tolist() == list(range(3000 - 1023, 3000))  # all but the slot that the dead writer had in hand
    assert [position for position, _ in pieces] == [int(records["index"][0]) for _, records in pieces]
    joints = np.concatenate([records["joints_deg"] for _, records in pieces])
    assert (joints == indices[:, None]).all()


def test_single_records_stay_as_they_were_when_the_next_is_read(hub: Hub) -> None:
    """Regression: of one record the reader's buffer itself was given out, so the next piece changed the last one."""
    writer = hub.writer("vl_feature")
    record = np.zeros((), schema.VL_FEATURE)
    for dim in (1, 2, 3, 4, 5):
        record["dim"] = dim
        writer.put(record)
    found = inspect.examine(path_of(hub.namespace, "vl_feature"))
    assert found is not None
    pieces = list(inspect.Mapped(found).pieces())
    assert [int(dim) for _, records in pieces for dim in records["dim"]] == [1, 2, 3, 4, 5] and len(pieces) > 2


def test_words_and_used_parts_are_decoded(hub: Hub) -> None:
    command = np.zeros((), schema.COMMAND)
    command["kind"], command["reason"] = 1, 250
    fields = decode.decoded("command", command[()])
    assert (fields["kind"], fields["reason"]) == ("dpose", "250 (unknown)")
    frame = np.zeros((), schema.FRAME)
    frame["camera"], frame["n_bytes"] = b"zed_left", 3
    fields = decode.decoded("frame.View1", frame[()])
    assert fields["camera"] == "zed_left" and len(fields["jpeg"]) == 3


def test_a_health_row_is_one_record(hub: Hub, start_writer: Callable[[int], Writer]) -> None:
    killed(start_writer(1))
    found = inspect.examine(path_of(hub.namespace, "health.policy"))
    assert found is not None
    one = inspect.Mapped(found)
    fields = decode.decoded("health.policy", one.last(5)[0])
    assert (fields["state"], fields["beats"], fields["counters"]) == ("ready", 1, {"chunks": 7})
    assert one.count == 1 and one.writer() == "dead"


def test_a_watcher_counts_what_it_missed_and_follows_a_segment_made_anew(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = hub.writer("command")
    monkeypatch.setattr(watch, "SECOND", 1)  # scan at each look
    watcher = watch.Watch(hub.namespace, 1e10)
    watcher.take()
    record = np.zeros((), schema.COMMAND)
    start = now_ns()
    for at in range(20):
        record["decided_ns"] = start - (20 - at) * 100_000_000
        writer.put(record)
    (row,) = watcher.take()
    assert (row["records"], row["lost"], row["writer_alive"]) == (20, 0, True)
    assert (row["p50_ms"], row["max_ms"]) == (100.0, 100.0)
    for _ in range(3000):
        writer.put(record)
    (row,) = watcher.take()
    assert row["lost"] > 1900
    writer.close()
    hub.purge()
    hub.writer("command").put(record)
    (row,) = watcher.take()
    assert (row["records"], row["lost"]) == (1, 0)
    assert watcher.take() and hub.purge() and watcher.take() == []


def test_records_of_one_datagram_count_as_one_arrival() -> None:
    times = np.repeat(np.arange(0, 50, 10, dtype=np.int64) * 1_000_000, 7)
    assert watch.spacing_ms(times) == {"p50_ms": 10.0, "p99_ms": 10.0, "max_ms": 10.0}
    assert watch.spacing_ms(times[:3])["p50_ms"] is None
