"""The network that two experts share: noisy chunk, time and condition -> velocity of every step of the chunk."""

from __future__ import annotations

import math

import torch
from torch import nn

from rtvla.models.spec import ModelSpec
from rtvla.models.transformer import blocks, positions

_TIME_SCALE = 1000.0  # sinusoids made for step numbers of 0..1000: unscaled, t in 0..1 would move hardly any of them
_SLOWEST = 10_000.0


class Denoiser(nn.Module):
    frequency: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.expert_hidden
        self.shape = (spec.horizon, spec.action_dim)
        self.embed = nn.Linear(spec.action_dim, width)
        # without it the steps of a chunk are exchangeable, and the first action is not the first
        self.position = positions(spec.horizon, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = blocks(spec.expert_layers, width, spec.expert_heads, spec.expert_ff)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.action_dim))
        half = torch.arange(width // 2) / (width // 2 - 1 or 1)
        self.register_buffer("frequency", torch.exp(-math.log(_SLOWEST) * half), persistent=False)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), t (B,) in 0..1, condition (B, expert_hidden) -> (B, H, 7)."""
        return self.denoise(x, condition + self.embed_time(t))

    def embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """(B,) in 0..1 -> (B, expert_hidden)."""
        angle = _TIME_SCALE * t[:, None] * self.frequency
        return self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))

    def denoise(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), condition plus time (B, expert_hidden) -> (B, H, 7)."""
        return self.head(self.blocks(self.embed(x) + self.position + told[:, None]))

    def noise(self, batch: int, generator: torch.Generator | None) -> torch.Tensor:
        """(batch, H, 7) standard normal, on the CPU: a seed means the same on any device."""
        return torch.randn((batch, *self.shape), generator=generator)
