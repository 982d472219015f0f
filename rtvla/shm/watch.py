"""Live rates, ages, losses and the writer's jitter of every stream, seen by a follower of our own."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from rtvla.clock import MS, SECOND, now_ns
from rtvla.shm.inspect import (
    Mapped,
    files,
    mapped,
)
from rtvla.streams import STREAMS


class Watch:
    """Follows every ring of a namespace like any other reader and keeps the times of the last seconds."""

    def __init__(self, namespace: str, window_s: float = 10.0) -> None:
        self._namespace, self._window_ns = namespace, int(window_s * SECOND)
        self._followers: dict[tuple[str, int], _Follower] = {}
        self._scanned_ns = 0

    def take(self) -> list[dict[str, Any]]:
        """One look. Call at least ten times a second, or this watcher itself is lapped (and says so)."""
        if now_ns() - self._scanned_ns > SECOND:
            self._scan()
        return [self._followers[key].take() for key in sorted(self._followers)]

    def _scan(self) -> None:
        found = {(one.path.name, one.inode): one for one in files(self._namespace) if one.kind == "segment"}
        for key in self._followers.keys() - found.keys():  # removed, or replaced by a new one of that name
            self._followers.pop(key).close()
        fresh, _ = mapped(one for key, one in found.items() if key not in self._followers)
        for one in fresh:
            if one.is_health:
                one.close()
            else:
                self._followers[one.found.path.name, one.found.inode] = _Follower(one, self._window_ns)
        self._scanned_ns = now_ns()


class _Follower:
    def __init__(self, mapped: Mapped, window_ns: int) -> None:
        self._mapped, self._window_ns, self._lost = mapped, window_ns, 0
        self._cursor = mapped.reader.head
        self._heads = deque([(now_ns(), self._cursor)])
        self._times = np.empty(0, np.int64)

    def take(self) -> dict[str, Any]:
        one, field = self._mapped, self._mapped.time_field
        end = one.reader.head
        while self._cursor < end:
            records, lost, self._cursor = one.reader.since(self._cursor, one.layout.capacity)
            self._lost += lost
            if not len(records):
                break
            if field:
                self._times = np.concatenate([self._times, records[field]])
        now, newest_ns = one.found.now_ns, one.newest_ns()
        self._times = self._times[self._times >= now - self._window_ns]
        self._heads.append((now_ns(), end))
        while len(self._heads) > 2 and self._heads[1][0] < self._heads[-1][0] - self._window_ns:
            self._heads.popleft()
        (from_ns, from_head), (to_ns, to_head) = self._heads[0], self._heads[-1]
        known = STREAMS.get(one.found.stream)
        return {
            "stream": one.found.stream,
            "hz": (to_head - from_head) * SECOND / max(to_ns - from_ns, 1),
            "nominal_hz": known.nominal_hz if known else None,
            "age_ms": None if newest_ns is None else (now - newest_ns) / MS,
            "records": end,
            "lost": self._lost,
            "writer_alive": one.reader.writer_alive(),
            **spacing_ms(self._times),
        }

    def close(self) -> None:
        self._mapped.close()


def spacing_ms(times_ns: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float | None]:
    """p50, p99 and max of the distance between arrivals. Records of one datagram share their time and count as one."""
    distances = np.diff(times_ns)
    distances = distances[distances != 0]
    if not len(distances):
        return {"p50_ms": None, "p99_ms": None, "max_ms": None}
    p50, p99, largest = np.percentile(distances, [50, 99, 100]) / MS
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(largest)}
