"""One row per process in shared memory: is it alive, does it make progress, what has it counted.

Every field that changes is one aligned 8-byte word with one writer, so no reader can see half of a value. Counters
belong to the run, not to the process: a restarted process goes on counting where its predecessor was killed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rtvla.clock import now_ns
from rtvla.shm.segment import HEADER_BYTES, Layout, Segment, process_start_ticks

MAX_COUNTERS, MAX_GAUGES = 96, 32
STATES = ("absent", "starting", "ready", "stopping", "stopped")

HEALTH = np.dtype(
    [
        ("state", "<u8"),
        ("started_ns", "<i8"),
        ("ready_ns", "<i8"),
        ("heartbeat_ns", "<i8"),
        ("beats", "<u8"),
        ("counter_names", "S40", (MAX_COUNTERS,)),
        ("counters", "<u8", (MAX_COUNTERS,)),
        ("gauge_names", "S40", (MAX_GAUGES,)),
        ("gauges", "<f8", (MAX_GAUGES,)),
        ("note", "S1024"),  # what the kernel granted and refused
    ]
)
LAYOUT = Layout(HEALTH, 1)


def stream_of(process: str) -> str:
    return f"health.{process}"


class HealthRow:
    """The process's own row. Claiming it makes a second process of that name impossible in this namespace."""

    def __init__(self, segment: Segment) -> None:
        segment.claim()
        self._segment = segment
        self._row = segment.array()[:, : HEALTH.itemsize].view(HEALTH)[0, 0]
        self._counters, self._gauges = self._row["counters"], self._row["gauges"]
        self._words = segment.words  # what changes most as words: several times as fast as through numpy
        self._counters_at, self._heartbeat_at, self._beats_at = map(_word_of, ("counters", "heartbeat_ns", "beats"))
        self._counter_at = _known(self._row["counter_names"])
        self._gauge_at = _known(self._row["gauge_names"])
        self._row["state"] = STATES.index("starting")
        self._row["started_ns"] = self._row["heartbeat_ns"] = now_ns()
        self._row["ready_ns"] = 0

    def count(self, name: str, n: int = 1) -> None:
        at = self._counter_at.get(name)
        if at is None:
            at = _register(name, self._row["counter_names"], self._counter_at)
        self._words[self._counters_at + at] += n

    def counter(self, name: str) -> int:
        at = self._counter_at.get(name)
        return 0 if at is None else int(self._counters[at])

    def gauge(self, name: str, value: float) -> None:
        at = self._gauge_at.get(name)
        if at is None:
            at = _register(name, self._row["gauge_names"], self._gauge_at)
        self._gauges[at] = value

    def gauge_value(self, name: str) -> float | None:
        """What this process, or the one it took over from, last set."""
        at = self._gauge_at.get(name)
        return None if at is None else float(self._gauges[at])

    def beat(self) -> None:
        """One round of progress. Called by the loop itself, never by a helper thread."""
        words = self._words
        words[self._heartbeat_at] = now_ns()
        words[self._beats_at] += 1

    def state(self, name: str) -> None:
        if name == "ready":
            self._row["ready_ns"] = now_ns()
        self._row["state"] = STATES.index(name)

    def note(self, text: str) -> None:
        self._row["note"] = text.encode()[:1023]

    def close(self) -> None:
        self._segment.close()


def read_row(segment: Segment) -> dict[str, object]:
    """A row for people and files: state, pid, alive, heartbeat and ready ages, counters, gauges, note."""
    row = segment.array()[:, : HEALTH.itemsize].view(HEALTH)[0, 0]
    now, pid = now_ns(), segment["writer_pid"]
    ticks = segment["writer_start_ticks"]
    alive = bool(ticks) and process_start_ticks(pid) == ticks
    return {
        "state": STATES[min(int(row["state"]), len(STATES) - 1)],
        "pid": pid,
        "alive": alive,
        "generation": segment["epoch"],
        "up_s": (now - int(row["started_ns"])) / 1e9,
        "load_s": (int(row["ready_ns"]) - int(row["started_ns"])) / 1e9 if row["ready_ns"] else None,
        "heartbeat_age_ms": (now - int(row["heartbeat_ns"])) / 1e6,
        "beats": int(row["beats"]),
        "counters": _read(row["counter_names"], row["counters"], int),
        "gauges": _read(row["gauge_names"], row["gauges"], float),
        "note": bytes(row["note"]).decode(errors="replace"),
        **(_used(pid) if alive else {"cpu_seconds": None, "rss_mb": None}),
    }


def _word_of(field: str) -> int:
    offsets = HEALTH.fields
    assert offsets is not None
    return (HEADER_BYTES + int(offsets[field][1])) // 8


def _known(names: np.ndarray) -> dict[str, int]:
    return {bytes(name).decode(): at for at, name in enumerate(names) if name}


def _register(name: str, names: np.ndarray, at_of: dict[str, int]) -> int:
    """A place for a new name; the last one is shared by all that come when the table is full."""
    at = min(len(at_of), len(names) - 1)
    names[at] = (name if at < len(names) - 1 else "other").encode()[:39]
    at_of[name] = at
    return at


def _read(names: np.ndarray, values: np.ndarray, kind: type) -> Mapping[str, object]:
    return {name: kind(values[at]) for name, at in _known(names).items()}


def _used(pid: int) -> dict[str, float | None]:
    """CPU time and resident memory by the kernel's account."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return {"cpu_seconds": None, "rss_mb": None}
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return {"cpu_seconds": ticks / os.sysconf("SC_CLK_TCK"), "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}
