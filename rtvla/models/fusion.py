"""VL feature, sensor feature, robot feature -> the condition of the expert.

Concatenation only. Attention over a single pooled VL token is no attention: its softmax is 1, so the query (sensor and
robot) would have no influence on the result.
"""

from __future__ import annotations

import torch
from torch import nn

from rtvla.models.spec import ModelSpec


class ConcatFusion(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        widths = (spec.vl_dim, spec.sensor_dim, spec.robot_dim)
        # three scales that have nothing to do with each other: none may drown the others
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.project = nn.Linear(sum(widths), spec.expert_hidden)

    def forward(self, vl: torch.Tensor, sensor: torch.Tensor, robot: torch.Tensor) -> torch.Tensor:
        """(B, vl_dim), (B, sensor_dim), (B, robot_dim) -> (B, expert_hidden)."""
        parts = [norm(part) for norm, part in zip(self.norms, (vl, sensor, robot), strict=True)]
        return self.project(torch.cat(parts, dim=-1))
