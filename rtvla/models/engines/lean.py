"""LeanModel: an action model taken apart into what is computed when, with everything constant computed before.

    vl          once per VL feature
    sensor      once a tick
    robot       once a tick
    condition   once a tick: the three together, and the age of the VL feature
    net         once a step of the sampling: the only part that is run more than once a tick

A stage is a row of parts; a part is a function of arrays with fixed names and shapes. The sampling itself, a few
operations on one chunk, stays the model's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from rtvla.models.spec import ModelSpec

STAGES = ("vl", "sensor", "robot", "condition", "net")
# x (1, H, 7), time (1,), condition (1, C) -> (1, H, 7)
Evaluate = Callable[[Any, Any, torch.Tensor], torch.Tensor]


class Part(NamedTuple):
    module: nn.Module
    inputs: tuple[str, ...]
    output: str
    exact: bool = False  # float32 whatever the precision: it reads raw units, or costs nothing


@dataclass(frozen=True)
class LeanModel:
    """Batch size 1. The modules share the tensors of the model that it was made of."""

    spec: ModelSpec
    stages: Mapping[str, tuple[Part, ...]]
    times: torch.Tensor  # (evaluations a tick, C): what is added to the condition at each
    walk: Callable[[torch.Tensor, torch.Tensor, Evaluate], torch.Tensor]  # condition, noise -> (1, H, 7); on any device
    noise_shape: tuple[int, ...]
    units: tuple[torch.Tensor, torch.Tensor] | None = None  # (7,) factor and offset to mm and deg; None: 1 and 0

    def in_units(self, chunk: torch.Tensor) -> torch.Tensor:
        """What walk has given, in mm and deg."""
        if self.units is None:
            return chunk
        factor, offset = self.units
        return chunk * factor + offset

    def parts(self) -> list[Part]:
        return [part for stage in STAGES for part in self.stages.get(stage, ())]


def find_times(
    walk: Callable[[torch.Tensor, torch.Tensor, Evaluate], torch.Tensor],
    embed_time: Callable[[torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
) -> torch.Tensor:
    """Walk once without a network and note at which times it would be asked: one row an evaluation."""
    rows = []

    def note(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        rows.append(embed_time(t))
        return torch.zeros_like(x)

    walk(noise.new_zeros(1, 1), noise, note)
    return torch.cat(rows)


class Evaluations:
    """The network as the walk sees it: the k-th call of a tick adds the k-th row of the times."""

    def __init__(self, times: torch.Tensor, net: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self._times, self._net, self._at = times, net, 0

    def begin(self) -> None:
        self._at = 0

    def __call__(self, x: torch.Tensor, t: object, condition: torch.Tensor) -> torch.Tensor:
        row = self._times[self._at : self._at + 1]
        self._at += 1
        return self._net(x, condition + row)


def run_stage(lean: LeanModel, stage: str, values: dict[str, torch.Tensor]) -> None:
    """In torch, with what is in `values` by name; the results go there, too."""
    for part in lean.stages.get(stage, ()):
        values[part.output] = part.module(*(values[name] for name in part.inputs))


def run_tick(lean: LeanModel, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """All but the vl stage, in torch: sensor, robot, noise and `vl_part` of `values` -> (1, H, 7)."""
    for stage in ("sensor", "robot", "condition"):
        run_stage(lean, stage, values)

    def net(x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        values["x"], values["told"] = x, told
        run_stage(lean, "net", values)
        return values["v"]

    return lean.in_units(lean.walk(values["condition"], values["noise"], Evaluations(lean.times, net)))
