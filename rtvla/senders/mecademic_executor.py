"""What the robot side does with commands on a real arm. No sockets, no library, no clock: a link and times are given.

start      activate and home if need be, clear the queue, MovePose, then obey dposes. Every step waits in `step`, not in
           the caller, so a stop or another start interrupts it at any point
dpose      as the old robot PC: added up, and each 100 ms v = clamp(sum / 0.1 s) to two decimals as MoveLinVelWrf; a
           tick without one sends zero. The last three are taken as angular velocity about the world's axes, as there
apose      only after a start: clear, MovePose, then obey dposes again
stop       ClearMotion at once; nothing moves before another start. While it activates or homes: DeactivateRobot too
Watchdog   fed by accepted dposes only. When it runs out: zero velocity and hold. The first REARM_TICKS ticks with
           dposes after a hold are not executed, as they may be what a network held back; they only end the hold
Given up   error, pause, deactivation and a lost connection end everything until another start. An error is never reset
           from here: somebody clears it at the robot, or starts this program with --clear-error
Limits     each axis of the velocity; a workspace box for the measured pose plus what the robot's velocity timeout lets
           it travel, and for the targets of start and apose. The way of a MovePose is the robot's own: unchecked
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np

from rtvla.errors import RobotFault
from rtvla.senders.mecademic_limits import STEP_S, Limits
from rtvla.senders.mecademic_link import ArmStatus, Cycle
from rtvla.senders.robot_arm import FAR
from rtvla.wire.command import Command

REARM_TICKS = 2  # a burst that falls across the end of a tick is in two of them


class RobotLink(Protocol):
    """What is used of mecademic_link.Link."""

    last: Cycle | None

    def status(self) -> ArmStatus: ...
    def activate(self) -> None: ...
    def home(self) -> None: ...
    def deactivate(self) -> None: ...
    def clear(self) -> None: ...
    def resume(self) -> None: ...
    def move(self, pose_mm_deg: Sequence[float], joint_percent: float, vel_timeout_s: float) -> None: ...
    def has_arrived(self) -> bool: ...
    def velocity(self, velocity: Sequence[float]) -> None: ...


class Phase(StrEnum):
    OFFLINE = "offline"
    IDLE = "idle"
    ERROR = "error"
    ACTIVATING = "activating"
    HOMING = "homing"
    CLEARING = "clearing"
    RESUMING = "resuming"
    MOVING = "moving"
    FOLLOWING = "following"


STARTING = (Phase.ACTIVATING, Phase.HOMING, Phase.CLEARING, Phase.RESUMING, Phase.MOVING)


class Executor:
    def __init__(self, limits: Limits, say: Callable[[str], None]) -> None:
        self._limits, self._say = limits, say
        self._link: RobotLink | None = None
        self.phase = Phase.OFFLINE
        self.commands: Counter[str] = Counter()
        self.ignored_dposes: Counter[str] = Counter()
        self.refused_moves: Counter[str] = Counter()
        self.interrupted: Counter[str] = Counter()  # why motion was given up
        self.ticks: Counter[str] = Counter()  # moved, clamped, empty, blocked, rearming
        self.watchdog_holds = 0
        self._move = Command("stop")  # the start or apose under way
        self._began_ns = 0
        self._forget()

    def _forget(self) -> None:
        """No dpose that came before counts for anything after."""
        self._sum, self._is_fresh, self._hold_ticks = np.zeros(6), False, 0  # of a hold: ticks to its end
        self._fed_ns: int | None = None

    def attach(self, link: RobotLink) -> None:
        self._link, self.phase = link, Phase.IDLE
        self._forget()

    def detach(self) -> None:
        if self.is_active():
            self.interrupted["connection_lost"] += 1
        self._link, self.phase = None, Phase.OFFLINE
        self._forget()

    def is_active(self) -> bool:
        """Something moves, or may at the next command."""
        return self.phase in STARTING or self.phase is Phase.FOLLOWING

    def is_fed(self, now: int) -> bool:
        """Whoever has the robot is there: it is being moved for him, or his dposes come."""
        is_recent = self._fed_ns is not None and now - self._fed_ns <= self._limits.watchdog_ns
        return self.phase in STARTING or (self.phase is Phase.FOLLOWING and is_recent)

    def execute(self, command: Command, now: int) -> None:
        """One command that the gate let through. Raises RobotFault if the link is lost."""
        self.commands[command.kind] += 1
        if command.kind == "stop":
            self.stop()
        elif command.kind == "dpose":
            self._take_dpose(command, now)
        else:
            self._begin(command, now)

    def stop(self) -> None:
        was, self.phase = self.phase, Phase.IDLE if self._link and self.phase is not Phase.ERROR else self.phase
        self._forget()
        if self._link is None or was is Phase.ERROR:
            return
        if was in (Phase.ACTIVATING, Phase.HOMING):
            self._link.deactivate()
        elif self._link.status().activated:
            self._link.clear()

    def _take_dpose(self, command: Command, now: int) -> None:
        if self.phase is not Phase.FOLLOWING:
            cause = f"during_{self._move.kind}" if self.phase in STARTING else "not_started"
            self.ignored_dposes[cause] += 1
            return
        self._sum = self._sum + np.clip(np.array(command.values_mm_deg), -FAR, FAR)
        self._is_fresh, self._fed_ns = True, now

    def _begin(self, command: Command, now: int) -> None:
        if cause := self._refusal(command):
            self.refused_moves[cause] += 1
            self._say(f"{command.kind} refused: {cause}")
            return
        assert self._link is not None
        self._forget()
        self._move, self._began_ns, self.phase = command, now, Phase.ACTIVATING
        if not self._link.status().activated:
            self._link.activate()
        self.step(now)

    def _refusal(self, command: Command) -> str:
        target = command.values_mm_deg
        causes = {
            "not_connected": self._link is None,
            "robot_error": self.phase is Phase.ERROR or (self._link is not None and self._link.status().error),
            "not_started": command.kind == "apose" and not self.is_active(),
            "lock_j6": command.lock_j6,  # what it should hold was never written down: better no motion than a guess
            "too_far": max(map(abs, target)) > FAR,
            "outside_workspace": not self._limits.holds(target[:3]),
        }
        return next((cause for cause, applies in causes.items() if applies), "")

    def step(self, now: int) -> None:
        """Look at the robot and go on with what is under way. Raises RobotFault if the link is lost."""
        if self._link is None:
            return
        status = self._link.status()
        if status.error:
            self._enter_error()
        elif self.phase is Phase.ERROR:
            self.phase = Phase.IDLE
            self._say("the robot's error was cleared at the robot; a new start is needed")
        elif self.phase in STARTING:
            self._go_on(status, now)
        elif self.phase is Phase.FOLLOWING and not self._gave_up(status):
            self._watch(now)

    def _enter_error(self) -> None:
        if self.phase is Phase.ERROR:
            return
        if self.is_active():
            self.interrupted["robot_error"] += 1
        self.phase = Phase.ERROR
        self._forget()
        self._say("the robot is in error: no motion until it is cleared at the robot and a new start is sent")

    def _go_on(self, status: ArmStatus, now: int) -> None:
        link = self._link
        assert link is not None
        if now - self._began_ns > self._limits.move_timeout_ns:
            self._give_up("move_timeout")
        elif self.phase is Phase.ACTIVATING and status.activated:
            self.phase = Phase.HOMING
            if not status.homed:
                link.home()
        elif self.phase is Phase.HOMING and status.homed:
            self.phase = Phase.CLEARING
            link.clear()
        elif self.phase is Phase.CLEARING and status.paused:
            self.phase = Phase.RESUMING
            link.resume()
        elif self.phase is Phase.RESUMING and not status.paused:
            self.phase = Phase.MOVING
            percent = self._limits.start_percent if self._move.kind == "start" else self._limits.apose_percent
            link.move(self._move.values_mm_deg, percent, self._limits.vel_timeout_s)
        elif self.phase is Phase.MOVING and not self._gave_up(status) and link.has_arrived():
            self.phase = Phase.FOLLOWING
            self._say(f"{self._move.kind}: arrived, dposes are executed")

    def _gave_up(self, status: ArmStatus) -> bool:
        """Somebody else has paused, deactivated or unhomed the robot: what was queued must not move it later."""
        causes = {"deactivated": not status.activated, "unhomed": not status.homed, "paused": status.paused}
        cause = next((cause for cause, applies in causes.items() if applies), "")
        if cause:
            self._give_up(cause)
        return bool(cause)

    def _give_up(self, cause: str) -> None:
        self.interrupted[cause] += 1
        self._say(f"motion given up: {cause}; a new start is needed")
        self.stop()

    def _watch(self, now: int) -> None:
        if self._fed_ns is None or now - self._fed_ns <= self._limits.watchdog_ns:
            return
        assert self._link is not None
        is_new, self._hold_ticks = not self._hold_ticks, REARM_TICKS
        self._sum, self._is_fresh = np.zeros(6), False
        if is_new:
            self.watchdog_holds += 1
            self._link.velocity((0.0,) * 6)

    def tick(self) -> None:
        """Each 100 ms: one velocity to the robot. Raises RobotFault if the link is lost."""
        if self.phase is not Phase.FOLLOWING:
            return
        taken, self._sum = self._sum, np.zeros(6)
        is_fresh, self._is_fresh = self._is_fresh, False
        if self._hold_ticks:
            self.ticks["rearming"] += is_fresh
            self._hold_ticks -= is_fresh
            return
        limit = np.array([self._limits.max_mm_s] * 3 + [self._limits.max_deg_s] * 3)
        wanted = taken / STEP_S
        velocity = np.round(np.clip(wanted, -limit, limit), 2) + 0.0  # no minus zero
        self.ticks["empty"] += not is_fresh
        self.ticks["clamped"] += bool((np.abs(wanted) > limit * (1 + 1e-9)).any())
        link = self._link
        if link is None or link.last is None:
            raise RobotFault("no pose was ever measured")
        if not self._limits.lets_move(link.last.pose_mm_deg, velocity.tolist()):
            self.ticks["blocked"] += 1
            velocity = np.zeros(6)
        self.ticks["moved"] += bool(velocity.any())
        link.velocity(velocity.tolist())
