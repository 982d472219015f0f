"""Records -> what the policy sees, with the age of each part; or the reason why there is nothing to see.

Plain arrays in, plain arrays out: the run loop and (later) training cut the same windows. A window is never padded:
a sample that is missing is a reason to wait, not a zero that drives a robot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rtvla.schema import ROBOT_HZ, SENSOR_CHANNELS, SENSOR_HZ, Observation

Records = np.ndarray[Any, np.dtype[np.void]]


@dataclass(frozen=True)
class Limits:
    """Ages in ns above which a part is stale, and how much more time than its rate says a window may span."""

    sensor_stale_ns: int
    robot_stale_ns: int
    vl_stale_ns: int
    max_gap_ns: int


@dataclass(frozen=True)
class Ages:
    """ns at the observation, counted from arrival. `vl_ns` is that of the oldest view inside the feature."""

    sensor_ns: int
    robot_ns: int
    vl_ns: int
    view_ns: np.ndarray[Any, np.dtype[np.int64]]  # -1 for a view that the feature does not have


def window_fault(name: str, received_ns: np.ndarray, rate_hz: int, now_ns: int, stale_ns: int, gap_ns: int) -> str:
    """ "" if the window is fresh and without a hole, else "<name>_stale" or "<name>_gap"."""
    if now_ns - int(received_ns[-1]) > stale_ns:
        return f"{name}_stale"
    span = int(received_ns[-1]) - int(received_ns[0])
    if span > len(received_ns) * 1_000_000_000 // rate_hz + gap_ns:
        return f"{name}_gap"  # after a silence the newest sample is fresh and the rest is not
    return ""


def sensor_window(records: Records) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(T,) SENSOR records -> (T, 1026) float32, force first, then the A-line."""
    window = np.empty((len(records), SENSOR_CHANNELS), np.float32)
    window[:, 0] = records["wire"]["force"]
    window[:, 1:] = records["wire"]["aline"]
    return window


def robot_window(records: Records) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(R,) ROBOT records -> (R, 12) float32: joints in deg, then pose in mm and deg."""
    return np.concatenate([records["joints_deg"], records["pose_mm_deg"]], axis=1, dtype=np.float32)


def observe(
    sensor: Records | None,
    robot: Records | None,
    feature: np.void | None,
    fingerprint: int,
    now_ns: int,
    limits: Limits,
) -> tuple[Observation | None, Ages | None, str]:
    """(observation, ages, "") or (None, None, reason); the reason is a counter's name."""
    if sensor is None or robot is None or feature is None:
        parts = (("sensor_short", sensor), ("robot_short", robot), ("no_vl_feature", feature))
        return None, None, next(why for why, part in parts if part is None)
    if int(feature["fingerprint"]) != fingerprint:
        return None, None, "vl_of_another_model"
    view_ns = feature["view_received_ns"].astype(np.int64)
    if not (view_ns > 0).any():
        return None, None, "no_vl_feature"
    view_ages = np.where(view_ns > 0, now_ns - view_ns, -1)
    ages = Ages(
        now_ns - int(sensor["received_ns"][-1]),
        now_ns - int(robot["received_ns"][-1]),
        int(view_ages.max()),
        view_ages,
    )
    why = (
        window_fault("sensor", sensor["received_ns"], SENSOR_HZ, now_ns, limits.sensor_stale_ns, limits.max_gap_ns)
        or window_fault("robot", robot["received_ns"], ROBOT_HZ, now_ns, limits.robot_stale_ns, limits.max_gap_ns)
        or ("vl_stale" if ages.vl_ns > limits.vl_stale_ns else "")
    )
    if why:
        return None, None, why
    observation = Observation(
        sensor=sensor_window(sensor),
        robot=robot_window(robot),
        vl_feature=feature["feature"][: int(feature["dim"])].copy(),
        sensor_missing=np.zeros(len(sensor), np.bool_),
        robot_missing=np.zeros(len(robot), np.bool_),
        vl_age_s=ages.vl_ns / 1e9,
    )
    return observation, ages, ""
