"""What runs the static modules, and what is said when it cannot run as it should. The capture itself needs a GPU."""

from __future__ import annotations

import copy
import functools
import gc
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_qwen_static import encoder_of, pictures, plain_feature
from torch import nn
from torch.nn import functional

from rtvla import config_sections
from rtvla.errors import CheckpointError
from rtvla.models import qwen_engine
from rtvla.models.feature import EXACT, Approximation
from rtvla.models.qwen_approximate import Fp8Linear, Int8Linear, deviation
from rtvla.models.qwen_engine import check_replay, choose, compiled, warn_if_attention_falls_back
from rtvla.models.qwen_vl import Backbone, VLEncoder

CPU = torch.device("cpu")
INT8, FP8 = Approximation("int8"), Approximation("fp8")


def test_the_config_offers_the_engines_that_there_are() -> None:
    assert config_sections._VL_ENGINES == qwen_engine.NAMES


@pytest.mark.parametrize(
    ("name", "device", "approximation", "why"),
    [
        ("tensorrt", "cpu", EXACT, "must be one of"),
        ("cuda_graph", "cpu", EXACT, "does not run on cpu"),
        ("openvino", "cuda", EXACT, "does not run on cuda"),
        ("openvino", "cpu", INT8, "cannot run quantize"),
        ("openvino", "cpu", FP8, "cannot run quantize"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(name: str, device: str, approximation: Approximation, why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        choose(name, torch.device(device), approximation)


def test_auto_is_a_cuda_graph_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", torch.device("cuda"), EXACT).name == "cuda_graph"
    monkeypatch.setattr(qwen_engine.util, "find_spec", lambda _name: None)
    assert choose("auto", CPU, EXACT).name == "eager"
    with pytest.raises(CheckpointError, match="pip install"):
        choose("openvino", CPU, EXACT)


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
def test_openvino_in_bfloat16_is_as_near_as_its_rounding(encoder: VLEncoder, sequence: str) -> None:
    pytest.importorskip("openvino")
    spec = replace(encoder.spec, dtype="bfloat16", vl_sequence=sequence)
    low = VLEncoder(spec, Backbone(copy.deepcopy(encoder._model).bfloat16(), encoder._tokenizer), "eye")
    low.prepare("openvino")
    assert 0 < low.check().relative < 1e-2


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
@pytest.mark.parametrize("rolling", [True, False])
def test_openvino_gives_the_feature_of_the_plain_call(encoder: VLEncoder, sequence: str, rolling: bool) -> None:
    pytest.importorskip("openvino")
    other = encoder_of(encoder, size=(112, 168), views=2, sequence=sequence)
    other.prepare("openvino", rolling=rolling)
    assert other.engine.name == "openvino" and other.check().relative < 5e-6
    frames = pictures((112, 168), 2)
    exact = plain_feature(other, frames)
    if sequence == "per_view" and rolling:
        vectors = np.stack([other.encode_view(frame) for frame in frames])
        assert deviation(vectors, exact).relative < 5e-6, "a vector is not overwritten by the next encode"
    elif sequence == "joint" and rolling:
        for at in (1, 0):
            other.stream(112, 168).put(at, other.tensor([frames[at]]))
        feature = other.stream(112, 168).feature()
        assert feature is not None and deviation(feature, exact).relative < 5e-6


def test_openvino_keeps_what_it_reads(encoder: VLEncoder) -> None:
    """Regression: weights in bfloat16 and tables are read where torch has them, and were freed after the conversion."""
    pytest.importorskip("openvino")
    spec = replace(encoder.spec, dtype="bfloat16")
    low = VLEncoder(spec, Backbone(copy.deepcopy(encoder._model).bfloat16(), encoder._tokenizer), "eye")
    low.prepare("openvino")
    gc.collect()
    junk = [torch.full((side,), float("nan"), dtype=torch.bfloat16) for side in range(64, 200_000, 64)]
    assert junk and low.check().relative < 1e-2


def test_sizes_that_were_not_prepared_are_encoded_all_the_same_and_it_is_said(
    encoder: VLEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    other = encoder_of(encoder, size=(112, 168), views=1, sequence="per_view")
    other.prepare("eager", [(56, 112)])
    with caplog.at_level(logging.WARNING):
        other.encode_view(pictures((56, 112), 1)[0])
        assert "WITHOUT THE ENGINE" not in caplog.text
        frames = pictures((168, 112), 1)
        for _ in range(2):
            assert deviation(other.encode_view(frames[0]), plain_feature(other, frames)).relative < 5e-6
    assert caplog.text.count("WITHOUT THE ENGINE") == 1


def test_an_engine_that_cannot_be_built_is_left_out_loudly(
    encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        name, replays = "broken", 0

        def prepare(self, module: nn.Module, inputs: object) -> None:
            raise RuntimeError("no such operator")

    monkeypatch.setattr("rtvla.models.qwen_vl.choose", lambda *_: Broken())
    other = encoder_of(encoder, size=(112, 168), views=1, sequence="per_view")
    with caplog.at_level(logging.WARNING):
        other.prepare("auto")
    assert other.engine.name == "eager" and "WITHOUT AN ENGINE" in caplog.text
    with pytest.raises(RuntimeError, match="no such operator"):
        other.prepare("openvino")


def test_every_size_that_was_prepared_is_checked(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: only the first camera's size was, and an engine can be wrong at one size alone."""
    other = encoder_of(encoder, size=(112, 168), views=1, sequence="per_view")
    other.prepare("eager", [(112, 168), (56, 112)])
    real = VLEncoder.encode_views
    wrong = {(112, 168): 0.0, (56, 112): float("nan")}
    monkeypatch.setattr(
        VLEncoder, "encode_views", lambda self, frames: real(self, frames) + np.float32(wrong[frames[0].shape[:2]])
    )
    with pytest.raises(CheckpointError, match="not that of transformers"):
        other.check()


def test_a_feature_that_is_not_that_of_transformers_stops_the_start(
    encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = encoder_of(encoder, size=(112, 168), views=1, sequence="per_view")
    assert other.check().relative < 5e-6
    real = VLEncoder.encode_views
    monkeypatch.setattr(VLEncoder, "encode_views", lambda *args: real(*args) + np.float32(1e-4))
    with pytest.raises(CheckpointError, match="not that of transformers"):
        other.check()


class Branching(nn.Module):
    """Decides on a value: no single graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_a_module_that_is_no_single_graph_runs_uncompiled_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    module, given = Branching(), torch.ones(2)
    with caplog.at_level(logging.WARNING):
        run = compiled(module, (given,))
    assert run is module and "NOT COMPILED" in caplog.text
    torch._dynamo.reset()


class Repeating(nn.Module):
    """Another graph for each count, from one and the same forward."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x] * self.count)


def test_more_modules_than_torch_recompiles_are_each_one_graph(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: five streamed views in two sizes are ten graphs, and the ninth ended the process on a GPU."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    limit = torch._dynamo.config.cache_size_limit
    with caplog.at_level(logging.WARNING, "rtvla"):
        for count in range(1, limit + 3):
            assert compiled(Repeating(count), (torch.ones(2),))(torch.ones(2)).shape == (2 * count,)
    assert not caplog.records
    torch._dynamo.reset()


class Attention(nn.Module):
    def forward(self, q: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, q, q)


def test_attention_without_a_fused_kernel_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not warn_if_attention_falls_back(Attention(), (torch.randn(1, 2, 8, 16),))
        assert not caplog.records
        assert warn_if_attention_falls_back(Attention(), (torch.randn(2, 8, 16),))  # the fused ones want four axes
    assert "FALLS BACK" in caplog.text


def test_a_replay_that_does_not_renew_the_output_is_found_out() -> None:
    output, wanted = torch.ones(3), torch.ones(3)
    check_replay(lambda: output.fill_(1.0), (output,), (wanted,))
    for replay in (lambda: None, lambda: output.fill_(1.1)):
        with pytest.raises(CheckpointError, match="CUDA graph"):
            check_replay(replay, (output,), (wanted,))


@pytest.mark.parametrize("how", [INT8, FP8, Approximation(layers=1), Approximation("int8", 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_approximation_is_measured_and_allowed(encoder: VLEncoder, how: Approximation, dtype: str) -> None:
    model = copy.deepcopy(encoder._model).to(getattr(torch, dtype))
    spec, backbone = replace(encoder.spec, dtype=dtype), Backbone(model, encoder._tokenizer)
    near = VLEncoder(spec, backbone, "eye", approximation=how)
    near.prepare("eager")
    assert 1e-4 < near.check().relative < (0.05 if how == INT8 else 0.1 if how == FP8 else 2.0)
    assert VLEncoder(spec, backbone, "eye").check().relative < 1e-2, "the weights that both share were left alone"


@pytest.mark.parametrize(("kind", "largest"), [(Int8Linear, 0.02), (Fp8Linear, 0.05)])
def test_a_layer_in_8_bits_is_the_linear_one_within_its_steps(kind: type[nn.Module], largest: float) -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        linear, x = nn.Linear(64, 48, bias), torch.randn(2, 30, 64)
        exact, near = linear(x), kind(linear)(x)
        assert near.shape == exact.shape and 1e-4 < (near - exact).norm() / exact.norm() < largest
    assert kind(linear)(torch.zeros(1, 30, 64)).abs().max() == 0


@pytest.mark.parametrize("kind", [Int8Linear, Fp8Linear])
def test_a_layer_in_8_bits_takes_any_number_of_rows_and_is_one_graph(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the int8 kernel of GPUs refuses less than 17 rows, and the text before the first picture has 15."""
    rows: list[int] = []
    real = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda one, other: rows.append(len(one)) or real(one, other))
    layer, x = kind(nn.Linear(64, 48)), torch.randn(1, 40, 64)
    torch.testing.assert_close(layer(x[:, :15]), layer(x)[:, :15], atol=1e-5, rtol=1e-5)
    assert all(count > 16 for count in rows)
    monkeypatch.undo()
    whole = torch.compile(layer, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(whole(x), layer(x))
    torch._dynamo.reset()


def test_8_bits_where_there_is_no_such_kernel_are_refused(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9")

    monkeypatch.setattr(torch, "_scaled_mm", missing)
    with pytest.raises(CheckpointError, match="quantize.*does not run on cpu"):
        VLEncoder(encoder.spec, Backbone(encoder._model, encoder._tokenizer), "eye", approximation=FP8)


def test_more_layers_than_there_are_is_refused(encoder: VLEncoder) -> None:
    backbone, how = Backbone(encoder._model, encoder._tokenizer), Approximation(layers=9)
    with pytest.raises(CheckpointError, match="layers = 9"):
        VLEncoder(encoder.spec, backbone, "eye", approximation=how)
