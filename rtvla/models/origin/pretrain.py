"""The two old models that pre-trained an encoder: masked robot windows (MAE), sensor against image (CLIP)."""

from __future__ import annotations

import torch
from torch import nn

from rtvla.models.origin.encoders import ForceAwareSensorEncoder, RobotStateEncoder

CHANNELS = 12


class MAERobotStateModel(nn.Module):
    """Its argument names are those of the manifest: the old class was given an encoder ready made."""

    def __init__(
        self,
        window: int = 100,
        model_dim: int = 256,
        layers: int = 4,
        heads: int = 8,
        output_dim: int = 3072,
        decoder_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder = RobotStateEncoder(CHANNELS, model_dim, output_dim, heads, layers, window)
        self.decoder = nn.Sequential(nn.Linear(model_dim, decoder_dim), nn.GELU(), nn.Linear(decoder_dim, CHANNELS))

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(B, T, 12) with zeros where masked -> (B, T, 12). The projection of the encoder has no part in it."""
        return self.decoder(self.encoder.sequence(window))


class CLIPModel(nn.Module):
    """Without `image_encoder`, the whole VLM. Never run here: only its encoder is of use."""

    def __init__(
        self, sensor_output_dim: int = 3072, embedding_dim: int = 512, image_dim: int = 2048, **arguments: int | str
    ) -> None:
        super().__init__()
        arguments = {"temporal_length": 60, **arguments}
        self.sensor_encoder = ForceAwareSensorEncoder(output_dim=sensor_output_dim, **arguments)  # type: ignore[arg-type]
        self.sensor_projection = nn.Linear(sensor_output_dim, embedding_dim)
        self.image_projection = nn.Linear(image_dim, embedding_dim)
