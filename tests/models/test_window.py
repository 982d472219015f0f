from __future__ import annotations

import pytest
import torch

from rtvla.errors import CheckpointError
from rtvla.models.window import read_window

NOTHING = torch.zeros(1, 8, dtype=torch.bool)


def ramp(length: int) -> torch.Tensor:
    return torch.arange(length, dtype=torch.float32).view(1, length, 1).expand(1, length, 3).contiguous()


def test_a_missing_sample_is_the_mean_and_is_marked() -> None:
    missing = NOTHING.clone()
    missing[0, 2] = True
    window = ramp(8)
    window[0, 2] = torch.nan  # whatever stands there
    read = read_window("sensor", window, missing, 8, "none", marked=True)
    assert read.shape == (1, 8, 4)
    assert (read[0, 2] == torch.tensor([0.0, 0.0, 0.0, 1.0])).all()
    assert (read[0, [0, 1, 3, 4, 5, 6, 7], 3] == 0).all()
    assert torch.equal(read[0, 3:, :3], ramp(8)[0, 3:])


def test_without_a_mark_it_is_the_mean_only() -> None:
    read = read_window("sensor", ramp(8), ~NOTHING, 8, "none", marked=False)
    assert read.shape == (1, 8, 3) and (read == 0).all()


def test_another_length_is_refused_unless_the_model_resamples() -> None:
    with pytest.raises(CheckpointError, match=r"sensor window has 8 samples.* needs 4"):
        read_window("sensor", ramp(8), NOTHING, 4, "none", marked=True)


def test_linear_takes_the_middle_between_samples() -> None:
    """8 samples at 0..7 seen as 4 of twice the width: their centres are at 0.5, 2.5, 4.5, 6.5."""
    missing = NOTHING.clone()
    missing[0, 7] = True
    read = read_window("sensor", ramp(8), missing, 4, "linear", marked=True)
    torch.testing.assert_close(read[0, :, 0], torch.tensor([0.5, 2.5, 4.5, 3.0]))  # the last: half of 6 and of the mean
    torch.testing.assert_close(read[0, :, 3], torch.tensor([0.0, 0.0, 0.0, 0.5]))  # half of it never came


def test_nearest_repeats_and_skips() -> None:
    assert read_window("sensor", ramp(8), NOTHING, 4, "nearest", marked=False)[0, :, 0].tolist() == [0, 2, 4, 6]
    assert read_window("sensor", ramp(8), NOTHING, 16, "nearest", marked=False)[0, :4, 0].tolist() == [0, 0, 1, 1]
