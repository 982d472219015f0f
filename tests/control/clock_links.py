"""Simulated links with a known truth, for the estimate of a sender's clock. As a program: its table for the documents.

python tests/control/clock_links.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rtvla.clock import MS, SECOND
from rtvla.control.sender_clock import Reading, SenderClock

HZ = 200
WAY_NS = 120_000
Sample = tuple[int, int, int]  # captured (our clock), stamp (sender's), received (our clock)
Offset = Callable[[np.ndarray], np.ndarray]  # t in ns -> our clock minus the sender's


@dataclass(frozen=True)
class Link:
    """What the way does. `burst`: share and mean ms of late ones; `queue`: from s, until s, how many ms more; `lost`: a
    share, in bursts of ten."""

    jitter_us: float = 50
    burst: tuple[float, float] = (0.0, 0.0)
    queue: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lost: float = 0.0
    hz: int = HZ
    ordered: bool = False

    def samples(self, seconds: float, offset: Offset) -> Iterator[Sample]:
        """In the order of arrival; where the way is `ordered`, a late one holds up those behind it."""
        draw = np.random.default_rng(1)
        t = np.arange(1, int(seconds * self.hz)) * (SECOND // self.hz)
        delay = WAY_NS + draw.gamma(2, self.jitter_us * 500, len(t))
        delay += (draw.random(len(t)) < self.burst[0]) * draw.exponential(self.burst[1] * MS, len(t))
        delay += ((t >= self.queue[0] * SECOND) & (t < self.queue[1] * SECOND)) * self.queue[2] * MS
        captured = t + 7_000 * SECOND
        stamp = (captured - offset(t)).astype(np.int64)
        received = (captured + delay).astype(np.int64)
        if self.ordered:
            received = np.maximum.accumulate(received)
        gone = np.repeat(draw.random(len(t) // 10 + 1) < self.lost, 10)[: len(t)]
        for i in np.argsort(received, kind="stable"):
            if not gone[i]:
                yield int(captured[i]), int(stamp[i]), int(received[i])


def steady(ppm: float) -> Offset:
    return lambda t: 5_000 * SECOND + ppm * 1e-6 * t


def wander(t: np.ndarray) -> np.ndarray:
    return steady(30)(t) + 2e-6 * np.sin(2 * np.pi * t / 200e9) * 200e9 / (2 * np.pi)


def stepped(at_s: float, by_ms: float) -> Offset:
    """`by_ms` > 0: the sender's clock jumps ahead."""
    return lambda t: steady(30)(t) - (t > at_s * SECOND) * by_ms * MS


@dataclass(frozen=True)
class Figures:
    """Errors of the capture time in us, from 20 s on, the shortest way taken out (what a user sees is this plus the
    way); the uncertainty that was reported with them; the share that was trusted; steps that were seen."""

    p50: float
    p99: float
    worst: float
    uncertainty_p50: float
    within: float  # share of the errors that are not above twice the uncertainty that was reported with them
    trusted: float
    steps: int
    freshest: float  # how much younger than the truth the freshest sample looked


def measure(link: Link, offset: Offset, seconds: float = 150, confirm: int = 20) -> Figures:
    clock = SenderClock(confirm, ordered=link.ordered)
    readings: list[tuple[Reading, int, int]] = []
    for captured, stamp, received in link.samples(seconds, offset):
        reading = clock.add(stamp, received)
        readings.append((reading, reading.captured_ns - captured - WAY_NS, clock.uncertainty_ns))
    after = readings[20 * link.hz :]
    errors = np.array([error for _, error, _ in after]) / 1000
    told = np.array([uncertainty for reading, _, uncertainty in after if reading.trusted]) / 1000
    trusted = np.array([reading.trusted for reading, _, _ in after])
    return Figures(
        *np.percentile(np.abs(errors), (50, 99, 100)),
        uncertainty_p50=float(np.median(told)) if len(told) else float("nan"),
        within=float((np.abs(errors[trusted]) <= 2 * told).mean()) if len(told) else float("nan"),
        trusted=float(trusted.mean()),
        steps=clock.steps,
        freshest=float(errors.max()),
    )


# what a lower hull reached in a study of such links: p50 and p99 of the error in us
CASES: dict[str, tuple[Link, Offset, float, float]] = {
    "wired, 30 ppm": (Link(), steady(30), 0.8, 2.5),
    "wired, 100 ppm": (Link(), steady(100), 0.8, 2.7),
    "wired, -100 ppm": (Link(), steady(-100), 0.8, 2.7),
    "wired, wander of 2 ppm": (Link(), wander, 3.6, 36),
    "wired, a fifth lost in bursts": (Link(lost=0.2), steady(30), 0.8, 2.7),
    "Wi-Fi, 1 ms jitter, 2 % of 20 ms": (Link(jitter_us=1000, burst=(0.02, 20)), steady(30), 17, 50),
    "the same in order (TCP)": (Link(jitter_us=1000, burst=(0.02, 20), ordered=True), steady(30), 17, 50),
    # the line tilts while a queue begins and ends
    "a queue of 3 ms for 30 s": (Link(queue=(60, 90, 3)), steady(30), 2.8, 90),
}
# what one-way stamps cannot tell, or only after a while: shown, and held to the safe side
HARD: dict[str, tuple[Link, Offset]] = {
    "a queue of 3 ms for 90 s": (Link(queue=(30, 120, 3)), steady(30)),
    "a queue of 400 ms for 10 s": (Link(queue=(60, 70, 400)), steady(30)),
    "the clock jumps 250 ms ahead": (Link(), stepped(60, 250)),
    "the clock jumps 250 ms back": (Link(), stepped(60, -250)),
    "the same, in order (TCP), 5 Hz": (Link(hz=5, ordered=True), stepped(60, -250)),
    "the clock jumps 50 ms back": (Link(), stepped(60, -50)),
    "the same, in order (TCP)": (Link(ordered=True), stepped(60, -50)),
}


def main() -> None:
    print("| link | error p50 us | p99 | max | reported +- us p50 | errors within 2x | trusted | steps | freshest us |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, case in (CASES | HARD).items():
        f = measure(case[0], case[1], confirm=5 if case[0].hz == 5 else 20)
        numbers = f"{f.p50:.1f} | {f.p99:.1f} | {f.worst:.0f} | {f.uncertainty_p50:.1f} | {f.within:.1%}"
        print(f"| {name} | {numbers} | {f.trusted:.1%} | {f.steps} | {f.freshest:.0f} |")


if __name__ == "__main__":
    main()
