"""Inputs of Qwen2.5-VL without its processor: token ids, pixel patches, positions. Plain arrays, no files, no torch.

Equal to the hub's image processor (its Pillow form) and chat template, which a test holds it to. Why not the processor
itself: it needs torchvision even for still images, takes its sizes from settings that differ between versions, and
builds the same constant text anew for every frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from rtvla.errors import CheckpointError
from rtvla.models.spec import ModelSpec

IMAGE_TOKEN = "<|image_pad|>"
SYSTEM = "You are a helpful assistant."

PATCH, MERGE, TEMPORAL = 14, 2, 2
_FACTOR = PATCH * MERGE  # pixels along the side of one token
_HUB_PIXELS = (56 * 56, 16384 * 28 * 28)  # min and max of the hub's preprocessor_config.json and of qwen_vl_utils
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)  # of CLIP, as in preprocessor_config.json
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
# 256 grey levels x 3 channels, computed as the processor does (rescale in float64, normalise in float32)
_LEVELS = ((np.arange(256) * (1 / 255)).astype(np.float32)[:, None] - MEAN) / STD

Grid = tuple[int, int]  # patches, rows first
Rgb = npt.NDArray[np.uint8]  # (H, W, 3)


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Nearest size whose sides are multiples of 28 and whose area fits (transformers, image_processing_qwen2_vl.py)."""
    if max(height, width) > 200 * min(height, width):
        raise CheckpointError(f"frame of {width}x{height} pixels: the longer side may be at most 200 times the shorter")
    rows, columns = round(height / _FACTOR) * _FACTOR, round(width / _FACTOR) * _FACTOR
    if rows * columns > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        rows = max(_FACTOR, math.floor(height / beta / _FACTOR) * _FACTOR)
        columns = max(_FACTOR, math.floor(width / beta / _FACTOR) * _FACTOR)
    elif rows * columns < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * beta / _FACTOR) * _FACTOR
        columns = math.ceil(width * beta / _FACTOR) * _FACTOR
    return rows, columns


def resize_stages(height: int, width: int, spec: ModelSpec) -> list[tuple[int, int]]:
    """The (rows, columns) that a frame goes through.

    First what qwen_vl_utils does when it opens an image, always by the hub's rule; then what the processor does: by the
    hub's rule again ("hub": no change), or with min_pixels = max_pixels = the spec's image area ("origin"). What the
    origin trained on went through both, and leaving the first one out moves pixels by up to 11 grey levels.
    """
    budget = {"hub": _HUB_PIXELS, "origin": (spec.image_height * spec.image_width,) * 2}[spec.image_rule]
    first = smart_resize(height, width, *_HUB_PIXELS)
    return [first, smart_resize(*first, *budget)]


def grid_of(height: int, width: int, spec: ModelSpec) -> Grid:
    rows, columns = resize_stages(height, width, spec)[-1]
    return rows // PATCH, columns // PATCH


def check_frame(rgb: Rgb) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise CheckpointError(f"frame is {rgb.dtype} {rgb.shape}: must be uint8 (H, W, 3), RGB")


def resize(rgb: Rgb, spec: ModelSpec) -> Rgb:
    """(H, W, 3) -> (rows, columns, 3), each stage Pillow's antialiased bicubic with rounding to 8 bits."""
    check_frame(rgb)
    image = Image.fromarray(rgb)
    for rows, columns in resize_stages(rgb.shape[0], rgb.shape[1], spec):
        if image.size != (columns, rows):
            image = image.resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(image)


def patches(rgb: Rgb, spec: ModelSpec) -> tuple[npt.NDArray[np.float32], Grid]:
    """One frame -> ((patches, 1176) float32, grid). A row is 3 channels x 2 equal times x 14 x 14 pixels.

    Rows come in 2x2 blocks, the four patches of one token together, as the merger of the model expects them.
    """
    small, grid = resize(rgb, spec), grid_of(rgb.shape[0], rgb.shape[1], spec)
    pixels = _LEVELS[small, np.arange(3)]
    blocks = pixels.reshape(grid[0] // MERGE, MERGE, PATCH, grid[1] // MERGE, MERGE, PATCH, 3)
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
    doubled = np.broadcast_to(blocks, (*blocks.shape[:5], TEMPORAL, PATCH, PATCH))
    return doubled.reshape(grid[0] * grid[1], -1), grid


def image_tokens(grid: Grid) -> int:
    return grid[0] * grid[1] // MERGE**2


def chat_text(prompt: str, tokens_per_image: Sequence[int]) -> str:
    """What the chat template gives for one user message of images and then text, each image already expanded."""
    images = "".join(f"<|vision_start|>{IMAGE_TOKEN * count}<|vision_end|>" for count in tokens_per_image)
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{images}{prompt}<|im_end|>\n"


def token_ids(tokenize: Callable[[str], list[int]], prompt: str, grids: Sequence[Grid]) -> list[int]:
    return tokenize(chat_text(prompt, [image_tokens(grid) for grid in grids]))


def rope_positions(ids: Sequence[int], grids: Sequence[Grid], image_id: int) -> npt.NDArray[np.int64]:
    """(3, S): time, row and column of each token. Text counts on in all three; an image spans rows and columns.

    Own, because transformers builds it wrongly for still images in 5.4.0 to 5.5.3 and falls back silently to text
    positions from 5.0 on when it is not told which tokens are images (mm_token_type_ids).
    """
    columns: list[npt.NDArray[np.int64]] = []
    todo, token, position = list(grids), 0, 0
    while token < len(ids):
        if ids[token] == image_id:
            height, width = (side // MERGE for side in todo.pop(0))
            columns.append(np.indices((1, height, width), np.int64).reshape(3, -1) + position)
            position += max(height, width)
            token += height * width
        else:
            columns.append(np.full((3, 1), position))
            position += 1
            token += 1
    return np.concatenate(columns, axis=1)
