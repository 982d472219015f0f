"""An engine on the CPU whose parts were compiled one by one: arrays in, arrays out, at fixed places."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from rtvla.models.engines.inputs import FixedInputs
from rtvla.models.engines.lean import STAGES, Evaluations, LeanModel, Part, run_stage
from rtvla.schema import F32

Run = Callable[[], None]  # a compiled part, bound to its arrays
Bind = Callable[[Part, Mapping[str, torch.Tensor]], Run]  # a part, and all places by name


class StagedEngine:
    def __init__(self, lean: LeanModel, bind: Bind) -> None:
        self.inputs = FixedInputs(lean.spec, lean.noise_shape)
        self._walk, self._in_units = lean.walk, lean.in_units
        self._values = places(lean, self.inputs)
        self._stages = {
            stage: [bind(part, self._values) for part in lean.stages.get(stage, ()) if not self._hands_on(part)]
            for stage in STAGES
        }
        self._evaluate = Evaluations(lean.times.clone(), self._net)

    def new_vl(self) -> None:
        self._run("vl")

    def encode_sensor(self) -> None:
        self._run("sensor")

    def encode_robot(self) -> None:
        self._run("robot")

    def act(self) -> F32:
        self._run("condition")
        self._evaluate.begin()
        return self._in_units(self._walk(self._values["condition"], self._values["noise"], self._evaluate))[0].numpy()

    def _hands_on(self, part: Part) -> bool:
        """Its output is its input, at one place: there is nothing to run."""
        return any(self._values[name] is self._values[part.output] for name in part.inputs)

    def _run(self, stage: str) -> None:
        for run in self._stages[stage]:
            run()

    def _net(self, x: torch.Tensor | None, told: torch.Tensor) -> torch.Tensor:
        if x is not None:
            self._values["x"].copy_(x)
        self._values["told"].copy_(told)
        self._run("net")
        return self._values["v"].clone()  # a solver may keep several of them


@torch.inference_mode()
def places(lean: LeanModel, inputs: FixedInputs) -> dict[str, torch.Tensor]:
    """A tensor for everything that a part reads or writes, by name. Shapes by running the parts once, on zeros."""
    values = dict(inputs.tensors)
    for stage in ("vl", "sensor", "robot", "condition"):
        run_stage(lean, stage, values)
    values["x"] = torch.zeros(1, lean.spec.horizon, lean.spec.action_dim)
    values["told"] = values["condition"] + lean.times[:1]
    run_stage(lean, "net", values)
    place_of = {id(value): value.clone().contiguous() for value in values.values()}
    return {name: inputs.tensors.get(name, place_of[id(value)]) for name, value in values.items()}
