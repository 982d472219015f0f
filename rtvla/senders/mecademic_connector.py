"""Makes connections to the robot in a thread of its own, so that the loop keeps hearing a stop meanwhile."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from rtvla.errors import RobotFault
from rtvla.senders.mecademic_link import Link

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 5.0


class Connector:
    """`request` a link, `take` it when it is there. Pauses between attempts double up to LONGEST_BACKOFF_S."""

    def __init__(self, make: Callable[[], Link], interval_s: float, say: Callable[[str], None], wake_fd: int) -> None:
        self._make, self._interval_s, self._say, self._wake_fd = make, interval_s, say, wake_fd
        self._wanted, self._is_over = threading.Event(), threading.Event()
        self._old: Link | None = None
        self._new: deque[Link] = deque()
        self.attempts = self.failures = 0
        self._thread = threading.Thread(target=self._run, name="connector")
        self._thread.start()

    def request(self, old: Link | None = None) -> None:
        """Close `old` and make another; it is there when `take` gives it."""
        self._old = old
        self._wanted.set()

    def take(self) -> Link | None:
        return self._new.popleft() if self._new else None

    def close(self) -> None:
        self._is_over.set()
        self._wanted.set()
        self._thread.join()
        while self._new:
            self._new.popleft().close()

    def _run(self) -> None:
        while self._wanted.wait() and not self._is_over.is_set():
            self._wanted.clear()
            if self._old is not None:
                self._old.close()
                self._old = None
            self._connect()

    def _connect(self) -> None:
        wait_s, said = FIRST_BACKOFF_S, ""
        while not self._is_over.is_set():
            self.attempts += 1
            link = self._make()
            try:
                link.connect(self._interval_s)
            except RobotFault as fault:
                self.failures += 1
                if str(fault) != said:
                    said = str(fault)
                    self._say(f"no connection to the robot: {said}; trying again")
                self._is_over.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_BACKOFF_S)
                continue
            self._new.append(link)
            os.eventfd_write(self._wake_fd, 1)
            return
