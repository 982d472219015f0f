"""Rotary positions: tables made once, applied as transformers applies them."""

from __future__ import annotations

from typing import Any

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def vision_tables(visual: Any, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (N, head size) float32 of patches at `places` (N, 2), row and column."""
    frequencies = visual.rotary_pos_emb.inv_freq.float().to(places.device)
    angles = (places[..., None].float() * frequencies).flatten(1)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def text_tables(language: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (S, head size) in the model's dtype, of tokens at `positions` (3, S): time, row, column.

    The head is cut into the sections of config.json, and each takes its angle from one of the three.
    """
    rotary, config = language.rotary_emb, language.config
    scaling = getattr(config, "rope_parameters", None) or config.rope_scaling  # the newer name first
    frequencies = rotary.inv_freq.float().to(positions.device)
    angles = (positions[..., None].float() * frequencies).split(list(scaling["mrope_section"]), -1)
    own = torch.cat([section[at % 3] for at, section in enumerate(angles)], -1)
    whole, dtype = torch.cat((own, own), -1), language.norm.weight.dtype
    scale = rotary.attention_scaling
    return (whole.cos() * scale).to(dtype), (whole.sin() * scale).to(dtype)
