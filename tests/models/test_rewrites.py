"""A lean model is the model: for every expert, fusion, encoder and solver of both families, to 1e-5 in float32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from old_models import OLD_MODELS, old_model
from small_models import COMBINATIONS, small_model

from rtvla.models.engines.lean import LeanModel, run_stage, run_tick
from rtvla.models.engines.opening import rewrite
from rtvla.models.engines.surgery import fold_batch_norms, join, linear, split, twin
from rtvla.models.origin.model import OriginModel
from rtvla.models.random_action import SMALL, random_action_model
from rtvla.models.vla import VlaModel

Values = dict[str, torch.Tensor]
Model = VlaModel | OriginModel
TOLERANCE = 1e-5  # of the issue; of a larger action in proportion


def our_model(**changes: object) -> VlaModel:
    """Every weight random, those of the norms, too: a norm of ones and zeros cannot be folded wrongly."""
    model = small_model(**changes).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def ticks(model: Model) -> Iterator[Values]:
    """Three, with samples missing in the last two, each with a VL feature and an age of its own."""
    spec, draw = model.spec, torch.Generator().manual_seed(2)
    for number in range(3):
        missing = [
            torch.rand(1, size, generator=draw) < 0.1 * number for size in (spec.sensor_window, spec.robot_window)
        ]
        yield {
            "sensor": torch.randn(1, spec.sensor_window, spec.sensor_channels, generator=draw),
            "sensor_missing": missing[0],
            "robot": 3 * torch.randn(1, spec.robot_window, spec.robot_channels, generator=draw),
            "robot_missing": missing[1],
            "vl": torch.randn(1, spec.vl_dim, generator=draw),
            "vl_age_s": 5 * torch.rand(1, generator=draw),
            "noise": model.noise(1, draw),
        }


def plain(model: Model, given: Values) -> torch.Tensor:
    sensor = model.encode_sensor(given["sensor"], given["sensor_missing"])
    robot = model.encode_robot(given["robot"], given["robot_missing"])
    return model.act(given["vl"], given["vl_age_s"], sensor, robot, given["noise"])


@torch.inference_mode()
def worst(model: Model) -> float:
    """The largest difference between the two, in units of the tolerance."""
    found, lean = 0.0, rewrite(model)
    for given in ticks(model):
        expected, values = plain(model, given), dict(given)
        run_stage(lean, "vl", values)
        gap = (run_tick(lean, values) - expected).abs().max()
        found = max(found, float(gap / (TOLERANCE * expected.abs().max().clamp(min=1.0))))
    return found


@pytest.mark.parametrize(("fusion", "sensor", "robot"), COMBINATIONS)
def test_ours_in_every_combination(fusion: str, sensor: str, robot: str) -> None:
    assert worst(our_model(fusion=fusion, sensor_encoder=sensor, robot_encoder=robot)) < 1


@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "gated"])
@pytest.mark.parametrize(
    "changes",
    [
        {"expert": "regression"},
        {"expert": "diffusion"},
        {"expert": "diffusion", "diffusion_sampler": "ddpm"},
        {"flow_solver": "rk4"},
        {"missing_mask": False},
        {"vl_age_input": False},
    ],
    ids=str,
)
def test_ours_with_every_expert(changes: dict[str, object], fusion: str) -> None:
    assert worst(our_model(fusion=fusion, **changes)) < 1


@pytest.mark.parametrize("name", OLD_MODELS)
def test_every_old_model(name: str) -> None:
    assert worst(old_model(**OLD_MODELS[name])) < 1


@pytest.mark.parametrize("family", ["origin", "ours"])
@pytest.mark.parametrize("expert", ["flow_matching", "regression", "diffusion"])
def test_the_models_of_the_benchmark(family: str, expert: str) -> None:
    assert worst(random_action_model(family, expert, steps=3, sizes=SMALL)) < 1


@pytest.mark.parametrize("make", [our_model, lambda: old_model(**OLD_MODELS["regression"])], ids=["ours", "old"])
def test_the_model_itself_is_left_as_it_was(make: object) -> None:
    model: Model = make()  # type: ignore[operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    rewrite(model)
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def work(lean: LeanModel, stage: str) -> int:
    """Weights of the large layers that a stage reads."""
    return sum(p.numel() for part in lean.stages[stage] for p in part.module.parameters() if p.ndim > 1)


def test_what_is_run_at_each_step_of_the_sampling_is_the_network_alone() -> None:
    """The condition and the time embedding are no part of it."""
    model = old_model(**OLD_MODELS["flow"])
    expert = model.action_expert
    layers = (expert.action_embed, expert.velocity_net, expert.output_head)
    network = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim > 1)
    lean = rewrite(model)
    assert work(lean, "net") == network
    assert lean.times.shape == (3, 16)


def test_the_vl_feature_enters_a_tick_as_wide_as_the_condition() -> None:
    model = our_model()
    lean = rewrite(model)
    assert work(lean, "vl") == model.spec.vl_dim * model.spec.expert_hidden
    assert [part.inputs for part in lean.stages["condition"]] == [("vl_part", "vl_age_s", "sensor_part", "robot_part")]


def test_an_encoder_that_has_no_influence_is_not_run() -> None:
    assert not {"sensor", "robot"} & set(rewrite(old_model(**OLD_MODELS["regression, VL alone"])).stages)
    assert "robot" not in rewrite(old_model(**OLD_MODELS["diffusion ddim"])).stages


def test_the_first_layers_attention_among_constants_is_gone() -> None:
    """Its weights are a sixteenth of the old decoder, and those of the queries and keys of all cross attentions too."""
    model = old_model(**OLD_MODELS["regression"])
    lean, calls = rewrite(model), []
    for layer in model.action_expert.temporal_decoder.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append("self"))
        layer.multihead_attn.register_forward_hook(lambda *_: calls.append("cross"))
    values = next(ticks(model))
    run_stage(lean, "vl", values)
    run_tick(lean, values)
    assert calls == ["self"]  # of two layers


def test_slices_add_up_and_two_layers_are_one() -> None:
    torch.manual_seed(0)
    first, second, x = torch.nn.Linear(5, 7), torch.nn.Linear(7, 3, bias=False), torch.randn(2, 5)
    parts = split(first, (2, 3))
    torch.testing.assert_close(
        sum(part(x[:, at]) for part, at in zip(parts, ([0, 1], [2, 3, 4]), strict=True)), first(x)
    )
    torch.testing.assert_close(join(first, second)(x), second(first(x)))
    torch.testing.assert_close(join(linear(first.weight, None), second)(x), second(first(x) - first.bias))


@pytest.mark.parametrize("name", ["flow", "v1 regression", "flow, force-aware, force last"])
def test_no_batch_norm_is_left(name: str) -> None:
    encoder = twin(old_model(**OLD_MODELS[name]).sensor_encoder)
    fold_batch_norms(encoder)
    assert not [one for one in encoder.modules() if isinstance(one, torch.nn.BatchNorm1d)]
