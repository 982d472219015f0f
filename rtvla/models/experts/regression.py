"""Condition -> chunk directly, trained with smooth L1. It sees the condition and its position, never an action."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from rtvla.models.spec import ModelSpec
from rtvla.models.transformer import blocks, positions


class RegressionExpert(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.expert_hidden
        self.position = positions(spec.horizon, width)
        self.blocks = blocks(spec.expert_layers, width, spec.expert_heads, spec.expert_ff)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.action_dim))

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """(B, expert_hidden) -> (B, H, 7)."""
        return self.head(self.blocks(condition[:, None] + self.position))

    def loss(
        self, condition: torch.Tensor, actions: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """`actions` (B, H, 7) normalised. Nothing is drawn: `generator` is here for the experts that do."""
        return functional.smooth_l1_loss(self(condition), actions)

    def noise(self, batch: int, generator: torch.Generator | None) -> torch.Tensor:
        """(batch, 0): nothing is drawn."""
        return torch.empty(batch, 0)

    def sample(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(B, expert_hidden) -> (B, H, 7)."""
        return self(condition)
