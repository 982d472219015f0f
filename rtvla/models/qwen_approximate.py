"""Ways of encoding that change the feature a little, each chosen by name in the config and measured where it is used.

int8: the linear layers of the language part with 8-bit weights and activations. The vision tower stays as it is:
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

from rtvla.errors import CheckpointError
from rtvla.models.feature import EXACT, Approximation


def approximate(model: Any, how: Approximation) -> Any:
    """A Qwen2_5_VLModel -> what the static modules need of it, in the way of `how`. The given one stays as it is."""
    language = model.language_model
    if how.layers > len(language.layers):
        raise CheckpointError(f"vl_encoder.layers = {how.layers}: the language part has {len(language.layers)}")
    if how == EXACT:
        return model
    layers = language.layers[: how.layers or None]
    if how.quantize == "int8":
        layers = _in_int8(layers)
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
        scale = _scale(weight)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale[:, 0])
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2).float()
        scale = _scale(rows)
        product = torch._int_mm((rows / scale).round().to(torch.int8), self.weight.T).float() * scale * self.scale
        product = product if self.bias is None else product + self.bias
        return product.to(x.dtype).unflatten(0, x.shape[:-1])


def _scale(rows: torch.Tensor) -> torch.Tensor:
    """(N, 1): by what a row is divided so that its largest value is 127."""
    return rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127


def _in_int8(layers: nn.Module) -> nn.Module:
    copied = copy.deepcopy(layers)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
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
