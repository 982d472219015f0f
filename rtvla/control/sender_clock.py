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
from dataclasses import dataclass

from rtvla.clock import MS, SECOND

_BUCKET_NS = SECOND // 2  # one minimum is kept of each
_MAX_DRIFT = 200e-6  # quartz is within 100 ppm
_EARLIER_NS = 2 * MS  # below the line by more than this: the stamp is ahead of the clock that we know
_RECENT = 4  # buckets
_LEAST_SPAN_NS = 5 * SECOND  # before, drift cannot be told from jitter


@dataclass(frozen=True)
class Reading:
    """One sample on our monotonic clock. `trusted`: the clock was known, otherwise `captured_ns` is the arrival."""

    captured_ns: int
    queued_ns: int  # what the way took longer than the shortest one
    trusted: bool


class SenderClock:
    """One for each sender. `add` every sample in the order of arrival; about 1 us each, no allocation that grows.

    `confirm` samples in a row must disagree before the sender's clock counts as stepped (or the sender as restarted):
    more than a reordering of the network can do, and a fraction of a second of the stream. Until then a stamp that is
    ahead counts from its arrival, one that is behind looks old, which is the safe side.
    """

    _latest: int  # newest stamp so far

    def __init__(self, confirm: int, shortest_way_ns: int = 0, window_ns: int = 60 * SECOND) -> None:
        self._confirm, self._shortest_way_ns, self._window_ns = confirm, shortest_way_ns, window_ns
        self.steps = 0  # how often the clock was seen to step
        self.trusted = False
        self._forget()

    def add(self, stamp_ns: int, received_ns: int) -> Reading:
        x, y = stamp_ns - self._x0, received_ns - stamp_ns - self._y0
        if not self._known:
            self._begin(stamp_ns, received_ns)
            x = y = 0
        elif self._has_stepped(x, y):
            self.steps += 1
            self._forget()
            self._begin(stamp_ns, received_ns)
            x = y = 0
        self._latest = max(self._latest, x)
        self._collect(x, y)
        queued_ns = max(0, round(y - (self._drift * x + self._base)))
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
        return self._shortest_way_ns + round(self._scatter)

    def offset_ns(self, stamp_ns: int) -> int:
        """Our clock minus the sender's at its time `stamp_ns`, the shortest way taken out."""
        return round(self._drift * (stamp_ns - self._x0) + self._base) + self._y0 - self._shortest_way_ns

    def _forget(self) -> None:
        self._known, self.trusted = False, False
        self._x0 = self._y0 = 0  # of the first sample: small numbers, so that floats keep nanoseconds
        self._drift = self._base = self._scatter = 0.0
        self._minima: deque[tuple[int, int]] = deque()
        self._bucket, self._lowest = -1, (0, 0)
        self._latest = self._ahead = self._behind = 0

    def _begin(self, stamp_ns: int, received_ns: int) -> None:
        self._known, self._x0, self._y0 = True, stamp_ns, received_ns - stamp_ns

    def _has_stepped(self, x: int, y: int) -> bool:
        """Ahead: below a line that nothing can be below. Behind: the sender's own time has run backwards."""
        self._ahead = self._ahead + 1 if y < self._drift * x + self._base - _EARLIER_NS else 0
        self._behind = self._behind + 1 if x < self._latest else 0
        return max(self._ahead, self._behind) >= self._confirm

    def _collect(self, x: int, y: int) -> None:
        bucket = x // _BUCKET_NS
        if bucket > self._bucket:
            if self._bucket >= 0:
                self._minima.append(self._lowest)
                self._fit()
            self._bucket, self._lowest = bucket, (x, y)
            while self._minima and x - self._minima[0][0] > self._window_ns:
                self._minima.popleft()
        elif y < self._lowest[1]:
            self._lowest = (x, y)
        if not self._ahead and y < self._drift * x + self._base:
            self._base = y - self._drift * x  # never above a sample that was seen

    def _fit(self) -> None:
        points = self._minima
        self.trusted = points[-1][0] - points[0][0] >= _LEAST_SPAN_NS
        if self.trusted:
            middle = sum(x for x, _ in points) / len(points)
            edges = _lower_hull(points)
            drift = next(slope for end, slope in edges if middle <= end)
            self.trusted = abs(drift) <= _MAX_DRIFT
            self._drift = min(max(drift, -_MAX_DRIFT), _MAX_DRIFT)
        heights = [y - self._drift * x for x, y in points]
        self._base = min(heights)
        newest = min(heights[-_RECENT:])
        self._scatter = sorted(heights)[len(heights) // 2] + newest - 2 * self._base


def _lower_hull(points: deque[tuple[int, int]]) -> list[tuple[int, float]]:
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
