"""What comes from one sender over some seconds, in figures: how many, how even, how large, in which order, by which
clock. The same for messages from a socket and for records from a ring."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rtvla.clock import MS, SECOND
from rtvla.control.sender_clock import SenderClock

_FIRST_EPOCH_S = 1e9  # the year 2001: stamps below it do not count from 1970


class Tally:
    """`confirm` and `ordered` are those of SenderClock. `add` in the order of arrival."""

    def __init__(self, confirm: int, ordered: bool) -> None:
        self._clock = SenderClock(confirm, ordered=ordered)
        self.messages = self.records = 0
        self.faults: Counter[str] = Counter()  # by cause: what was refused, came again or came late
        self.about: str = ""  # such as the size of a picture
        self._first_ns = self._last_ns = 0
        self._first_records = self._gap_ns = 0
        self._bytes: tuple[int, int] | None = None
        self._stamp_s = -1.0
        self._advanced = False
        self._ahead_ns: int | None = None

    def add(self, stamp_s: float, received_ns: int, wall_ns: int, n_bytes: int | None = None, records: int = 1) -> None:
        """One message of `records`; `stamp_s` is its newest one on the sender's clock, `received_ns` and `wall_ns` its
        arrival on our monotonic clock and on our wall clock."""
        if self.messages:
            self._gap_ns = max(self._gap_ns, received_ns - self._last_ns)
        else:
            self._first_ns, self._first_records = received_ns, records
        self._last_ns = received_ns
        self.messages += 1
        self.records += records
        if n_bytes is not None:
            low, high = self._bytes or (n_bytes, n_bytes)
            self._bytes = min(low, n_bytes), max(high, n_bytes)
        self._date(stamp_s, received_ns, wall_ns)

    def _date(self, stamp_s: float, received_ns: int, wall_ns: int) -> None:
        if stamp_s <= self._stamp_s:
            self.faults["repeated_stamp" if stamp_s == self._stamp_s else "out_of_order"] += 1
            return
        self._advanced = self._advanced or self._stamp_s >= 0
        self._stamp_s = stamp_s
        stamp_ns = int(stamp_s * SECOND)
        self._clock.add(stamp_ns, received_ns)
        late_ns = wall_ns - stamp_ns  # offset of the clocks and the way; the least has the shortest way
        self._ahead_ns = late_ns if self._ahead_ns is None else min(self._ahead_ns, late_ns)

    def figures(self, until_ns: int) -> dict[str, Any]:
        """`until_ns`: the end of the look; silence up to it counts as a gap. rate_hz is of records, without those of
        the first message. clock: "none" (stamps that stand still), "since_start" (not an epoch) or "epoch"; offset_ms
        is our wall clock minus the sender's, the shortest way included; drift_ppm None while not known."""
        span_ns = self._last_ns - self._first_ns
        clock = "none" if not self._advanced else "epoch" if self._stamp_s > _FIRST_EPOCH_S else "since_start"
        known = self._clock.trusted
        return {
            "messages": self.messages,
            "records": self.records,
            "rate_hz": (self.records - self._first_records) * SECOND / span_ns if span_ns > 0 else 0.0,
            "longest_gap_ms": max(self._gap_ns, until_ns - self._last_ns) / MS if self.messages else None,
            "bytes": list(self._bytes) if self._bytes else None,
            "clock": clock,
            "offset_ms": self._ahead_ns / MS if clock == "epoch" and self._ahead_ns is not None else None,
            "drift_ppm": self._clock.drift_ppm if known else None,
            "uncertainty_us": self._clock.uncertainty_ns / 1000 if known else None,
            "clock_steps": self._clock.steps,
            "faults": {name: count for name, count in self.faults.items() if count},
            "about": self.about,
        }
