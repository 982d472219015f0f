"""Proof that the pictures are in the feature, before a time is believed.

A benchmark of the old system once encoded the text alone and reported 36 ms where 1500 were true: no picture had been
found. So the numbers of an encoder are printed only if (1) the sequence holds as many image tokens as the size of the
frames gives, (2) the vision tower was called with as many patches, (3) another picture in any one view gives another
feature, and the same pictures the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtvla.errors import RtvlaError
from rtvla.models.encode_count import counting
from rtvla.models.qwen_input import grid_of, image_tokens
from rtvla.models.qwen_vl import VLEncoder
from rtvla.tools.bench_model_vl import Rgb, encode_set, prepare

_ENGINE_APART = {"float32": 1e-4, "bfloat16": 5e-2}  # an engine sums in another order
_EPSILON = 2.0**-23  # of float32
_OTHER = 10.0  # another picture must move the feature by so many times that, or by so many times what rounding did


class NotEncodedError(RtvlaError):
    """The feature does not depend on the pictures as it must; a time measured on it would mean nothing."""


def prove_encoded(encoder: VLEncoder, frames: Sequence[Rgb], engine: str = "eager") -> dict[str, Any]:
    """Of an encoder that is not prepared; afterwards it is, for `engine`. Returns what was counted and seen.

    The counting is done on the modules as they are. A compiled engine cannot be looked into, so its feature is held
    against the counted one. Raises NotEncodedError for the first thing that is wrong.
    """
    with counting() as counted:
        feature = encode_set(encoder, frames)
    wanted = _wanted(encoder, frames)
    for name, count in wanted.items():
        if counted[name] != count:
            raise NotEncodedError(
                f"{len(frames)} frames need {count} {name.replace('_', ' ')}, the encode used {counted[name]}: the "
                "pictures were not encoded, so its time is not the time of an encode"
            )
    prepare(encoder, engine, frames)
    scale = float(np.abs(feature).max())
    by_engine = encode_set(encoder, frames)
    apart, allowed = _distance(feature, by_engine, scale), _ENGINE_APART[encoder.spec.dtype]
    if not apart <= allowed:
        raise NotEncodedError(
            f"engine {encoder.engine.name} gives a feature {apart:.1e} away from the counted one, allowed is {allowed}"
        )
    repeated = _distance(by_engine, encode_set(encoder, frames), scale)
    moved = [_distance(by_engine, encode_set(encoder, _with_other(frames, at)), scale) for at in range(len(frames))]
    for view, distance in zip(encoder.spec.views, moved, strict=True):
        if not distance > _OTHER * max(repeated, _EPSILON):
            raise NotEncodedError(
                f"another picture in {view} changes the feature by {distance:.1e}, the same ones by {repeated:.1e}: "
                "that view is not encoded"
            )
    others = dict(zip(encoder.spec.views, moved, strict=True))
    return {**wanted, "engine_differs": apart, "same_pictures_differ": repeated, "other_picture_differs": others}


def _wanted(encoder: VLEncoder, frames: Sequence[Rgb]) -> dict[str, int]:
    """What the size of the frames gives."""
    grids = [grid_of(frame.shape[0], frame.shape[1], encoder.spec) for frame in frames]
    patches = sum(rows * columns for rows, columns in grids)
    return {"vision_patches": patches, "image_tokens": sum(image_tokens(grid) for grid in grids)}


def _with_other(frames: Sequence[Rgb], at: int) -> list[Rgb]:
    """The frame at `at` turned upside down and inverted."""
    return [255 - frame[::-1] if k == at else frame for k, frame in enumerate(frames)]


def _distance(one: Any, other: Any, scale: float) -> float:
    return float(np.abs(one - other).max()) / scale
