"""Condition and noise -> chunk, by integrating a learned velocity from t = 0 (noise) to t = 1 (actions).

Lipman et al., "Flow Matching for Generative Modeling" (ICLR 2023): the optimal-transport path with sigma_min = 0, which
is the straight line x_t = (1 - t) noise + t actions, of velocity actions - noise. One condition serves the whole chunk.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from rtvla.models.spec import ModelSpec
from rtvla.models.transformer import blocks, positions

_TIME_SCALE = 1000.0  # sinusoids made for step numbers of 0..1000: unscaled, t in 0..1 would move hardly any of them
_SLOWEST = 10_000.0


class FlowMatchingExpert(nn.Module):
    frequency: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.expert_hidden
        self.shape = (spec.horizon, spec.action_dim)
        self.steps, self.advance = spec.flow_steps, {"euler": self._euler, "rk4": self._rk4}[spec.flow_solver]
        self.embed = nn.Linear(spec.action_dim, width)
        # without it the steps of a chunk are exchangeable, and the first action is not the first
        self.position = positions(spec.horizon, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = blocks(spec.expert_layers, width, spec.expert_heads, spec.expert_ff)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.action_dim))
        half = torch.arange(width // 2) / (width // 2 - 1 or 1)
        self.register_buffer("frequency", torch.exp(-math.log(_SLOWEST) * half), persistent=False)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), t (B,) in 0..1, condition (B, expert_hidden) -> (B, H, 7) per unit of t."""
        angle = _TIME_SCALE * t[:, None] * self.frequency
        time = self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return self.head(self.blocks(self.embed(x) + self.position + (condition + time)[:, None]))

    def loss(
        self, condition: torch.Tensor, actions: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Mean squared error of the velocity at a uniform t. `actions` (B, H, 7) normalised; `generator` on the CPU."""
        noise = torch.randn(actions.shape, generator=generator).to(actions)
        t = torch.rand(len(actions), generator=generator).to(actions)
        line = t[:, None, None]
        return functional.mse_loss(self.velocity((1 - line) * noise + line * actions, t, condition), actions - noise)

    def sample(self, condition: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(B, expert_hidden) -> (B, H, 7). Noise from the CPU: a seed means the same on any device."""
        noise = torch.randn((len(condition), *self.shape), generator=generator).to(condition)
        return self.integrate(noise, condition)

    def integrate(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        size = 1.0 / self.steps
        for step in range(self.steps):
            x = x + size * self.advance(x, step * size, size, condition)
        return x

    def _at(self, x: torch.Tensor, t: float, condition: torch.Tensor) -> torch.Tensor:
        return self.velocity(x, x.new_full((len(x),), t), condition)

    def _euler(self, x: torch.Tensor, t: float, size: float, condition: torch.Tensor) -> torch.Tensor:
        return self._at(x, t, condition)

    def _rk4(self, x: torch.Tensor, t: float, size: float, condition: torch.Tensor) -> torch.Tensor:
        """Classic fourth order: four evaluations a step."""
        first = self._at(x, t, condition)
        second = self._at(x + size / 2 * first, t + size / 2, condition)
        third = self._at(x + size / 2 * second, t + size / 2, condition)
        fourth = self._at(x + size * third, t + size, condition)
        return (first + 2 * second + 2 * third + fourth) / 6
