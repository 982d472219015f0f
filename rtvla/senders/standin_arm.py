"""The arm inside the stand-in for a Meca500 controller: six numbers, a motion queue, and an account of what they did.

Time is given, never read: `advance(now_ns)` first, then `queue` or another call. Messages for the clients collect in
`news`. It is NOT a robot: moves are straight lines in the six numbers at a share of FULL_SPEED, velocities start and
end at once, there are no kinematics, singularities or joint limits, angles do not wrap, and the joints are the made-up
function of robot_arm.py. After the programming manual of firmware 9.2: a velocity ends by itself after SetVelTimeout,
ClearMotion and errors empty the queue and pause, and what is queued while paused waits for ResumeMotion.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtvla.clock import SECOND
from rtvla.senders.robot_arm import F64, HOME_MM_DEG, joints_of

FULL_SPEED = 1000.0  # mm/s and deg/s of a move at SetJointVel(100)
DEFAULT_VEL_TIMEOUT_S = 0.05
DEFAULT_JOINT_PERCENT = 25.0


@dataclass
class Item:
    """One entry of the motion queue; `values` by `name`, which is the command's in lower case."""

    name: str
    values: tuple[float, ...]
    end_ns: int = 0  # of a velocity, once it runs


class StandinArm:
    def __init__(self, now_ns: int) -> None:
        self.pose: F64 = np.array(HOME_MM_DEG)
        self.activated = self.homed = self.paused = False
        self.error = 0
        self.news: list[tuple[int, str]] = []
        self.counts: Counter[str] = Counter()
        self.velocity_path: F64 = np.zeros(6)  # what velocities moved each axis, with its sign
        self.fastest: F64 = np.zeros(6)  # largest velocity on each axis
        self._queue: deque[Item] = deque()
        self._at_ns = now_ns
        self._set_defaults()

    def _set_defaults(self) -> None:
        self._vel_timeout_s, self._joint_percent = DEFAULT_VEL_TIMEOUT_S, DEFAULT_JOINT_PERCENT

    def status(self) -> str:
        flags = (self.activated, self.homed, False, self.error != 0, self.paused, not self._queue, not self._queue)
        return ",".join(str(int(flag)) for flag in flags)

    def joints_deg(self) -> F64:
        return joints_of(self.pose)

    def activate(self) -> None:
        if not self.activated:
            self.activated, self.homed, self.paused = True, False, False
            self._set_defaults()
        self.news.append((2000, "Motors activated."))

    def home(self) -> None:
        self.homed = True
        self.news.append((2002, "Homing done."))

    def deactivate(self) -> None:
        self.activated = self.homed = False
        self._queue.clear()
        self.news.append((2004, "Motors deactivated."))

    def clear(self) -> None:
        self._queue.clear()
        self.paused = True
        self.counts["cleared"] += 1
        self.news.append((2044, "The motion was cleared."))

    def pause(self) -> None:
        self.paused = True
        self.news.append((2042, "Motion paused."))

    def resume(self) -> None:
        self.paused = False
        self.news.append((2043, "Motion resumed."))

    def stop_for_lost_connection(self) -> None:
        """What the vendor's library says of a lost connection: a safety stop, motion paused."""
        self._queue.clear()
        self.paused = self.paused or self.activated
        self.counts["connection_stops"] += 1
        self.news.append((3086, "1"))

    def fail(self, code: int, text: str) -> None:
        """The error mode: no motion until it is reset."""
        self.error, self.paused = code, True
        self._queue.clear()
        self.counts[f"error_{code}"] += 1
        self.news.append((code, text))

    def reset_error(self) -> None:
        self.news.append((2005, "The error was reset.") if self.error else (2006, "There was no error to reset."))
        self.error = 0

    def queue(self, name: str, values: tuple[float, ...]) -> None:
        refusals = [
            (self.error != 0, 1011, "The robot is in error."),
            (not self.activated, 1005, "The robot is not activated."),
            (not self.homed, 1006, "The robot is not homed."),
        ]
        for applies, code, text in refusals:
            if applies:
                self.counts[f"refused_{code}"] += 1
                self.news.append((code, text))
                return
        self._queue.append(Item(name, values))
        self._run(self._at_ns)

    def advance(self, now_ns: int) -> None:
        self._run(now_ns)
        self._at_ns = now_ns

    def _run(self, to_ns: int) -> None:
        """Work the queue up to `to_ns`; a paused arm stands and its queue waits."""
        while self._queue and not self.paused:
            item = self._queue[0]
            if not getattr(self, f"_{item.name}")(item, to_ns):
                return
            self._queue.popleft()
            if not self._queue:
                self.news.append((3012, "End of block."))

    def _movelinvelwrf(self, item: Item, to_ns: int) -> bool:
        item.end_ns = item.end_ns or self._at_ns + int(self._vel_timeout_s * SECOND)
        velocity = np.array(item.values)
        self.fastest = np.maximum(self.fastest, np.abs(velocity))
        until_ns = max(self._at_ns, min(to_ns, item.end_ns))  # a pause may have outlasted it
        step = velocity * ((until_ns - self._at_ns) / SECOND)
        self.pose, self.velocity_path = self.pose + step, self.velocity_path + step
        self._at_ns = until_ns
        is_over = until_ns >= item.end_ns
        self.counts["velocity_timeouts"] += is_over and bool(velocity.any())
        return is_over or (len(self._queue) > 1 and self._queue[1].name == item.name)  # the next takes over at once

    def _movepose(self, item: Item, to_ns: int) -> bool:
        offset = np.array(item.values) - self.pose
        far = max(float(np.linalg.norm(offset[:3])), float(np.abs(offset[3:]).max()))
        speed = FULL_SPEED * self._joint_percent / 100
        needed_ns = int(far / speed * SECOND)
        if needed_ns <= to_ns - self._at_ns:
            self.pose, self._at_ns = np.array(item.values), self._at_ns + needed_ns
            return True
        self.pose = self.pose + offset * ((to_ns - self._at_ns) / needed_ns)
        self._at_ns = to_ns
        return False

    def _setcheckpoint(self, item: Item, to_ns: int) -> bool:
        self.news.append((3030, str(int(item.values[0]))))
        return True

    def _setveltimeout(self, item: Item, to_ns: int) -> bool:
        self._vel_timeout_s = item.values[0]
        return True

    def _setjointvel(self, item: Item, to_ns: int) -> bool:
        self._joint_percent = item.values[0]
        return True

    def _setconf(self, item: Item, to_ns: int) -> bool:
        return True

    def account(self) -> dict[str, Any]:
        """What happened, for tests: not part of the vendor's protocol."""
        return {
            "pose_mm_deg": self.pose.tolist(),
            "velocity_path_mm_deg": self.velocity_path.tolist(),
            "fastest": self.fastest.tolist(),
            "queued": len(self._queue),
            "status": {name: getattr(self, name) for name in ("activated", "homed", "paused", "error")},
            "counts": dict(self.counts),
        }
