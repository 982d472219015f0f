"""SIGSTOP at random moments: of readers while they are lapped, and of a writer in the middle of a record."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stress_fork import fork, goes_on, killed, shared, within_limit
from stress_load import LAYOUTS, PUBLISH, Source, dirty, is_whole, write
from stress_readers import REPORT, read

from rtvla.config import namespace
from rtvla.shm.ring import RingReader, RingWriter
from rtvla.shm.segment import Segment, ensure, path_of

Progress = Callable[[int], None]


def stop_follower(progress: Progress, way: str, rounds: int, lapped: int = 0) -> dict[str, Any]:
    """A follower that has seen everything is stopped, so many records are published, it goes on. Nobody publishes while
    it catches up, so what it must count as lost is known to the record."""
    layout, safe = LAYOUTS[way], LAYOUTS[way].capacity - LAYOUTS[way].burst
    exact = [0, 1, safe - 1, safe, safe + 1, layout.capacity, layout.capacity + 1, 3 * layout.capacity + 1]
    with _stream(way) as path, _readers(path, way, ["since"]) as (rows, (pid,)):
        writer, source, row = RingWriter(Segment(path, layout, writable=True)), Source(), rows[0]
        blocked = miscounted = seen = done = 0
        while goes_on(done, rounds, seen, lapped):
            _stop(pid)
            first, lost, count = writer.next_index, int(row["lost"]), exact[done % len(exact)]
            while writer.next_index < first + count:
                PUBLISH[way](writer, source, min(layout.burst, first + count - writer.next_index))
            os.kill(pid, signal.SIGCONT)
            blocked += not within_limit(lambda: row["cursor"] == writer.next_index, lambda: time.sleep(1e-4))
            # who is lapped is sent to the oldest record that is safe, and an eighth of the ring further
            expected = 0 if count <= safe else count - safe + safe // 8
            miscounted += int(row["lost"]) - lost != expected
            seen += expected > 0
            done += 1
            progress(done)
        report = {"rounds": done, "lapped": seen, "miscounted": miscounted, "published": writer.next_index}
        unaccounted = writer.next_index - int(row["records"]) - int(row["lost"])
    return {**report, "unaccounted": unaccounted, "blocked": blocked, "torn_accepted": int(row["torn_accepted"])}


def stop_readers(progress: Progress, way: str, rounds: int, laps: int = 0, mutant: str | None = None) -> dict[str, Any]:
    """Readers beside a writer at full speed, stopped wherever they are until so many copies were lapped inside."""
    kinds = ["latest"] if mutant else ["latest", "since"]
    with _stream(way) as path, _readers(path, way, kinds, mutant) as (rows, pids):
        writer = fork(write, path, way)
        observer = RingReader(Segment(path, LAYOUTS[way], writable=False))
        blocked = done = 0
        while goes_on(done, rounds, int(rows["laps"].sum()), laps) and not (mutant and rows["torn_accepted"].any()):
            time.sleep(random.random() * 2e-3)
            for pid in pids:
                _stop(pid)
            lapped = observer.head + 2 * LAYOUTS[way].capacity
            blocked += not _passes(observer, lapped)  # the writer does not care who stands still
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            done += 1
            progress(done)
        killed(writer)
    sums = {name: int(rows[name].sum()) for name in ("records", "torn_accepted", "laps", "lost", "head_went_back")}
    return {"rounds": done, **sums, "published": observer.head, "blocked": blocked}


def stop_writer(progress: Progress, way: str, rounds: int, mid_write: int = 0) -> dict[str, Any]:
    """A writer is stopped wherever it is, until so often in the middle of a record. Windows are whole, at once."""
    with _stream(way) as path:
        layout, pid = LAYOUTS[way], fork(write, path, way)
        seen = Segment(path, layout, writable=False)
        reader, slots = RingReader(seen), seen.array().view("<u8")
        halves = torn = blocked = called_dead = done = 0
        while goes_on(done, rounds, halves, mid_write):
            blocked += not _passes(reader, reader.head + layout.capacity)
            time.sleep(random.random() * 400e-6)
            _stop(pid)
            head = reader.head
            halves += dirty(slots, head, layout)[0]
            window = reader.latest(layout.capacity - layout.burst)  # head stands still: no copy is refused
            torn += window is None or not is_whole(window) or int(window["index"][-1]) != head - 1
            called_dead += not reader.writer_alive() or reader.wait(head, 0.001)
            os.kill(pid, signal.SIGCONT)
            done += 1
            progress(done)
        killed(pid)
        report = {"rounds": done, "mid_write": halves, "torn_accepted": torn, "refused_copies": reader.retries}
        return {**report, "called_dead": called_dead, "called_alive": int(reader.writer_alive()), "blocked": blocked}


@contextmanager
def _stream(way: str) -> Iterator[Path]:
    path = path_of(namespace(), f"stop-{way}")
    ensure(path, LAYOUTS[way])
    try:
        yield path
    finally:
        path.unlink()


@contextmanager
def _readers(path: Path, way: str, kinds: list[str], mutant: str | None = None) -> Iterator[tuple[Any, list[int]]]:
    """Reader processes and their rows; once they are gone, the rows are final."""
    rows = shared(REPORT, len(kinds))
    pids = [fork(read, path, way, kind, row, mutant) for kind, row in zip(kinds, rows, strict=True)]
    assert within_limit(lambda: bool((rows["calls"] > 0).all()), lambda: time.sleep(1e-3))
    yield rows, pids
    rows["stop"] = 1
    for pid in pids:
        if status := os.waitpid(pid, 0)[1]:
            raise RuntimeError(f"a reader ended with status {status}")


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def _passes(observer: RingReader, target: int) -> bool:
    return within_limit(lambda: observer.head >= target, lambda: observer.wait(observer.head, 0.05))
