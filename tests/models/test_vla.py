from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import COMBINATIONS, small_batch, small_model

from rtvla.errors import CheckpointError
from rtvla.models.checkpoint import load_model, load_policy
from rtvla.models.experts import EXPERTS
from rtvla.models.policy import VlaPolicy
from rtvla.models.vla import Inputs, VlaModel


@pytest.fixture(scope="module")
def policy(tiny: Path) -> VlaPolicy:
    return load_policy(tiny)


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


@pytest.mark.parametrize("name", ["sensor", "robot", "vl_feature", "sensor_missing", "robot_missing"])
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


def double(**changes: object) -> VlaModel:
    """In float64, so that "no influence" can be told from "hardly any"."""
    return small_model(**changes).eval().double()


def exactly(inputs: Inputs) -> Inputs:
    return Inputs(*(part if part.dtype == torch.bool else part.double() for part in inputs))


@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize(("fusion", "sensor", "robot"), COMBINATIONS)
def test_every_weight_learns(expert: str, fusion: str, sensor: str, robot: str) -> None:
    """Regression: an eighth of each decoder layer, a whole head and some fusions of the old system never could."""
    model = small_model(expert=expert, fusion=fusion, sensor_encoder=sensor, robot_encoder=robot)
    inputs, actions = small_batch(model.spec, 4, missing=True)
    model.loss(inputs, actions, torch.Generator().manual_seed(0)).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert not dead


@pytest.mark.parametrize("changes", [{"missing_mask": False}, {"vl_age_input": False}, {"flow_solver": "rk4"}])
def test_every_weight_learns_with_other_inputs(changes: dict[str, object]) -> None:
    model = small_model(sensor_encoder="force_aware", **changes)
    inputs, actions = small_batch(model.spec, 4)
    model.loss(inputs, actions, torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-12 for p in model.parameters())


def test_the_mark_of_a_missing_sample_learns_where_one_is_missing() -> None:
    model = small_model()
    for missing in (True, False):
        model.zero_grad()
        inputs, actions = small_batch(model.spec, 4, missing)
        model.loss(inputs, actions, torch.Generator().manual_seed(0)).backward()
        sensor, robot = model.sensor_encoder.stages[0].skip.weight.grad[:, -1], model.robot_encoder.embed.weight.grad
        assert (sensor.abs().max() > 0) == (robot[:, -1].abs().max() > 0) == missing


def changed(inputs: Inputs, name: str) -> Inputs:
    """One input made another: an earlier sample of a window, a flag, one value of the feature, the age."""
    value = getattr(inputs, name).clone()
    if value.dtype == torch.bool:
        value[:, 1] = True
    elif value.ndim == 3:
        value[:, 1, 0] += 1.0
    else:
        value[..., :1] += 1.0
    return inputs._replace(**{name: value})


USES = {"sensor": "sensor", "sensor_missing": "sensor", "robot": "robot", "robot_missing": "robot"}


@torch.no_grad()
@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize(("fusion", "sensor", "robot"), COMBINATIONS)
def test_an_input_matters_if_and_only_if_it_is_enabled(expert: str, fusion: str, sensor: str, robot: str) -> None:
    model = double(expert=expert, fusion=fusion, sensor_encoder=sensor, robot_encoder=robot)
    inputs, noise = exactly(small_batch(model.spec, 2)[0]), model.noise(2, torch.Generator().manual_seed(0))
    before = model.predict(inputs, noise)
    for name in Inputs._fields:
        moved = (model.predict(changed(inputs, name), noise) - before).abs().max().item()
        if USES.get(name, "vl") in model.spec.feature_widths:
            assert moved > 1e-9, name
        else:
            assert moved == 0, name


@torch.no_grad()
def test_missing_and_age_do_not_matter_where_the_spec_leaves_them_out() -> None:
    model = double(missing_mask=False, vl_age_input=False)
    inputs, noise = exactly(small_batch(model.spec, 2)[0]), model.noise(2, torch.Generator().manual_seed(0))
    assert torch.equal(model.predict(changed(inputs, "vl_age_s"), noise), model.predict(inputs, noise))
    inputs.sensor[:, 1], inputs.robot[:, 1] = model.normalizer.sensor_mean, model.normalizer.robot_mean
    for name in ("sensor_missing", "robot_missing"):  # a sample that is the mean, and one that counts as the mean
        torch.testing.assert_close(model.predict(changed(inputs, name), noise), model.predict(inputs, noise))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["plain", "force_aware"])
def test_what_stands_in_for_a_missing_sample_does_not_matter_but_that_it_is_missing_does(encoder: str) -> None:
    model = double(sensor_encoder=encoder)
    inputs = exactly(small_batch(model.spec, 2, missing=True)[0])
    feature = model.encode_sensor(inputs.sensor, inputs.sensor_missing)
    inputs.sensor[:, 3:5] = torch.nan
    assert torch.equal(model.encode_sensor(inputs.sensor, inputs.sensor_missing), feature)
    inputs.sensor[:, 3:5] = model.normalizer.sensor_mean
    assert not torch.allclose(model.encode_sensor(inputs.sensor, torch.zeros_like(inputs.sensor_missing)), feature)


@torch.no_grad()
def test_the_force_branch_sees_the_force_and_not_the_aline() -> None:
    """Regression: the old one took the last channel for the force, which is the last bin of the A-line."""
    model = double(sensor_encoder="force_aware")
    (sensor, missing), share = (part[:1] for part in (*exactly(small_batch(model.spec, 2)[0])[::3][:2],)), 8
    feature = model.encode_sensor(sensor, missing)
    for channel, of_force in ((0, True), (1, False), (1025, False)):
        other = sensor.clone()
        other[..., channel] += 1
        moved = (model.encode_sensor(other, missing) - feature).abs()[0]
        assert (moved[:share] > 0).all() == of_force and (moved[share:] > 0).all() != of_force
        assert (moved[share:] if of_force else moved[:share]).max() == 0


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["plain", "force_aware"])
def test_when_something_happened_matters(encoder: str) -> None:
    """Regression: convolutions and a mean over time, without positions, gave a push 70 ms ago the very feature of one
    30 ms ago, to the last digit."""
    model = double(sensor_encoder=encoder, sensor_window=64)
    quiet = model.normalizer.sensor_mean.expand(1, 64, -1).clone()
    early, late = quiet.clone(), quiet.clone()
    early[:, 16:20, 0] += 5
    late[:, 40:44, 0] += 5
    none = torch.zeros(1, 64, dtype=torch.bool)
    size = (model.encode_sensor(early, none) - model.encode_sensor(quiet, none)).norm()
    assert (model.encode_sensor(early, none) - model.encode_sensor(late, none)).norm() > 0.01 * size


@torch.no_grad()
def test_which_way_the_robot_went_matters() -> None:
    model = double()
    still = model.normalizer.robot_mean.expand(1, 6, -1)
    travel = torch.linspace(-1, 1, 6).double()[:, None] * model.normalizer.robot_std
    none = torch.zeros(1, 6, dtype=torch.bool)
    there, back, stood = (model.encode_robot(way, none) for way in (still + travel, still - travel, still))
    assert (there - back).norm() > 0.1 * (there - stood).norm()


@torch.no_grad()
@pytest.mark.parametrize("resample", ["linear", "nearest"])
@pytest.mark.parametrize("length", [5, 15, 17, 160])
def test_a_window_of_another_length_is_resampled_if_the_spec_says_how(resample: str, length: int) -> None:
    model = small_model(sensor_resample=resample).eval()
    window = torch.linspace(0, 1, length).view(1, length, 1).expand(1, length, 1026)
    feature = model.encode_sensor(window, torch.zeros(1, length, dtype=torch.bool))
    usual = torch.linspace(0, 1, 16).view(1, 16, 1).expand(1, 16, 1026)
    close = model.encode_sensor(usual, torch.zeros(1, 16, dtype=torch.bool))
    assert (feature - close).norm() < 0.5 * close.norm()  # the same ramp
    with pytest.raises(CheckpointError, match=f"sensor window has {length} samples"):
        small_model().encode_sensor(window, torch.zeros(1, length, dtype=torch.bool))


@torch.no_grad()
@pytest.mark.parametrize("window", [5, 16, 65, 650])
@pytest.mark.parametrize("encoder", ["plain", "force_aware"])
def test_any_window_can_be_built(encoder: str, window: int) -> None:
    model = small_model(sensor_encoder=encoder, sensor_window=window).eval()
    inputs, _ = small_batch(model.spec, 2)
    assert model.encode_sensor(inputs.sensor, inputs.sensor_missing).shape == (2, 32)


@torch.no_grad()
@pytest.mark.parametrize("expert", ["flow_matching", "diffusion"])
@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "gated"])
def test_steps_of_a_chunk_are_not_exchangeable(expert: str, fusion: str) -> None:
    """Regression: without positions along the horizon, permuted noise gave the permuted chunk, to the last digit."""
    model = double(expert=expert, fusion=fusion)
    inputs, noise = exactly(small_batch(model.spec, 2)[0]), model.noise(2, torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 3, 1])
    straight, permuted = model.predict(inputs, noise), model.predict(inputs, noise[:, order])
    assert (permuted - straight[:, order]).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["plain", "force_aware"])
@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "gated"])
def test_a_sample_does_not_depend_on_its_batch(fusion: str, encoder: str) -> None:
    """Training and run time see the same function: no statistics over the batch."""
    model = double(fusion=fusion, sensor_encoder=encoder).train()
    inputs, noise = exactly(small_batch(model.spec, 4)[0]), model.noise(4, torch.Generator().manual_seed(0))
    alone = model.predict(Inputs(*(part[:1] for part in inputs)), noise[:1])
    torch.testing.assert_close(model.predict(inputs, noise)[:1], alone)


def test_actions_are_the_target_and_never_an_input() -> None:
    """Regression: the old regression model was trained with the actions that it had to predict among its inputs."""
    model = small_model(expert="regression")
    inputs, actions = small_batch(model.spec, 2)
    model.loss(inputs, actions).backward()
    first = model.fusion.project.weight.grad.clone()
    predicted = model.predict(inputs, model.noise(2, None)).detach()
    model.zero_grad()
    model.loss(inputs, predicted).backward()  # nothing to correct: the loss is of the prediction alone
    assert model.fusion.project.weight.grad.abs().max() < 1e-5 * first.abs().max()


def test_predict_is_what_the_trained_module_samples(policy: VlaPolicy, tiny: Path) -> None:
    observation, model = policy.spec.fake_observation(0), load_model(tiny).eval()
    with torch.inference_mode():
        sampled = model.predict(Inputs.stack([observation]), model.noise(1, torch.Generator().manual_seed(9)))
    np.testing.assert_array_equal(policy.predict(observation, 9).actions, sampled[0].numpy())
