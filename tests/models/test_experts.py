from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import small_spec

from rtvla.models.experts import EXPERTS
from rtvla.models.experts.flow_matching import FlowMatchingExpert
from rtvla.models.experts.regression import RegressionExpert

SPEC = small_spec(horizon=8, expert_hidden=32, expert_layers=2, expert_heads=4, expert_ff=64, flow_steps=10)


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
    sampled = expert.sample(conditions, expert.noise(2, torch.Generator().manual_seed(1)))
    assert (sampled - targets).square().mean() < 0.1 * targets.square().mean()


@torch.no_grad()
def test_steps_of_a_flow_chunk_are_not_exchangeable() -> None:
    """Regression: without positions along the horizon, permuted noise gave the permuted chunk, to the last digit."""
    expert, condition, noise = made(), torch.randn(1, 32), torch.randn(1, 8, 7)
    order = torch.tensor([3, 0, 7, 1, 5, 2, 6, 4])
    straight, permuted = expert.sample(condition, noise), expert.sample(condition, noise[:, order])
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
    reached = expert.sample(torch.zeros(1, 32), torch.ones(1, 8, 7))
    exact = 2 * torch.e - 2
    assert (reached - exact).abs().max() < {"euler": 0.15, "rk4": 1e-5}[solver]


@torch.no_grad()
def test_rk4_and_many_euler_steps_agree() -> None:
    noise, condition = torch.randn(1, 8, 7), torch.randn(1, 32)
    rk4 = made(flow_solver="rk4", flow_steps=400).sample(condition, noise)
    euler = made(flow_steps=1600).sample(condition, noise)
    torch.testing.assert_close(rk4, euler, atol=2e-2, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("solver", ["euler", "rk4"])
@pytest.mark.parametrize("steps", [1, 3, 64])
def test_any_number_of_steps_asks_the_network_as_often_as_the_solver_says(solver: str, steps: int) -> None:
    expert, times = made(flow_solver=solver, flow_steps=steps), []
    expert.velocity = lambda x, t, condition: times.append(float(t[0])) or x  # type: ignore[method-assign, func-returns-value]
    expert.sample(torch.zeros(1, 32), torch.ones(1, 8, 7))
    assert len(times) == steps * {"euler": 1, "rk4": 4}[solver]
    assert times[0] == 0 and times == sorted(times) and times[-1] <= 1 + 1e-6


@torch.no_grad()
def test_steps_of_a_regression_chunk_differ() -> None:
    torch.manual_seed(0)
    chunk = RegressionExpert(SPEC).sample(torch.randn(1, 32), torch.empty(1, 0))[0]
    assert (chunk[:, None] - chunk[None]).abs().amax(-1)[~torch.eye(8, dtype=torch.bool)].min() > 1e-4


@pytest.mark.parametrize("kind", EXPERTS)
def test_the_generator_decides_the_noise(kind: str) -> None:
    expert = EXPERTS[kind](SPEC)
    first, again, other = (expert.noise(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and first.device.type == "cpu"
    assert first.shape == {"regression": (3, 0)}.get(kind, (3, 8, 7))
    assert first.numel() == 0 or not torch.allclose(first, other)


def test_loss_is_reproducible_with_a_generator() -> None:
    expert, actions, condition = made(), torch.randn(4, 8, 7), torch.randn(4, 32)
    first, again = (expert.loss(condition, actions, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
