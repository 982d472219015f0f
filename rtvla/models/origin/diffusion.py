"""The old diffusion experts: v1 with one head, v2 with three and a dead fourth. Noise is predicted, DDIM or DDPM walks.

The v2 class could not be built as it was shipped (its schedule function was missing); with v1's schedule it runs.
Schedule: Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021), cosine, s = 0.008.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from rtvla.errors import CheckpointError
from rtvla.models.origin.flow import sinusoid
from rtvla.models.origin.fusion import FusingExpert
from rtvla.models.origin.layers import encoder, norm_linear
from rtvla.models.origin.regression import HEADS

_OFFSET = 0.008
_TIME_DIM = 128
_DECAY = math.log(10_000.0) / (_TIME_DIM // 2 - 1)
_CLIP = 1.0  # of a predicted chunk, in mm and deg alike: larger actions cannot come out of DDIM


def cosine_schedule(timesteps: int) -> dict[str, torch.Tensor]:
    """The old schedule's tensors by their old names, each (timesteps,) float32."""
    at = torch.linspace(0, timesteps, timesteps + 1) / timesteps
    kept = torch.cos((at + _OFFSET) / (1 + _OFFSET) * torch.pi * 0.5) ** 2
    kept = kept / kept[0]
    betas = torch.clip(1 - kept[1:] / kept[:-1], 0.0001, 0.9999)
    alphas = 1.0 - betas
    product = torch.cumprod(alphas, dim=0)
    previous = functional.pad(product[:-1], (1, 0), value=1.0)
    variance = betas * (1.0 - previous) / (1.0 - product)
    return {
        "betas": betas,
        "alphas": alphas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": torch.sqrt(product),
        "sqrt_one_minus_alphas_cumprod": torch.sqrt(1.0 - product),
        "sqrt_recip_alphas": torch.sqrt(1.0 / alphas),
        "sqrt_recip_alphas_cumprod": torch.sqrt(1.0 / product),
        "sqrt_recipm1_alphas_cumprod": torch.sqrt(1.0 / product - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": torch.log(torch.clamp(variance, min=1e-20)),
    }


def ddim_timesteps(timesteps: int, steps: int) -> list[int]:
    """Every (timesteps // steps)-th from 0, `steps` of them, last first. They need not reach the end: 7 of 100 give
    84, 70, ... 0, so that the sampling starts on pure noise as if it were noise of step 84.
    """
    if not 1 <= steps <= timesteps:
        raise CheckpointError(f"{steps} sampling steps of {timesteps}: must be between 1 and {timesteps}")
    return list(range(0, timesteps, timesteps // steps))[:steps][::-1]


class V1DiffusionActionExpert(FusingExpert):
    def __init__(
        self,
        vl_dim: int = 3072,
        sensor_dim: int = 3072,
        action_dim: int = 7,
        horizon: int = 8,
        hidden_dim: int = 512,
        timesteps: int = 100,
        fusion_strategy: str = "concat",
        nhead: int = 8,
        num_layers: int = 4,
    ) -> None:
        super().__init__(vl_dim, sensor_dim, hidden_dim, nhead, fusion_strategy, "cond_proj")
        self.horizon, self.action_dim, self.timesteps = horizon, action_dim, timesteps
        self.time_embed = nn.Sequential(nn.Linear(_TIME_DIM, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim))
        self.action_embed = nn.Linear(action_dim, hidden_dim)
        self.temporal_encoder = encoder(num_layers, hidden_dim, nhead)
        self.output_head = nn.Sequential(
            nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, action_dim)
        )
        self.schedule = cosine_schedule(timesteps)  # plain numbers, read one by one: no buffers, never on a device

    def noise_in(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), t (B,) int64 in 0..timesteps - 1, condition (B, hidden_dim) -> predicted noise (B, H, 7)."""
        return self.denoise(x, condition + self.embed_time(t))

    def embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """(B,) int64 in 0..timesteps - 1 -> (B, hidden_dim)."""
        return self.time_embed(sinusoid(t.float(), _TIME_DIM, _DECAY).to(next(self.time_embed.parameters()).dtype))

    def denoise(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), condition plus time (B, hidden_dim) -> predicted noise (B, H, 7)."""
        return self._head(self.temporal_encoder(self.action_embed(x) + told[:, None]))

    def _head(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_head(x)

    def ddim(self, x: torch.Tensor, condition: torch.Tensor, steps: int) -> torch.Tensor:
        """Noise (B, H, 7) -> actions (B, H, 7), without further noise (eta = 0)."""
        walk = ddim_timesteps(self.timesteps, steps)
        for t, following in zip(walk, [*walk[1:], None], strict=True):
            noise = self.noise_in(x, self._full(x, t), condition)
            clean = self._at("sqrt_recip_alphas_cumprod", t, x) * x
            clean = clean - self._at("sqrt_recipm1_alphas_cumprod", t, x) * noise
            kept = x.new_ones(()) if following is None else self._at("alphas_cumprod", following, x)
            x = torch.sqrt(kept) * clean.clamp(-_CLIP, _CLIP) + torch.sqrt(1 - kept) * noise
        return x

    def ddpm(self, noises: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(timesteps, B, H, 7) -> (B, H, 7). The first of the noises is the start, the others are added on the way.

        Unlike DDIM, nothing is clipped here: the old code clipped a value that it did not use.
        """
        x = noises[0]
        for step, t in enumerate(reversed(range(self.timesteps)), start=1):
            noise = self.noise_in(x, self._full(x, t), condition)
            shift = self._at("betas", t, x) * noise / self._at("sqrt_one_minus_alphas_cumprod", t, x)
            x = self._at("sqrt_recip_alphas", t, x) * (x - shift)
            if t > 0:
                x = x + torch.sqrt(self._at("posterior_variance", t, x)) * noises[step]
        return x

    def _at(self, name: str, t: int, like: torch.Tensor) -> torch.Tensor:
        return self.schedule[name][t].to(like.dtype)  # stays on the host: a number, so a CUDA graph can hold it

    def _full(self, x: torch.Tensor, t: int) -> torch.Tensor:
        return torch.full((len(x),), t, device=x.device, dtype=torch.int64)


class V2DiffusionActionExpert(V1DiffusionActionExpert):
    """Three heads; `output_head` is still in its files, and was never used."""

    def __init__(self, hidden_dim: int = 512, **arguments: int | str) -> None:
        super().__init__(hidden_dim=hidden_dim, **arguments)  # type: ignore[arg-type]
        for name, out in HEADS.items():
            self.add_module(name, norm_linear(hidden_dim, out))

    def _head(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in HEADS], dim=-1)
