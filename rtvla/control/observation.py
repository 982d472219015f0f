"""Records -> what the policy sees, with the age of each part; or the reason why there is nothing to see.

Plain arrays in, plain arrays out: the run loop and (later) training cut the same windows.

The observation time is the newest one for which both the sensor and the robot are there: the capture of the newest
sample of the one that is behind. Nothing that was captured later is in the observation, also no view, as long as an
older feature without it is still at hand. What that costs in age is at most what the two are apart, and a policy that
saw force from after the pose would learn, or act on, an order of events that never was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rtvla.control.window import SECOND, Stream, Times, Window, WindowSpec, cut
from rtvla.schema import ROBOT_CHANNEL_NAMES, SENSOR_CHANNELS, Observation

Records = np.ndarray[Any, np.dtype[np.void]]
Rows = np.ndarray[Any, np.dtype[np.float32]]
ROBOT_CHANNELS = len(ROBOT_CHANNEL_NAMES)


@dataclass(frozen=True)
class Limits:
    """Ages in ns above which a part is stale, the share of a window that may be missing, and the positions of the views
    without which a feature is none: a mean over fewer is nothing that the model was trained on."""

    sensor_stale_ns: int
    robot_stale_ns: int
    vl_stale_ns: int
    max_missing: float
    views: tuple[int, ...] = ()


@dataclass(frozen=True)
class Seen:
    """The observation, and what it was made from: records, ages in ns at `now_ns` counted from capture. None and -1 for
    what is not used."""

    observation: Observation
    observation_ns: int
    sensor: np.void | None
    robot: np.void | None
    feature: np.void
    sensor_age_ns: int
    robot_age_ns: int
    vl_age_ns: int  # of the oldest view inside the feature
    view_age_ns: Times  # -1 for a view that the feature does not have


def sensor_rows(records: Records) -> Rows:
    """(T,) SENSOR records -> (T, 1026) float32, force first, then the A-line."""
    rows = np.empty((len(records), SENSOR_CHANNELS), np.float32)
    rows[:, 0] = records["wire"]["force"]
    rows[:, 1:] = records["wire"]["aline"]
    return rows


def robot_rows(records: Records) -> Rows:
    """(R,) ROBOT records -> (R, 12) float32: joints in deg, then pose in mm and deg."""
    return np.concatenate([records["joints_deg"], records["pose_mm_deg"]], axis=1, dtype=np.float32)


def feature_at(
    features: Records, fingerprint: int, views: tuple[int, ...], observation_ns: int
) -> tuple[np.void | None, str]:
    """The newest feature without a view from after the observation time; if there is none, the oldest one."""
    if int(features[-1]["fingerprint"]) != fingerprint:
        return None, "vl_of_another_model"
    usable = [one for one in features if int(one["fingerprint"]) == fingerprint and (one["view_received_ns"] > 0).any()]
    if not usable:
        return None, "no_vl_feature"
    usable = [one for one in usable if (one["view_received_ns"][list(views)] > 0).all()]
    if not usable:
        return None, "view_missing"
    before = [one for one in usable if int(one["view_captured_ns"].max()) <= observation_ns]
    return (before[-1] if before else usable[0]), ""


def observe(
    sensor: Records | None,
    robot: Records | None,
    features: Records | None,
    fingerprint: int,
    now_ns: int,
    windows: tuple[WindowSpec, WindowSpec],
    limits: Limits,
) -> tuple[Seen | None, str]:
    """(what there is to see, "") or (None, reason); the reason is a counter's name.

    `sensor`, `robot`, `features`: the newest records in the order of arrival, None where there are too few; more than
    a window of them, so that the observation time may lie behind the newest (`WindowSpec.reach`).
    """
    parts = {"sensor": sensor, "robot": robot}
    specs = dict(zip(parts, windows, strict=True))
    stale_ns = {"sensor": limits.sensor_stale_ns, "robot": limits.robot_stale_ns}
    short = [f"{name}_short" for name, records in parts.items() if specs[name].used and records is None]
    if features is None or short:
        return None, short[0] if short else "no_vl_feature"
    streams = [
        Stream(name, records["captured_ns"], specs[name], stale_ns[name])
        for name, records in parts.items()
        if specs[name].used and records is not None
    ]
    observation_ns = min((stream.newest_ns for stream in streams), default=now_ns)
    feature, why = feature_at(features, fingerprint, limits.views, observation_ns)
    stale = [f"{stream.name}_stale" for stream in streams if now_ns - stream.newest_ns > stream.stale_ns]
    if feature is None or stale:
        return None, why or stale[0]
    found: dict[str, Window] = {}
    for stream in streams:
        cut_out, why = cut(stream, observation_ns, now_ns, limits.max_missing)
        if cut_out is None:
            return None, why
        found[stream.name] = cut_out
    is_there = feature["view_received_ns"] > 0
    oldest_ns = int(feature["view_captured_ns"][is_there].min())
    if now_ns - oldest_ns > limits.vl_stale_ns:
        return None, "vl_stale"
    sensor_part = _part(sensor, found.get("sensor"), specs["sensor"], sensor_rows, SENSOR_CHANNELS)
    robot_part = _part(robot, found.get("robot"), specs["robot"], robot_rows, ROBOT_CHANNELS)
    observation = Observation(
        sensor=sensor_part.rows,
        robot=robot_part.rows,
        vl_feature=feature["feature"][: int(feature["dim"])].copy(),
        sensor_missing=sensor_part.missing,
        robot_missing=robot_part.missing,
        vl_age_s=max(0, observation_ns - oldest_ns) / SECOND,
    )
    newest = sensor_part.newest, robot_part.newest
    sensor_age, robot_age = (-1 if one is None else now_ns - int(one["captured_ns"]) for one in newest)
    view_ages = np.where(is_there, now_ns - feature["view_captured_ns"], -1)
    return Seen(observation, observation_ns, *newest, feature, sensor_age, robot_age, now_ns - oldest_ns, view_ages), ""


class _Part(NamedTuple):
    rows: Rows
    missing: np.ndarray[Any, np.dtype[np.bool_]]
    newest: np.void | None


def _part(
    records: Records | None, found: Window | None, spec: WindowSpec, rows: Callable[[Records], Rows], width: int
) -> _Part:
    """One window of an observation; of what is not used zeros, all missing."""
    if records is None or found is None:
        return _Part(np.zeros((spec.count, width), np.float32), np.ones(spec.count, np.bool_), None)
    return _Part(rows(records[found.at]), found.missing, records[found.newest])
