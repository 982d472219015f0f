"""What the robot side enforces again, whatever it is asked for, and the flags that set it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from rtvla.clock import MS, SECOND
from rtvla.errors import ConfigError
from rtvla.schema import STEP_NS
from rtvla.senders.options import not_negative, port, positive

STEP_S = STEP_NS / SECOND
LONGEST_VEL_TIMEOUT_S = 0.4  # the old robot PC's


@dataclass(frozen=True)
class Limits:
    max_mm_s: float = 1.0  # per axis, as the old robot PC
    max_deg_s: float = 1.0
    workspace_min_mm: tuple[float, ...] = ()
    workspace_max_mm: tuple[float, ...] = ()
    vel_timeout_s: float = 0.4  # the robot's own
    watchdog_ns: int = 300_000_000
    move_timeout_ns: int = 120 * SECOND
    start_percent: float = 3.0
    apose_percent: float = 1.0

    def holds(self, position_mm: Sequence[float]) -> bool:
        box = zip(self.workspace_min_mm, position_mm, self.workspace_max_mm, strict=False)  # without a box: no axis
        return all(low <= at <= high for low, at, high in box)

    def lets_move(self, position_mm: Sequence[float], velocity: Sequence[float]) -> bool:
        """False if an axis could come to be outside and farther out than it is: a way back in stays open."""
        box = zip(self.workspace_min_mm, position_mm, self.workspace_max_mm, velocity, strict=False)
        for low, at, high, v in box:
            then = at + v * (STEP_S + self.vel_timeout_s)
            if (v < 0 and then < low) or (v > 0 and then > high):
                return False
        return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Beside those of the simulated robot: --bind, the ports, --hz, --seconds."""
    group = parser.add_argument_group("with --arm mecademic")
    group.add_argument("--robot-address", metavar="IP", help="address of the robot's controller; no default on purpose")
    group.add_argument("--control-port", type=port, default=10000, help="of the controller (%(default)s)")
    group.add_argument("--monitor-port", type=port, default=10001, help="of the controller (%(default)s)")
    group.add_argument("--max-mm-s", type=positive, default=1.0, help="velocity limit of each axis (%(default)g)")
    group.add_argument("--max-deg-s", type=positive, default=1.0, help="velocity limit of each axis (%(default)g)")
    box = ("X0", "X1", "Y0", "Y1", "Z0", "Z1")
    group.add_argument("--workspace", type=float, nargs=6, metavar=box, help="box for the pose, mm (none)")
    group.add_argument("--start-percent", type=positive, default=3.0, help="joint speed of a start (%(default)g)")
    group.add_argument("--apose-percent", type=positive, default=1.0, help="joint speed of an apose (%(default)g)")
    group.add_argument("--vel-timeout-s", type=positive, default=0.4, help="the robot's own, at most 0.4 (%(default)g)")
    group.add_argument("--watchdog-ms", type=positive, default=300.0, help="hold without dposes for (%(default)g)")
    group.add_argument("--move-timeout-s", type=positive, default=120.0, help="a start that takes longer is cleared")
    group.add_argument("--silence-ms", type=positive, default=500.0, help="then the connection is lost (%(default)g)")
    group.add_argument(
        "--connection-watchdog-s", type=not_negative, default=1.0, help="the robot's own; 0: none (%(default)g)"
    )
    group.add_argument(
        "--clear-error", action="store_true", help="reset the robot's error once, at the first connection"
    )


def limits_of(args: argparse.Namespace) -> Limits:
    """Refuses what cannot be meant."""
    box = args.workspace or []
    low, high = tuple(box[0::2]), tuple(box[1::2])
    if any(not a < b for a, b in zip(low, high, strict=True)):
        raise ConfigError(f"robot --workspace {box}: give X0 X1 Y0 Y1 Z0 Z1 in mm, each first below its second")
    if not STEP_S < args.vel_timeout_s <= LONGEST_VEL_TIMEOUT_S:
        raise ConfigError(f"robot --vel-timeout-s {args.vel_timeout_s:g}: above 0.1 (a tick) and at most 0.4")
    if args.watchdog_ms <= STEP_NS / MS:
        raise ConfigError(f"robot --watchdog-ms {args.watchdog_ms:g}: above 100, or it runs out between two dposes")
    if not 1 <= args.hz <= 1000:
        raise ConfigError(f"robot --hz {args.hz:g}: the robot's monitoring goes from 1 to 1000")
    if max(args.start_percent, args.apose_percent) > 100:
        raise ConfigError("robot --start-percent, --apose-percent: at most 100")
    return Limits(
        max_mm_s=args.max_mm_s,
        max_deg_s=args.max_deg_s,
        workspace_min_mm=low,
        workspace_max_mm=high,
        vel_timeout_s=args.vel_timeout_s,
        watchdog_ns=int(args.watchdog_ms * MS),
        move_timeout_ns=int(args.move_timeout_s * SECOND),
        start_percent=args.start_percent,
        apose_percent=args.apose_percent,
    )
