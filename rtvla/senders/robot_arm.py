"""The rules of the real robot PC for commands (origin a.5), on an arm that is only six numbers. No sockets, no clock.

dpose      ignored unless started and not on the way of an apose; else added to an accumulator
each 100 ms the accumulator is taken and zeroed: v = clamp(dp / 0.1 s, +-1 mm/s, +-1 deg/s), two decimals as in
           MoveLinVelWrf; what is above is discarded, and a tick without a command means zero velocity
start      moves to the Cartesian pose, whatever its field was called; reads no command until it is there, so that what
           came meanwhile, a stop too, is executed afterwards in one go
apose      stops, moves to the pose, then obeys dposes again. stop: ends all motion; another start is needed

Not as the real one: moves are straight at 50 mm/s and 50 deg/s, there are no singularities, joint limits or `lock_j6`,
the angles are not wrapped, and the joints are a made-up smooth invertible function of the pose: NOT the Meca500's
kinematics. A real stop also ends the robot PC's program, and a malformed command ends the real listener.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rtvla.clock import SECOND
from rtvla.schema import STEP_NS
from rtvla.wire.command import Command

F64 = npt.NDArray[np.float64]
HOME_MM_DEG = (190.0, 1.0, 309.0, 1.0, 90.0, 0.0)  # where the old robot PC goes at its start
MAX_VELOCITY = 1.0  # mm/s and deg/s, per axis
FED_NS = 300_000_000  # as the watchdog of the real arm (mecademic_limits.py)
MOVE_SPEED = 50.0  # mm/s and deg/s of start and apose
_JOINTS_AT_HOME_DEG = np.array([0.0, 15.0, 20.0, 0.0, 55.0, 0.0])
FAR = 10_000.0  # mm and deg: a pose beyond it is refused, as a robot would; keeps sums finite
# Any well-conditioned matrix will do; with it and the sine below the map stays invertible (the diagonal dominates).
_JOINTS_PER_POSE = 0.3 * np.eye(6) + 0.02 * np.sin(np.arange(36.0)).reshape(6, 6)


def joints_of(pose_mm_deg: F64) -> F64:
    """Stand-in joint angles in deg for a pose: smooth and invertible, and not the kinematics of any robot."""
    offset = pose_mm_deg - np.array(HOME_MM_DEG)
    joints: F64 = _JOINTS_AT_HOME_DEG + _JOINTS_PER_POSE @ offset + 2.0 * np.sin(offset / 40.0)
    return joints


@dataclass(frozen=True)
class _Move:
    kind: str  # "start" or "apose"
    origin: F64
    target: F64
    begin_ns: int
    end_ns: int


class Arm:
    """`advance` to a time, then `execute` what has arrived: ticks are computed for the times they were due at."""

    def __init__(self, now_ns: int) -> None:
        self.pose_mm_deg: F64 = np.array(HOME_MM_DEG)
        self.commands: Counter[str] = Counter()
        self.ignored_dposes: Counter[str] = Counter()
        self.ticks: Counter[str] = Counter()  # of the dpose loop: moved, clamped, empty
        self.path_length_mm = self.dpose_path_mm = self.largest_step_mm = self.largest_step_deg = 0.0
        self.longest_dpose_gap_ns = self.refused_moves = 0
        self._started = False
        self._move: _Move | None = None
        self._accumulator, self._velocity = np.zeros(6), np.zeros(6)
        self._fresh = False  # a dpose came since the last tick
        self._last_dpose_ns: int | None = None
        self._at_ns, self._tick_due_ns = now_ns, now_ns + STEP_NS

    def reads_commands(self) -> bool:
        """False on the way to a start pose: the real robot PC waits there in the thread that reads."""
        return self._move is None or self._move.kind != "start"

    def is_fed(self, now_ns: int) -> bool:
        """Whoever has the robot is there: it is being moved for him, or his dposes come."""
        is_recent = self._last_dpose_ns is not None and now_ns - self._last_dpose_ns <= FED_NS
        return self._move is not None or (self._started and is_recent)

    def joints_deg(self) -> F64:
        return joints_of(self.pose_mm_deg)

    def advance(self, now_ns: int) -> None:
        """Let time pass up to `now_ns`, with all ticks that were due on the way."""
        while self._tick_due_ns <= now_ns:
            self._glide(self._tick_due_ns)
            self._tick()
            self._tick_due_ns += STEP_NS
        self._glide(now_ns)

    def execute(self, command: Command, now_ns: int) -> None:
        """Take one checked command; `advance(now_ns)` comes first."""
        self.commands[command.kind] += 1
        if command.kind == "dpose":
            self._take_dpose(np.array(command.values_mm_deg), now_ns)
            return
        self._velocity, self._accumulator, self._fresh, self._move = np.zeros(6), np.zeros(6), False, None
        if command.kind == "stop":
            self._started = False
            return
        if command.kind == "start":
            self._started = True
        self._begin_move(command.kind, np.array(command.values_mm_deg), now_ns)

    def _take_dpose(self, delta_mm_deg: F64, now_ns: int) -> None:
        if self._last_dpose_ns is not None:
            self.longest_dpose_gap_ns = max(self.longest_dpose_gap_ns, now_ns - self._last_dpose_ns)
        self._last_dpose_ns = now_ns
        if self._move is not None:
            self.ignored_dposes[f"during_{self._move.kind}"] += 1
        elif not self._started:
            self.ignored_dposes["not_started"] += 1
        else:
            self._accumulator = self._accumulator + np.clip(delta_mm_deg, -FAR, FAR)
            self._fresh = True

    def _begin_move(self, kind: str, target: F64, now_ns: int) -> None:
        if np.abs(target).max() > FAR:
            self.refused_moves += 1
            return
        offset = target - self.pose_mm_deg
        duration_s = max(float(np.linalg.norm(offset[:3])), float(np.abs(offset[3:]).max())) / MOVE_SPEED
        end_ns = now_ns + int(duration_s * SECOND)
        self._move = _Move(kind, self.pose_mm_deg.copy(), target, now_ns, end_ns)

    def _tick(self) -> None:
        taken, self._accumulator = self._accumulator, np.zeros(6)
        fresh, self._fresh = self._fresh, False
        wanted = taken / (STEP_NS / SECOND)
        self._velocity = np.round(np.clip(wanted, -MAX_VELOCITY, MAX_VELOCITY), 2).astype(np.float64)
        if not self._started or self._move is not None:
            return
        self.ticks["empty"] += not fresh
        self.ticks["moved"] += bool(self._velocity.any())
        self.ticks["clamped"] += bool((np.abs(wanted) > MAX_VELOCITY * (1 + 1e-9)).any())
        step = self._velocity * (STEP_NS / SECOND)
        self.largest_step_mm = max(self.largest_step_mm, float(np.linalg.norm(step[:3])))
        self.largest_step_deg = max(self.largest_step_deg, float(np.abs(step[3:]).max()))

    def _glide(self, to_ns: int) -> None:
        """Move for the time up to `to_ns`, which is not beyond the next tick."""
        before, move = self.pose_mm_deg, self._move
        if move is not None:
            done = 1.0 if to_ns >= move.end_ns else (to_ns - move.begin_ns) / (move.end_ns - move.begin_ns)
            self.pose_mm_deg = move.target.copy() if done == 1.0 else move.origin + done * (move.target - move.origin)
            self._move = None if done == 1.0 else move
        else:
            self.pose_mm_deg = before + self._velocity * ((to_ns - self._at_ns) / SECOND)
        length_mm = float(np.linalg.norm(self.pose_mm_deg[:3] - before[:3]))
        self.path_length_mm += length_mm
        self.dpose_path_mm += 0.0 if move is not None else length_mm
        self._at_ns = to_ns
