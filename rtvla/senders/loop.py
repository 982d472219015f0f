"""What the loops of the senders share: the stop flag and waiting for a deadline while delayed messages go out."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from rtvla.clock import MS, SECOND, now_ns
from rtvla.senders.faults import Outbox

SLICE_NS = 50 * MS  # the longest sleep: so long may a signal go unseen


class StopFlag:
    """`with StopFlag() as stop`: SIGINT and SIGTERM set it and do nothing else. True once a stop was asked for."""

    def __init__(self) -> None:
        self._stopped = False
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._stopped

    def _set(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True

    def __enter__(self) -> StopFlag:
        self._previous = {number: signal.signal(number, self._set) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Waiter:
    """Waits for absolute deadlines; on the way it sends what falls due in the outbox, if there is one, and sees the
    stop flag."""

    def __init__(
        self, stop: StopFlag, outbox: Outbox | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._stop, self._outbox, self._sleep = stop, outbox, sleep

    def until(self, due_ns: int) -> bool:
        """True at the deadline, False if a stop was asked for before it."""
        while not self._stop:
            now = now_ns()
            delayed_ns = None
            if self._outbox:
                self._outbox.send_due(now)
                delayed_ns = self._outbox.next_due_ns()
            if now >= due_ns:
                return True
            wake_ns = min(due_ns, now + SLICE_NS, delayed_ns or due_ns)
            self._sleep(max(wake_ns - now, 0) / SECOND)
        return False

    def seconds(self, duration_s: float) -> bool:
        """The same as a `sleep` for clock.Pacer, which reads an early return as a request to stop."""
        return self.until(now_ns() + int(duration_s * SECOND))
