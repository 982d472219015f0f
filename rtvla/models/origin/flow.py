"""The old flow expert (v2): a velocity, integrated from noise at t = 0 to actions at t = 1.

Its steps have no positions: permuting the noise permutes the chunk, and the first action is not the first. t goes into
the sinusoid as 0..1, where few of its values move. Both are reproduced.
"""

from __future__ import annotations

import torch
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.origin.fusion import FusingExpert
from rtvla.models.origin.layers import encoder, norm_linear

SOLVERS = ("euler", "rk4")
_SLOWEST = 10_000.0


def sinusoid(t: torch.Tensor, width: int, decay: torch.Tensor | float) -> torch.Tensor:
    """(B,) -> (B, width): sines, then cosines, each of e ** -decay times the frequency of the one before it."""
    frequency = torch.exp(torch.arange(width // 2, device=t.device, dtype=torch.float32) * -decay)
    angle = t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class FlowMatchingActionExpert(FusingExpert):
    def __init__(
        self,
        vl_dim: int = 3072,
        sensor_dim: int = 6144,
        action_dim: int = 7,
        horizon: int = 8,
        hidden_dim: int = 1024,
        nhead: int = 8,
        num_layers: int = 4,
        time_embed_dim: int = 256,
        fusion_strategy: str = "concat",
    ) -> None:
        super().__init__(vl_dim, sensor_dim, hidden_dim, nhead, fusion_strategy, "fusion_proj")
        if time_embed_dim < 4 or time_embed_dim % 2:
            raise CheckpointError(f"time_embed_dim = {time_embed_dim}: must be even and at least 4 (sines and cosines)")
        self.horizon, self.action_dim, self.time_embed_dim = horizon, action_dim, time_embed_dim
        self.time_mlp = nn.Sequential(
            nn.Linear(time_embed_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim)
        )
        self.action_embed = nn.Linear(action_dim, hidden_dim)
        self.velocity_net = encoder(num_layers, hidden_dim, nhead)
        self.output_head = norm_linear(hidden_dim, action_dim)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), t (B,) in 0..1, condition (B, hidden_dim) -> (B, H, 7)."""
        return self.denoise(x, condition + self.embed_time(t))

    def embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """(B,) in 0..1 -> (B, hidden_dim)."""
        decay = torch.log(torch.tensor(_SLOWEST)) / (self.time_embed_dim // 2 - 1)
        return self.time_mlp(sinusoid(t, self.time_embed_dim, decay))

    def denoise(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), condition plus time (B, hidden_dim) -> (B, H, 7)."""
        return self.output_head(self.velocity_net(self.action_embed(x) + told[:, None]))

    def sample(self, x: torch.Tensor, condition: torch.Tensor, steps: int, solver: str) -> torch.Tensor:
        """Noise (B, H, 7) and condition (B, hidden_dim) -> actions (B, H, 7)."""
        size = 1.0 / steps
        advance = {"euler": self._euler, "rk4": self._rk4}[solver]
        for step in range(steps):
            x = x + advance(x, x.new_full((len(x),), step * size), size, condition)
        return x

    def _euler(self, x: torch.Tensor, t: torch.Tensor, size: float, condition: torch.Tensor) -> torch.Tensor:
        return size * self.velocity(x, t, condition)

    def _rk4(self, x: torch.Tensor, t: torch.Tensor, size: float, condition: torch.Tensor) -> torch.Tensor:
        first = self.velocity(x, t, condition)
        second = self.velocity(x + size / 2 * first, t + size / 2, condition)
        third = self.velocity(x + size / 2 * second, t + size / 2, condition)
        fourth = self.velocity(x + size * third, t + size, condition)
        return size / 6 * (first + 2 * second + 2 * third + fourth)
