"""The sections [degrade], [guard] and [commander] of the config as what control works with: ns, tuples, infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rtvla.clock import MS, SECOND
from rtvla.config import Config
from rtvla.config_motion import DegradeRow
from rtvla.control.degrade import Row
from rtvla.control.execution import Execution
from rtvla.control.guard import Box, Limits, Pair
from rtvla.control.latch import Latch
from rtvla.schema import INPUTS, MAX_HORIZON, VIEWS
from rtvla.streams import stale_ns

# Whose limit in [stale_ms] it is that an input becomes stale at.
STREAM_OF: Mapping[str, str] = (
    {name: name for name in INPUTS} | {"chunk": "action_chunk"} | {v: f"frame.{v}" for v in VIEWS}
)


def degrade_table(cfg: Config) -> dict[str, Row]:
    """A row an input. Where a site's stale limit lies below `late_ms` there is nothing between fresh and stale."""
    return {name: _row(_section(cfg, name), stale_ns(STREAM_OF[name], cfg.stale_ms)) for name in INPUTS}


def _section(cfg: Config, name: str) -> DegradeRow:
    section: DegradeRow = cfg.degrade.view if name in VIEWS else getattr(cfg.degrade, name)
    return section


def _row(row: DegradeRow, limit_ns: int) -> Row:
    late_ns = min(int(row.late_ms * MS), limit_ns)
    gone_ns = limit_ns + int(row.decelerate_ms * MS)
    return Row(late_ns, limit_ns, gone_ns, row.at_late, row.at_stale, row.at_gone)


def guard_limits(cfg: Config) -> Limits:
    guard = cfg.guard
    boxes = zip(*[iter(guard.keep_out_mm)] * 6, strict=True)
    return Limits(
        step=(guard.max_step_mm, guard.max_step_deg),
        velocity=_pair(guard.velocity_mm_s, guard.velocity_deg_s),
        acceleration=_pair(guard.acceleration_mm_s2, guard.acceleration_deg_s2),
        jerk=_pair(guard.jerk_mm_s3, guard.jerk_deg_s3),
        workspace=_box(*guard.workspace_min_mm, *guard.workspace_max_mm) if guard.workspace_min_mm else None,
        keep_out=tuple(_box(*box) for box in boxes),
        joints_deg=tuple(zip(guard.joint_min_deg, guard.joint_max_deg, strict=True)),
        force=guard.force or math.inf,
        force_rate=guard.force_rate or math.inf,
        reject=frozenset(guard.reject),
    )


def execution_of(cfg: Config) -> Execution:
    commander = cfg.commander
    return Execution(commander.mode, commander.action_horizon or MAX_HORIZON, int(commander.blend_ms * MS))


def latch_of(cfg: Config) -> Latch:
    return Latch(cfg.guard.latch_after, int(cfg.guard.latch_window_s * SECOND))


def _pair(mm: float, deg: float) -> Pair:
    return mm or math.inf, deg or math.inf


def _box(x: float, y: float, z: float, x1: float, y1: float, z1: float) -> Box:
    return (x, y, z), (x1, y1, z1)
