"""The old modules, held against what the old code computed."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_files import ARGUMENTS, SENSOR, VL_DIM, module
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.origin.classes import CLASSES, build, identify, is_dead
from rtvla.models.origin.diffusion import cosine_schedule, ddim_timesteps
from rtvla.models.origin.geometry import Assumed, part_of
from rtvla.models.origin.golden import TOLERANCE, check
from rtvla.tools import check_golden

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.glob("*.pt"))
MANIFESTS: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / "manifests.json.gz").read_bytes()))
FUSING = [kind for kind, given in ARGUMENTS.items() if "sensor_dim" in given]

torch.set_num_threads(1)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_output_is_that_of_the_old_code(path: Path) -> None:
    _, found = check(path)
    assert found
    for one in found:
        assert one.largest <= (TOLERANCE if one.dtype == "float32" else 1e-8), one


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_class_has_the_old_names_shapes_and_buffers(name: str) -> None:
    manifest = MANIFESTS[name]
    tensors = {one: torch.empty(shape, device="meta") for one, (shape, _, _) in manifest["tensors"].items()}
    kind = identify(tensors)
    assert kind is not None
    assert kind[:2] == name[:2]
    with torch.device("meta"):
        made = build(kind, manifest["arguments"])
    parameters = {one for one, _ in made.named_parameters()}
    found = {
        one: [list(value.shape), "param" if one in parameters else "buffer"] for one, value in made.state_dict().items()
    }
    assert found == {one: [shape, what] for one, (shape, what, _) in manifest["tensors"].items()}
    assert sum(value.numel() for value in made.parameters()) == manifest["parameters"]
    if "_mae" not in name:  # a RobotStateEncoder alone is not dead anywhere
        assert {one for one in found if is_dead(kind, one)} == set(manifest["dead"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_arguments_are_found_in_the_tensors(name: str) -> None:
    arguments = {n: v for n, v in MANIFESTS[name]["arguments"].items() if n != "dropout"}
    tensors = {one: torch.empty(shape, device="meta") for one, (shape, _, _) in MANIFESTS[name]["tensors"].items()}
    kind = identify(tensors)
    assert kind is not None
    assumed = Assumed(sensor_length=arguments.get("temporal_length", 65))
    part = part_of(kind, tensors, assumed, arguments.get("sensor_dim", 0))
    assert {one: part.arguments[one] for one in arguments} == arguments


def weights(made: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in made.state_dict().items()}


def linear(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attend(w: dict[str, np.ndarray], query: np.ndarray, tokens: np.ndarray, heads: int) -> np.ndarray:
    """One query (B, W) over tokens (B, S, W), by the definition of multi-head attention."""
    q, k, v = (
        x @ part.T + bias
        for x, part, bias in zip(
            (query[:, None], tokens, tokens),
            np.split(w["cross_attn.in_proj_weight"], 3),
            np.split(w["cross_attn.in_proj_bias"], 3),
            strict=True,
        )
    )
    width = q.shape[-1] // heads
    out = []
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        score = np.exp(np.einsum("bqw,bsw->bqs", q[..., at], k[..., at]) / math.sqrt(width))
        out.append(np.einsum("bqs,bsw->bqw", score / score.sum(-1, keepdims=True), v[..., at]))
    return linear(w, "cross_attn.out_proj", np.concatenate(out, -1)[:, 0])


def reference(made: Any, w: dict[str, np.ndarray], vl: np.ndarray, features: np.ndarray, heads: int) -> np.ndarray:
    """The condition, written down from the description of the four fusions."""
    pooled = vl.mean(1)
    last = "cond_proj" if "cond_proj.weight" in w else "fusion_proj"
    if made.strategy == "none":
        return linear(w, last, pooled)
    if made.strategy == "concat":
        return linear(w, last, np.concatenate([pooled, features], -1))
    other = linear(w, "sensor_proj", features)
    if made.strategy == "cross_attention":
        return linear(w, last, attend(w, other, linear(w, "vl_proj", vl), heads))
    left = linear(w, "vl_proj", pooled)
    gate = 1 / (1 + np.exp(-linear(w, "gate.0", np.concatenate([left, other], -1))))
    return linear(w, last, gate * left + (1 - gate) * other)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "gated", "none"])
@pytest.mark.parametrize("kind", FUSING)
def test_every_fusion_of_every_expert_is_the_one_described(kind: str, fusion: str, tokens: int) -> None:
    made: Any = module(kind, fusion_strategy=fusion, nhead=4).double()
    draw = torch.Generator().manual_seed(1)
    width = int(ARGUMENTS[kind]["sensor_dim"])
    vl, features = (torch.randn(shape, generator=draw).double() for shape in ((3, tokens, VL_DIM), (3, width)))
    given = features.split(SENSOR, dim=-1)  # sensor, and robot where the expert has it
    expected = reference(made, weights(made), vl.numpy(), features.numpy(), 4)
    np.testing.assert_allclose(made.condition(vl, *given).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("kind", FUSING)
def test_over_one_token_cross_attention_does_not_see_the_features(kind: str) -> None:
    made: Any = module(kind, fusion_strategy="cross_attention")
    vl, features = torch.randn(2, 1, VL_DIM), torch.randn(2, int(ARGUMENTS[kind]["sensor_dim"]))
    assert torch.allclose(made.condition(vl, features), made.condition(vl, features + 5), atol=1e-6)


def test_features_of_another_width_are_refused_where_the_old_code_made_a_random_projection() -> None:
    made: Any = module("v2.FlowMatchingActionExpert")
    with pytest.raises(CheckpointError, match="random projection"):
        made.condition(torch.zeros(1, 1, VL_DIM), torch.zeros(1, SENSOR))


@pytest.mark.parametrize(
    "kind", ["v2.FlowMatchingActionExpert", "v1.DiffusionActionExpert", "v2.DiffusionActionExpert"]
)
@torch.no_grad()
def test_steps_of_the_old_samplers_are_exchangeable(kind: str) -> None:
    """The fault no_horizon_positions: permuted noise gives the permuted chunk."""
    made: Any = module(kind)
    noise, order = torch.randn(2, 8, 7), torch.randperm(8)
    condition = made.condition(torch.randn(2, 1, VL_DIM), torch.randn(2, int(ARGUMENTS[kind]["sensor_dim"])))
    if "Flow" in kind:
        chunk, permuted = (made.sample(x, condition, 3, "rk4") for x in (noise, noise[:, order]))
    else:
        chunk, permuted = (made.ddim(x, condition, 5) for x in (noise, noise[:, order]))
    assert torch.allclose(chunk[:, order], permuted, atol=1e-4)
    assert not torch.allclose(chunk, permuted, atol=1e-2)


@torch.no_grad()
def test_the_force_aware_encoder_takes_the_last_channel_for_the_force() -> None:
    made, window = module("v2.ForceAwareSensorEncoder"), torch.randn(1, 65, 1026)
    force = 4  # values of its feature, the last
    feature = made(window)
    for channel, touches_force in ((0, False), (1025, True)):
        changed = window.clone()
        changed[..., channel] += 3
        moved = made(changed) != feature
        assert moved[:, -force:].any() == touches_force
        assert moved[:, :-force].any() != touches_force


@pytest.mark.parametrize("kind", ["v2.RegressionActionExpert", "v2.DiffusionActionExpert"])
@torch.no_grad()
def test_dead_tensors_change_nothing(kind: str) -> None:
    made: Any = module(kind)
    vl, features = torch.randn(1, 1, VL_DIM), torch.randn(1, int(ARGUMENTS[kind]["sensor_dim"]))

    def run() -> torch.Tensor:
        if "Regression" in kind:
            return made(vl, torch.zeros(1, 8, 7), features)[0]
        return made.noise_in(torch.ones(1, 8, 7), torch.tensor([5]), made.condition(vl, features))

    before = run()
    for name, value in made.state_dict().items():
        if is_dead(kind, name):
            value.add_(1)
    assert torch.equal(before, run())
    made.state_dict()["grip_head.1.bias"].add_(1)
    after = run()
    assert torch.equal(before[..., :6], after[..., :6])
    assert torch.allclose(before[..., 6] + 1, after[..., 6], atol=1e-5)


@torch.no_grad()
def test_without_sensor_the_chunk_itself_is_an_input() -> None:
    made = module("v1.QwenActionExpert")
    vl, zero = torch.randn(1, 1, VL_DIM), torch.zeros(1, 8, 7)
    (chunk, difference), (_, other) = made(vl, zero, None), made(vl, zero + 1, None)
    assert torch.equal(chunk, difference)
    assert not torch.allclose(difference, other, atol=1e-3)
    with pytest.raises(CheckpointError, match="takes 1 and 8"):
        made(vl.expand(-1, 2, -1), zero, None)


def test_nearest_takes_the_sample_at_or_before() -> None:
    made: Any = module("v2.SensorEncoder", interpolation_mode="nearest")
    window = torch.randn(1, 650, 1026)
    assert torch.equal(made(window), made(window[:, (torch.arange(65) * 650 / 65).long()]))


def test_cubic_is_refused_where_the_old_code_failed_and_linear_below_four_samples() -> None:
    cubic, plain = (module("v1.SensorEncoder", interpolation_mode=mode) for mode in ("cubic", "linear"))
    window = torch.randn(1, 3, 1026)
    assert torch.equal(cubic(window), plain(window))
    with pytest.raises(CheckpointError, match="cubic"):
        cubic(torch.randn(1, 40, 1026))


def test_ddim_walks_down_in_whole_strides_from_zero() -> None:
    assert ddim_timesteps(100, 7) == [84, 70, 56, 42, 28, 14, 0]
    assert ddim_timesteps(100, 10) == list(range(90, -1, -10))
    assert ddim_timesteps(100, 60) == list(range(59, -1, -1))
    with pytest.raises(CheckpointError, match="between 1 and 100"):
        ddim_timesteps(100, 101)


@torch.no_grad()
def test_ddim_clips_to_one_and_ddpm_does_not() -> None:
    made: Any = module("v1.DiffusionActionExpert", timesteps=6)
    made.output_head[3].weight.zero_()
    made.output_head[3].bias.zero_()  # predicts no noise at all: both walks have a closed form
    condition, noises = torch.zeros(2, 16), 30 * torch.randn(6, 2, 8, 7)
    assert made.ddim(noises[0], condition, 6).abs().max() == pytest.approx(1)
    schedule, x = cosine_schedule(6), noises[0]
    for step, t in enumerate((5, 4, 3, 2, 1, 0), start=1):
        x = x / schedule["alphas"][t].sqrt()
        if t:
            x = x + schedule["posterior_variance"][t].sqrt() * noises[step]
    assert torch.allclose(made.ddpm(noises, condition), x, rtol=1e-4)
    assert x.abs().max() > 10


def altered(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(GOLDEN / "v2_RegressionActionExpert_none_H1.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "altered.pt")
    return tmp_path / "altered.pt"


def test_the_script_says_the_differences_and_the_worst_of_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = altered(tmp_path, lambda file: file["golden"]["pooled.0"].add_(1e-3))
    assert check_golden.main([str(FILES[0])]) == 0
    assert check_golden.main([str(wrong), str(tmp_path / "absent.pt"), str(FILES[0])]) == 1
    assert "pooled.0                         float32  1.00e-03  above the tolerance" in capsys.readouterr().out
    assert check_golden.main([str(tmp_path / "absent.pt"), str(FILES[0])]) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file["meta"].update({"class": "Other"}), "class 'Other' is unknown; known are CLIPModel, Diff"),
        (lambda file: file["meta"].update({"class": "SensorEncoder"}), "tensors are those of v2.Regression"),
        (lambda file: file["meta"]["init_kwargs"].update(colour=3), "unknown arguments colour"),
        (lambda file: file["meta"]["init_kwargs"].update(nhead=5), "do not divide"),
        (lambda file: file["state_dict"].update(stray=torch.zeros(1)), "stray is not part of it"),
        (lambda file: file["state_dict"].pop("pos_embed"), "its tensors are those of none known"),
        (lambda file: file["inputs"]["pooled"].pop("z"), "input 'z' is missing"),
        (lambda file: file["inputs"].pop("pooled"), "do not match: pooled.0, pooled.1"),
        (lambda file: [file[name].clear() for name in ("inputs", "golden", "golden_float64")], "nothing to check"),
        (lambda file: file.pop("inputs"), "it lacks inputs"),
        (lambda file: file["golden"].update({"pooled.0": 3}), "must be names and tensors"),
        (lambda file: file["inputs"]["pooled"].update(vl=torch.zeros(3, 1, 9)), "values in all"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_checked_is_refused_with_the_reason(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        check(altered(tmp_path, change))


def test_nan_is_above_the_tolerance_and_so_is_another_shape(tmp_path: Path) -> None:
    for change in (
        lambda file: file["state_dict"]["trans_head.1.bias"].fill_(math.nan),
        lambda file: file["golden"].update({"pooled.0": torch.zeros(3, 1, 1)}),
    ):
        _, found = check(altered(tmp_path, change))
        assert not all(one.ok for one in found)


def test_every_class_of_the_table_can_be_told_by_its_tensors() -> None:
    for kind in CLASSES:
        assert identify(module(kind).state_dict()) == kind
