"""When was it taken, on our clock; does it come again; what was lost while we were away? By the senders' stamps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtvla.clock import MS, SECOND
from rtvla.config import Config
from rtvla.control.sender_clock import SenderClock
from rtvla.procs.lifecycle import Me
from rtvla.shm.ring import RingWriter

_WORTH_COUNTING_NS = SECOND // 20
_TELL_EVERY_NS = SECOND // 2
_MOST_LOST = 1_000_000  # above it the sender's clock has stepped, and the difference says nothing
UNTRUSTED = -1  # as clock_uncertainty_ns

# Messages in a row that must agree before a sender's clock counts as stepped, and whether its way keeps the order.
_CONFIRM = {"sensor": (8, False), "robot": (20, True)}
_CONFIRM_FRAMES = (5, True)  # one second


def stamp_ns(stamp_s: float) -> int:
    """A sender's seconds in ns; a float of our days keeps a quarter of a microsecond."""
    return int(stamp_s * SECOND)


def shortest_way_ns(cfg: Config, stream: str) -> int:
    """What the site has measured, else 0."""
    return int(cfg.shortest_way_ms.get(stream, 0.0) * MS)


# captured_ns <= received_ns <= when we took it, all on our clock, and the uncertainty of the capture between the first
# two: (captured_ns, uncertainty_ns, received_ns). `received_ns` is less the time in a queue that no arrival tells of.
Taken = tuple[int, int, int]


class SenderTimes:
    """Capture times of one sender by its stamps, what its clock does, and how long its messages lay in queues.

    Of ZMQ no arrival is known, so what a way took longer than the shortest one of the last minute is age that would go
    unseen. The same is taken off while the clock is not trusted yet: a message from a queue is old from the first
    minute on. A delay that was always there cannot be told from the offset of the clocks (`[shortest_way_ms]`). Stamps
    that stand still say nothing: then the moment of taking counts.
    """

    def __init__(self, me: Me, stream: str, shortest_way_ns: int = 0) -> None:
        self._me, self.stream = me, stream
        self._confirm, ordered = _CONFIRM.get(stream, _CONFIRM_FRAMES)
        self._clock = SenderClock(self._confirm, shortest_way_ns, ordered=ordered)
        self.runs = False  # whether this sender has stamps that advance
        self._stamp_ns, self._same, self._steps, self._told_ns = -1, 0, 0, 0
        self._last: Taken = (0, UNTRUSTED, 0)

    def take(self, stamp_ns: int, taken_ns: int) -> Taken:
        """For each message, in the order of arrival: its newest stamp, and when it arrived or was taken."""
        if stamp_ns <= self._stamp_ns:
            if stamp_ns == self._stamp_ns:
                return self._again(taken_ns)
            self.backwards(True)
        elif self._stamp_ns >= 0:
            self.runs = True
        self._stamp_ns, self._same = stamp_ns, 0
        clock = self._clock
        captured_ns, queued_ns, trusted = clock.add(stamp_ns, taken_ns)
        received_ns = taken_ns - queued_ns
        if queued_ns > _WORTH_COUNTING_NS:
            self._me.count(f"queued.{self.stream}")
        self._last = (
            (captured_ns, clock.uncertainty_ns, received_ns) if trusted else (received_ns, UNTRUSTED, received_ns)
        )
        if taken_ns - self._told_ns > _TELL_EVERY_NS or clock.steps != self._steps:
            self._tell(taken_ns)
        return self._last

    def backwards(self, before: bool) -> None:
        """Count a stamp that is before that of the sample before it, or the very same."""
        self._me.count(f"{'out_of_order' if before else 'repeated_stamp'}.{self.stream}")

    def _again(self, taken_ns: int) -> Taken:
        """The stamp has not moved. A few such messages are of the time that it says, more mean that it says nothing."""
        if self.runs:
            self.backwards(False)
        self._same += 1
        if self.runs and self._same < self._confirm:
            return self._last
        if self._same == self._confirm and self.runs:
            self._me.events.warn(f"repeated_stamp.{self.stream}", "its stamps stand still: the arrival counts")
            self._clock.forget()
            self._tell(taken_ns)
        return taken_ns, UNTRUSTED, taken_ns

    def _tell(self, now: int) -> None:
        me, clock, stream = self._me, self._clock, self.stream
        self._told_ns = now
        me.gauge(f"clock.{stream}.trusted", float(clock.trusted))
        me.gauge(f"clock.{stream}.drift_ppm", clock.drift_ppm)
        me.gauge(f"clock.{stream}.uncertainty_us", clock.uncertainty_ns / 1000 if clock.trusted else UNTRUSTED)
        if clock.steps != self._steps:
            me.count(f"clock_steps.{stream}", clock.steps - self._steps)
            me.events.warn(f"clock_steps.{stream}", "the sender's clock has stepped, or it was restarted")
            self._steps = clock.steps


class Frozen:
    """Counts contents that came again, and says so once each time it begins."""

    def __init__(self, me: Me, stream: str) -> None:
        self._me, self._name, self.is_frozen = me, f"frozen.{stream}", False

    def see(self, same: bool) -> bool:
        """Whether the content of a record is that of the record before it."""
        if same:
            self._me.count(self._name)
            if not self.is_frozen:
                self._me.events.warn(self._name, "the same content again: it counts from the first time")
        self.is_frozen = same
        return same


class RestartGap:
    """Counts what a sender sent while its ingest was down, by the stamps before and after."""

    def __init__(self, me: Me, ring: RingWriter, stream: str, rate_hz: int, stamp_s: Callable[[Any], float]) -> None:
        self._me, self._name, self._rate_hz, self._stamp_s = me, f"lost.restart.{stream}", rate_hz, stamp_s
        self._before_s = stamp_s(ring.record(-1)) if ring.next_index else None

    @property
    def is_open(self) -> bool:
        """Whether the first record after a restart is still to come."""
        return self._before_s is not None

    def first(self, record: Any) -> None:
        """Call with each record; only the first after a restart is looked at."""
        if self._before_s is None:
            return
        lost = round((self._stamp_s(record) - self._before_s) * self._rate_hz) - 1
        self._before_s = None
        if 0 < lost < _MOST_LOST:
            self._me.count(self._name, lost)
