"""Faults on request: one outgoing message becomes none, one or several, now or later, whole or damaged.

The same description serves all simulated senders, and with the same --seed and message sequence the same messages are
hit. Counts are of messages; in `counts` each says what was decided, and the sender counts what really went out.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from rtvla.clock import MS, SECOND
from rtvla.senders.options import not_negative, probability

MAX_DELAYED = 4096  # messages; above it the earliest leaves before its time and is counted as `hurried`
MAX_CUT_BYTES = 63


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message as its parts; `label` and `records` are the sender's, for its own counts."""

    parts: list[bytes]
    label: str = ""
    records: int = 1
    damage: str = ""  # "cut", "flip" or nothing


def add_fault_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("faults", "all seeded; probabilities are per message")
    group.add_argument("--loss", type=probability, default=0.0, metavar="P", help="drop it")
    group.add_argument("--duplicate", type=probability, default=0.0, metavar="P", help="send it twice")
    group.add_argument(
        "--corrupt", type=probability, default=0.0, metavar="P", help="cut off its end: a receiver can always see it"
    )
    group.add_argument(
        "--flip", type=probability, default=0.0, metavar="P", help="flip one bit: no checksum, it may go unnoticed"
    )
    group.add_argument(
        "--delay-ms", type=not_negative, default=0.0, metavar="MS", help="send it later; others overtake"
    )
    group.add_argument("--delay-probability", type=probability, default=1.0, metavar="P", help="of --delay-ms")
    group.add_argument(
        "--freeze-after", type=not_negative, metavar="S", help="from then on the same content under new stamps"
    )
    group.add_argument("--stop-after", type=not_negative, metavar="S", help="go silent, but keep running")
    group.add_argument("--seed", type=int, default=0)


class FaultInjector:
    """Decides what happens to each message. `damageable` are the positions of parts that may be damaged."""

    def __init__(self, args: argparse.Namespace, damageable: tuple[int, ...] = (0,)) -> None:
        self._args, self._damageable = args, damageable
        self._random = random.Random(args.seed)
        self._start_ns = 0
        self.counts = dict.fromkeys(
            ("lost", "duplicated", "corrupted", "flipped", "delayed", "frozen", "withheld", "hurried"), 0
        )

    def begin(self, now_ns: int) -> None:
        """--freeze-after and --stop-after count from here."""
        self._start_ns = now_ns

    def is_frozen(self, now_ns: int) -> bool:
        """Whether the sender shall repeat its content."""
        return self._has_passed(self._args.freeze_after, now_ns)

    def _has_passed(self, after_s: float | None, now_ns: int) -> bool:
        return after_s is not None and now_ns - self._start_ns >= after_s * SECOND

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance

    def apply(self, message: Outgoing, now_ns: int) -> list[tuple[int, Outgoing]]:
        """What to send instead: (due, message) each; `due` is now or later on the monotonic clock."""
        if self._has_passed(self._args.stop_after, now_ns):
            self.counts["withheld"] += 1
            return []
        self.counts["frozen"] += self.is_frozen(now_ns)
        if self._happens(self._args.loss):
            self.counts["lost"] += 1
            return []
        if self._happens(self._args.corrupt):
            message = self._damage(message, "cut", self._cut)
            self.counts["corrupted"] += 1
        elif self._happens(self._args.flip):
            message = self._damage(message, "flip", self._flip)
            self.counts["flipped"] += 1
        copies = 1
        if self._happens(self._args.duplicate):
            self.counts["duplicated"] += 1
            copies = 2
        return [(now_ns + self._delay_ns(), message) for _ in range(copies)]

    def _delay_ns(self) -> int:
        if self._args.delay_ms == 0 or not self._happens(self._args.delay_probability):
            return 0
        self.counts["delayed"] += 1
        return int(self._args.delay_ms * MS)

    def _damage(self, message: Outgoing, kind: str, damage: Callable[[bytes], bytes]) -> Outgoing:
        parts = list(message.parts)
        at = self._random.choice(self._damageable)
        parts[at] = damage(parts[at])
        return replace(message, parts=parts, damage=kind)

    def _cut(self, data: bytes) -> bytes:
        """An odd number of bytes less: no wrong length is then another valid one, as all of those are even."""
        n_cut = 1 + 2 * self._random.randrange((min(len(data), MAX_CUT_BYTES) + 1) // 2)
        return data[: len(data) - n_cut]

    def _flip(self, data: bytes) -> bytes:
        flipped = bytearray(data)
        flipped[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)


class Outbox:
    """Messages on their way through the faults; what is delayed waits here, in order of its due time. No threads."""

    def __init__(self, faults: FaultInjector, send: Callable[[Outgoing], None]) -> None:
        self._faults, self._send = faults, send
        self._waiting: list[tuple[int, int, Outgoing]] = []
        self._order = count()

    def put(self, message: Outgoing, now_ns: int) -> None:
        for due_ns, outgoing in self._faults.apply(message, now_ns):
            if due_ns <= now_ns:
                self._send(outgoing)
                continue
            heapq.heappush(self._waiting, (due_ns, next(self._order), outgoing))
            if len(self._waiting) > MAX_DELAYED:
                self._faults.counts["hurried"] += 1
                self._send(heapq.heappop(self._waiting)[2])

    def next_due_ns(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None

    def send_due(self, now_ns: int) -> None:
        while self._waiting and self._waiting[0][0] <= now_ns:
            self._send(heapq.heappop(self._waiting)[2])

    def flush(self) -> None:
        """At the end: everything that still waits goes out now."""
        while self._waiting:
            self._send(heapq.heappop(self._waiting)[2])
