"""Condition and noise -> chunk, by integrating a learned velocity from t = 0 (noise) to t = 1 (actions).

Lipman et al., "Flow Matching for Generative Modeling" (ICLR 2023): the optimal-transport path with sigma_min = 0, which
is the straight line x_t = (1 - t) noise + t actions, of velocity actions - noise. One condition serves the whole chunk.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from rtvla.models.experts.denoiser import Denoiser
from rtvla.models.spec import ModelSpec


class FlowMatchingExpert(Denoiser):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.steps, self.solver = spec.flow_steps, spec.flow_solver

    def loss(
        self, condition: torch.Tensor, actions: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Mean squared error of the velocity at a uniform t. `actions` (B, H, 7) normalised; `generator` on the CPU."""
        noise = self.noise(len(actions), generator).to(actions)
        t = torch.rand(len(actions), generator=generator).to(actions)
        line = t[:, None, None]
        return functional.mse_loss(self.velocity((1 - line) * noise + line * actions, t, condition), actions - noise)

    def sample(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(B, expert_hidden), (B, H, 7) of `noise` -> (B, H, 7)."""
        size, x = 1.0 / self.steps, noise
        advance = {"euler": self._euler, "rk4": self._rk4}[self.solver]
        for step in range(self.steps):
            x = x + size * advance(x, step * size, size, condition)
        return x

    def _at(self, x: torch.Tensor, t: float, condition: torch.Tensor) -> torch.Tensor:
        return self.velocity(x, x.new_full((len(x),), t), condition)

    def _euler(self, x: torch.Tensor, t: float, size: float, condition: torch.Tensor) -> torch.Tensor:
        return self._at(x, t, condition)

    def _rk4(self, x: torch.Tensor, t: float, size: float, condition: torch.Tensor) -> torch.Tensor:
        """Classic fourth order: four evaluations a step."""
        first = self._at(x, t, condition)
        second = self._at(x + size / 2 * first, t + size / 2, condition)
        third = self._at(x + size / 2 * second, t + size / 2, condition)
        fourth = self._at(x + size * third, t + size, condition)
        return (first + 2 * second + 2 * third + fourth) / 6
