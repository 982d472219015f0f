"""The head on its way across every boundary of a number: 31 and 32 bits (the futex compares the low half), 53 bits
(where a float ends), 63 bits (where a signed word does). It starts there, as it never would."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader, RingWriter
from rtvla.shm.segment import Layout, Segment, ensure, path_of

pytestmark = pytest.mark.stress
DTYPE = np.dtype([("index", "<u8"), ("body", "<u8", (7,))])
LAYOUT = Layout(DTYPE, 8, 3, wakes=True)
SAFE = LAYOUT.capacity - LAYOUT.burst
STARTS = [0, 1, 2**31 - 9, 2**32 - 9, 2**53 - 9, 2**63 - 9, 2**64 - 40]


def opened(hub: Hub, stream: str, start: int) -> tuple[RingWriter, RingReader]:
    path = path_of(hub.namespace, stream)
    ensure(path, LAYOUT)
    segment = Segment(path, LAYOUT, writable=True)
    segment["head"] = start
    return RingWriter(segment), RingReader(Segment(path, LAYOUT, writable=False))


def publish(writer: RingWriter, count: int) -> None:
    for ahead in range(count):
        writer.slot(ahead)[8:] = np.full(7, writer.next_index + ahead, "<u8").tobytes()
    writer.commit(count)


@pytest.mark.parametrize("start", STARTS)
def test_windows_and_followers_cross_it_without_a_gap(hub: Hub, start: int) -> None:
    writer, reader = opened(hub, "crossing", start)
    cursor, got = start, []
    for round_number in range(16):
        publish(writer, round_number % LAYOUT.burst + 1)
        records, lost, cursor = reader.since(cursor, 8)
        assert lost == 0 and (records["body"] == records["index"][:, None]).all()
        got += records["index"].tolist()
        count = min(SAFE, writer.next_index - start)
        window = reader.latest(count)
        assert window is not None and (window["body"] == window["index"][:, None]).all()
        assert window["index"].tolist() == list(range(writer.next_index - count, writer.next_index))
    assert got == list(range(start, writer.next_index)) and cursor == writer.next_index == reader.head == start + 31


@pytest.mark.parametrize("start", STARTS)
def test_what_is_overwritten_across_it_is_counted(hub: Hub, start: int) -> None:
    writer, reader = opened(hub, "lapped", start)
    for _ in range(7):
        publish(writer, 3)
    records, lost, cursor = reader.since(start, 100)
    assert lost == 21 - SAFE and records["index"].tolist() == list(range(start + lost, start + 21))
    assert cursor == start + 21


@pytest.mark.parametrize("start", STARTS)
def test_no_wake_up_is_lost_across_it(hub: Hub, start: int) -> None:
    """A reader sleeps before each record and answers it; a lost wake-up would cost it a whole minute."""
    writer, reader = opened(hub, "asked", start)
    answerer, answers = opened(hub, "answered", start)
    end, woken = start + 16, []

    def answer() -> None:
        for seen in range(start, end):
            woken.append(reader.wait(seen, 60.0))
            publish(answerer, 1)

    sleeper = threading.Thread(target=answer)
    sleeper.start()
    for seen in range(start, end):
        publish(writer, 1)
        assert answers.wait(seen, 60.0)
    sleeper.join()
    assert woken == [True] * 16 and answers.head == end


@pytest.mark.parametrize("start", [0, 5, 2**32 - 1])
def test_a_head_with_the_same_low_half_is_another_head(hub: Hub, start: int) -> None:
    """2^32 records later the futex word looks as it did; the reader does not ask it then."""
    _writer, reader = opened(hub, "same_half", start + 2**32)
    reader._waiter = None
    assert reader.wait(start, 60.0)
    assert reader._waiter is None, "it went to sleep on a word that had not changed"


def test_a_successor_goes_on_behind_it(hub: Hub) -> None:
    writer, reader = opened(hub, "restarted", 2**32 - 2)
    for expected in range(2**32 - 2, 2**32 + 3):
        assert writer.next_index == expected
        publish(writer, 1)
        writer.slot()[:] = b"\xff" * DTYPE.itemsize
        writer.close()
        writer = RingWriter(Segment(path_of(hub.namespace, "restarted"), LAYOUT, writable=True))
        window = reader.latest(1)
        assert window is not None and window["index"][0] == window["body"][0, 6] == expected
