"""What the stress jobs write and how they believe nothing: checksummed records, and both ways of publishing them.

Every word of a record is its own index, so any mixture of two writes shows; every eighth record carries a CRC-32 too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np

from rtvla.shm.ring import Records, RingWriter
from rtvla.shm.segment import Layout, Segment

WORDS, CRC_EVERY = 2046, 8  # 16 KiB: a kill lands in the middle of a record more often than one time in ten
DTYPE = np.dtype([("index", "<u8"), ("crc32", "<u8"), ("words", "<u8", (WORDS,))])
FIRST_WORD, END_WORD = 2, DTYPE.itemsize // 8  # of `words`, in the u64 of a slot
HALF_BYTES = DTYPE.itemsize // 2
NO_INDEX = 2**64 - 1  # in the data that is handed over: the ring writes the right one

# The two ways of publishing, and for each the ring that leaves its readers the least room.
LAYOUTS = {"put": Layout(DTYPE, 16, 1, wakes=True), "batch": Layout(DTYPE, 16, 4, wakes=True)}


def crc_of(words: np.ndarray, index: int) -> int:
    return 0 if index % CRC_EVERY else zlib.crc32(words)


class Source:
    """The bytes of record after record, in one buffer."""

    def __init__(self) -> None:
        self._flat = np.full(END_WORD, NO_INDEX, "<u8")
        self._words = self._flat[FIRST_WORD:]
        self.data = memoryview(self._flat).cast("B")

    def fill(self, index: int) -> memoryview:
        self._words.fill(index)
        self._flat[1] = crc_of(self._words, index)
        return self.data


def put(writer: RingWriter, source: Source, _count: int) -> None:
    writer.put_bytes(source.fill(writer.next_index))


def batch(writer: RingWriter, source: Source, count: int) -> None:
    """Straight into the slots, each in two pieces, as the kernel does with a datagram."""
    for ahead in range(count):
        slot, data = writer.slot(ahead), source.fill(writer.next_index + ahead)
        slot[:HALF_BYTES] = data[:HALF_BYTES]
        slot[HALF_BYTES:] = data[HALF_BYTES:]
    writer.commit(count)


PUBLISH: dict[str, Callable[[RingWriter, Source, int], None]] = {"put": put, "batch": batch}


def write(path: Path, way: str) -> None:
    """A writer's whole life, at full speed. It opens the segment itself: with an inherited descriptor it would share
    its parent's lock."""
    writer, source, publish = RingWriter(Segment(path, LAYOUTS[way], writable=True)), Source(), PUBLISH[way]
    for count in cycle((1, 4, 2)):
        publish(writer, source, count)


def is_whole(records: Records) -> bool:
    """Consecutive, and each what was written under its index."""
    index = records["index"]
    if not (np.diff(index) == 1).all() or not (records["words"] == index[:, None]).all():
        return False
    has_crc = index % CRC_EVERY == 0
    if records["crc32"][~has_crc].any():
        return False
    return all(record["crc32"] == zlib.crc32(record["words"]) for record in records[has_crc])


def dirty(slots: np.ndarray, head: int, layout: Layout) -> tuple[bool, bool]:
    """What lies in the writer's hands, behind `head`: (a record that is half there, any word of a record to come).
    `slots` are the slots as u64."""
    half = begun = False
    for index in range(head, head + layout.burst):
        is_new = slots[index % layout.capacity][FIRST_WORD:END_WORD] == index
        begun |= bool(is_new.any())
        half |= bool(is_new.any() and not is_new.all())
    return half, begun
