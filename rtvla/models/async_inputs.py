"""What callers of AsyncModel hand in, made into what the models take; refused by name where it cannot be."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from rtvla.errors import CheckpointError
from rtvla.models.qwen_input import Rgb
from rtvla.models.spec import ModelSpec

Array = np.ndarray[Any, Any] | torch.Tensor


def task_in(text: str, spec: ModelSpec) -> str:
    """The task of an instruction that has the form of spec.prompt; "" if that has no place for one."""
    form = ""
    for literal, field, _, _ in string.Formatter().parse(spec.prompt):
        form += re.escape(literal)
        if field is not None:
            form += "(?P=task)" if "<task>" in form else "(?P<task>.+)"
    match = re.fullmatch(form, text, re.DOTALL)
    if match is None:
        raise CheckpointError(
            f'text "{text}": checkpoint {spec.name} was trained on instructions of the form "{spec.prompt}", and '
            "others give another feature; write it so"
        )
    return match.groupdict().get("task", "")


def read_images(name: str, images: Sequence[str | Path | Rgb], spec: ModelSpec) -> list[Rgb]:
    """Paths or arrays, one per view of the spec -> arrays."""
    if len(images) != len(spec.views):
        raise CheckpointError(f"{name} has {len(images)} images: give one per view, {', '.join(spec.views)}")
    return [_rgb(f"{name}[{view}]", image) for view, image in enumerate(images)]


def _rgb(name: str, image: str | Path | Rgb) -> Rgb:
    if isinstance(image, (str, Path)):
        try:
            with Image.open(image) as opened:
                return np.asarray(opened.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise CheckpointError(f"{name} = {image}: {error}") from None
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise CheckpointError(f"{name} is {image.dtype} {image.shape}: must be uint8 (H, W, 3), RGB")
    return image


def read_feature(given: Array, vl_dim: int, device: torch.device) -> torch.Tensor:
    """(B, 1, vl_dim) or (B, vl_dim) -> (B, vl_dim) float32."""
    feature = _tensor("vl_features", given, torch.float32, device)
    if feature.ndim == 3 and feature.shape[1] == 1:
        feature = feature[:, 0]
    if feature.ndim != 2 or feature.shape[1] != vl_dim:
        raise CheckpointError(f"vl_features are {tuple(feature.shape)}: must be (B, 1, {vl_dim})")
    return feature


def read_window(
    name: str, given: Array | None, batch: int, channels: int, used: bool, device: torch.device
) -> torch.Tensor:
    """(B, T, channels), or (T, channels) if B is 1 -> (B, T, channels) float32; (B, 0, channels) if not `used`."""
    if used and given is None:
        raise CheckpointError(f"{name} is missing: this checkpoint was trained with it")
    if not used and given is not None:
        raise CheckpointError(f"{name} is given: this checkpoint was trained without it; leave it out")
    if given is None:
        return torch.empty(batch, 0, channels, device=device)
    window = _tensor(name, given, torch.float32, device)
    window = window[None] if window.ndim == 2 else window
    if window.ndim != 3 or (len(window), window.shape[2]) != (batch, channels):
        raise CheckpointError(f"{name} is {tuple(window.shape)}: must be ({batch}, samples, {channels})")
    return window


def read_missing(name: str, given: Array | None, window: torch.Tensor) -> torch.Tensor:
    """(B, T) or (T,) -> (B, T) bool of `window`; None: nothing is missing."""
    if given is None:
        return torch.zeros(window.shape[:2], dtype=torch.bool, device=window.device)
    flags = _tensor(name, given, torch.bool, window.device)
    flags = flags[None] if flags.ndim == 1 else flags
    if flags.shape != window.shape[:2]:
        raise CheckpointError(f"{name} is {tuple(flags.shape)}: must be {tuple(window.shape[:2])}")
    return flags


def _tensor(name: str, given: Array, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    try:
        return torch.as_tensor(given).to(device, dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name} cannot be made a tensor: {error}") from None
