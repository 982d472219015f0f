"""From a model and a choice to an engine: rewritten, built or found, bound, checked."""

from __future__ import annotations

import hashlib
import importlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rtvla import __version__, rt
from rtvla.errors import CheckpointError, ConfigError
from rtvla.models.engines import cache, check, rewrite_origin, rewrite_ours
from rtvla.models.engines.eager import EagerEngine
from rtvla.models.engines.engine import NAMES, Engine, EngineChoice, EngineReport
from rtvla.models.engines.inputs import FixedInputs
from rtvla.models.engines.lean import LeanModel
from rtvla.models.engines.staged import StagedEngine, places
from rtvla.models.origin.model import OriginModel
from rtvla.models.vla import VlaModel
from rtvla.schema import F32, Observation

_log = logging.getLogger(__name__)
_STAGED = {name: f"rtvla.models.engines.{name}" for name in ("compiled", "openvino")}


def resolve(choice: EngineChoice, device: str) -> str:
    """The engine that is meant, by name. ConfigError if it cannot run here as asked for."""
    on_gpu = device.startswith("cuda")
    name = choice.engine
    if name == "auto":
        is_there = not on_gpu and not _module("openvino").missing("float32")
        name = "cuda_graph" if on_gpu else "openvino" if is_there else "eager"
    if name not in NAMES:
        raise ConfigError(f'policy.engine = "{name}": must be auto, {", ".join(NAMES)}')
    if name != "eager" and on_gpu != (name == "cuda_graph"):
        raise ConfigError(f'policy.engine = "{name}": not for device {device}; set it to auto')
    offered = ("float32",) if name == "eager" else _module(name).PRECISIONS
    if choice.precision not in offered:
        raise ConfigError(
            f'policy.precision = "{choice.precision}": engine {name} has {", ".join(offered)}; '
            + ("install the faster ones: pip install 'rtvla[openvino]'" if name == "eager" else "choose one of them")
        )
    why = _module(name).missing(choice.precision) if name in _STAGED else ""
    if why:
        raise ConfigError(f'policy.engine = "{name}": {why}')
    return name


def _module(name: str) -> Any:
    return importlib.import_module(f"rtvla.models.engines.{name}")


def rewrite(model: VlaModel | OriginModel) -> LeanModel:
    with torch.no_grad():
        return rewrite_ours.rewrite(model) if isinstance(model, VlaModel) else rewrite_origin.rewrite(model)


def open_engine(
    model: VlaModel | OriginModel, device: str, choice: EngineChoice, checkpoint: Path | None = None
) -> tuple[Engine, EngineReport]:
    """The model must be on the CPU and in eval mode; it is not needed afterwards, except by the eager engine.

    `checkpoint`: the folder that it was loaded from, where built files are kept; None: they are not kept.
    CheckpointError if the engine is too far from the model, ConfigError if it cannot run here.
    """
    name, started = resolve(choice, device), time.monotonic()
    if device.startswith("cuda"):
        _full_float32()
    if choice.threads:
        torch.set_num_threads(choice.threads)
    threads = torch.get_num_threads()
    engine: Engine
    if name == "eager":
        if choice.engine == "auto" and not device.startswith("cuda"):
            _log.warning("engine eager: %s; it is several times faster", _module("openvino").missing("float32"))
        engine = EagerEngine(model, device)
        return engine, EngineReport(name, "float32", threads, 0.0, time.monotonic() - started, 0.0, "")
    build_s, place, memory = 0.0, "", None
    if name == "cuda_graph":
        engine = _module(name).CudaGraphEngine(rewrite(model), choice.precision, device)
    else:
        engine, build_s, place = _staged(name, rewrite(model), choice.precision, threads, checkpoint)
        memory = rt.huge_pages()
    given = check.observations(model.spec, model.statistics)
    plain = check.answers(predictor(EagerEngine(model, device)), given)
    found = check.deviation(check.answers(predictor(engine), given), plain)
    check.refuse(name, choice.precision, found, plain, choice.max_deviation)
    report = EngineReport(name, choice.precision, threads, build_s, time.monotonic() - started, found, place, memory)
    return engine, report


def _full_float32() -> None:
    """Of this process. By default cuDNN's convolutions round float32 to the 10 bits of TF32: a graph with folded batch
    norms would then differ from the module by a thousandth, which the check at load cannot tell from a mistake."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def predictor(engine: Engine) -> Callable[[Observation, int], F32]:
    """A whole tick, from an observation and a seed to the actions; valid until the next tick."""

    @torch.inference_mode()
    def predict(obs: Observation, seed: int) -> F32:
        if engine.inputs.take(obs, seed):
            engine.new_vl()
        engine.encode_sensor()
        engine.encode_robot()
        return engine.act()

    return predict


def _staged(
    name: str, lean: LeanModel, precision: str, threads: int, checkpoint: Path | None
) -> tuple[StagedEngine, float, str]:
    module = _module(name)

    def build(folder: Path) -> None:
        values = places(lean, FixedInputs(lean.spec, lean.noise_shape))
        for part in lean.parts():
            module.build(part, tuple(values[name] for name in part.inputs), precision, folder)

    where: list[cache.Place] = []
    label = f"{name}-{precision}"
    if checkpoint is not None:
        where = cache.places(checkpoint, module.HOLDS_CODE)
        label += "-" + cache.fingerprint(_facts(checkpoint, name, precision, module.versions()))
    with cache.keep(where, label, module.HOLDS_CODE, build) as kept:
        try:
            engine = StagedEngine(lean, lambda part, values: module.bind(part, precision, kept.folder, threads, values))
        except RuntimeError as error:  # of OpenVINO and of torch, about a file that holds another model, or none
            why = str(error).strip().rpartition("\n")[2]
            raise CheckpointError(f"engine {kept.folder} cannot be used ({why}): remove that folder") from error
    return engine, kept.build_s, kept.place


def _facts(checkpoint: Path, name: str, precision: str, versions: dict[str, str]) -> dict[str, str]:
    sums = (checkpoint / "checksums.json").read_bytes()
    return {
        "checkpoint": hashlib.sha256(sums).hexdigest(),
        "engine": name,
        "precision": precision,
        "rtvla": __version__,
        **versions,
    }
