"""One connection to a Meca500 through the vendor's library mecademicpy, without ever waiting for it in the caller.

Control    port 10000: commands go into the library's queue and out by its thread; state is what it last heard
Monitoring port 10001, a second connection: measured joints (GetRtJointPos) and pose (GetRtCartPos, TRF in WRF) with the
           robot's own microseconds, one Cycle each monitoring interval
Lost       `lost` says why, once it is: a socket closed, a call of the library failed, or `age_ns` grew too large, which
           is the caller's to judge. A lost link is never used again; the Connector makes the next one
The library is imported here and only when a link is made.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rtvla.clock import now_ns
from rtvla.errors import ConfigError, RobotFault

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0  # the library's own default is 10 s
MAX_WAITING = 1000  # cycles: 10 s
ARRIVED = 1  # id of the checkpoint behind a move
POSTURE = (1, 1, 1)  # shoulder, elbow, wrist; the one of the old robot PC


def library() -> Any:
    try:
        from mecademicpy import mx_robot_def, robot, robot_classes
    except ImportError as error:
        raise ConfigError(
            f"--arm mecademic needs the vendor's library ({error}): in the clone, pip install -e '.[robot]'"
        ) from None
    return robot, robot_classes, mx_robot_def


@dataclass(frozen=True, slots=True)
class Cycle:
    """What the robot measured at one moment of its own clock."""

    robot_us: int
    arrived_ns: int
    joints_deg: tuple[float, ...]
    pose_mm_deg: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ArmStatus:
    activated: bool
    homed: bool
    paused: bool
    error: bool


class Link:
    """Make it with `connect`, which blocks; everything else returns at once. Raises RobotFault once it is lost."""

    def __init__(self, address: str, control_port: int, monitor_port: int, wake: Callable[[], None]) -> None:
        self._robot_module, self._classes, definitions = library()
        self._codes, self._code_info = definitions.MxRobotStatusCode, definitions.robot_status_code_info
        self._control_at, self._monitor_at = f"{address}:{control_port}", f"{address}:{monitor_port}"
        self._wake = wake
        self.lost = ""
        self.cycles: deque[Cycle] = deque(maxlen=MAX_WAITING)
        self.errors: deque[str] = deque(maxlen=MAX_WAITING)  # names of the robot's error messages, oldest first
        self.last: Cycle | None = None
        self.malformed = 0  # monitoring messages that were not numbers
        self._connected_ns = 0
        self._parts: dict[int, tuple[int, tuple[float, ...]]] = {}
        self._arrival: Any = None
        self._control = self._robot({"on_command_message": self._hear_control, "on_disconnected": self._hear_end})
        self._monitor = self._robot({"on_monitor_message": self._hear_monitor, "on_disconnected": self._hear_end})

    def _robot(self, callbacks: dict[str, Callable[..., None]]) -> Any:
        robot, table = self._robot_module.Robot(), self._classes.RobotCallbacks()
        for name, callback in callbacks.items():
            setattr(table, name, callback)
        robot.default_timeout = ANSWER_TIMEOUT_S
        robot.RegisterCallbacks(table, run_callbacks_in_separate_thread=True)
        return robot

    def connect(self, interval_s: float) -> None:
        """Both connections, and what shall be monitored how often. Moves nothing. Raises RobotFault."""
        try:
            self._control.Connect(self._control_at, disconnect_on_exception=False, timeout=CONNECT_TIMEOUT_S)
            self._control.SetRealTimeMonitoring("JointPos", "CartPos")
            self._control.SetMonitoringInterval(interval_s)
            self._monitor.Connect(self._monitor_at, monitor_mode=True, timeout=CONNECT_TIMEOUT_S)
        except (self._classes.MecademicException, OSError, ValueError) as error:
            self.close()
            raise RobotFault(f"{type(error).__name__}: {error}") from None
        self._connected_ns = now_ns()

    def close(self) -> None:
        """Stops what still moves, if the robot can still be told. May take seconds: not for the loop."""
        self.lost = self.lost or "closed"
        with contextlib.suppress(
            self._classes.MecademicException, OSError
        ):  # closed already: the robot stops by itself
            if self._control.IsConnected() and self.status().activated:
                self._control.ClearMotion()
        for robot in (self._control, self._monitor):
            robot.Disconnect()

    def age_ns(self, now: int) -> int:
        """Since the newest cycle arrived, or since the connection if none did."""
        return now - (self.last.arrived_ns if self.last else self._connected_ns)

    def status(self) -> ArmStatus:
        status = self._control.GetStatusRobot()
        return ArmStatus(
            bool(status.activation_state),
            bool(status.homing_state),
            bool(status.pause_motion_status),
            bool(status.error_status),
        )

    def _call(self, name: str, *values: Any) -> Any:
        if self.lost:
            raise RobotFault(self.lost)
        try:
            return getattr(self._control, name)(*values)
        except (self._classes.MecademicException, OSError) as error:
            self.lost = f"{name}: {error}"
            raise RobotFault(self.lost) from None

    def activate(self) -> None:
        self._call("ActivateRobot")

    def home(self) -> None:
        self._call("Home")

    def deactivate(self) -> None:
        self._call("DeactivateRobot")

    def clear(self) -> None:
        """Stop where it is and forget the queue; nothing moves before `resume`."""
        self._arrival = None
        self._call("ClearMotion")

    def resume(self) -> None:
        self._call("ResumeMotion")

    def reset_error(self) -> None:
        self._call("ResetError")

    def move(self, pose_mm_deg: Sequence[float], joint_percent: float, vel_timeout_s: float) -> None:
        """Settings that activation resets, the move, and a checkpoint that `has_arrived` looks at."""
        self._call("SetConf", *POSTURE)
        self._call("SetVelTimeout", vel_timeout_s)
        self._call("SetJointVel", joint_percent)
        self._call("MovePose", *pose_mm_deg)
        self._arrival = self._call("SetCheckpoint", ARRIVED)

    def has_arrived(self) -> bool:
        if self._arrival is None:
            return False
        try:
            self._arrival.wait(0)
        except self._classes.MecademicException:  # not yet, or it will never be reached: the status says which
            return False
        return True

    def velocity(self, velocity: Sequence[float]) -> None:
        """mm/s and deg/s in the world frame; it ends by itself after the robot's own velocity timeout."""
        self._call("MoveLinVelWrf", *velocity)

    def watchdog(self, timeout_s: float) -> None:
        """Without another one within this time the robot closes the connection and stops by itself."""
        self._call("ConnectionWatchdog", timeout_s)

    def _hear_end(self) -> None:
        self.lost = self.lost or "the robot closed the connection"
        self._wake()

    def _hear_control(self, message: Any) -> None:
        info = self._code_info.get(message.id)
        if info is not None and info.is_error:
            self.errors.append(info.name.removeprefix("MX_ST_").lower())
            self._wake()

    def _hear_monitor(self, message: Any) -> None:
        codes = self._codes
        if message.id not in (codes.MX_ST_RT_JOINT_POS, codes.MX_ST_RT_CART_POS, codes.MX_ST_RT_CYCLE_END):
            return
        arrived_ns = now_ns()
        try:
            stamp, *values = map(float, message.data.split(","))
            if not all(map(math.isfinite, (stamp, *values))):
                raise ValueError
        except ValueError:
            self.malformed += 1
            return
        self._parts[int(message.id)] = (int(stamp), tuple(values))
        joints, pose = (self._parts.get(int(c)) for c in (codes.MX_ST_RT_JOINT_POS, codes.MX_ST_RT_CART_POS))
        if message.id != codes.MX_ST_RT_CYCLE_END or not joints or not pose or joints[0] != pose[0]:
            return
        if len(joints[1]) != 6 or len(pose[1]) != 6:
            self.malformed += 1
            return
        if self.last is None or joints[0] != self.last.robot_us:
            self.last = Cycle(joints[0], arrived_ns, joints[1], pose[1])
            self.cycles.append(self.last)
            self._wake()
