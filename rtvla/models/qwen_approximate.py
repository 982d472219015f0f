"""Ways of encoding that change the feature a little, each chosen by name in the config and measured where it is used.

int8, fp8: the linear layers of the language part with 8-bit weights and activations. The vision tower stays as it is:
published recipes for Qwen2.5-VL keep it, too. layers: only the first so many layers of the language part.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from rtvla.errors import CheckpointError
from rtvla.models.feature import EXACT, Approximation

_LEAST_ROWS = 32
_LARGEST_FP8 = torch.finfo(torch.float8_e4m3fn).max


def approximate(model: Any, how: Approximation) -> Any:
    """A Qwen2_5_VLModel -> what the static modules need of it, in the way of `how`. The given one stays as it is."""
    language = model.language_model
    if how.layers > len(language.layers):
        raise CheckpointError(f"vl_encoder.layers = {how.layers}: the language part has {len(language.layers)}")
    if how == EXACT:
        return model
    layers = language.layers[: how.layers or None]
    if how.quantize != "none":
        layers = _quantized(layers, how.quantize)
    part = {name: getattr(language, name) for name in ("config", "rotary_emb", "embed_tokens", "norm")}
    return SimpleNamespace(
        config=model.config, visual=model.visual, language_model=SimpleNamespace(layers=layers, **part)
    )


class Int8Linear(nn.Module):
    """A linear layer with a scale for each output of the weights and for each row of the input, taken as it comes."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.float()
        scale = _scale(weight, 127)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale[:, 0])
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2).float()
        scale = _scale(rows, 127)
        # the kernel for GPUs refuses less than 17 rows, and the text before the first picture has 15
        small = functional.pad((rows / scale).round().to(torch.int8), (0, 0, 0, max(0, _LEAST_ROWS - len(rows))))
        product = torch._int_mm(small, self.weight.T)[: len(rows)].float() * scale * self.scale
        product = product if self.bias is None else product + self.bias
        return product.to(x.dtype).unflatten(0, x.shape[:-1])


class Fp8Linear(nn.Module):
    """The same in float8_e4m3fn, whose products come out rounded to bfloat16."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.float()
        scale = _scale(weight, _LARGEST_FP8)
        self.register_buffer("weight", (weight / scale).to(torch.float8_e4m3fn))
        self.register_buffer("scale", scale.T.contiguous())
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2).float()
        scale = _scale(rows, _LARGEST_FP8)
        small = (rows / scale).to(torch.float8_e4m3fn)
        product = torch._scaled_mm(small, self.weight.T, scale, self.scale, out_dtype=torch.bfloat16).to(x.dtype)
        product = product if self.bias is None else product + self.bias
        return product.unflatten(0, x.shape[:-1])


def _scale(rows: torch.Tensor, largest: float) -> torch.Tensor:
    """(N, 1): by what a row is divided so that its largest value is `largest`."""
    return rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / largest


_QUANTIZED = {"int8": Int8Linear, "fp8": Fp8Linear}


def _quantized(layers: nn.Module, name: str) -> nn.Module:
    kind, device = _QUANTIZED[name], next(layers.parameters()).device
    try:
        kind(nn.Linear(64, 64, device=device))(torch.ones(1, 32, 64, device=device))
    except (RuntimeError, NotImplementedError) as error:
        raise CheckpointError(
            f'vl_encoder.quantize = "{name}" does not run on {device} ({str(error).strip()[:200]}): fp8 needs a GPU of '
            "compute capability 8.9, int8 one of 8.0, or a CPU; set it to none"
        ) from None
    copied = copy.deepcopy(layers)
    for module in list(copied.modules()):
        for at, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, at, kind(child))
    return copied


@dataclass(frozen=True)
class Deviation:
    """Of a feature from the exact one: length of the difference over its length, and 1 - cosine."""

    relative: float
    angle: float

    def __str__(self) -> str:
        return f"relative difference {self.relative:.1e}, 1 - cosine {self.angle:.1e}"


def deviation(given: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> Deviation:
    """Of (D,) or (V, D); of several, the largest."""
    one, other = np.atleast_2d(given).astype(np.float64), np.atleast_2d(exact).astype(np.float64)
    length = np.linalg.norm(other, axis=1)
    cosine = (one * other).sum(1) / (np.linalg.norm(one, axis=1) * length)
    return Deviation(float((np.linalg.norm(one - other, axis=1) / length).max()), float((1 - cosine).max()))
