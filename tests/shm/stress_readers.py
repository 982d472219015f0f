"""Readers in processes of their own that check everything they are given, and the board on which they report it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from stress_load import LAYOUTS, is_whole

from rtvla.clock import now_ns
from rtvla.errors import ShmError
from rtvla.shm.ring import RingReader
from rtvla.shm.segment import Layout, Segment

# One row a reader, written by nobody else (but `stop`). `records` were accepted and checked, `windows` of them by
# latest; `lost` is what since said; `laps` are copies that the ring threw away; `starved` calls gave up after their
# tries and said so; `entered_ns` is when the call began that the reader is in now, 0 between two calls.
REPORT = np.dtype(
    [
        (name, "<u8")
        for name in (
            "windows",
            "records",
            "torn_accepted",
            "laps",
            "lost",
            "starved",
            "head_went_back",
            "calls",
            "longest_call_ns",
            "entered_ns",
            "cursor",
            "stop",
        )
    ]
)
WAIT_S = 0.2

# Readers with a broken lap check, which must be seen to take torn records: the largest `head - first` that they accept,
# and their largest window, of `safe` and `capacity`.
MUTANTS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "off_by_one": lambda safe, _capacity: (safe + 1, safe + 1),
    "forgets_burst": lambda _safe, capacity: (capacity - 1, capacity - 1),
    "no_check": lambda safe, _capacity: (2**63, safe),
}


class Checked:
    """A reader that holds what it is given against what was written, and counts."""

    def __init__(self, path: Path, layout: Layout, row: np.void, mutant: str | None = None) -> None:
        self.row, self._capacity = row, layout.capacity
        self.reader = RingReader(Segment(path, layout, writable=False))
        self.largest = layout.capacity - layout.burst
        if mutant:
            assert self.reader._safe == self.largest, "the lap check is made elsewhere now: break it there"
            self.reader._safe, self.largest = MUTANTS[mutant](self.largest, layout.capacity)
        self._head = self.reader.head
        row["cursor"] = self._head

    def latest(self, count: int) -> None:
        self._timed(lambda: self._latest(count))

    def since(self) -> None:
        self._timed(self._since)

    def wait(self) -> None:
        self._timed(lambda: self.reader.wait(int(self.row["cursor"]), WAIT_S))

    def _timed(self, call: Callable[[], object]) -> None:
        began_ns = now_ns()
        self.row["entered_ns"] = began_ns
        call()
        self.row["entered_ns"] = 0
        self.row["calls"] += 1
        self.row["longest_call_ns"] = max(int(self.row["longest_call_ns"]), now_ns() - began_ns)
        self.row["laps"] = self.reader.retries
        head = self.reader.head
        self.row["head_went_back"] += head < self._head
        self._head = head

    def _latest(self, count: int) -> None:
        head = self.reader.head
        try:
            window = self.reader.latest(count)
        except ShmError:
            self.row["starved"] += 1
            return
        if window is not None:
            is_newest = head <= int(window["index"][-1]) + 1 <= self.reader.head
            self.row["windows"] += 1
            self.row["records"] += len(window)
            self.row["torn_accepted"] += not (is_newest and is_whole(window))

    def _since(self) -> None:
        cursor, head = int(self.row["cursor"]), self.reader.head
        records, lost, after = self.reader.since(cursor, self._capacity)
        self.row["lost"] += lost
        self.row["records"] += len(records)
        if len(records):
            is_next = records["index"][0] == cursor + lost and after == cursor + lost + len(records)
            self.row["torn_accepted"] += not (is_next and is_whole(records))
        else:
            self.row["starved"] += cursor < head
        self.row["cursor"] = after  # last: who sees it sees the rest


def spin_latest(checked: Checked) -> None:
    for count in (1, 5, checked.largest):
        checked.latest(count)


def wait_and_follow(checked: Checked) -> None:
    checked.wait()
    checked.since()


READERS: dict[str, Callable[[Checked], None]] = {"latest": spin_latest, "since": Checked.since, "wait": wait_and_follow}


def read(path: Path, way: str, kind: str, row: np.void, mutant: str | None = None) -> None:
    checked = Checked(path, LAYOUTS[way], row, mutant)
    while not row["stop"]:
        READERS[kind](checked)
