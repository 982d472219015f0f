from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from rtvla.errors import CheckpointError
from rtvla.models.normalize import MeanStd, Normalizer, Statistics

STATISTICS = Statistics(
    force=MeanStd((2.0,), (4.0,)),
    aline=MeanStd((10.0,), (5.0,)),
    robot=MeanStd(tuple(map(float, range(12))), (3.0,) * 12),
    action=MeanStd((0.0,) * 7, (0.5,) * 7),
)


def test_json_round_trip() -> None:
    assert Statistics.from_json(STATISTICS.to_json()) == STATISTICS


def test_force_and_aline_are_scaled_apart() -> None:
    raw = torch.full((1, 65, 1026), 10.0)
    scaled = Normalizer(STATISTICS).apply_to("sensor", raw)
    assert scaled[0, 0, 0] == 2.0
    assert (scaled[..., 1:] == 0).all()


def test_aline_may_have_one_value_per_bin() -> None:
    means = tuple(map(float, range(1025)))
    normalizer = Normalizer(replace(STATISTICS, aline=MeanStd(means, (1.0,) * 1025)))
    scaled = normalizer.apply_to("sensor", torch.tensor([2.0, *means]))
    assert (scaled == 0).all()


def test_invert_undoes_apply() -> None:
    normalizer, raw = Normalizer(STATISTICS), torch.randn(2, 100, 12)
    torch.testing.assert_close(normalizer.invert("robot", normalizer.apply_to("robot", raw)), raw)


def test_numbers_stay_out_of_the_weights() -> None:
    assert not Normalizer(STATISTICS).state_dict()


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_unusable_deviation_is_refused(std: float) -> None:
    with pytest.raises(CheckpointError, match=r"action\[6\]"):
        replace(STATISTICS, action=MeanStd((0.0,) * 7, (1.0,) * 6 + (std,)))


def test_unusable_mean_is_refused() -> None:
    with pytest.raises(CheckpointError, match="force"):
        replace(STATISTICS, force=MeanStd((math.nan,), (1.0,)))


@pytest.mark.parametrize(
    "change",
    [
        {"robot": {"mean": [0.0] * 11, "std": [1.0] * 11}},
        {"robot": {"mean": [0.0] * 12, "std": [1.0] * 11}},
        {"robot": {"mean": [0.0] * 12}},
        {"robot": {"mean": ["0"] * 12, "std": [1.0] * 12}},
        {"robot": None},
        {"extra": {"mean": [0.0], "std": [1.0]}},
    ],
)
def test_wrong_file_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="stats"):
        Statistics.from_json(json.dumps(json.loads(STATISTICS.to_json()) | change))
