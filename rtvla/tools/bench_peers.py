"""The transports that `rtvla bench shm` compares, behind one face: a sender and a taker, in two processes.

A peer is made in the parent, handed to both processes when they are spawned, and opened there once. A record is
`WORDS` 8-byte words: its index, the time it was sent, then the index again (in every word, at full speed in those of
CHECKED). A taker gives the record in memory of its own (but "in place"), and `check` looks at its words: a transport
that delivers rubbish, or a record twice, fails instead of winning. Here: our ring. The others: bench_lock.py and
bench_libraries.py.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from rtvla import schema
from rtvla.errors import RtvlaError
from rtvla.shm.hub import layout_of
from rtvla.shm.ring import RingReader, RingWriter
from rtvla.shm.segment import Layout, Segment, ensure, path_of
from rtvla.streams import STREAMS

RECORD_BYTES = schema.SENSOR.itemsize
WORDS = RECORD_BYTES // 8
CHECKED = (2, WORDS // 2, WORDS - 1)  # besides the index itself
DEPTH = STREAMS["sensor"].depth  # of every peer's buffer
WAIT_S = 0.1  # the longest that a waiting taker sleeps


class BenchError(RtvlaError):
    """A transport gave something that was not sent, or nothing."""


def check(words: Any, last: int) -> int:
    """The index of a record that is whole and newer than `last`."""
    index = int(words[0])
    if index <= last or any(words[at] != index for at in CHECKED):
        raise BenchError(f"after record {last} came {index} with words {[int(words[at]) for at in CHECKED]}")
    return index


def copy_newest(slots: np.ndarray, head: int, into: np.ndarray) -> None:
    """The floor of a snapshot: numpy copies the newest slots, and nobody asks whether they are whole."""
    at = (head - len(into)) % len(slots)
    tail = min(len(into), len(slots) - at)
    into[:tail] = slots[at : at + tail]
    if tail < len(into):
        into[tail:] = slots[: len(into) - tail]


class Sender:
    """Sends the one buffer that it was opened with, again and again; the first record has index `next_index`."""

    next_index = 0

    def send(self) -> object:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Taker:
    """`take` gives a record or None (at once if it spins, after WAIT_S if it waits); `words` shows it by words."""

    last = -1

    def take(self) -> Any:
        raise NotImplementedError

    def words(self, taken: Any) -> Any:
        return memoryview(taken).cast("B").cast("Q")

    def count(self) -> int:
        """Take what there is, check it, say how many records it was."""
        taken = self.take()
        if taken is None:
            return 0
        self.last = check(self.words(taken), self.last)
        return 1

    def skip(self) -> None:
        """Pass over all that was sent so far."""

    def close(self) -> None:
        pass


class Peer(Protocol):
    name: str

    def sender(self, data: memoryview) -> Sender: ...

    def taker(self) -> Taker: ...

    def close(self) -> None: ...


class RingPeer:
    """Our ring with the sensor stream's own layout."""

    def __init__(self, name: str, namespace: str, *, waits: bool = False) -> None:
        self.name, self._waits = name, waits
        plain = layout_of(STREAMS["sensor"])
        self._layout = Layout(plain.dtype, plain.capacity, plain.burst, wakes=waits)
        self._path = path_of(namespace, name)
        ensure(self._path, self._layout)

    def sender(self, data: memoryview) -> RingSender:
        return RingSender(Segment(self._path, self._layout, writable=True), data)

    def taker(self) -> RingTaker:
        return RingTaker(Segment(self._path, self._layout, writable=False), self._waits)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class RingSender(Sender):
    def __init__(self, segment: Segment, data: memoryview) -> None:
        self._ring, self._data = RingWriter(segment), data
        self.next_index, self.slots = self._ring.next_index, segment.array()[:, :RECORD_BYTES]

    def send(self) -> None:
        self._ring.put_bytes(self._data)

    def close(self) -> None:
        self._ring.close()


class RingTaker(Taker):
    def __init__(self, segment: Segment, waits: bool) -> None:
        self._ring, self.slots, self._waits = RingReader(segment), segment.array(), waits
        self._cursor = self._ring.head

    @property
    def head(self) -> int:
        return self._ring.head

    def take(self) -> Any:
        if self._waits:
            self._ring.wait(self._cursor, WAIT_S)
        records, _lost, self._cursor = self._ring.since(self._cursor, 1)
        return records if len(records) else None

    def words(self, taken: Any) -> Any:
        return taken.view(np.uint64)

    def count(self) -> int:
        ring, cursor = self._ring, self._cursor
        if ring.head == cursor and not (self._waits and ring.wait(cursor, WAIT_S)):
            return 0
        records, _lost, self._cursor = ring.since(cursor, 64)
        words = records.view(np.uint64).reshape(len(records), -1)
        wanted = np.arange(self._cursor - len(records), self._cursor, dtype=np.uint64)
        if not all((words[:, at] == wanted).all() for at in (0, *CHECKED)):
            raise BenchError(f"the {len(records)} records before {self._cursor} hold other indices")
        return len(records)

    def skip(self) -> None:
        self._cursor = self._ring.head

    def snapshot(self, count: int) -> Any:
        return self._ring.latest(count)

    def close(self) -> None:
        self._ring.close()
