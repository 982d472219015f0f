"""Sensor window (force and A-line at 650 Hz) -> one vector.

The shape of Insertion_VLAv2's SensorEncoder with three changes: group instead of batch normalisation, so that a window
gives the same feature in training and at run time whatever else is in the batch; normalised input, so that the one
force channel is not drowned by 1025 bins of another scale; and positions: without them a push early in the window and
one late in it give the same feature.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from rtvla.models.spec import ModelSpec
from rtvla.models.spec_rules import FORCE_SHARE, FORCE_STAGES, NORM_GROUPS
from rtvla.models.transformer import blocks, positions, projection


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


class Branch(nn.Module):
    """Convolutions that shorten the window, then attention over what is left of it, then the mean."""

    def __init__(self, channels: int, stages: tuple[int, ...], out: int, spec: ModelSpec) -> None:
        super().__init__()
        widths, width = (channels, *stages), stages[-1]
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in itertools.pairwise(widths)))
        self.position = positions(-(-spec.sensor_window // 2 ** len(stages)), width)
        self.blocks = blocks(spec.sensor_layers, width, spec.sensor_heads, 4 * width)
        self.project = projection(width, out)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, channels) -> (B, out)."""
        steps = self.stages(window.transpose(1, 2)).transpose(1, 2)
        return self.project(self.blocks(steps + self.position).mean(1))


class SensorEncoder(Branch):
    """All channels through one branch."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec.sensor_channels + spec.missing_mask, spec.sensor_stages, spec.sensor_dim, spec)


class ForceAwareSensorEncoder(nn.Module):
    """Force and A-line each through a branch of its own: a fixed share of the feature belongs to the force."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.mark, force_dim = spec.missing_mask, spec.sensor_dim // FORCE_SHARE
        self.force = Branch(1 + self.mark, FORCE_STAGES, force_dim, spec)
        bins = spec.sensor_channels - 1
        self.aline = Branch(bins + self.mark, spec.sensor_stages, spec.sensor_dim - force_dim, spec)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, 1026) normalised, force first, with the mark of the missing ones last -> (B, sensor_dim)."""
        force, aline = window[..., :1], window[..., 1:]  # the mark is at the end of the A-line already
        if self.mark:
            force = torch.cat([force, window[..., -1:]], dim=-1)
        return torch.cat([self.force(force), self.aline(aline)], dim=-1)


SENSOR_ENCODERS: dict[str, type[SensorEncoder] | type[ForceAwareSensorEncoder]] = {
    "plain": SensorEncoder,
    "force_aware": ForceAwareSensorEncoder,
}
