from __future__ import annotations

import math

import pytest
import torch
from small_models import small_spec

from rtvla.models.experts.diffusion import DiffusionExpert, cosine_abar

CONDITION = torch.zeros(2, 28)


def made(**changes: object) -> DiffusionExpert:
    torch.manual_seed(0)
    return DiffusionExpert(small_spec(expert="diffusion", **changes)).eval()


def knows(expert: DiffusionExpert, mean: torch.Tensor | float, spread: float = 0.0) -> DiffusionExpert:
    """Instead of the network, the exact v of data that are normal with this mean and deviation."""

    def v(x: torch.Tensor, step: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        abar = expert.abar.double()[step].view(-1, 1, 1)
        signal, variance = abar.sqrt(), abar * spread**2 + 1 - abar
        actions = mean + signal * spread**2 / variance * (x - signal * mean)
        noise = (x - signal * actions) / (1 - abar).sqrt()
        return signal * noise - (1 - abar).sqrt() * actions

    expert.v = v  # type: ignore[method-assign]
    return expert.double()


def test_schedule_is_the_one_of_the_old_system_but_for_its_last_step() -> None:
    """Its numbers at five steps of 100. It let beta grow to 0.9999 in the last one; the paper says 0.999."""
    old = {0: 0.9993687, 25: 0.8356207, 50: 0.4782646, 75: 0.1334948, 98: 2.4285520e-4}
    abar = cosine_abar(100)
    for step, value in old.items():
        assert abar[step].item() == pytest.approx(value, rel=1e-5)  # it computed in float32
    assert abar[99].item() == pytest.approx(old[98] * 0.001, rel=1e-5)


@pytest.mark.parametrize("timesteps", [1, 10, 100, 1000])
def test_noise_only_grows(timesteps: int) -> None:
    abar = cosine_abar(timesteps)
    assert ((abar > 0) & (abar < 1)).all() and (abar.diff() < 0).all()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 100])
def test_a_network_that_knows_the_chunk_reaches_it_in_any_number_of_steps(sampler: str, steps: int) -> None:
    """Regression: actions of more than one unit were clipped to it on every step."""
    expert = made(diffusion_sampler=sampler, diffusion_steps=steps)
    target = torch.linspace(-5, 5, 56).double().view(2, 4, 7)
    noise = expert.noise(2, torch.Generator().manual_seed(0)).double()
    reached = knows(expert, target).sample(CONDITION, noise)
    torch.testing.assert_close(reached, target, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, 4, 33, 100])
def test_it_asks_the_network_once_a_step_from_the_last_to_the_first(steps: int) -> None:
    expert, asked = made(diffusion_steps=steps), []
    expert.v = lambda x, step, condition: asked.append(int(step[0])) or x  # type: ignore[method-assign, func-returns-value]
    expert.sample(CONDITION, expert.noise(2, None))
    assert len(asked) == steps and asked[0] == 99
    assert asked == sorted(set(asked), reverse=True) and (steps == 1 or asked[-1] == 0)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_have_the_spread_of_the_data(sampler: str) -> None:
    """20000 values: with the noise of DDPM and the shrinking of DDIM, or the reverse, it is off by a third and more.

    The variance that DDPM adds is right for data without spread, so its samples come out 4 percent narrow.
    """
    expert = knows(made(diffusion_sampler=sampler, diffusion_steps=100, horizon=32), 0.3, spread=0.5)
    noise = expert.noise(90, torch.Generator().manual_seed(0)).double()
    sampled = expert.sample(torch.zeros(90, 28), noise)
    assert sampled.numel() > 20_000
    assert sampled.std().item() == pytest.approx(0.5, rel=0.06)
    assert sampled.mean().item() == pytest.approx(0.3, abs=0.015)


def test_all_steps_of_ddpm_are_the_ancestral_ones() -> None:
    """Ho et al., eq. 7: mean and variance of the posterior, from the betas and not from the formula of DDIM."""
    expert = made(diffusion_sampler="ddpm", diffusion_steps=100).double()
    noise = expert.noise(2, torch.Generator().manual_seed(0)).double()
    abar = cosine_abar(100)
    before = torch.cat([torch.ones(1).double(), abar[:-1]])
    alpha = abar / before
    x = noise[0]
    with torch.no_grad():
        for at, step in enumerate(range(99, -1, -1), start=1):
            v = expert.v(x, torch.full((2,), step), CONDITION.double())
            actions = abar[step].sqrt() * x - (1 - abar[step]).sqrt() * v
            x = (
                before[step].sqrt() * (1 - alpha[step]) / (1 - abar[step]) * actions
                + alpha[step].sqrt() * (1 - before[step]) / (1 - abar[step]) * x
            )
            if step:
                x = x + ((1 - before[step]) / (1 - abar[step]) * (1 - alpha[step])).sqrt() * noise[at]
        torch.testing.assert_close(expert.sample(CONDITION.double(), noise), x, atol=1e-9, rtol=0)


@torch.no_grad()
def test_ddim_is_decided_by_its_first_noise_and_ddpm_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    ddpm, ddim = made(diffusion_sampler="ddpm"), made()
    noise = ddpm.noise(2, draw)
    assert (noise.shape, ddim.noise(2, draw).shape) == ((4, 2, 4, 7), (2, 4, 7))
    other = torch.cat([noise[:1], torch.randn(3, 2, 4, 7, generator=draw)])
    assert not torch.allclose(ddpm.sample(CONDITION, noise), ddpm.sample(CONDITION, other))
    torch.testing.assert_close(  # without its fresh noise, one step is one step
        made(diffusion_sampler="ddpm", diffusion_steps=1).sample(CONDITION, noise[:1]),
        made(diffusion_steps=1).sample(CONDITION, noise[0]),
    )


@torch.no_grad()
def test_steps_of_a_chunk_are_not_exchangeable() -> None:
    expert = made(diffusion_steps=20)
    noise, order = expert.noise(2, torch.Generator().manual_seed(0)), torch.tensor([2, 0, 3, 1])
    straight, permuted = expert.sample(CONDITION, noise), expert.sample(CONDITION, noise[:, order])
    assert (permuted - straight[:, order]).abs().max() > 1e-3


def test_loss_of_the_exact_v_is_the_variance_that_is_left() -> None:
    """Data that are one known chunk leave nothing to guess: the loss of the exact v is 0, of v = 0 it is not."""
    actions = torch.linspace(-1, 1, 56).double().view(2, 4, 7)
    exact = knows(made(), actions)
    assert exact.loss(CONDITION, actions, torch.Generator().manual_seed(0)).item() < 1e-9
    exact.v = lambda x, step, condition: torch.zeros_like(x)  # type: ignore[method-assign]
    assert exact.loss(CONDITION, actions, torch.Generator().manual_seed(0)).item() > 0.1


def test_first_step_would_need_a_clamp_with_noise_prediction() -> None:
    """Why v: dividing by sqrt(abar) would multiply an error of the network by two thousand."""
    assert 1 / math.sqrt(cosine_abar(100)[-1].item()) > 2000
