"""The robot's microseconds on this machine's monotonic clock, by arrival times alone.

No message arrives before it was stamped, so arrival minus stamp is the clocks' difference plus a delay, and its minimum
over the last seconds is nearest to the difference. What is left is the shortest delay itself (a fraction of a
millisecond on a cable) and the drift within a window: 1 ms at 100 ppm.
"""

from __future__ import annotations

from rtvla.clock import SECOND

WINDOW_NS = 5 * SECOND  # two of them are looked at


class RobotClock:
    def __init__(self) -> None:
        self.restarts = 0  # the robot's stamps ran backwards: it was restarted
        self._last_us: int | None = None
        self._begin_ns = 0
        self._lowest_ns = self._previous_ns = 0

    def to_monotonic_ns(self, robot_us: int, arrived_ns: int) -> int:
        """When the robot stamped this, never later than it arrived. Call it for each message in order."""
        offset_ns = arrived_ns - robot_us * 1000
        if self._last_us is None or robot_us < self._last_us:
            self.restarts += self._last_us is not None
            self._begin_ns, self._lowest_ns, self._previous_ns = arrived_ns, offset_ns, offset_ns
        elif arrived_ns - self._begin_ns > WINDOW_NS:
            self._begin_ns, self._previous_ns, self._lowest_ns = arrived_ns, self._lowest_ns, offset_ns
        self._last_us = robot_us
        self._lowest_ns = min(self._lowest_ns, offset_ns)
        return robot_us * 1000 + min(self._lowest_ns, self._previous_ns)
