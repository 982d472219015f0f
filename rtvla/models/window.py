"""A normalised window and what is missing in it -> what an encoder reads.

A missing sample is filled with the mean of the training (0 after normalisation) and marked in a channel of its own. The
mark is needed because a mean is also a value that a sensor can have; a learned stand-in would say no more than the mark
does, and would only learn from batches in which something is missing.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from rtvla.errors import CheckpointError


def read_window(
    name: str, window: torch.Tensor, missing: torch.Tensor, length: int, resample: str, marked: bool
) -> torch.Tensor:
    """(B, T, C) normalised, (B, T) bool -> (B, length, C), or C + 1 channels if `marked`: the last is 1 where missing.

    T other than `length` is interpolated over time (`resample` linear or nearest, pixel centres aligned as in
    torch's align_corners=False), the mark too; with "none" it is a CheckpointError.
    """
    if window.shape[1] != length and resample == "none":
        raise CheckpointError(
            f"{name} window has {window.shape[1]} samples: this model needs {length}; cut the window as its spec says"
        )
    read = window.masked_fill(missing[..., None], 0.0)  # also over a NaN
    if marked:
        read = torch.cat([read, missing[..., None].to(read)], dim=-1)
    if read.shape[1] == length:
        return read
    return functional.interpolate(read.transpose(1, 2), size=length, mode=resample).transpose(1, 2)
