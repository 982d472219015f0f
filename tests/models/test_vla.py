from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rtvla.errors import CheckpointError
from rtvla.models.checkpoint import load_policy
from rtvla.models.spec import ModelSpec
from rtvla.models.vla import VlaModel, VlaPolicy


@pytest.fixture(scope="module")
def policy(tiny: Path) -> VlaPolicy:
    return load_policy(tiny)


@pytest.fixture(scope="module", params=["tiny", "tiny_regression"])
def model(request: pytest.FixtureRequest) -> VlaModel:
    folder = request.getfixturevalue(request.param)
    return load_policy(folder)._model.train().requires_grad_(True)


def batch(spec: ModelSpec, size: int) -> list[torch.Tensor]:
    observed = [spec.fake_observation(seed) for seed in range(size)]
    parts = [np.stack([getattr(one, name) for one in observed]) for name in ("sensor", "robot", "vl_feature")]
    actions = torch.randn(size, spec.horizon, spec.action_dim, generator=torch.Generator().manual_seed(0)) * 0.03
    return [*map(torch.from_numpy, parts), actions]


def test_predict_gives_one_finite_chunk_and_times(policy: VlaPolicy) -> None:
    prediction = policy.predict(policy.spec.fake_observation(0), seed=0)
    assert (prediction.actions.shape, prediction.actions.dtype) == ((8, 7), np.dtype(np.float32))
    assert np.isfinite(prediction.actions).all()
    times = (prediction.sensor_encode_ns, prediction.robot_encode_ns, prediction.action_ns)
    assert all(type(time) is int and time > 0 for time in times)


def test_actions_of_the_tiny_model_are_small(policy: VlaPolicy) -> None:
    chunks = [policy.predict(policy.spec.fake_observation(seed), seed).actions for seed in range(20)]
    assert np.abs(np.stack(chunks)[..., :6]).max() < 0.3  # ten deviations


def test_same_seed_same_chunk(policy: VlaPolicy) -> None:
    observation = policy.spec.fake_observation(0)
    first, again, other = (policy.predict(observation, seed).actions for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_seed_may_be_a_large_record_number(policy: VlaPolicy) -> None:
    policy.predict(policy.spec.fake_observation(0), seed=np.uint64(2**64 - 1))  # type: ignore[arg-type]


def test_predict_leaves_the_global_random_numbers_alone(policy: VlaPolicy) -> None:
    before = torch.get_rng_state()
    policy.predict(policy.spec.fake_observation(0), seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_regression_ignores_the_seed(tiny_regression: Path) -> None:
    policy = load_policy(tiny_regression)
    observation = policy.spec.fake_observation(0)
    np.testing.assert_array_equal(policy.predict(observation, 1).actions, policy.predict(observation, 2).actions)


@pytest.mark.parametrize("name", ["sensor", "robot", "vl_feature"])
def test_every_part_of_the_observation_matters(policy: VlaPolicy, name: str) -> None:
    observation, other = policy.spec.fake_observation(0), policy.spec.fake_observation(1)
    changed = replace(observation, **{name: getattr(other, name) * 3})
    assert not np.allclose(policy.predict(observation, 0).actions, policy.predict(changed, 0).actions, atol=1e-6)


@pytest.mark.parametrize("name", ["sensor", "robot", "vl_feature"])
def test_wrong_shape_is_refused_with_both_shapes(policy: VlaPolicy, name: str) -> None:
    observation = policy.spec.fake_observation(0)
    given = getattr(observation, name)[1:]
    with pytest.raises(CheckpointError) as caught:
        policy.predict(replace(observation, **{name: given}), 0)
    for wanted in (name, str(given.shape), str(getattr(observation, name).shape)):
        assert wanted in str(caught.value)


def test_read_only_arrays_are_accepted(policy: VlaPolicy) -> None:
    observation = policy.spec.fake_observation(0)
    observation.sensor.flags.writeable = False
    policy.predict(observation, 0)


def test_every_parameter_gets_a_gradient(model: VlaModel) -> None:
    model.zero_grad()
    model.loss(*batch(model.spec, 4), torch.Generator().manual_seed(0)).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert not dead


def test_loss_of_a_sample_does_not_depend_on_its_batch(model: VlaModel) -> None:
    """Training and run time see the same function: no statistics over the batch."""
    parts = batch(model.spec, 4)
    together = model.encode_sensor(parts[0])
    alone = model.encode_sensor(parts[0][:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)


def test_predict_is_what_the_trained_module_samples(policy: VlaPolicy) -> None:
    observation, model = policy.spec.fake_observation(0), policy._model
    sensor, robot, vl, _ = batch(policy.spec, 1)
    with torch.inference_mode():
        sampled = model.act(
            vl, model.encode_sensor(sensor), model.encode_robot(robot), torch.Generator().manual_seed(9)
        )
    np.testing.assert_array_equal(policy.predict(observation, 9).actions, sampled[0].numpy())
