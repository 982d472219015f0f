"""Writers at full speed, one after the other killed with SIGKILL at a random microsecond, beside readers that check
every record that they are given."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stress_fork import BLOCKED_S, fork, goes_on, killed, shared, within_limit
from stress_load import DTYPE, LAYOUTS, dirty, write
from stress_readers import READERS, REPORT, read

from rtvla.clock import SECOND, now_ns
from rtvla.config import namespace
from rtvla.shm import segment
from rtvla.shm.ring import RingReader
from rtvla.shm.segment import Segment, ensure, path_of

SPREAD_S = 400e-6  # from a writer's first records to its kill
EARLY_EVERY, EARLY_SPREAD_S = 10, 3e-3  # one in so many dies wherever it is by then: opening, claiming, writing
SUMMED = ("windows", "records", "torn_accepted", "laps", "lost", "starved", "calls")


def kill(
    progress: Callable[[int], None], way: str, kills: int, mid_write: int = 0, mutant: str | None = None
) -> dict[str, Any]:
    """`kills` writers in a row on one stream, until so many were in the middle of a record, and three readers all the
    time. With a mutant: one reader of that kind, until it has taken something torn."""
    path = path_of(namespace(), f"stress-{way}")
    ensure(path, LAYOUTS[way])
    try:
        scene = _Scene(path, way, ["latest"] if mutant else list(READERS), mutant)
        while goes_on(scene.kills, kills, scene.mid_write, mid_write) and not (mutant and scene.has_torn()):
            scene.one_life()
            progress(scene.kills)
        scene.end()
    finally:
        path.unlink()
    return scene.report()


def _write_at_once(path: Path, way: str) -> None:
    segment._CLAIM_TRIES = 1  # the kernel has freed the lock of the dead one: no second try is needed
    write(path, way)


class _Scene:
    """One stream with its readers, who writes it now, and what was seen of them all."""

    def __init__(self, path: Path, way: str, kinds: list[str], mutant: str | None) -> None:
        self._path, self._way, self._layout = path, way, LAYOUTS[way]
        self._rows = shared(REPORT, len(kinds))
        readers = zip(kinds, self._rows, strict=True)
        self._readers = [fork(read, path, way, kind, row, mutant) for kind, row in readers]
        seen = Segment(path, self._layout, writable=False)
        self._observer, self._slots = RingReader(seen), seen.array().view("<u8")
        self._head = self._head_went_back = 0
        self.kills = self.mid_write = self._unpublished = self._refused = self._blocked_writers = 0
        self._early = self._called_dead = self._called_alive = 0
        self._blocked_readers: set[int] = set()
        self._began_ns = now_ns()

    def one_life(self) -> None:
        pid = fork(_write_at_once, self._path, self._way)
        self.kills += 1
        if self.kills % EARLY_EVERY == 0:
            self._early += 1
            time.sleep(random.random() * EARLY_SPREAD_S)
            self._end(pid)
            return
        # once it has published a whole burst, what lies behind the head is its own, not what the last one left there
        target = self._sample() + self._layout.burst
        if not within_limit(lambda: self._sample() >= target or self._ended(pid), self._nap):
            self._blocked_writers += 1
        elif self._head < target:
            self._refused += 1
        self._called_dead += not self._observer.writer_alive()
        time.sleep(random.random() * SPREAD_S)
        self._end(pid)
        half, begun = dirty(self._slots, self._head, self._layout)
        self.mid_write += half
        self._unpublished += begun

    def _end(self, pid: int) -> None:
        killed(pid)
        self._called_alive += self._observer.writer_alive()
        self._sample()
        self._look_at_readers()

    def has_torn(self) -> bool:
        return bool(self._rows["torn_accepted"].any())

    def end(self) -> None:
        """All readers stop by themselves, or are blocked."""
        self._rows["stop"] = 1
        for at, pid in enumerate(self._readers):
            if not within_limit(lambda pid=pid: self._ended(pid), lambda: time.sleep(0.001)):
                self._blocked_readers.add(at)
                killed(pid)
            elif code := os.waitpid(pid, 0)[1]:
                raise RuntimeError(f"reader {at} ended with status {code}")
        self._sample()

    def report(self) -> dict[str, Any]:
        return {
            "way": self._way,
            "kills": self.kills,
            "early": self._early,
            "mid_write": self.mid_write,
            "unpublished": self._unpublished,
            "published": self._head,
            "megabytes": self._head * DTYPE.itemsize // 10**6,
            **{name: int(self._rows[name].sum()) for name in SUMMED},
            "blocked": self._blocked_writers + len(self._blocked_readers),
            "claims_refused": self._refused,
            "called_dead": self._called_dead,
            "called_alive": self._called_alive,
            "head_went_back": self._head_went_back + int(self._rows["head_went_back"].sum()),
            "longest_call_ms": round(int(self._rows["longest_call_ns"].max()) / 1e6, 1),
            "seconds": round((now_ns() - self._began_ns) / SECOND, 1),
        }

    def _sample(self) -> int:
        head = self._observer.head
        self._head_went_back += head < self._head
        self._head = head
        return head

    def _nap(self) -> None:
        self._observer.wait(self._head, 0.05)

    def _ended(self, pid: int) -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _look_at_readers(self) -> None:
        since_ns = self._rows["entered_ns"].astype(np.int64)
        late = (since_ns > 0) & (now_ns() - since_ns > int(BLOCKED_S * SECOND))
        self._blocked_readers |= set(np.flatnonzero(late).tolist())
