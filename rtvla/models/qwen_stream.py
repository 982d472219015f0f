"""A joint sequence encoded view by view as the frames come, so that after the last one little is left to do.

Attention is causal: a segment (a picture and the text after it) depends on the segments before it and on no later one.
So it is computed once its frame and all before it are there, and its keys and values are kept for those that follow. A
new frame of a view makes its own segment and all later ones invalid, never an earlier one. The feature is exactly the
one of the whole sequence at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from rtvla.models.qwen_engine import Call, as_tuple
from rtvla.models.qwen_static import Prefix


class JointStream:
    """One caller at a time: `put` each view, in any order, as its frame comes; take the feature; `begin` again."""

    def __init__(self, pictures: Call, segments: Sequence[Call], prefix: Prefix, length: int) -> None:
        self._pictures, self._segments, self._prefix, self._length = pictures, segments, prefix, length
        self._images: list[torch.Tensor | None] = [None] * len(segments)
        self._sums: list[torch.Tensor] = []  # of the valid segments, which are the first ones
        self._kept: list[torch.Tensor] = []  # their keys and values
        self.prefilled = 0  # segments computed so far

    def begin(self) -> None:
        """A new set: a frame of each view must be put before there is another feature. Nothing is kept of the last."""
        self._images = [None] * len(self._segments)
        self._sums.clear()
        self._kept.clear()

    def put(self, at: int, frame: torch.Tensor) -> None:
        """The frame (1, H, W, 3) of view `at`: its image tokens, and the segments that can be computed with it."""
        (tokens,) = as_tuple(self._pictures(frame))
        self._images[at] = tokens.clone()  # the engine's own are overwritten by the next view
        del self._sums[at:], self._kept[at:]
        while (image := self._next()) is not None:
            total, own = self._segments[len(self._sums)](image, self._prefix.past, *self._kept)
            self._sums.append(total.clone())
            self._kept.append(own)  # not cloned: the later segments of a CUDA graph read it where it is
            self.prefilled += 1

    def _next(self) -> torch.Tensor | None:
        """The image of the first segment that is not computed, if it is there."""
        at = len(self._sums)
        return self._images[at] if at < len(self._images) else None

    def feature(self) -> npt.NDArray[np.float32] | None:
        """(D,), or None while a view is awaited."""
        if len(self._sums) < len(self._segments):
            return None
        with torch.inference_mode():
            total = self._prefix.states.float().sum(1) + torch.stack(self._sums).sum(0)
            mean: npt.NDArray[np.float32] = (total / self._length)[0].cpu().numpy()
        return mean
