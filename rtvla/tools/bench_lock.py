"""What one would write first, as a peer of `rtvla bench shm`: multiprocessing.shared_memory and a Lock."""

from __future__ import annotations

from multiprocessing import shared_memory
from multiprocessing.context import SpawnContext
from typing import Any

import numpy as np

from rtvla.tools.bench_peers import DEPTH, RECORD_BYTES, Sender, Taker, copy_newest


class LockPeer:
    """Slots in multiprocessing.shared_memory, and a Lock around each access; the taker spins on the head."""

    name = "shm_lock"

    def __init__(self, context: SpawnContext) -> None:
        self.memory = shared_memory.SharedMemory(create=True, size=4096 + DEPTH * RECORD_BYTES)
        self.lock = context.Lock()

    def sender(self, data: memoryview) -> LockSender:
        return LockSender(self, data)

    def taker(self) -> LockTaker:
        return LockTaker(self)

    def views(self) -> tuple[memoryview, memoryview]:
        """The count of records, as one word, and the bytes of the slots."""
        assert self.memory.buf is not None
        return self.memory.buf[:8].cast("Q"), self.memory.buf[4096:]

    def close(self) -> None:
        self.memory.close()
        self.memory.unlink()


class LockSender(Sender):
    def __init__(self, peer: LockPeer, data: memoryview) -> None:
        self._lock, self._memory, self._data = peer.lock, peer.memory, data
        self._head, self._bytes = peer.views()
        self.next_index = self._head[0]

    def send(self) -> None:
        with self._lock:
            at = self._head[0] % DEPTH * RECORD_BYTES
            self._bytes[at : at + RECORD_BYTES] = self._data
            self._head[0] += 1

    def close(self) -> None:
        self._head.release()
        self._bytes.release()
        self._memory.close()


class LockTaker(Taker):
    def __init__(self, peer: LockPeer) -> None:
        self._lock, self._memory = peer.lock, peer.memory
        self._head, self._bytes = peer.views()
        self.slots = np.frombuffer(self._bytes, np.uint8, DEPTH * RECORD_BYTES).reshape(DEPTH, -1)
        self._cursor, self._own, self._window = self.head, bytearray(RECORD_BYTES), np.empty((0, RECORD_BYTES), "u1")

    @property
    def head(self) -> int:
        return self._head[0]

    def take(self) -> Any:
        if self._head[0] == self._cursor:
            return None
        with self._lock:
            cursor = max(self._cursor, self._head[0] - DEPTH)
            at = cursor % DEPTH * RECORD_BYTES
            self._own[:] = self._bytes[at : at + RECORD_BYTES]
        self._cursor = cursor + 1
        return self._own

    def snapshot(self, count: int) -> Any:
        if len(self._window) != count:
            self._window = np.empty((count, RECORD_BYTES), np.uint8)
        with self._lock:
            copy_newest(self.slots, self._head[0], self._window)
        return self._window

    def skip(self) -> None:
        self._cursor = self.head

    def close(self) -> None:
        del self.slots
        self._head.release()
        self._bytes.release()
        self._memory.close()
