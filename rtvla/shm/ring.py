"""Single-writer, many-reader overwriting ring. The writer never waits; a reader proves that its copy is whole.

    writer   F_w | fill slots [n, n+c) | release: head = n + c
    reader   h = head | acquire | copy [h-k, h) | F_r | h2 = head;  whole  <=>  h2 - (h-k) <= capacity - burst

`burst` slots after the head may be in the writer's hands at any time (it receives a batch straight into them), so the
oldest index that nobody is overwriting is head - (capacity - burst). With burst 1 this is the strict "< capacity".
F_w keeps the previous head store before the next slot stores; F_r keeps the slot loads before the second head load.
"""

from __future__ import annotations

import os
import select
from typing import Any

import numpy as np

from rtvla.clock import SECOND, now_ns
from rtvla.errors import ShmError
from rtvla.shm.atomics import Counter, full_fence
from rtvla.shm.segment import HEADER_BYTES, OFFSETS, Segment, process_start_ticks
from rtvla.shm.wakeup import Waiter, waker

Records = np.ndarray[Any, np.dtype[np.void]]
_TRIES = 16
_KEPT_WINDOWS = 128


def padded(dtype: np.dtype[np.void], stride: int) -> np.dtype[np.void]:
    """The record type at slot distance, so that a window of slots is one structured array."""
    names = dtype.names or ()
    formats = [dtype.fields[name][0] for name in names] if dtype.fields else []
    offsets = [dtype.fields[name][1] for name in names] if dtype.fields else []
    return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": stride})


def packed(records: Records, dtype: np.dtype[np.void]) -> Records:
    """A copy of records at slot distance as records without padding, as files and other rooms want them."""
    raw = np.frombuffer(records, np.uint8).reshape(len(records), records.dtype.itemsize)
    return raw[:, : dtype.itemsize].copy().view(dtype)[:, 0]


class RingWriter:
    """The one writer of a stream. Not thread-safe. Killed at any instant, it leaves nothing that a reader accepts."""

    def __init__(self, segment: Segment) -> None:
        segment.claim()
        self._segment = segment
        layout = segment.layout
        self.burst = layout.burst
        self.capacity, self._mask = layout.capacity, layout.capacity - 1
        self._head = Counter(segment.words, OFFSETS["head"])
        self.next_index = self._head.load()  # a successor goes on where the last writer published
        self._fence = full_fence()
        self._wake = waker(segment.words, OFFSETS["head"]) if layout.wakes else None
        if self._wake:
            self._wake()  # for a predecessor that was killed between its store and its wake-up
        starts = range(HEADER_BYTES, HEADER_BYTES + layout.capacity * layout.stride, layout.stride)
        self.slots = [segment.view[at : at + layout.dtype.itemsize] for at in starts]
        self.records = segment.array().view(padded(layout.dtype, layout.stride))[:, 0]
        # a record begins with its own index: the first words of all slots
        self._indices = segment.words[HEADER_BYTES // 8 : layout.size // 8 : layout.stride // 8]
        self._store = self._head.store

    def begin(self) -> int:
        """The place in `slots` and `records` of record `next_index`, which may be filled from now on."""
        if self._fence:
            self._fence()  # F_w, as in slot
        return self.next_index & self._mask

    def slot(self, ahead: int = 0) -> memoryview:
        """The bytes of record `next_index + ahead` (ahead < burst), to be filled in place and then committed."""
        if self._fence and ahead == 0:
            self._fence()  # F_w, pairs with F_r in RingReader
        return self.slots[(self.next_index + ahead) & self._mask]

    def record(self, ahead: int = 0) -> np.void:
        """The same slot as a structured record that writes through."""
        record: np.void = self.records[(self.next_index + ahead) & self._mask]
        return record

    def commit(self, count: int = 1) -> None:
        """Publish the next `count` slots, which the caller has filled."""
        index, end = self.next_index, self.next_index + count
        while index < end:
            self._indices[index & self._mask] = index
            index += 1
        self._store(end)  # release: pairs with the first head load of every reader
        self.next_index = end
        if self._wake:
            self._wake()  # after the store: who goes to sleep from now on sees the new head

    def put(self, record: np.void | Records) -> int:
        """Copy one record into the next slot and publish it. Returns its index."""
        return self.put_bytes(record.tobytes())

    def put_bytes(self, data: bytes | memoryview) -> int:
        """The same for the bytes of a record; its index field is written for it."""
        if self._fence:
            self._fence()  # F_w, as in slot
        index = self.next_index
        at = index & self._mask
        self.slots[at][:] = data
        self._indices[at] = index  # from here as in commit, without its loop
        self._store(index + 1)
        self.next_index = index + 1
        if self._wake:
            self._wake()
        return index

    def close(self) -> None:
        self._segment.close()


class RingReader:
    """One reader with its own buffers. Arrays it returns are valid until its next call."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        layout = segment.layout
        self._capacity, self._mask = layout.capacity, layout.capacity - 1
        self._safe = layout.capacity - layout.burst
        self._dtype = padded(layout.dtype, layout.stride)
        self._head = Counter(segment.words, OFFSETS["head"])
        self._fence = full_fence()
        self._load = self._head.load
        self._stride, self._bytes = layout.stride, segment.view[HEADER_BYTES : layout.size]
        self._slots = [self._bytes[at : at + layout.stride] for at in range(0, len(self._bytes), layout.stride)]
        self._buffer = np.empty((0, layout.stride), np.uint8)
        self._windows: dict[int, tuple[Records, memoryview]] = {}  # by number of records: the buffer as both, made once
        self._nothing = self._window(0)[0]
        self.retries = 0
        self._waiter: Waiter | None = None
        self._epoch = Counter(segment.words, OFFSETS["epoch"])
        self._watched: tuple[int, int] = (0, -1)  # writer epoch, pidfd

    @property
    def head(self) -> int:
        """Records published so far."""
        return self._head.load()

    @property
    def oldest(self) -> int:
        """The first index that a follower who starts now can read without being lapped at once."""
        return max(0, self._head.load() - self._safe + self._safe // 8)

    def latest(self, count: int) -> Records | None:
        """The newest `count` records, oldest first, or None while fewer were ever published."""
        if count > self._safe:
            raise ShmError(f"{self._segment.path.name}: a window of {count} does not fit (at most {self._safe})")
        for _ in range(_TRIES):
            head = self._head.load()
            if head < count:
                return None
            window = self._copy(head - count, count)
            if window is not None:
                return window
            self.retries += 1
        raise ShmError(f"{self._segment.path.name}: overrun {_TRIES} times in a row; this reader gets no CPU time")

    def newest(self) -> np.void | None:
        window = self.latest(1)
        if window is None:
            return None
        record: np.void = window[0]
        return record

    def since(self, cursor: int, at_most: int) -> tuple[Records, int, int]:
        """Up to `at_most` records from index `cursor` on: (records, lost, next cursor). `lost` counts those that were
        overwritten before we came (overrun); they are never skipped in silence."""
        lost = 0
        for _ in range(_TRIES):
            head = self._load()
            count = head - cursor
            if count <= 0:  # nothing yet; or the stream was made anew, and whatever it held before is gone
                return self._nothing, lost, head
            if count > self._safe:
                target = head - self._safe + self._safe // 8  # a margin, or a fast writer laps us again at once
                lost, cursor, count = lost + target - cursor, target, head - target
            if count > at_most:  # noqa: PLR1730  a call of min() costs as much as loading the head
                count = at_most
            window = self._copy(cursor, count)
            if window is not None:
                return window, lost, cursor + count
            self.retries += 1
        return self._nothing, lost, cursor

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep without CPU until more than `seen` records are published. False: not yet, after the timeout or a
        signal. Only streams whose layout `wakes` come sooner than the timeout."""
        if self._head.load() == seen:
            if self._waiter is None:
                self._waiter = Waiter(self._segment.words, OFFSETS["head"])
            ends_ns = now_ns() + int(timeout_s * SECOND)
            while self._waiter.wait(seen, (ends_ns - now_ns()) / SECOND) and self._head.load() == seen:
                if now_ns() >= ends_ns:
                    break
        return self._head.load() != seen

    def writer_alive(self) -> bool:
        """Whether the process that last claimed the stream still lives. One poll() a call; no lock, no waiting."""
        epoch = self._epoch.load()  # acquire: pairs with the release in Segment.claim
        if epoch == 0:
            return False
        if self._watched[0] != epoch:
            self._watch(epoch)
        pidfd = self._watched[1]
        if pidfd < 0:
            return False
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        if self._watched[1] >= 0:
            os.close(self._watched[1])
            self._watched = (0, -1)
        self._segment.close()

    def _watch(self, epoch: int) -> None:
        if self._watched[1] >= 0:
            os.close(self._watched[1])
        pid, ticks = self._segment["writer_pid"], self._segment["writer_start_ticks"]
        try:
            pidfd = os.pidfd_open(pid) if 0 < pid < 2**31 else -1  # whatever a header says, this does not fail
        except ProcessLookupError:
            pidfd = -1
        if pidfd >= 0 and process_start_ticks(pid) not in (0, ticks):  # another process got the number
            os.close(pidfd)
            pidfd = -1
        self._watched = (epoch, pidfd)

    def _window(self, count: int) -> tuple[Records, memoryview]:
        """The first `count` slots of the buffer, as records and as bytes."""
        if len(self._buffer) < count:
            self._buffer = np.empty((count, self._stride), np.uint8)
            self._windows.clear()
        raw = self._buffer[:count]
        window = raw.view(self._dtype)[:, 0], raw.reshape(-1).data
        if len(self._windows) < _KEPT_WINDOWS:
            self._windows[count] = window
        return window

    def _copy(self, first: int, count: int) -> Records | None:
        """Copy [first, first+count); None if the writer may have touched any of it meanwhile."""
        window = self._windows.get(count) or self._window(count)
        at = first & self._mask
        if count == 1:
            window[1][:] = self._slots[at]
        elif at + count <= self._capacity:
            window[1][:] = self._bytes[at * self._stride : (at + count) * self._stride]
        else:
            tail = (self._capacity - at) * self._stride
            window[1][:tail] = self._bytes[at * self._stride :]
            window[1][tail:] = self._bytes[: len(window[1]) - tail]
        if self._fence:
            self._fence()  # F_r: no slot load after the second head load (pairs with F_w in slot)
        if self._load() - first > self._safe:
            return None
        return window[0]
