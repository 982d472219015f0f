"""Records -> what the policy sees, with the age of each part; or the reason why there is nothing to see.

Plain arrays in, plain arrays out: the run loop and (later) training cut the same windows.

The observation time is the newest one for which both the sensor and the robot are there: the capture of the newest
sample of the one that is behind. Nothing that was captured later is in the observation, also no view, as long as an
older feature without it is still at hand. What that costs in age is at most what the two are apart, and a policy that
saw force from after the pose would learn, or act on, an order of events that never was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rtvla.schema import SENSOR_CHANNELS, Observation

Records = np.ndarray[Any, np.dtype[np.void]]
Times = np.ndarray[Any, np.dtype[np.int64]]
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Limits:
    """Ages in ns above which a part is stale, and the share of a window that may be missing."""

    sensor_stale_ns: int
    robot_stale_ns: int
    vl_stale_ns: int
    max_missing: float


@dataclass(frozen=True)
class WindowSpec:
    """What a model was trained on: so many samples at a nominal rate. Of ModelSpec.

    `by_time`: places on a grid of capture times, of which some may be missing. Otherwise the newest samples by their
    count, for a model that cannot be told what is missing (`ModelSpec.missing_mask`).
    """

    count: int
    rate_hz: int
    by_time: bool

    @property
    def period_ns(self) -> int:
        return SECOND // self.rate_hz

    def reach(self, behind_ns: int) -> int:
        """How many records to look at, if the observation time may be `behind_ns` before the newest."""
        return self.count + -(-behind_ns // self.period_ns)


@dataclass(frozen=True)
class Stream:
    """The capture times of the newest records of the sensor or the robot, in the order of arrival."""

    name: str
    captured_ns: Times
    spec: WindowSpec
    stale_ns: int

    @property
    def newest_ns(self) -> int:
        return int(self.captured_ns.max())


class Window(NamedTuple):
    """For each place, oldest first: the record that takes it (of a missing one the nearest there is), and whether it is
    missing. `newest`: the record at the last place that is not."""

    at: np.ndarray[Any, np.dtype[np.int64]]
    missing: np.ndarray[Any, np.dtype[np.bool_]]
    newest: int


@dataclass(frozen=True)
class Seen:
    """The observation, and what it was made from: records, ages in ns at `now_ns` counted from capture."""

    observation: Observation
    observation_ns: int
    sensor: np.void
    robot: np.void
    feature: np.void
    sensor_age_ns: int
    robot_age_ns: int
    vl_age_ns: int  # of the oldest view inside the feature
    view_age_ns: Times  # -1 for a view that the feature does not have


def in_order(captured_ns: Times, period_ns: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Times]:
    """Positions of the samples in the order of capture, those of a frozen input once, and their times.

    A sample cannot have been taken less than a period before the one after it. Where stamps say so, as they do when the
    arrival must stand for the capture and samples come in bunches, the earlier one counts as that much older.
    """
    order = np.argsort(captured_ns, kind="stable")
    times = captured_ns[order]
    keep = np.ones(len(times), np.bool_)
    keep[1:] = times[1:] > times[:-1]
    order, times = order[keep], times[keep]
    grid = np.arange(len(times)) * period_ns
    return order, np.minimum.accumulate((times - grid)[::-1])[::-1] + grid


def window(captured_ns: Times, spec: WindowSpec, observation_ns: int) -> Window | None:
    """The window that ends at `observation_ns`, or None if nothing is in it (by count: if there are too few).

    By time: the last place is at the newest sample not after `observation_ns`, or by whole periods later, so that it is
    less than one before it. Each place takes the sample within half a period of it, or is missing.
    """
    usable = np.flatnonzero(captured_ns <= observation_ns)
    if not spec.by_time:
        last = usable[np.argsort(captured_ns[usable], kind="stable")][-spec.count :]
        if len(last) < spec.count:
            return None
        return Window(last, np.zeros(spec.count, np.bool_), int(last[-1]))
    if not len(usable):
        return None
    order, times = in_order(captured_ns[usable], spec.period_ns)
    end_ns = observation_ns - (observation_ns - times[-1]) % spec.period_ns
    place = spec.count - 1 - (end_ns - times + spec.period_ns // 2) // spec.period_ns
    inside = place >= 0
    place, order = place[inside], usable[order[inside]]
    if not len(place):
        return None
    missing = np.ones(spec.count, np.bool_)
    missing[place] = False
    right = np.searchsorted(place, np.arange(spec.count)).clip(0, len(place) - 1)
    left = (right - 1).clip(0)
    wanted = np.arange(spec.count)
    nearest = np.where(np.abs(place[left] - wanted) <= np.abs(place[right] - wanted), left, right)
    return Window(order[nearest], missing, int(order[-1]))


def spans_too_much(times_ns: Times, spec: WindowSpec, max_missing: float) -> bool:
    """Of a window by count: whether it has holes for more samples than may be missing."""
    return bool(times_ns.max() - times_ns.min() > (spec.count - 1 + max_missing * spec.count) * spec.period_ns)


def cut(stream: Stream, observation_ns: int, now_ns: int, max_missing: float) -> tuple[Window | None, str]:
    """(the window of a stream, "") or (None, reason): too old at `now_ns`, or with too many holes."""
    captured_ns, spec = stream.captured_ns, stream.spec
    found = window(captured_ns, spec, observation_ns)
    if found is None:
        return None, f"{stream.name}_gap"
    if now_ns - int(captured_ns[found.newest]) > stream.stale_ns:
        return None, f"{stream.name}_stale"
    holes = found.missing.mean() > max_missing
    if holes or (not spec.by_time and spans_too_much(captured_ns[found.at], spec, max_missing)):
        return None, f"{stream.name}_gap"
    return found, ""


def sensor_rows(records: Records) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(T,) SENSOR records -> (T, 1026) float32, force first, then the A-line."""
    rows = np.empty((len(records), SENSOR_CHANNELS), np.float32)
    rows[:, 0] = records["wire"]["force"]
    rows[:, 1:] = records["wire"]["aline"]
    return rows


def robot_rows(records: Records) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(R,) ROBOT records -> (R, 12) float32: joints in deg, then pose in mm and deg."""
    return np.concatenate([records["joints_deg"], records["pose_mm_deg"]], axis=1, dtype=np.float32)


def feature_at(features: Records, fingerprint: int, observation_ns: int) -> tuple[np.void | None, str]:
    """The newest feature without a view from after the observation time; if there is none, the oldest one."""
    if int(features[-1]["fingerprint"]) != fingerprint:
        return None, "vl_of_another_model"
    usable = [one for one in features if int(one["fingerprint"]) == fingerprint and (one["view_received_ns"] > 0).any()]
    if not usable:
        return None, "no_vl_feature"
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
    if sensor is None or robot is None or features is None:
        parts = (("sensor_short", sensor), ("robot_short", robot), ("no_vl_feature", features))
        return None, next(why for why, part in parts if part is None)
    streams = (
        Stream("sensor", sensor["captured_ns"], windows[0], limits.sensor_stale_ns),
        Stream("robot", robot["captured_ns"], windows[1], limits.robot_stale_ns),
    )
    observation_ns = min(stream.newest_ns for stream in streams)
    feature, why = feature_at(features, fingerprint, observation_ns)
    stale = [f"{stream.name}_stale" for stream in streams if now_ns - stream.newest_ns > stream.stale_ns]
    if feature is None or stale:
        return None, why or stale[0]
    cuts = [cut(stream, observation_ns, now_ns, limits.max_missing) for stream in streams]
    is_there = feature["view_received_ns"] > 0
    oldest_ns = int(feature["view_captured_ns"][is_there].min())
    (of_sensor, sensor_why), (of_robot, robot_why) = cuts
    why = sensor_why or robot_why or ("vl_stale" if now_ns - oldest_ns > limits.vl_stale_ns else "")
    if of_sensor is None or of_robot is None or why:
        return None, why
    observation = Observation(
        sensor=sensor_rows(sensor[of_sensor.at]),
        robot=robot_rows(robot[of_robot.at]),
        vl_feature=feature["feature"][: int(feature["dim"])].copy(),
        sensor_missing=of_sensor.missing,
        robot_missing=of_robot.missing,
        vl_age_s=max(0, observation_ns - oldest_ns) / SECOND,
    )
    newest = sensor[of_sensor.newest], robot[of_robot.newest]
    sensor_age, robot_age = (now_ns - int(one["captured_ns"]) for one in newest)
    view_ages = np.where(is_there, now_ns - feature["view_captured_ns"], -1)
    return Seen(observation, observation_ns, *newest, feature, sensor_age, robot_age, now_ns - oldest_ns, view_ages), ""
