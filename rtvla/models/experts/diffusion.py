"""Condition and noise -> chunk, by undoing noise step by step, in normalised units.

Schedule: the cosine of Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (ICML 2021), eq. 17, with
their s = 0.008 and betas of at most 0.999. Sampling: Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021),
eq. 12 and 16, over any subset of the steps; eta 0 is DDIM, eta 1 over all steps is the ancestral sampling of DDPM
(Ho et al., NeurIPS 2020). The network predicts v (Salimans & Ho, "Progressive Distillation", ICLR 2022, appendix D):
the chunk follows from v without a division, while from the noise it would be divided by sqrt(abar), 2e-4 at the first
step, and need a clamp that clips large actions.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from rtvla.models.experts.denoiser import Denoiser
from rtvla.models.spec import ModelSpec

_OFFSET = 0.008
_BETA_MAX = 0.999
_ETA = {"ddim": 0.0, "ddpm": 1.0}


def cosine_abar(timesteps: int) -> torch.Tensor:
    """(timesteps,) float64: the share of the chunk's variance that is left after each step of noise; falls to 0."""
    t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    curve = torch.cos((t + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2
    betas = (1 - curve[1:] / curve[:-1]).clamp(max=_BETA_MAX)
    return torch.cumprod(1 - betas, 0)


class DiffusionExpert(Denoiser):
    abar: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.timesteps, self.steps, self.sampler = (
            spec.diffusion_timesteps,
            spec.diffusion_steps,
            spec.diffusion_sampler,
        )
        self.register_buffer("abar", cosine_abar(self.timesteps).float(), persistent=False)
        self.plan = _plan(self.timesteps, self.steps, _ETA[self.sampler])

    def v(self, x: torch.Tensor, step: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x (B, H, 7), step (B,) in 0..timesteps - 1 -> sqrt(abar) noise - sqrt(1 - abar) actions, (B, H, 7)."""
        return self.velocity(x, (step + 1) / self.timesteps, condition)

    def loss(
        self, condition: torch.Tensor, actions: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Mean squared error of v at a uniform step. `actions` (B, H, 7) normalised; `generator` on the CPU."""
        noise = Denoiser.noise(self, len(actions), generator).to(actions)
        step = torch.randint(self.timesteps, (len(actions),), generator=generator).to(actions.device)
        abar = self.abar[step][:, None, None]
        signal, spread = abar.sqrt(), (1 - abar).sqrt()
        return functional.mse_loss(
            self.v(signal * actions + spread * noise, step, condition), signal * noise - spread * actions
        )

    def noise(self, batch: int, generator: torch.Generator | None) -> torch.Tensor:
        """ddim: (batch, H, 7) to start from. ddpm: (steps, batch, H, 7), the first to start from, then one a step."""
        if self.sampler == "ddim":
            return super().noise(batch, generator)
        return torch.randn((self.steps, batch, *self.shape), generator=generator)

    def sample(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(B, expert_hidden) and the tensor of `noise` -> (B, H, 7)."""
        fresh = [noise] if self.sampler == "ddim" else list(noise)
        x = fresh[0]
        for at, (step, abar, next_abar, sigma) in enumerate(self.plan, start=1):
            v = self.v(x, torch.full((len(x),), step, device=x.device), condition)
            actions = math.sqrt(abar) * x - math.sqrt(1 - abar) * v
            noise_in_x = math.sqrt(1 - abar) * x + math.sqrt(abar) * v
            x = math.sqrt(next_abar) * actions + math.sqrt(max(1 - next_abar - sigma**2, 0.0)) * noise_in_x
            if sigma > 0:
                x = x + sigma * fresh[at]
        return x


def _plan(timesteps: int, steps: int, eta: float) -> list[tuple[int, float, float, float]]:
    """(step, its abar, abar of the next, sigma of the noise between) from the noisiest to the cleanest.

    The steps are spread evenly and always begin at the last of the schedule; after the final one abar is 1, sigma 0.
    """
    abar = cosine_abar(timesteps).tolist()
    chosen = [round(at) for at in torch.linspace(timesteps - 1, 0, steps, dtype=torch.float64).tolist()]
    following = [abar[step] for step in chosen[1:]] + [1.0]
    return [
        (step, abar[step], after, eta * math.sqrt((1 - after) / (1 - abar[step]) * (1 - abar[step] / after)))
        for step, after in zip(chosen, following, strict=True)
    ]
