"""Qwen2.5-VL at fixed shapes: uint8 frames in, vectors out, one graph without a decision in it.

What depends only on the size of the frames and on the text is made once: window order, rotary tables, text embeddings,
places of the pictures, and the keys and values of the text before the first picture, which never change. Exact up to
the order of sums; tests hold it against the plain transformers call. Weights are the backbone's own, not copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rtvla.models import qwen_input
from rtvla.models.qwen_input import Grid
from rtvla.models.qwen_language import StaticLanguage
from rtvla.models.qwen_pixels import Resize, Size, cut_patches
from rtvla.models.qwen_vision import StaticVision


@dataclass(frozen=True)
class Layout:
    """One sequence: text, then pictures with text after each. All pictures have the same grid."""

    ids: tuple[int, ...]
    positions: torch.Tensor  # (3, S)
    grid: Grid
    begins: tuple[int, ...]  # of each picture's tokens

    @property
    def spans(self) -> list[tuple[int, int]]:
        """[begin, end) of each picture together with the text after it."""
        return list(zip(self.begins, (*self.begins[1:], len(self.ids)), strict=True))


def lay_out(ids: Sequence[int], grid: Grid, image_id: int) -> Layout:
    is_picture = [token == image_id for token in ids]
    begins = tuple(at for at, now in enumerate(is_picture) if now and not is_picture[at - 1])
    positions = torch.from_numpy(qwen_input.rope_positions(ids, [grid] * len(begins), image_id))
    return Layout(tuple(ids), positions, grid, begins)


class StaticPictures(nn.Module):
    """Frames (V, H, W, 3) uint8 -> image tokens (V, tokens, D)."""

    def __init__(self, model: Any, views: int, frame: Size, stages: Sequence[Size], grid: Grid) -> None:
        """`stages`: the sizes that the frames are resized to here; none if they come in the size of `grid`."""
        super().__init__()
        self.vision = StaticVision(model.visual, views, grid)
        self.resize = Resize(frame, stages).to(self.vision.order.device)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.vision(cut_patches(self.resize(frames), self.vision.order))
        return tokens


class Weave(nn.Module):
    """Image tokens (sequences * pictures, tokens, D) -> embeddings (sequences, S, D): the fixed text after each."""

    def __init__(self, model: Any, layout: Layout, spans: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        embed, tokens = model.language_model.embed_tokens, qwen_input.image_tokens(layout.grid)
        for at, (begin, end) in enumerate(spans):
            ids = torch.tensor(layout.ids[begin + tokens : end], device=embed.weight.device)
            self.register_buffer(f"text_{at}", embed(ids)[None], persistent=False)
        self._pictures = len(spans)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.unflatten(0, (-1, self._pictures))
        parts = []
        for at in range(self._pictures):
            parts += [images[:, at], self.get_buffer(f"text_{at}").expand(images.shape[0], -1, -1)]
        return torch.cat(parts, 1)


class Prefix(nn.Module):
    """What the text before the first picture leaves behind: keys and values, and its states."""

    past: torch.Tensor
    states: torch.Tensor

    def __init__(self, model: Any, layout: Layout) -> None:
        super().__init__()
        language, end = model.language_model, layout.begins[0]
        ids = torch.tensor(layout.ids[:end], device=language.embed_tokens.weight.device)
        states, past = StaticLanguage(language, layout.positions, 0, end)(language.embed_tokens(ids)[None])
        self.register_buffer("past", past, persistent=False)
        self.register_buffer("states", states, persistent=False)


class StaticQwen(nn.Module):
    """Frames -> one vector for each sequence: the mean of its last states, in float32 whatever the model computes in.

    (sequences * pictures, H, W, 3) uint8 -> (sequences, D) float32, where the layout says how many pictures.
    """

    def __init__(self, model: Any, layout: Layout, sequences: int, frame: Size, stages: Sequence[Size]):
        super().__init__()
        self._length = len(layout.ids)
        self.pictures = StaticPictures(model, sequences * len(layout.begins), frame, stages, layout.grid)
        self.weave = Weave(model, layout, layout.spans)
        self.prefix = Prefix(model, layout)
        first = layout.begins[0]
        self.language = StaticLanguage(model.language_model, layout.positions, first, self._length)

    def states(self, frames: torch.Tensor) -> torch.Tensor:
        """(sequences, S - prefix, D): the last states of everything after the prefix."""
        states: torch.Tensor = self.language(self.weave(self.pictures(frames)), self.prefix.past)[0]
        return states

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        # in bfloat16 the mean alone would lose nearly as much as the whole model
        return (self.prefix.states.float().sum(1) + self.states(frames).float().sum(1)) / self._length


class StaticSegment(nn.Module):
    """One picture of a joint sequence and the text after it, with what came before known by its keys and values.

    Image tokens (1, tokens, D) and the keys and values of the prefix and of each earlier segment -> the sum of the last
    states (1, D) float32, and the keys and values of this one.
    """

    def __init__(self, model: Any, layout: Layout, at: int) -> None:
        super().__init__()
        span = layout.spans[at]
        self.weave = Weave(model, layout, [span])
        self.language = StaticLanguage(model.language_model, layout.positions, *span)

    def forward(self, image: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, own = self.language(self.weave(image), torch.cat(past, 4))
        return states.float().sum(1), own
