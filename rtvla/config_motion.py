"""The sections of the config that are about motion: what is made of the chunks, what may leave, what age leads to."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from rtvla.config_sections import lengths, within
from rtvla.errors import ConfigError

COMMANDER_MODES = ("switch", "blend", "ensemble")  # of control/execution.py


@dataclass(frozen=True)
class Commander:
    """What is made of the chunks, and how it is sent. Limits of what leaves are in Guard."""

    rate_hz: float = 10.0  # commands a second; both robot sides add up what comes within their own 100 ms
    phase_ms: float = 50.0  # after the policy's tick
    mode: str = "blend"  # one of COMMANDER_MODES: a new chunk takes over at once, over blend_ms, or all are averaged
    blend_ms: float = 50.0
    action_horizon: int = 0  # steps of a chunk that are executed; 0: all
    ttl_ms: float = 0.0  # a command is void so long after it was issued, by clocks that must agree; 0: no limit
    auto_start: bool = False
    start_pose_mm_deg: tuple[float, ...] = (191.0, 1.0, 309.0, 1.0, 91.0, 1.0)
    start_tolerance_mm: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in COMMANDER_MODES:
            raise ConfigError(f'commander.mode = "{self.mode}": must be one of {", ".join(COMMANDER_MODES)}')
        lengths("commander", self, {"start_pose_mm_deg": (6,)})
        ranges = {
            "rate_hz": (10, 100),  # slower, and the robot side would stop between two commands
            "phase_ms": (0, 100),
            "blend_ms": (0, 1000),
            "action_horizon": (0, 32),
            "ttl_ms": (0, 10_000),
            "start_tolerance_mm": (1e-3, 10),
        }
        within("commander", self, ranges)


@dataclass(frozen=True)
class Guard:
    """The last limits before a motion leaves; control/guard.py says how each works. 0 or empty: no such limit."""

    max_step_mm: float = 0.1  # of each axis in 100 ms, however many commands that are
    max_step_deg: float = 0.1
    velocity_mm_s: float = 0.0  # of all axes together, as the following
    velocity_deg_s: float = 0.0
    acceleration_mm_s2: float = 10.0
    acceleration_deg_s2: float = 10.0
    jerk_mm_s3: float = 0.0
    jerk_deg_s3: float = 0.0
    workspace_min_mm: tuple[float, ...] = ()
    workspace_max_mm: tuple[float, ...] = ()
    keep_out_mm: tuple[float, ...] = ()  # boxes of six numbers: low x y z, high x y z
    joint_min_deg: tuple[float, ...] = ()
    joint_max_deg: tuple[float, ...] = ()
    force: float = 0.0  # in the sensor's unit, either sign
    force_rate: float = 0.0  # rise of its amount a second
    force_rate_ms: float = 20.0  # over which the rise is taken
    on_force: str = "hold"  # or "retract": by retract_mm each 100 ms, at most retract_limit_mm
    retract_mm: tuple[float, ...] = ()  # x y z in the world frame
    retract_limit_mm: float = 2.0
    reject: tuple[str, ...] = ()  # of step, velocity, acceleration, jerk: send nothing instead of less
    latch_after: int = 10  # motions refused within latch_window_s; then only `rtvla resume` ends the hold; 0: never
    latch_window_s: float = 10.0

    def __post_init__(self) -> None:
        box = {"workspace_min_mm": (0, 3), "workspace_max_mm": (0, 3), "retract_mm": (0, 3)}
        lengths("guard", self, {**box, "joint_min_deg": (0, 6), "joint_max_deg": (0, 6)})
        # What is above 0.1 the robot PC discards without a word, so a larger limit here would only hide the loss.
        within("guard", self, dict.fromkeys(("max_step_mm", "max_step_deg"), (1e-6, 0.1)))
        limits = ("velocity_mm_s", "velocity_deg_s", "acceleration_mm_s2", "acceleration_deg_s2", "jerk_mm_s3")
        within("guard", self, dict.fromkeys((*limits, "jerk_deg_s3", "force", "force_rate"), (0, 1e6)))
        ranges = {"force_rate_ms": (2, 100), "retract_limit_mm": (0, 100), "latch_after": (0, 1000)}
        within("guard", self, {**ranges, "latch_window_s": (0.1, 3600)})
        self._check_boxes()
        if self.on_force not in ("hold", "retract"):
            raise ConfigError(f'guard.on_force = "{self.on_force}": must be hold or retract')
        if self.on_force == "retract" and not any(self.retract_mm):
            raise ConfigError("guard.on_force = retract: needs guard.retract_mm, the x y z in mm of 100 ms of it")
        if unknown := set(self.reject) - {"step", "velocity", "acceleration", "jerk"}:
            raise ConfigError(f"guard.reject {sorted(unknown)}: must be of step, velocity, acceleration, jerk")

    def _check_boxes(self) -> None:
        for what, low, high in (
            ("workspace", self.workspace_min_mm, self.workspace_max_mm),
            ("joint", self.joint_min_deg, self.joint_max_deg),
        ):
            if len(low) != len(high):
                raise ConfigError(f"guard.{what}_min and {what}_max: give both or neither")
            if not all(map(operator.lt, low, high)):
                raise ConfigError(f"guard.{what}_min {list(low)} is not below {what}_max {list(high)}")
        if len(self.keep_out_mm) % 6:
            raise ConfigError(f"guard.keep_out_mm has {len(self.keep_out_mm)} numbers: needs six a box")
        for at in range(0, len(self.keep_out_mm), 6):
            low, high = self.keep_out_mm[at : at + 3], self.keep_out_mm[at + 3 : at + 6]
            if not all(map(operator.lt, low, high)):
                raise ConfigError(f"guard.keep_out_mm: {list(low)} is not below {list(high)}")


@dataclass(frozen=True)
class DegradeRow:
    """What the age of one input leads to (control/degrade.py). Stale it is beyond its stream's limit in [stale_ms];
    gone, `decelerate_ms` later. The actions: act, slow, finish, hold, latch."""

    late_ms: float = 100.0
    decelerate_ms: float = 100.0
    at_late: str = "act"
    at_stale: str = "finish"
    at_gone: str = "hold"

    def __post_init__(self) -> None:
        within("degrade", self, {"late_ms": (1, 60_000), "decelerate_ms": (0, 60_000)})
        order = ("act", "slow", "finish", "hold", "latch")
        actions = (self.at_late, self.at_stale, self.at_gone)
        if unknown := set(actions) - set(order):
            raise ConfigError(f"degrade: {', '.join(sorted(unknown))} is no action; known: {', '.join(order)}")
        if sorted(actions, key=order.index) != list(actions) or self.at_gone not in ("hold", "latch"):
            raise ConfigError(f"degrade: {', '.join(actions)}: must not get better with age, and end in hold or latch")


@dataclass(frozen=True)
class Degrade:
    """The degrade table. `view` stands for each of them."""

    chunk: DegradeRow = DegradeRow(late_ms=200.0)
    vl_feature: DegradeRow = DegradeRow(late_ms=1200.0)
    sensor: DegradeRow = DegradeRow()
    robot: DegradeRow = DegradeRow(decelerate_ms=0.0, at_stale="hold")
    view: DegradeRow = DegradeRow(late_ms=600.0)
    resume_after_ms: float = 200.0  # so long must all inputs be good again before motion resumes

    def __post_init__(self) -> None:
        within("degrade", self, {"resume_after_ms": (0, 60_000)})
