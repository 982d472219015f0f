from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rtvla.models.experts import EXPERTS
from rtvla.models.experts.flow_matching import FlowMatchingExpert
from rtvla.models.spec import ModelSpec

SPEC = ModelSpec(
    name="test",
    vl_backbone="vl",
    vl_fingerprint="ab" * 32,
    expert_hidden=32,
    expert_layers=2,
    expert_heads=4,
    expert_ff=64,
)


def made(**changes: object) -> FlowMatchingExpert:
    torch.manual_seed(0)
    return FlowMatchingExpert(replace(SPEC, **changes)).eval()


@pytest.mark.parametrize("kind", EXPERTS)
def test_it_learns_chunks_that_depend_on_condition_and_step(kind: str) -> None:
    torch.manual_seed(0)
    expert = EXPERTS[kind](SPEC)
    conditions, targets = torch.randn(2, 32), torch.randn(2, 8, 7)
    batch = [part.repeat(16, *[1] * (part.ndim - 1)) for part in (conditions, targets)]
    optimizer = torch.optim.Adam(expert.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        expert.loss(*batch).backward()
        optimizer.step()
    sampled = expert.sample(conditions, torch.Generator().manual_seed(1))
    assert (sampled - targets).square().mean() < 0.1 * targets.square().mean()


@torch.no_grad()
def test_steps_of_a_flow_chunk_are_not_exchangeable() -> None:
    """Regression: without positions along the horizon, permuted noise gave the permuted chunk, to the last digit."""
    expert, condition, noise = made(), torch.randn(1, 32), torch.randn(1, 8, 7)
    order = torch.tensor([3, 0, 7, 1, 5, 2, 6, 4])
    straight, permuted = expert.integrate(noise, condition), expert.integrate(noise[:, order], condition)
    assert (permuted - straight[:, order]).abs().max() > 1e-3


@torch.no_grad()
def test_velocity_depends_on_time() -> None:
    """Regression: sinusoids of an unscaled t in 0..1 hardly move."""
    expert, condition, x = made(), torch.zeros(2, 32), torch.zeros(2, 8, 7)
    early, late = expert.velocity(x, torch.tensor([0.1, 0.2]), condition)
    assert (early - late).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_solvers_integrate_a_known_flow(solver: str) -> None:
    """dx/dt = x + t from x(0) = 1 gives x(1) = 2e - 2."""
    expert = made(flow_solver=solver, flow_steps=20)
    expert.velocity = lambda x, t, condition: x + t[:, None, None]  # type: ignore[method-assign]
    reached = expert.integrate(torch.ones(1, 8, 7), torch.zeros(1, 32))
    exact = 2 * torch.e - 2
    assert (reached - exact).abs().max() < {"euler": 0.15, "rk4": 1e-5}[solver]


@torch.no_grad()
def test_rk4_and_many_euler_steps_agree() -> None:
    noise, condition = torch.randn(1, 8, 7), torch.randn(1, 32)
    rk4 = made(flow_solver="rk4", flow_steps=400).integrate(noise, condition)
    euler = made(flow_steps=1600).integrate(noise, condition)
    torch.testing.assert_close(rk4, euler, atol=2e-2, rtol=0)


@torch.no_grad()
def test_the_seed_decides_the_noise() -> None:
    expert, condition = made(), torch.randn(1, 32)
    first, again, other = (expert.sample(condition, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_loss_is_reproducible_with_a_generator() -> None:
    expert, actions, condition = made(), torch.randn(4, 8, 7), torch.randn(4, 32)
    first, again = (expert.loss(condition, actions, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
