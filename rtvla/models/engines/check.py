"""How far an engine is from the plain module: both get the same observations, and the actions are compared.

Among the observations are one with another age of the same VL feature (whatever was kept of it must not keep its age),
one with another feature, one with missing samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rtvla.errors import CheckpointError
from rtvla.models.normalize import Statistics
from rtvla.models.spec import ModelSpec
from rtvla.schema import F32, Observation

# The largest difference that a float32 engine may show, relative to the largest action if that is above 1 mm or deg.
# It adds the same numbers in another order: 1e-6 is usual, 1e-5 was seen after 50 steps of sampling.
FLOAT32_LIMIT = 1e-4
_POSE = slice(0, 6)  # the gripper's value moves nothing
# Joints (deg) and pose (mm, deg) of a model that takes raw units: around the start pose of the lab's robot.
_RAW_ROBOT_MEAN = np.array([0, 0, 0, 0, 0, 0, 191, 1, 309, 1, 91, 1], np.float32)
_RAW_ROBOT_STD = np.array([60] * 6 + [50] * 3 + [60] * 3, np.float32)

Predict = Callable[[Observation, int], F32]


def observations(spec: ModelSpec, statistics: Statistics) -> list[Observation]:
    """Four, in the ranges that the model was trained on, as far as its statistics say them."""
    first, second = _drawn(spec, statistics, 1), _drawn(spec, statistics, 2)
    draw = np.random.default_rng(3)
    holes = replace(
        first,
        sensor_missing=draw.random(spec.sensor_window) < 0.1,
        robot_missing=draw.random(spec.robot_window) < 0.1,
    )
    return [first, replace(first, vl_age_s=2.0), second, holes]


def _drawn(spec: ModelSpec, statistics: Statistics, seed: int) -> Observation:
    obs, draw = spec.fake_observation(seed), np.random.default_rng(seed)
    sensor_mean, sensor_std = (
        np.array([*getattr(statistics.force, kind), *_bins(getattr(statistics.aline, kind), spec)], np.float32)
        for kind in ("mean", "std")
    )
    robot_mean, robot_std = (np.array(part, np.float32) for part in (statistics.robot.mean, statistics.robot.std))
    if spec.origin is not None:
        robot_mean, robot_std = _RAW_ROBOT_MEAN, _RAW_ROBOT_STD
    start = draw.standard_normal(spec.robot_channels, np.float32)  # a window is a short path from one pose
    drift = np.cumsum(draw.standard_normal(obs.robot.shape, np.float32), axis=0) * 0.003
    return replace(obs, sensor=obs.sensor * sensor_std + sensor_mean, robot=((start + drift) * robot_std + robot_mean))


def _bins(values: Sequence[float], spec: ModelSpec) -> Sequence[float]:
    return values if len(values) > 1 else [values[0]] * (spec.sensor_channels - 1)


def answers(predict: Predict, given: Sequence[Observation]) -> F32:
    """(observations, H, 7)."""
    return np.stack([predict(obs, seed).copy() for seed, obs in enumerate(given)])


def deviation(found: F32, plain: F32) -> float:
    """The largest difference of a pose action; infinite if one of them is no number where the other is."""
    gap = np.abs(found - plain)[..., _POSE]
    return float(gap.max()) if np.isfinite(gap).all() else float("inf")


def refuse(name: str, precision: str, found: float, plain: F32, max_deviation: float) -> None:
    """CheckpointError if an engine is too far off."""
    if precision == "float32":
        limit, remedy = FLOAT32_LIMIT * max(1.0, float(np.abs(plain[..., _POSE]).max())), "set policy.engine to eager"
    else:
        limit, remedy = max_deviation, "set policy.precision to float32, or raise policy.max_deviation"
    if not found <= limit:
        raise CheckpointError(
            f"engine {name}, {precision}: its actions differ from the plain module's by {found:.2g} mm or deg, allowed "
            f"are {limit:.2g}; {remedy}"
        )
