"""The old experts that answer at once: an action chunk goes in (`z_chunk`), a difference is added to it.

In training and validation z_chunk was the true chunk, so that the smallest loss is a difference of nothing; live it was
zeros. Only QwenActionExpert looks at it at all.
"""

from __future__ import annotations

import torch
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.origin.fusion import FusingExpert
from rtvla.models.origin.layers import decoder, encoder, norm_linear

HEADS = {"trans_head": 3, "rot_head": 3, "grip_head": 1}  # v2: mm, deg, gripper


class QwenActionExpertWithSensor(FusingExpert):
    """v1."""

    activation = "relu"

    def __init__(
        self,
        vl_dim: int = 3072,
        sensor_dim: int = 3072,
        action_dim: int = 7,
        horizon: int = 8,
        hidden_dim: int = 1024,
        nhead: int = 8,
        num_layers: int = 4,
        fusion_strategy: str = "concat",
    ) -> None:
        super().__init__(vl_dim, sensor_dim, hidden_dim, nhead, fusion_strategy, "fusion_proj")
        self.horizon, self.action_dim = horizon, action_dim
        self.pos_embed = nn.Parameter(torch.randn(1, horizon, hidden_dim))
        self.temporal_decoder = decoder(num_layers, hidden_dim, nhead, self.activation)
        self.output_head = norm_linear(hidden_dim, action_dim)

    def forward(
        self, vl: torch.Tensor, z_chunk: torch.Tensor, sensor: torch.Tensor | None, robot: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, S, vl_dim), (B, H, 7), (B, F), (B, F) -> z_chunk + difference, difference; both (B, H, 7)."""
        difference = self.decode(self.condition(vl, sensor, robot))
        return z_chunk + difference, difference

    def decode(self, condition: torch.Tensor) -> torch.Tensor:
        """(B, hidden_dim) -> (B, H, 7)."""
        queries = self.pos_embed.repeat(len(condition), 1, 1)
        return self._head(self.temporal_decoder(queries, condition[:, None]))

    def _head(self, decoded: torch.Tensor) -> torch.Tensor:
        return self.output_head(decoded)


class RegressionActionExpert(QwenActionExpertWithSensor):
    """v2: three heads. `output_head` is still in its files, and was never used."""

    activation = "gelu"

    def __init__(self, action_dim: int = 7, hidden_dim: int = 1024, **arguments: int | str) -> None:
        super().__init__(action_dim=action_dim, hidden_dim=hidden_dim, **arguments)  # type: ignore[arg-type]
        for name, out in HEADS.items():
            self.add_module(name, norm_linear(hidden_dim, out))

    def _head(self, decoded: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.get_submodule(name)(decoded) for name in HEADS], dim=-1)


class QwenActionExpert(nn.Module):
    """v1 without sensor: the VL feature beside each step of z_chunk. Its steps have no positions."""

    def __init__(
        self,
        vl_dim: int = 3072,
        action_dim: int = 7,
        horizon: int = 8,
        hidden_dim: int = 1024,
        nhead: int = 8,
        num_layers: int = 4,
    ) -> None:
        super().__init__()
        self.horizon, self.action_dim = horizon, action_dim
        self.context_proj = nn.Sequential(nn.Linear(vl_dim, hidden_dim), nn.GELU(), nn.LayerNorm(hidden_dim))
        self.input_proj = nn.Sequential(nn.Linear(hidden_dim + action_dim, hidden_dim), nn.GELU())
        self.temporal_encoder = encoder(num_layers, hidden_dim, nhead, "gelu")
        self.delta_head = nn.Sequential(
            nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, action_dim)
        )

    def forward(
        self, vl: torch.Tensor, z_chunk: torch.Tensor, sensor: torch.Tensor | None, robot: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, vl_dim), (B, H, 7) -> z_chunk + difference, difference. Features are not looked at."""
        if vl.shape[1] != 1 or z_chunk.shape[1] != self.horizon:
            raise CheckpointError(
                f"{vl.shape[1]} VL tokens and {z_chunk.shape[1]} steps: this expert takes 1 and {self.horizon}"
            )
        context = self.context_proj(vl).expand(-1, self.horizon, -1)
        x = self.temporal_encoder(self.input_proj(torch.cat([context, z_chunk], dim=-1)))
        difference = self.delta_head(x)
        return z_chunk + difference, difference
