"""What of the CUDA graph's engine can be tested without a GPU: its tick, and what happens around a replay.

The stand-ins below record the tick that is captured and compute it again at a replay, from what then lies in the static
inputs. The real capture has never run.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from old_models import OLD_MODELS, old_model
from small_models import small_model
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from rtvla.models.engines import cuda_graph
from rtvla.models.engines.cuda_graph import CudaGraphEngine, moved
from rtvla.models.engines.inputs import FixedInputs
from rtvla.models.engines.lean import run_stage, run_tick
from rtvla.models.engines.opening import predictor, rewrite
from rtvla.models.origin.model import OriginModel
from rtvla.models.policy import VlaPolicy
from rtvla.models.vla import VlaModel


class Graph:
    """Replays by running the engine's tick and writing over what the capture gave."""

    def __init__(self) -> None:
        self.replays = 0
        self.engine: Any = None

    def replay(self) -> None:
        self.replays += 1
        self.engine._actions.copy_(self.engine._tick())


class Stream:
    def __init__(self, device: torch.device, priority: int) -> None:
        self.device, self.priority = device, priority

    def synchronize(self) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def engine_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(cuda_graph, "PINNED", False)

    def build(model: VlaModel | OriginModel, precision: str = "float32") -> CudaGraphEngine:
        engine = CudaGraphEngine(rewrite(model.eval().requires_grad_(False)), precision, "cpu")
        engine._graph.engine = engine  # type: ignore[attr-defined]
        return engine

    return build


MODELS = {
    "ours, flow rk4": lambda: small_model(flow_solver="rk4"),
    "ours, regression": lambda: small_model(expert="regression", fusion="gated"),
    "old, diffusion ddim": lambda: old_model(**OLD_MODELS["diffusion ddim"]),
    "old, diffusion ddpm": lambda: old_model(**OLD_MODELS["diffusion ddpm"]),
    "old, VL alone": lambda: old_model(**OLD_MODELS["v1 without sensor"]),
}


class NothingFromTheHost(TorchDispatchMode):
    """Ends a tick that copies from the host, or computes with more than single numbers there: no capture holds it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        on_host = [one for one in given if one.device.type == "cpu"]
        is_result_there = any(one.device.type == "meta" for one in pytree.tree_leaves(out))
        if is_result_there and (any(one.dim() for one in on_host) or (on_host and len(given) == 1)):
            raise AssertionError(f"{func} reads the host's memory")
        return out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_all_that_a_tick_reads_is_on_the_device(make: Any, precision: str) -> None:
    """Regression: the scale of the actions stayed on the host, so no model of ours could have been captured. The meta
    device stands for the GPU: tensors there have no values, and do not mix with those of the host.
    """
    lean = moved(rewrite(make().eval().requires_grad_(False)), precision, torch.device("meta"))
    values = {name: one.to("meta") for name, one in FixedInputs(lean.spec, lean.noise_shape).tensors.items()}
    with torch.inference_mode(), NothingFromTheHost():
        run_stage(lean, "vl", values)
        actions = run_tick(lean, values)
    assert actions.device.type == "meta" and actions.shape == (1, lean.spec.horizon, lean.spec.action_dim)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_replay_computes_from_the_inputs_of_its_own_tick(make: Any, engine_of: Any) -> None:
    plain, engine = VlaPolicy(make()), engine_of(make())
    predict = predictor(engine)
    for seed in range(3):
        obs = plain.spec.fake_observation(seed)
        expected = plain.predict(obs, seed).actions
        np.testing.assert_allclose(predict(obs, seed), expected, atol=1e-5 * max(1.0, abs(expected).max()))
    assert engine.replays == engine._graph.replays == 3


def test_the_vl_part_is_kept_between_replays(engine_of: Any) -> None:
    plain, engine = VlaPolicy(small_model()), engine_of(small_model())
    runs: list[int] = []
    engine._lean.stages["vl"][0].module.register_forward_hook(lambda *_: runs.append(1))
    predict, obs = predictor(engine), plain.spec.fake_observation(0)
    for seed in range(3):
        np.testing.assert_allclose(predict(obs, seed), plain.predict(obs, seed).actions, atol=1e-5)
    assert len(runs) == 1


def test_bfloat16_reduces_the_network_and_not_what_reads_raw_units(engine_of: Any) -> None:
    plain, engine = VlaPolicy(small_model()), engine_of(small_model(), "bfloat16")
    obs = plain.spec.fake_observation(0)
    gap = np.abs(predictor(engine)(obs, 0) - plain.predict(obs, 0).actions).max()
    assert 0 < gap < 0.05
    kinds = {
        stage: {p.dtype for part in parts for p in part.module.parameters()}
        for stage, parts in engine._lean.stages.items()
    }
    assert kinds["net"] == kinds["sensor"] == {torch.bfloat16} and kinds["vl"] == {torch.float32}


def test_the_engine_has_weights_of_its_own(engine_of: Any) -> None:
    """Nothing else may change what a captured graph reads."""
    model = small_model()
    engine = engine_of(model)
    own = {p.data_ptr() for parts in engine._lean.stages.values() for part in parts for p in part.module.parameters()}
    assert not own & {p.data_ptr() for p in model.parameters()}
