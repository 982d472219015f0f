"""One thread a camera: grabs at the camera's own rate, keeps the newest picture only, opens a lost camera again.

Counted    grabbed = thinned (not due at --fps) + bad + overwritten (the sender was not fast enough) + taken
Lost       whatever the cause: closed, and opened again after pauses that double up to LONGEST_PAUSE_S. One line when it
           goes, one when it is back; it never ends the sender
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from rtvla.clock import SECOND, now_ns
from rtvla.errors import RtvlaError
from rtvla.senders.cameras.source import BadPicture, CameraFault, EndOfPictures, Picture, Source, Stamp

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


class Taken(NamedTuple):
    picture: Picture
    stamp: Stamp


class RateLimit:
    """Which pictures of a faster camera go out: the first after each tick of a grid on the monotonic clock, which is
    the same for all senders of a machine.

    Ticks without a picture are forgotten but for the last one. So a camera at about the asked rate loses none to
    jitter, and one that was away does not send a burst."""

    def __init__(self, fps: float, start_ns: int) -> None:
        self._period_ns = int(SECOND / fps)
        self._tick_ns = start_ns - start_ns % self._period_ns

    def is_due(self, at_ns: int) -> bool:
        if at_ns < self._tick_ns:
            return False
        self._tick_ns = max(self._tick_ns + self._period_ns, at_ns - at_ns % self._period_ns)
        return True


class Grabber:
    """`fresh` is set when there is something to take. Counts are read by others while they change: each is one int."""

    def __init__(
        self, source: Source, fps: float, timeout_s: float, fresh: threading.Event, say: Callable[[str], None]
    ) -> None:
        self.camera, self._source, self._timeout_s = source.camera, source, timeout_s
        self._fresh, self._say = fresh, say
        self._limit = RateLimit(fps, now_ns())
        self._newest: Taken | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"grab {source.camera}", daemon=True)
        self._busy_since_ns = 0
        self._said = ""
        self.grabbed = self.thinned = self.overwritten = self.opened = 0
        self.stamps: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.bad = 0
        self.is_over = False
        self.crash: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks only: `join` waits."""
        self._stopping.set()

    def join(self, seconds: float) -> bool:
        """False if a call of the driver has not come back; the thread then ends with the process."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def take(self) -> Taken | None:
        with self._lock:
            newest, self._newest = self._newest, None
        return newest

    def busy_s(self) -> float:
        """How long the present call of the driver lasts."""
        since_ns = self._busy_since_ns
        return (now_ns() - since_ns) / SECOND if since_ns else 0.0

    def _run(self) -> None:
        try:
            self._open_and_grab()
        except Exception as error:
            self.crash = error  # a mistake in the source, not a lost camera: the sender ends with it
            self._fresh.set()
            raise

    def _open_and_grab(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            start_ns = now_ns()
            try:
                self._session()
            except CameraFault as fault:
                self.faults[fault.cause] += 1
                self._complain(f"{fault}; it is opened again")
            except EndOfPictures:
                self.is_over = True
                self._fresh.set()
                return
            finally:
                self._source.close()
                self._busy_since_ns = 0
            if now_ns() - start_ns > LONGEST_PAUSE_S * SECOND:
                pause_s = FIRST_PAUSE_S
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _session(self) -> None:
        """From open to the end, which is a CameraFault, the last picture, or a request to stop."""
        self._busy_since_ns = now_ns()
        self._source.open()
        self.opened += 1
        while not self._stopping.is_set():
            self._busy_since_ns = now_ns()
            stamp = self._source.grab(self._timeout_s)
            self._busy_since_ns = 0
            self.grabbed += 1
            self.stamps[stamp.kind] += 1
            if self._said:
                self._say(f"{self.camera} gives pictures again")
                self._said = ""
            if self._limit.is_due(now_ns()):
                self._retrieve(stamp)
            else:
                self.thinned += 1

    def _retrieve(self, stamp: Stamp) -> None:
        try:
            taken = Taken(self._source.retrieve(), stamp)
        except BadPicture as error:
            self.bad += 1
            if self.bad == 1:
                self._say(f"{self.camera}: {error}; more of its kind are only counted")
            return
        with self._lock:
            self.overwritten += self._newest is not None
            self._newest = taken
        self._fresh.set()

    def _complain(self, text: str) -> None:
        if text != self._said:
            self._say(f"{self.camera}: {text}")
            self._said = text


def crash_of(grabbers: list[Grabber]) -> None:
    """Raise what ended a thread."""
    for grabber in grabbers:
        if grabber.crash is not None:
            raise RtvlaError(f"{grabber.camera}: {grabber.crash!r}") from grabber.crash
