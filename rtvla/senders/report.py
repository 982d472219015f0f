"""The end of a sender: its rate, and one JSON line to stdout with everything counted, a short one to stderr."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import zmq

from rtvla.clock import MS, SECOND, now_ns

LINGER_AFTER_SIGNAL_MS = 120  # a sender is gone 0.2 s after SIGTERM, also when its receiver no longer reads
LINGER_MS = 2000


class RateMeter:
    """Achieved rate from the first to the last of `n` evenly spaced things."""

    def __init__(self) -> None:
        self._first_ns = self._last_ns = self._first_n = 0
        self.n = 0

    def add(self, at_ns: int, n: int = 1) -> None:
        if not self.n:
            self._first_ns, self._first_n = at_ns, n
        self._last_ns = at_ns
        self.n += n

    def hz(self) -> float:
        elapsed_ns = self._last_ns - self._first_ns
        return round((self.n - self._first_n) * SECOND / elapsed_ns, 3) if elapsed_ns > 0 else 0.0


class Refusals:
    """Who was not let in at a socket (security/curve.py): counted by cause, said once each."""

    def __init__(self, sender: str) -> None:
        self._sender = sender
        self.counts: Counter[str] = Counter()

    def __call__(self, cause: str, detail: str) -> None:
        if not self.counts[cause]:
            print(f"{self._sender}: refused.{cause}: {detail}", file=sys.stderr, flush=True)
        self.counts[cause] += 1


def close_flushed(context: zmq.Context[Any], sockets: list[zmq.Socket[bytes]], after_signal: bool) -> bool:
    """Close and wait until all queued messages have left for the kernel. False if time ran out: some were not sent."""
    linger_ms = LINGER_AFTER_SIGNAL_MS if after_signal else LINGER_MS
    start_ns = now_ns()
    for socket in sockets:
        socket.close(linger=linger_ms)
    context.term()
    return now_ns() - start_ns < linger_ms * MS


def print_report(sender: str, counts: Mapping[str, Any]) -> None:
    """The last thing a sender does: its line says what is out, so it comes after everything is out."""
    print(json.dumps({"sender": sender, **counts}), flush=True)
    shown = ", ".join(f"{name} {value}" for name, value in counts.items() if value not in (0, {}, None))
    print(f"{sender}: {shown}", file=sys.stderr, flush=True)
