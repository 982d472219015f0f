"""Holds an old module against a golden file: its weights, inputs, and what the old code made of them.

A file is what torch.load(weights_only=True) gives: meta {class, source, init_kwargs}, state_dict, inputs {case:
{argument: tensor}}, golden {case or case.N: tensor}, and golden_float64 if it was computed in that, too. A file of a
noise schedule holds the schedule's tensors alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.origin import diffusion, encoders, flow, pretrain, regression
from rtvla.models.origin.classes import ALIASES, CLASSES, build, identify, load
from rtvla.models.origin.reader import read

TOLERANCE = 5e-5  # absolute, in float32
_TABLES = {"golden": torch.float32, "golden_float64": torch.float64}
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Difference:
    output: str
    dtype: str
    largest: float  # NaN if there is one, infinite if the shapes differ

    @property
    def ok(self) -> bool:
        return self.largest <= TOLERANCE  # of NaN: no


def check(path: str | Path) -> tuple[str, list[Difference]]:
    """What the file is of, and the largest difference of each of its outputs. CheckpointError: it cannot be checked."""
    file = read(path)
    if "betas" in file and "state_dict" not in file:
        return "noise schedule", _check_schedule(path, file)
    missing = {"meta", "state_dict", "inputs", "golden"} - set(file)
    if missing:
        raise CheckpointError(f"{path}: not a golden file: it lacks {', '.join(sorted(missing))}")
    inputs = file["inputs"]
    tables = [file[name] for name in ("state_dict", *_TABLES) if name in file]
    if not isinstance(inputs, Mapping) or not all(map(_is_table, (*tables, *inputs.values()))):
        raise CheckpointError(f"{path}: state_dict, golden and each case of inputs must be names and tensors")
    kind = _kind(path, file)
    found = []
    for table, dtype in _TABLES.items():
        if table in file:
            module = build(kind, file["meta"]["init_kwargs"])
            load(module, file["state_dict"], f"{path}: {kind}")
            found += _check_table(path, module.to(dtype), file["inputs"], file[table], dtype)
    if not found:
        raise CheckpointError(f"{path}: holds no expected output, so there is nothing to check")
    return kind, found


def _kind(path: str | Path, file: Mapping[str, Any]) -> str:
    meta = file["meta"]
    if not isinstance(meta, Mapping) or not isinstance(meta.get("init_kwargs"), Mapping):
        raise CheckpointError(f"{path}: meta must have class and init_kwargs")
    names = {kind.partition(".")[2] for kind in CLASSES}
    given = meta.get("class")
    name = ALIASES.get(given, given) if isinstance(given, str) else given
    if name not in names:
        raise CheckpointError(f"{path}: class {given!r} is unknown; known are {', '.join(sorted(names))}")
    kind = identify(file["state_dict"])
    if kind is None or kind.partition(".")[2] != name:
        raise CheckpointError(f"{path}: class is {given}, but its tensors are those of {kind or 'none known'}")
    return kind


@torch.no_grad()
def _check_table(
    path: str | Path, module: nn.Module, inputs: Mapping[str, Tensors], golden: Tensors, dtype: torch.dtype
) -> list[Difference]:
    outputs: dict[str, torch.Tensor] = {}
    for case, given in inputs.items():
        cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
        try:
            made = _runner(module)(module, case, cast)
        except KeyError as error:
            raise CheckpointError(f"{path}: case {case}: input {error} is missing; it has {sorted(given)}") from None
        except RuntimeError as error:
            raise CheckpointError(f"{path}: case {case} cannot be computed: {error}") from None
        outputs |= {f"{case}.{at}": one for at, one in enumerate(made)} if isinstance(made, tuple) else {case: made}
    strangers = sorted(set(golden) ^ set(outputs))
    if strangers:
        raise CheckpointError(f"{path}: outputs and inputs do not match: {', '.join(strangers)}")
    return [Difference(name, str(dtype)[6:], largest(outputs[name], golden[name])) for name in golden]


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in value.items()
    )


def largest(made: torch.Tensor, expected: torch.Tensor) -> float:
    if made.shape != expected.shape:
        return float("inf")
    return float((made - expected).abs().max())


def _encode(module: nn.Module, case: str, given: Tensors) -> torch.Tensor:
    if case.startswith("sequence") and isinstance(module, encoders.RobotStateEncoder):
        return module.sequence(given["x"])
    return module(given["x"])


def _regress(module: nn.Module, case: str, given: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return module(given["vl"], given["z"], given.get("s"), given.get("r"))


def _flow(module: flow.FlowMatchingActionExpert, case: str, given: Tensors) -> torch.Tensor:
    """`velocity...` at the given t; `euler10`, `rk4_2`: solver and steps, from the noise x."""
    condition = module.condition(given["vl"], given.get("s"), given.get("r"))
    if "t" in given:
        return module.velocity(given["x"], given["t"], condition)
    solver, steps = _method(case, "euler|rk4")
    return module.sample(given["x"], condition, steps, solver)


def _diffuse(module: diffusion.V1DiffusionActionExpert, case: str, given: Tensors) -> torch.Tensor:
    """`eps...` at the given t; `ddim10`: steps, from the noise x."""
    condition = module.condition(given["vl"], given.get("s"), given.get("r"))
    if "t" in given:
        return module.noise_in(given["x"], given["t"], condition)
    return module.ddim(given["x"], condition, _method(case, "ddim")[1])


def _method(case: str, names: str) -> tuple[str, int]:
    found = re.match(rf"({names})_?(\d+)", case)
    if found is None:
        raise CheckpointError(f'case "{case}": its name must be one of {names.replace("|", ", ")} with a step count')
    return found[1], int(found[2])


_RUNNERS: dict[type[nn.Module], Callable[..., Any]] = {
    encoders.V1SensorEncoder: _encode,
    encoders.V2SensorEncoder: _encode,
    encoders.ForceAwareSensorEncoder: _encode,
    encoders.RobotStateEncoder: _encode,
    pretrain.MAERobotStateModel: _encode,
    regression.QwenActionExpert: _regress,
    regression.QwenActionExpertWithSensor: _regress,
    regression.RegressionActionExpert: _regress,
    flow.FlowMatchingActionExpert: _flow,
    diffusion.V1DiffusionActionExpert: _diffuse,
    diffusion.V2DiffusionActionExpert: _diffuse,
}


def _runner(module: nn.Module) -> Callable[..., Any]:
    if type(module) not in _RUNNERS:
        raise CheckpointError(f"{type(module).__name__} is only read for its encoder, it cannot be run")
    return _RUNNERS[type(module)]


def _check_schedule(path: str | Path, file: Tensors) -> list[Difference]:
    """Of values above 1, relative: the last bit of a float32 of 6000 is more than the tolerance."""
    if not _is_table(file) or file["betas"].dim() != 1 or not len(file["betas"]):
        raise CheckpointError(f"{path}: not a noise schedule: betas must be one tensor of a row, beside other tensors")
    made = diffusion.cosine_schedule(len(file["betas"]))
    strangers = sorted(set(made) ^ set(file))
    if strangers:
        raise CheckpointError(f"{path}: not the old noise schedule: {', '.join(strangers)}")
    scales = {name: value.abs().clamp(min=1) for name, value in file.items()}
    return [Difference(name, "float32", largest(made[name] / scales[name], file[name] / scales[name])) for name in made]
