"""Frames to patches as tensor work: the resizing of qwen_vl_utils and of the processor, bit-near on any device.

Pillow resizes in 8 bits, one axis after the other, each sum rounded to a grey level. Both are matrix products with rows
of cubic weights. In float64 the result is Pillow's, bit for bit; in float32, which is fast on a GPU, 18 to 52 of 1.4
million values are off by one level. On a CPU Pillow itself is several times as fast, so there the frames come resized
and this only cuts patches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from rtvla.models.qwen_input import MERGE, PATCH

_COEFFICIENT_BITS = 32 - 8 - 2  # Pillow, Resample.c: PRECISION_BITS
_CUBIC = -0.5  # Pillow's bicubic; torch.nn.functional.interpolate takes -0.75 unless antialias is asked for

Size = tuple[int, int]  # rows, columns


def resize_matrix(source: int, target: int) -> torch.Tensor:
    """(target, source) float64: Pillow's antialiased bicubic weights, rounded as its 8-bit code rounds them."""
    scale = source / target
    stretch = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    first = (centre - 2 * stretch + 0.5).to(torch.int64).clamp(min=0)
    last = (centre + 2 * stretch + 0.5).to(torch.int64).clamp(max=source)
    column = torch.arange(source)[None]
    weights = _cubic((column - centre[:, None] + 0.5) / stretch)
    weights = weights.where((column >= first[:, None]) & (column < last[:, None]), 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    return (weights * 2**_COEFFICIENT_BITS).round() / 2**_COEFFICIENT_BITS


def _cubic(x: torch.Tensor) -> torch.Tensor:
    x, a = x.abs(), _CUBIC
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return near.where(x < 1, far.where(x < 2, 0.0))


class Resize(nn.Module):
    """(V, H, W, 3) uint8 -> (V, 3, rows, columns) uint8, through the sizes of `stages`; computed in `dtype`."""

    def __init__(self, frame: Size, stages: Sequence[Size], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._dtype = dtype
        self.steps = nn.ModuleList()
        for before, after in zip([frame, *stages], stages, strict=False):
            if before != after:
                self.steps.append(_Step(before, after, dtype))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames.permute(0, 3, 1, 2)
        if not self.steps:
            return x
        x = x.to(self._dtype)
        for step in self.steps:
            x = step(x)
        return x.to(torch.uint8)


class _Step(nn.Module):
    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, before: Size, after: Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("rows", resize_matrix(before[0], after[0]).to(dtype), persistent=False)
        self.register_buffer("columns", resize_matrix(before[1], after[1]).to(dtype).T.contiguous(), persistent=False)
        self._rows_first = pillow_begins_with_rows(before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._rows_first:
            return _round(_round(self.rows @ x) @ self.columns)
        return _round(self.rows @ _round(x @ self.columns))


@functools.cache
def pillow_begins_with_rows(before: Size, after: Size) -> bool:
    """Asked of the installed one by an example: until 12 never, from 13 on where it expects that to be faster.

    Not so for 640x360 and 1280x720 pixels; where the order changes, values differ by two grey levels at most.
    """
    example = torch.randint(0, 256, (*before, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = Image.fromarray(example.numpy()).resize((after[1], after[0]), Image.Resampling.BICUBIC)
    wanted = torch.from_numpy(np.array(theirs)).permute(2, 0, 1)
    x, rows, columns = (
        example.permute(2, 0, 1).double(),
        resize_matrix(before[0], after[0]),
        resize_matrix(before[1], after[1]).T,
    )
    wrong = [
        (made != wanted).sum() for made in (_round(rows @ _round(x @ columns)), _round(_round(rows @ x) @ columns))
    ]
    return bool(wrong[1] < wrong[0])


def _round(x: torch.Tensor) -> torch.Tensor:
    return (x + 0.5).floor().clamp(0, 255)


def cut_patches(pixels: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(V, 3, rows, columns) -> (patches, 588): 3 channels of 14 x 14 pixels each.

    The four patches of a token stay together, tokens in the `order` of their numbers over all views.
    """
    views, _, rows, columns = pixels.shape
    high, wide = rows // (PATCH * MERGE), columns // (PATCH * MERGE)
    cut = pixels.view(views, 3, high, MERGE, PATCH, wide, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return cut.reshape(views * high * wide, -1)[order].view(-1, 3 * PATCH * PATCH)
