"""When did it really arrive, and what was lost while we were away? Two small estimates from the senders' own stamps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtvla.clock import SECOND
from rtvla.procs.lifecycle import Me
from rtvla.shm.ring import RingWriter

_WINDOW_NS = 30 * SECOND
_WORTH_COUNTING_NS = SECOND // 20
_MOST_LOST = 1_000_000  # above it the sender's clock has stepped, and the difference says nothing


class QueueDelay:
    """How long a ZMQ message lay in a queue before we took it.

    `now - sampled` is an unknown constant (offset of two clocks plus the shortest way) plus the time in queues, so what
    it is above its minimum of the last 30 to 60 s is age that would go unseen: ZMQ keeps no arrival time. A delay that
    was always there cannot be told from the offset. A sender that steps its clock back makes its data look old, which
    is the safe side, until the window has passed. One whose stamp stands still says nothing: then the moment of taking
    counts.
    """

    def __init__(self, me: Me, stream: str) -> None:
        self._me, self._name = me, f"queued.{stream}"
        self._last_sampled_ns = -1
        self._best: list[int] = []  # minima of the window before and of the current one
        self._window_ends_ns = 0

    def delay_ns(self, sampled_s: float, now: int) -> int:
        sampled_ns = int(sampled_s * SECOND)
        if sampled_ns == self._last_sampled_ns:
            return 0
        self._last_sampled_ns = sampled_ns
        way_ns = now - sampled_ns
        if now >= self._window_ends_ns or not self._best:
            self._best = [*self._best[-1:], way_ns]
            self._window_ends_ns = now + _WINDOW_NS
        self._best[-1] = min(self._best[-1], way_ns)
        delay = way_ns - min(self._best)
        if delay > _WORTH_COUNTING_NS:
            self._me.count(self._name)
        return delay


class RestartGap:
    """Counts what a sender sent while its ingest was down, by the stamps before and after."""

    def __init__(self, me: Me, ring: RingWriter, stream: str, rate_hz: int, stamp_s: Callable[[Any], float]) -> None:
        self._me, self._name, self._rate_hz, self._stamp_s = me, f"lost.restart.{stream}", rate_hz, stamp_s
        self._before_s = stamp_s(ring.record(-1)) if ring.next_index else None

    def first(self, record: Any) -> None:
        """Call with each record; only the first after a restart is looked at."""
        if self._before_s is None:
            return
        lost = round((self._stamp_s(record) - self._before_s) * self._rate_hz) - 1
        self._before_s = None
        if 0 < lost < _MOST_LOST:
            self._me.count(self._name, lost)
