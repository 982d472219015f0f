"""`rtvla bench chunks`: how chunks become motion when inference takes 0 to 600 ms, without a robot and without a model.

A made-up policy observes each 100 ms where the arm should be going (a smooth curve), errs by its noise, anew in each
chunk and ten times as much in each twentieth, and is late at random; execution and guard are the real ones. Reported:
how much of the time had a chunk, the largest speed, what the guard shortened, and each rule that was broken: nothing
over a limit, no moment twice, none backwards. `--out FILE.png` draws it (extra `plots`).
Exit code 1 if a rule was broken.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtvla.clock import MS, SECOND
from rtvla.control.execution import Execution
from rtvla.control.guard import Guard, Limits, Measured
from rtvla.schema import STEP_NS
from rtvla.tools.exits import OK, WRONG
from rtvla.tools.plots import require_matplotlib

HORIZON = 8
LIMITS = Limits(step=(0.1, 0.1), acceleration=(10.0, 10.0))
_AT = Measured((0.0,) * 6, (0.0,) * 6)
_ROUNDING = 1 + 1e-6


@dataclass
class Outcome:
    """Of each command: when, the speed on x and y in mm/s that left the guard, and what it covers."""

    times_s: list[float] = field(default_factory=list)
    speeds: list[tuple[float, float]] = field(default_factory=list)
    covered: list[tuple[int, int, int, int]] = field(default_factory=list)  # start, end, chunk, step
    late_chunks: int = 0  # of a time that has passed, or behind a newer one
    clamped: int = 0
    idle: int = 0  # commands for whose time there was no chunk
    broken: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="of simulated time (%(default)g)")
    parser.add_argument("--rate", type=float, default=10.0, help="commands a second (%(default)g)")
    parser.add_argument("--mode", choices=("switch", "blend", "ensemble"), default="blend")
    parser.add_argument("--delay-ms", type=float, default=600.0, help="inference takes from 0 to this (%(default)g)")
    parser.add_argument("--noise-mm", type=float, default=0.02, help="error of a chunk, mm a step (%(default)g)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="draw the trajectory")


def run(args: argparse.Namespace) -> int:
    if args.out:
        require_matplotlib()
    outcome = simulate(args.mode, args.seconds, args.rate, args.delay_ms, args.seed, args.noise_mm)
    if args.out:
        draw(args.out, outcome, f"{args.mode}, inference 0 to {args.delay_ms:g} ms, {args.rate:g} Hz")
    print(json.dumps(report(outcome) | {"picture": str(args.out) if args.out else None}))
    return WRONG if outcome.broken else OK


def truth(at_ns: int) -> tuple[float, float]:
    """mm of 100 ms: what a perfect policy says of a moment."""
    t = at_ns / SECOND
    return 0.07 * math.sin(0.9 * t), 0.05 * math.cos(1.7 * t)


def chunk_of(k: int, noise_mm: float, draw_from: random.Random) -> list[list[float]]:
    """What the policy says at the k-th observation: the truth of each step, but for an error of the whole chunk."""
    scale = noise_mm * (10 if draw_from.random() < 0.05 else 1)
    ex, ey = draw_from.gauss(0, scale), draw_from.gauss(0, scale)
    middles = ((k + i) * STEP_NS + STEP_NS // 2 for i in range(HORIZON))
    return [[x + ex, y + ey, 0, 0, 0, 0] for x, y in map(truth, middles)]


def simulate(mode: str, seconds: float, rate_hz: float, delay_ms: float, seed: int, noise_mm: float = 0.02) -> Outcome:
    draw_from, outcome = random.Random(seed), Outcome()
    execution, guard = Execution(mode, HORIZON, 50 * MS), Guard(LIMITS)
    period_ns, done_ns, last = round(SECOND / rate_hz), -1, (0.0, 0.0)
    arrivals = sorted(
        (k * STEP_NS + int(draw_from.uniform(0, delay_ms) * MS), k) for k in range(int(seconds * SECOND / STEP_NS))
    )
    for due_ns in range(50 * MS, int(seconds * SECOND), period_ns):
        now_ns = due_ns + draw_from.choice((0, 0, 0, 0, 3, 41)) * MS * period_ns // STEP_NS  # a late tick
        while arrivals and arrivals[0][0] <= now_ns:
            _, k = arrivals.pop(0)
            steps = chunk_of(k, noise_mm, draw_from)
            outcome.late_chunks += execution.add(k, k * STEP_NS, steps, now_ns) != ""
        start_ns, end_ns = max(now_ns, done_ns), due_ns + period_ns
        motion = execution.motion(start_ns, end_ns) if start_ns < end_ns else None
        if motion is None:
            outcome.idle += 1
            guard.stopped()
            last = (0.0, 0.0)
            continue
        period_s = (end_ns - start_ns) / SECOND
        ruling = guard.check(motion.delta, period_s, _AT)
        if ruling.delta is None:
            outcome.broken.append(f"{ruling.violated} refused at {now_ns / SECOND:.3f} s")
            continue
        speed = (ruling.delta[0] / period_s, ruling.delta[1] / period_s)
        _check(outcome, speed, last, period_s, start_ns, done_ns)
        outcome.clamped += ruling.clamped
        outcome.times_s.append(start_ns / SECOND)
        outcome.speeds.append(speed)
        outcome.covered.append((start_ns, end_ns, motion.chunk, motion.step))
        done_ns, last = end_ns, speed
    return outcome


def _check(
    outcome: Outcome, speed: tuple[float, float], last: tuple[float, float], period_s: float, start: int, done: int
) -> None:
    most = LIMITS.step[0] * SECOND / STEP_NS
    if max(map(abs, speed)) > most * _ROUNDING:
        outcome.broken.append(f"speed {speed}")
    if math.dist(speed, last) > LIMITS.acceleration[0] * period_s * _ROUNDING:
        outcome.broken.append(f"acceleration {math.dist(speed, last) / period_s:.3f} at {start / SECOND:.3f} s")
    if start < done:
        outcome.broken.append(f"{start} is executed twice")


def report(outcome: Outcome) -> dict[str, Any]:
    total_ns = outcome.covered[-1][1] - outcome.covered[0][0] if outcome.covered else 0
    executed_ns = sum(end - start for start, end, _, _ in outcome.covered)
    return {
        "commands": len(outcome.covered),
        "idle": outcome.idle,
        "late_chunks": outcome.late_chunks,
        "clamped": outcome.clamped,
        "executed_share": executed_ns / total_ns if total_ns else 0.0,
        "largest_speed_mm_s": max((max(map(abs, speed)) for speed in outcome.speeds), default=0.0),
        "broken": outcome.broken,
    }


def draw(path: Path, outcome: Outcome, title: str) -> None:
    """Speeds, and the way they add up to, beside what was asked for."""
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 7))
    for axis, name in enumerate("xy"):
        above.step(outcome.times_s, [speed[axis] for speed in outcome.speeds], where="post", label=f"{name} executed")
        wanted = [10 * truth(int(t * SECOND))[axis] for t in outcome.times_s]
        above.plot(outcome.times_s, wanted, "k:", linewidth=0.8, label=f"{name} truth")
    above.axhline(1.0, color="r", linewidth=0.5)
    above.axhline(-1.0, color="r", linewidth=0.5)
    above.set_xlabel("s")
    above.set_ylabel("mm/s")
    above.legend(fontsize="small", ncols=4)
    above.set_title(title)
    way = [(0.0, 0.0)]
    for (vx, vy), (start, end, _, _) in zip(outcome.speeds, outcome.covered, strict=True):
        share = (end - start) / SECOND
        way.append((way[-1][0] + vx * share, way[-1][1] + vy * share))
    below.plot([x for x, _ in way], [y for _, y in way])
    below.set_xlabel("x mm")
    below.set_ylabel("y mm")
    below.set_aspect("equal", adjustable="datalim")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
