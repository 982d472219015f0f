"""A hold that only an operator ends: after repeated refusals, or when the degrade table says so."""

from __future__ import annotations

from collections import deque

from rtvla.schema import STEP_NS


class Latch:
    """`cause` and `since_ns` say why and since when; no cause: not latched. Times are given."""

    def __init__(self, after: int, within_ns: int) -> None:
        """Latch at the `after`-th refusal within `within_ns`; 0: never."""
        self._within_ns = within_ns
        self._refusals: deque[int] | None = deque(maxlen=after) if after else None
        self.cause, self.since_ns = "", 0

    def set(self, cause: str, now_ns: int) -> None:
        """The first cause stays, so that the operator sees what began it."""
        if not self.cause:
            self.cause, self.since_ns = cause, now_ns

    def refused(self, cause: str, now_ns: int) -> None:
        """A motion was refused. Once in 100 ms counts, so that the rate of the commander makes no difference."""
        times = self._refusals
        if times is None or (times and now_ns - times[-1] < STEP_NS // 2):
            return
        times.append(now_ns)
        if len(times) == times.maxlen and now_ns - times[0] <= self._within_ns:
            self.set(cause, now_ns)

    def release(self, since_ns: int) -> bool:
        """End the latch that was set at `since_ns`; whoever has seen another one does not end this one."""
        if not self.cause or since_ns != self.since_ns:
            return False
        self.cause, self.since_ns = "", 0
        if self._refusals is not None:
            self._refusals.clear()
        return True
