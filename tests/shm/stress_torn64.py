"""The store of the head beside a tight reader: no value is ever seen that was not stored."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from typing import Any

from stress_fork import fork, goes_on, killed

from rtvla import rt
from rtvla.shm.atomics import Counter

# no two bytes at the same place are alike, so any mixture is neither; and a store that clears first shows zeros
ONE, OTHER = 0x1111111111111111, 0xEEEEEEEEEEEEEEEE
AT_BYTES = 128
STORES: dict[str, Callable[[mmap.mmap], Callable[[int], object]]] = {
    "counter": lambda mapping: Counter(memoryview(mapping).cast("Q"), AT_BYTES).store,
    "pack_into": lambda mapping: lambda value: struct.pack_into("<Q", mapping, AT_BYTES, value),
}


def torn64(progress: Callable[[int], None], reads: int, changes_seen: int, store: str = "counter") -> dict[str, Any]:
    """One process stores two values in turn, this one loads them, on another core if there is one. At least so many
    loads, until the value has changed between two of them so often."""
    cores = sorted(os.sched_getaffinity(0))
    mapping = mmap.mmap(-1, 4096)
    load = Counter(memoryview(mapping).cast("Q"), AT_BYTES).load
    STORES[store](mapping)(ONE)
    pid = fork(_alternate, STORES[store](mapping), cores[-1])
    rt.pin((cores[0],))
    done = torn = seen = 0
    last = ONE
    while goes_on(done, reads, seen, changes_seen):
        for _ in range(10_000):
            value = load()
            torn += value not in (ONE, OTHER)
            seen += value != last
            last = value
        done += 10_000
        progress(done)
    killed(pid)
    return {"reads": done, "changes_seen": seen, "torn_accepted": torn}


def _alternate(store: Callable[[int], object], core: int) -> None:
    rt.pin((core,))
    while True:
        store(ONE)
        store(OTHER)
