"""A sender's clock seen from here, by one-way stamps alone: when was this sample taken, on our clock?

y = received - stamp = offset + drift * stamp + delay, and no delay is shorter than the shortest way d_min. So the lower
edge of the points (stamp, y) is the line offset + d_min + drift * stamp; what a sample lies above it is time that it
spent in queues. The edge is that of the lower convex hull which lies under the middle of the window (the solution of
the linear programme of Moon, Skelly & Towsley, "Estimation and Removal of Clock Skew from Network Delay Measurements",
INFOCOM 1999; in robotics Olson, "A Passive Solution to the Sensor Synchronization Problem", IROS 2010).

What no one-way stamp can say is d_min itself: it is a setting, and it is part of the age and of the uncertainty. A
queue that stands for longer than the window looks like a longer way.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from rtvla.clock import MS, SECOND

_BUCKET_NS = SECOND // 2  # one minimum is kept of each
_MAX_DRIFT = 200e-6  # quartz is within 100 ppm
_EARLIER_NS = 2 * MS  # below the line by more than this: the stamp is ahead of the clock that we know
_RECENT = 4  # buckets
_LEAST_SPAN_NS = 5 * SECOND  # before, drift cannot be told from jitter
_UNKNOWN = 2**63  # above every stamp


class Reading(NamedTuple):
    """One sample on our monotonic clock. `trusted`: the clock was known, otherwise `captured_ns` is the arrival."""

    captured_ns: int
    queued_ns: int  # what the way took longer than the shortest one
    trusted: bool


class SenderClock:
    """One for each sender. `add` every sample in the order of arrival; about 1 us each, no allocation that grows.

    `confirm` samples in a row must disagree before the sender's clock counts as stepped (or the sender as restarted):
    more than a reordering of the network can do, and a fraction of a second of the stream. Until then a stamp that is
    ahead counts from its arrival, one that is behind looks old, which is the safe side.

    `ordered`: the way keeps the order (TCP). Then one stamp that runs backwards is a step if the samples after it stay
    as late as it is, and a step back is seen that is shorter than `confirm` samples. On other ways it looks like a
    queue: old, and uncertain by as much, until the window has passed.
    """

    def __init__(
        self, confirm: int, shortest_way_ns: int = 0, window_ns: int = 60 * SECOND, ordered: bool = False
    ) -> None:
        self._confirm, self._shortest_way_ns, self._window_ns = confirm, shortest_way_ns, window_ns
        self._ordered = ordered
        self.steps = 0  # how often the clock was seen to step
        self.forget()

    def forget(self) -> None:
        """What is known of the sender's clock is void; the next sample begins anew."""
        self._known, self.trusted = False, False
        self._x0 = self._y0 = 0  # of the first sample: small numbers, so that floats keep nanoseconds
        self._drift = self._base = 0.0
        self._scatter_ns = 0
        self._minima: deque[tuple[int, int]] = deque()
        self._bucket_ends, self._lowest = 0, (0, 0)
        self._latest = _UNKNOWN  # newest stamp so far
        self._ahead = self._behind = 0
        self._height = self._stays_above = 0.0

    def add(self, stamp_ns: int, received_ns: int) -> Reading:
        x, y = stamp_ns - self._x0, received_ns - stamp_ns - self._y0
        height = y - self._drift * x - self._base
        if x > self._latest and height > -_EARLIER_NS and not (self._behind or self._ahead):
            self._latest, self._height = x, height
        elif not self._known or self._has_stepped(x, height):
            self.steps += self._known
            self.forget()
            self._known, self._x0, self._y0 = True, stamp_ns, received_ns - stamp_ns
            self._latest = x = y = 0
            height = 0.0
        if not self._ahead:
            if x >= self._bucket_ends:
                self._next_bucket(x, y)
                height = y - self._drift * x - self._base
            elif y < self._lowest[1]:
                self._lowest = (x, y)
            if height < 0:
                self._base += height  # never above a sample that was seen
        queued_ns = int(height) if height > 0 else 0
        if not self.trusted:
            return Reading(received_ns, queued_ns, False)
        return Reading(received_ns - queued_ns - self._shortest_way_ns, queued_ns, True)

    @property
    def drift_ppm(self) -> float:
        """How much faster our clock runs than the sender's."""
        return self._drift * 1e6

    @property
    def uncertainty_ns(self) -> int:
        """Of a trusted capture time: the shortest way, which cannot be seen; the middle height of the minima above the
        line, which is how far jitter can have lifted it; and how far the newest ones are from a line that lags."""
        return self._shortest_way_ns + self._scatter_ns

    def offset_ns(self, stamp_ns: int) -> int:
        """Our clock minus the sender's at its time `stamp_ns`, the shortest way taken out."""
        return round(self._drift * (stamp_ns - self._x0) + self._base) + self._y0 - self._shortest_way_ns

    def _has_stepped(self, x: int, height: float) -> bool:
        """Ahead: below a known line that nothing can be below. Behind: the sender's own time has run backwards."""
        self._ahead = self._ahead + 1 if height < -_EARLIER_NS and self.trusted else 0
        if self._behind and self._ordered:
            self._behind = self._behind + 1 if height > self._stays_above else 0
        else:
            self._behind = self._behind + 1 if x < self._latest else 0
            self._stays_above = (self._height + height) / 2
        self._height = height
        if not self._ahead:
            self._latest = max(self._latest, x)
        return self._ahead >= self._confirm or self._behind >= self._confirm

    def _next_bucket(self, x: int, y: int) -> None:
        if self._bucket_ends:
            self._minima.append(self._lowest)
            self._fit()
        self._bucket_ends, self._lowest = x - x % _BUCKET_NS + _BUCKET_NS, (x, y)
        while self._minima and x - self._minima[0][0] > self._window_ns:
            self._minima.popleft()

    def _fit(self) -> None:
        points, drift = self._minima, self._drift
        self.trusted = points[-1][0] - points[0][0] >= _LEAST_SPAN_NS
        if self.trusted:
            middle = sum(x for x, _ in points) / len(points)
            drift = next(slope for end, slope in _lower_hull(points) if middle <= end)
            self.trusted = abs(drift) <= _MAX_DRIFT  # else a queue that grows, or stamps that do not run like time
        if self.trusted:
            self._drift = drift
        heights = [y - self._drift * x for x, y in points]
        self._base = min(heights)
        self._scatter_ns = round(sorted(heights)[len(heights) // 2] + min(heights[-_RECENT:]) - 2 * self._base)


def _lower_hull(points: Iterable[tuple[int, int]]) -> list[tuple[int, float]]:
    """(right end, slope) of each edge, from left to right. Points come in the order of x."""
    hull: list[tuple[int, int]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                break
            hull.pop()
        hull.append((x, y))
    return [(b[0], (b[1] - a[1]) / (b[0] - a[0])) for a, b in itertools.pairwise(hull)]
