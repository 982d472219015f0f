"""Sensor window (force and A-line at 650 Hz) -> one vector.

The shape of Insertion_VLAv2's SensorEncoder with two changes: group instead of batch normalisation, so that a window
gives the same feature in training and at run time whatever else is in the batch; and normalised input, so that the one
force channel is not drowned by 1025 bins of another scale.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from rtvla.models.spec import NORM_GROUPS, ModelSpec
from rtvla.models.transformer import blocks, projection


class Stage(nn.Module):
    """Halves the time axis. The skip is not normalised: it carries the amplitude that the norms take out."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(channels, out, 3, stride=2, padding=1, bias=False),  # the norm would cancel part of a bias
            nn.GroupNorm(NORM_GROUPS, out),
            nn.GELU(),
            nn.Conv1d(out, out, 3, padding=1, bias=False),
            nn.GroupNorm(NORM_GROUPS, out),
            nn.GELU(),
        )
        self.skip = nn.Conv1d(channels, out, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, out, ceil(T / 2))."""
        return self.body(x) + self.skip(x)


class SensorEncoder(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        widths = (spec.sensor_channels, *spec.sensor_stages)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in itertools.pairwise(widths)))
        self.blocks = blocks(spec.sensor_layers, widths[-1], spec.sensor_heads, 4 * widths[-1])
        self.project = projection(widths[-1], spec.sensor_dim)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, 1026) normalised -> (B, sensor_dim)."""
        steps = self.stages(window.transpose(1, 2)).transpose(1, 2)
        return self.project(self.blocks(steps).mean(1))
