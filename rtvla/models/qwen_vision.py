"""The vision tower at one picture size: weights and arithmetic of transformers' module, nothing decided at run time.

transformers calls the attention once per window, 90 times a layer for five views of 616x336 pixels. Windows of one size
are independent of each other, so here they are one batch: two calls a layer there, four at 644x364.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rtvla.models.qwen_input import MEAN, MERGE, PATCH, STD, Grid
from rtvla.models.qwen_rotary import rotate, vision_tables

Attend = Callable[..., torch.Tensor]
Group = tuple[int, int]  # patches in a window, windows of that size in a view


def window_groups(grid: Grid, views: int, side: int) -> tuple[list[Group], torch.Tensor]:
    """(groups, order): the numbers of all tokens, sorted by [window size][view][window][token].

    Tokens are numbered row by row, view after view; a window is `side` tokens wide and high, less at the edges.
    """
    high, wide = grid[0] // MERGE, grid[1] // MERGE
    number = torch.arange(high * wide).view(high, wide)
    windows = [
        number[row : row + side, column : column + side].flatten()
        for row in range(0, high, side)
        for column in range(0, wide, side)
    ]
    groups, order = [], []
    for size in sorted({len(window) for window in windows}, reverse=True):
        alike = torch.cat([window for window in windows if len(window) == size])
        groups.append((size * MERGE**2, len(alike) // size))
        order += [alike + view * high * wide for view in range(views)]
    return groups, torch.cat(order)


class StaticVision(nn.Module):
    """Patches of `views` pictures in the order of `order` (views * patches, 588) uint8 -> tokens (views, tokens, D)."""

    order: torch.Tensor
    back: torch.Tensor
    weight: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, visual: Any, views: int, grid: Grid) -> None:
        super().__init__()
        config, device = visual.config, visual.patch_embed.proj.weight.device
        self._views, self._heads = views, config.num_heads
        self._full = frozenset(config.fullatt_block_indexes)
        self.blocks, self.merger = visual.blocks, visual.merger
        self._groups, order = window_groups(grid, views, config.window_size // (PATCH * MERGE))
        # a still picture is twice the same in time, so the two taps add up; in float32, since half would round the sum
        weight = visual.patch_embed.proj.weight.float().sum(2).flatten(1)
        cos, sin = vision_tables(visual, _places(grid, views, order).to(device))
        scale, shift = _normalisation(device)
        tables = {"order": order, "back": order.argsort(), "weight": weight, "scale": scale, "shift": shift}
        tables |= {"cos": cos[:, None], "sin": sin[:, None]}  # the same for all heads
        for name, table in tables.items():
            self.register_buffer(name, table.to(device), persistent=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        dtype = self.merger.mlp[0].weight.dtype
        x = functional.linear(patches.float() * self.scale + self.shift, self.weight).to(dtype)
        for at, block in enumerate(self.blocks):
            attend = self._attend_all if at in self._full else self._attend_windows
            x = x + self._attention(block.attn, block.norm1(x), attend)
            x = x + block.mlp(block.norm2(x))
        tokens = self.merger(x)[self.back]
        return tokens.view(self._views, -1, tokens.shape[-1])

    def _attention(self, module: Any, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        q, k, v = module.qkv(x).view(x.shape[0], 3, self._heads, -1).unbind(1)
        q, k = (rotate(t.float(), self.cos, self.sin).to(x.dtype) for t in (q, k))  # as there: in float32
        return module.proj(attend(q, k, v).reshape(x.shape[0], -1))

    def _attend_windows(self, *qkv: torch.Tensor) -> torch.Tensor:
        """Each group of windows is a batch of its own. (patches, heads, head size) three times -> the same."""
        outputs, begin = [], 0
        for size, windows in self._groups:
            end = begin + size * windows * self._views
            q, k, v = (t[begin:end].unflatten(0, (-1, size)).transpose(1, 2) for t in qkv)
            outputs.append(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
            begin = end
        return torch.cat(outputs)

    def _attend_all(self, *qkv: torch.Tensor) -> torch.Tensor:
        """Each view is one sequence, in whatever order: attention without a mask does not depend on it."""
        counts = [size * windows for size, windows in self._groups]
        parts = [t.split([count * self._views for count in counts]) for t in qkv]
        q, k, v = (torch.cat([p.unflatten(0, (self._views, -1)) for p in t], 1).transpose(1, 2) for t in parts)
        output = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return torch.cat([part.flatten(0, 1) for part in output.split(counts, 1)])


def _normalisation(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(588,) each: a grey level times the first plus the second is what the processor makes of it."""
    mean, deviation = torch.from_numpy(MEAN).double(), torch.from_numpy(STD).double()
    pair = (1 / (255 * deviation), -mean / deviation)
    scale, shift = (of_channel.repeat_interleave(PATCH**2).float().to(device) for of_channel in pair)
    return scale, shift


def _places(grid: Grid, views: int, order: torch.Tensor) -> torch.Tensor:
    """(views * patches, 2) row and column of each patch, four of a token together, tokens in `order`."""
    of_patch = torch.cartesian_prod(*map(torch.arange, grid)).view(grid[0] // MERGE, MERGE, grid[1] // MERGE, MERGE, 2)
    of_token = of_patch.transpose(1, 2).reshape(-1, MERGE**2, 2)
    return of_token.repeat(views, 1, 1)[order].flatten(0, 1)
