"""Robot window (joints and pose at 100 Hz) -> one vector."""

from __future__ import annotations

import torch
from torch import nn

from rtvla.models.spec import ModelSpec
from rtvla.models.transformer import blocks, positions, projection


class RobotStateEncoder(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.robot_hidden
        self.embed = nn.Linear(spec.robot_channels + spec.missing_mask, width)
        self.position = positions(spec.robot_window, width)
        self.blocks = blocks(spec.robot_layers, width, spec.robot_heads, 4 * width)
        self.project = projection(width, spec.robot_dim)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, R, 12) normalised, with the mark of the missing ones a thirteenth channel -> (B, robot_dim)."""
        return self.project(self.blocks(self.embed(window) + self.position).mean(1))
