"""The ring in one process: wrap, windows, overruns, take-over, and everything that is refused."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvla.errors import ShmError
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader, RingWriter, packed
from rtvla.shm.segment import FOLDER, Layout, Segment, ensure

DTYPE = np.dtype([("index", "<u8"), ("value", "<i8"), ("body", "<u8", (5,))])


@pytest.fixture
def opened(hub: Hub, request: pytest.FixtureRequest) -> tuple[RingWriter, RingReader]:
    layout = Layout(DTYPE, *getattr(request, "param", (8, 1)))
    path = FOLDER / f"rtvla.{hub.namespace}.ring"
    ensure(path, layout)
    return RingWriter(Segment(path, layout, writable=True)), RingReader(Segment(path, layout, writable=False))


def put(writer: RingWriter, count: int) -> None:
    for _ in range(count):
        record = np.zeros((), DTYPE)
        record["value"] = record["body"] = writer.next_index
        writer.put(record)


def test_there_is_no_window_before_enough_was_written(opened: tuple[RingWriter, RingReader]) -> None:
    writer, reader = opened
    put(writer, 3)
    assert reader.latest(4) is None
    assert reader.newest() is not None


def test_a_window_is_oldest_first_across_the_wrap(opened: tuple[RingWriter, RingReader]) -> None:
    writer, reader = opened
    put(writer, 21)
    window = reader.latest(5)
    assert window is not None
    assert window["index"].tolist() == window["value"].tolist() == [16, 17, 18, 19, 20]
    assert (window["body"] == window["value"][:, None]).all()


def test_a_window_that_can_never_be_whole_is_refused(opened: tuple[RingWriter, RingReader]) -> None:
    with pytest.raises(ShmError, match="at most 7"):
        opened[1].latest(8)


def test_a_follower_gets_every_record_once_and_the_lost_ones_counted(opened: tuple[RingWriter, RingReader]) -> None:
    writer, reader = opened
    got: list[int] = []
    lost = cursor = 0
    for burst in (3, 5, 0, 20, 1, 7, 40):
        put(writer, burst)
        while cursor < writer.next_index:
            records, missed, cursor = reader.since(cursor, 4)
            got += records["index"].tolist()
            lost += missed
    assert len(got) + lost == writer.next_index == 76
    assert got == sorted(set(got)) and lost > 0


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_received_and_lost_always_add_up(bursts: list[int], at_most: int) -> None:
    layout = Layout(DTYPE, 16, 3)
    path = FOLDER / f"rtvla.test-hyp-{os.getpid()}.ring"
    ensure(path, layout)
    try:
        writer = RingWriter(Segment(path, layout, writable=True))
        reader = RingReader(Segment(path, layout, writable=False))
        seen = lost = cursor = 0
        for burst in bursts:
            put(writer, burst)
            records, missed, cursor = reader.since(cursor, at_most)
            seen, lost = seen + len(records), lost + missed
            assert (records["index"] == records["value"]).all()
        assert seen + lost == cursor <= writer.next_index
        writer.close()
    finally:
        path.unlink()


@pytest.mark.parametrize("opened", [(16, 4)], indirect=True)
def test_slots_in_the_writers_hands_are_never_given_to_a_reader(opened: tuple[RingWriter, RingReader]) -> None:
    writer, reader = opened
    put(writer, 40)
    for ahead in range(4):  # a batch is being received: four slots after the head are dirty
        writer.slot(ahead)[:] = b"\xff" * DTYPE.itemsize
    window = reader.latest(12)
    assert window is not None and window["index"].tolist() == list(range(28, 40))
    records, lost, _cursor = reader.since(0, 100)
    assert (records["index"] == records["value"]).all() and lost + len(records) == 40


@pytest.mark.parametrize("opened", [(16, 4)], indirect=True)
def test_a_batch_becomes_visible_in_one_step(opened: tuple[RingWriter, RingReader]) -> None:
    writer, reader = opened
    for ahead in range(3):
        writer.slot(ahead)
        writer.record(ahead)["value"] = 100 + ahead
    assert reader.head == 0
    writer.commit(3)
    window = reader.latest(3)
    assert window is not None and window["value"].tolist() == [100, 101, 102] and window["index"].tolist() == [0, 1, 2]


def test_a_torn_copy_is_thrown_away_and_read_again(opened: tuple[RingWriter, RingReader]) -> None:
    writer, reader = opened
    put(writer, 8)
    honest, laps = reader._head.load, iter([True, False])

    def load() -> int:  # the writer laps the reader once, between its copy and its second look
        head = honest()
        if next(laps, False):
            put(writer, 9)
        return head

    reader._head.load = load
    window = reader.latest(7)
    assert window is not None and reader.retries == 1
    assert window["index"].tolist() == window["value"].tolist() == list(range(10, 17))


def test_a_second_writer_is_refused_and_a_reader_cannot_write(opened: tuple[RingWriter, RingReader], hub: Hub) -> None:
    path = FOLDER / f"rtvla.{hub.namespace}.ring"
    with pytest.raises(ShmError, match=f"already has a writer .pid {os.getpid()}"):
        RingWriter(Segment(path, Layout(DTYPE, 8), writable=True))
    with pytest.raises(TypeError):
        opened[1]._segment["head"] = 7


def test_a_successor_goes_on_where_the_last_writer_published(opened: tuple[RingWriter, RingReader], hub: Hub) -> None:
    writer, reader = opened
    put(writer, 5)
    writer.slot()[:] = b"\xff" * DTYPE.itemsize  # killed here: written, not committed
    epoch = reader._segment["epoch"]
    writer.close()
    again = RingWriter(Segment(FOLDER / f"rtvla.{hub.namespace}.ring", Layout(DTYPE, 8), writable=True))
    assert again.next_index == 5 and reader._segment["epoch"] == epoch + 1
    put(again, 1)
    window = reader.latest(6)
    assert window is not None and window["value"].tolist() == [0, 1, 2, 3, 4, 5]


def test_another_layout_is_refused_by_name_with_the_remedy(opened: tuple[RingWriter, RingReader], hub: Hub) -> None:
    path = FOLDER / f"rtvla.{hub.namespace}.ring"
    other = np.dtype([("index", "<u8"), ("value", "<f8"), ("body", "<u8", (5,))])
    with pytest.raises(ShmError, match="schema_hash.*rtvla down --purge"):
        Segment(path, Layout(other, 8), writable=False)
    with pytest.raises(ShmError, match="bytes, this version needs"):
        Segment(path, Layout(DTYPE, 16), writable=False)
    with pytest.raises(ShmError, match="has burst"):
        Segment(path, Layout(DTYPE, 8, 2), writable=False)


def test_an_absent_segment_is_an_error_that_says_so(namespace: str) -> None:
    with pytest.raises(ShmError, match="not up in this namespace"):
        Segment(FOLDER / f"rtvla.{namespace}.none", Layout(DTYPE, 8), writable=False)


def test_no_space_is_an_error_at_creation_and_leaves_nothing(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _at: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ShmError, match="No space left on device; free /dev/shm"):
        ensure(FOLDER / f"rtvla.{namespace}.big", Layout(DTYPE, 8))


def test_a_reader_knows_when_the_writers_process_has_died(hub: Hub) -> None:
    code = (
        "import sys, numpy as np; from rtvla.shm.hub import Hub; from rtvla import schema\n"
        f"w = Hub({hub.namespace!r}).writer('action_chunk'); w.put(np.zeros((), schema.CHUNK))\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"up\n"
    reader = hub.reader("action_chunk")
    lived = reader.writer_alive()
    child.kill()
    child.wait()
    assert lived
    assert not reader.writer_alive()
    assert reader.newest() is not None  # what it published stays
    child.communicate()


def test_a_stream_nobody_ever_wrote_has_no_live_writer(hub: Hub) -> None:
    assert not hub.reader("robot").writer_alive()


def test_records_for_other_rooms_are_copies(opened: tuple[RingWriter, RingReader]) -> None:
    """Regression: a single record came as a view of the reader's buffer, which its next read overwrites."""
    writer, reader = opened
    put(writer, 1)
    records, _lost, _cursor = reader.since(0, 1)
    kept = packed(records, DTYPE)
    put(writer, 1)
    reader.since(1, 1)
    assert kept["value"].tolist() == [0] and kept.dtype == DTYPE


def test_a_tool_that_probes_does_not_get_a_starting_writer_refused(
    opened: tuple[RingWriter, RingReader], hub: Hub
) -> None:
    """Regression: the probe takes a shared lock for an instant, and a writer that started then was refused."""
    opened[0].close()
    path = FOLDER / f"rtvla.{hub.namespace}.ring"
    probe = os.open(path, os.O_RDONLY)
    fcntl.flock(probe, fcntl.LOCK_SH)
    threading.Timer(0.03, lambda: os.close(probe)).start()
    RingWriter(Segment(path, Layout(DTYPE, 8), writable=True)).close()
