"""One VL feature of a set of frames, made as the encoder process makes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rtvla.models.qwen_vl import VLEncoder

F32 = npt.NDArray[np.float32]
Rgb = npt.NDArray[np.uint8]


def prepare(encoder: VLEncoder, engine: str, frames: Sequence[Rgb]) -> None:
    """For encode_set of such frames: a per_view model one view at a time, a joint one all at once."""
    sizes = [(frame.shape[0], frame.shape[1]) for frame in frames]
    encoder.prepare(engine, sizes, rolling=encoder.spec.vl_sequence == "per_view")


def encode_at_once(encoder: VLEncoder, frames: Sequence[Rgb]) -> F32:
    """The same feature, the views of a per_view model in one batch: faster as a whole, older when it is there."""
    if encoder.spec.vl_sequence == "joint":
        return encoder.encode_joint(frames)
    return encoder.pool(encoder.encode_views(frames))


def encode_set(encoder: VLEncoder, frames: Sequence[Rgb]) -> F32:
    """One frame per view of its spec -> (D,) on the host. A per_view model encodes the views one after the other."""
    if encoder.spec.vl_sequence == "joint":
        return encoder.encode_joint(frames)
    return encoder.pool(np.stack([encoder.encode_view(frame) for frame in frames]))
