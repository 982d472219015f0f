"""The old encoders of windows: three of the sensor (v1, v2, v2 force-aware), one of the robot state.

Constructor arguments have the old names and defaults, because the manifests and the golden files speak in them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from rtvla.errors import CheckpointError
from rtvla.models.origin.layers import encoder, projection

_CUBIC_NEEDS = 4  # samples; below, the old code fell back to linear


class _SensorEncoder(nn.Module):
    """Convolutions that halve the time axis, transformer, mean over time, projection."""

    def __init__(
        self,
        input_channels: int = 1026,
        temporal_length: int = 650,
        hidden_dim: int = 512,
        output_dim: int = 3072,
        num_conv_layers: int = 4,
        use_transformer: bool = True,
        num_transformer_layers: int = 2,
        nhead: int = 8,
        interpolation_mode: str = "linear",
    ) -> None:
        super().__init__()
        self.input_channels, self.temporal_length = input_channels, temporal_length
        self.output_dim, self.interpolation_mode = output_dim, interpolation_mode
        widths = [input_channels, *(hidden_dim * (1 if at == 0 else 2) for at in range(num_conv_layers))]
        self.conv_backbone = self._backbone(widths)
        if use_transformer:
            self.transformer = encoder(num_transformer_layers, widths[-1], nhead)
        self.use_transformer = use_transformer
        self.projection = projection(widths[-1], output_dim)

    def _backbone(self, widths: list[int]) -> nn.Module:
        raise NotImplementedError

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, input_channels) -> (B, output_dim). Another T is resampled to temporal_length."""
        if window.shape[-1] != self.input_channels:
            raise CheckpointError(f"window has {window.shape[-1]} channels: the encoder takes {self.input_channels}")
        x = self.conv_backbone(self._resampled(window.transpose(1, 2))).transpose(1, 2)
        if self.use_transformer:
            x = self.transformer(x)
        return self.projection(x.mean(1))

    def _resampled(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, C, temporal_length)."""
        if x.shape[-1] == self.temporal_length:
            return x
        mode = self.interpolation_mode
        if mode == "cubic":
            if x.shape[-1] >= _CUBIC_NEEDS:
                raise CheckpointError("interpolation_mode = cubic: torch has none for windows, the old code failed too")
            mode = "linear"
        align = False if mode == "linear" else None
        return functional.interpolate(x, size=self.temporal_length, mode=mode, align_corners=align)


class V1SensorEncoder(_SensorEncoder):
    def _backbone(self, widths: list[int]) -> nn.Module:
        stages: list[nn.Module] = []
        for width, out in pairwise(widths):
            # the fourth of each stage was dropout: the numbers of the others are part of their names
            stages += [nn.Conv1d(width, out, 3, stride=2, padding=1), nn.BatchNorm1d(out), nn.GELU(), nn.Identity()]
        return nn.Sequential(*stages)


class _Downsample(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(width, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm1d(out)
        self.conv2, self.bn2 = nn.Conv1d(out, out, 3, padding=1, bias=False), nn.BatchNorm1d(out)
        self.skip = nn.Conv1d(width, out, 1, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, out, ceil(T / 2)). The skip joins after the second activation."""
        y = functional.gelu(self.bn1(self.conv1(x)))
        return functional.gelu(self.bn2(self.conv2(y))) + self.skip(x)


class V2SensorEncoder(_SensorEncoder):
    def _backbone(self, widths: list[int]) -> nn.Module:
        return nn.Sequential(*(_Downsample(width, out) for width, out in pairwise(widths)))


class ForceAwareSensorEncoder(nn.Module):
    """Takes the last channel for the force. The data are force first, so it gets the last bin of the A-line."""

    def __init__(
        self,
        dist_channels: int = 1025,
        force_channels: int = 1,
        temporal_length: int = 65,
        dist_hidden_dim: int = 512,
        force_hidden_dim: int = 128,
        output_dim: int = 3072,
        **arguments: int | str | bool,
    ) -> None:
        super().__init__()
        if force_channels != 1:
            raise CheckpointError(f"force_channels = {force_channels}: the old encoder takes one channel, the last")
        self.input_channels, self.temporal_length = dist_channels + 1, temporal_length
        self.output_dim = output_dim
        self.dist_encoder = V2SensorEncoder(
            dist_channels,
            temporal_length,
            dist_hidden_dim,
            output_dim - force_hidden_dim,
            **arguments,  # type: ignore[arg-type]
        )
        half = force_hidden_dim // 2
        self.force_encoder = nn.Sequential(
            nn.Linear(1, half), nn.GELU(), nn.LayerNorm(half), nn.Linear(half, force_hidden_dim)
        )

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, dist_channels + 1) -> (B, output_dim): the profile's feature, then the force's, never resampled."""
        force = self.force_encoder(window[..., -1:]).mean(1)
        return torch.cat([self.dist_encoder(window[..., :-1]), force], dim=-1)


class RobotStateEncoder(nn.Module):
    def __init__(
        self,
        input_dim: int = 12,
        model_dim: int = 256,
        output_dim: int = 2048,
        num_heads: int = 8,
        num_layers: int = 4,
        temporal_length: int = 60,
    ) -> None:
        super().__init__()
        self.temporal_length, self.output_dim = temporal_length, output_dim
        self.pos_encoder = nn.Parameter(torch.zeros(1, temporal_length, model_dim))
        self.input_proj = nn.Linear(input_dim, model_dim)
        self.transformer_encoder = encoder(num_layers, model_dim, num_heads, "gelu")
        self.projection = projection(model_dim, output_dim)

    def sequence(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, input_dim) deg and mm, raw -> (B, T, model_dim), what the masked pre-training reads."""
        return self.transformer_encoder(self.input_proj(window) + self.pos_encoder)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, input_dim) -> (B, output_dim)."""
        return self.projection(self.sequence(window).mean(1))
