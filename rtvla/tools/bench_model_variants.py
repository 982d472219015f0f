"""One checkpoint of `rtvla bench model` and the variants of it that are compared."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtvla.errors import ConfigError
from rtvla.models.engines.engine import EngineChoice
from rtvla.models.presets import without
from rtvla.models.spec import ModelSpec
from rtvla.tools.bench_machine import progress
from rtvla.tools.bench_model_frames import FrameSet, drawn_sets, recorded_sets
from rtvla.tools.bench_model_stages import Candidate, measure
from rtvla.tools.model_source import ModelSource

_NAMES = {"regression": "Regression", "flow_matching": "Flow Matching", "diffusion": "Diffusion"}
_MOST_SETS = 10  # of frames in memory


class Variants:
    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self._args, self._source = (
            args,
            ModelSource(folder, None, args.device, EngineChoice(args.engine, args.precision), args.task_name),
        )
        own = self._source.spec
        views = len(own.views) if args.num_views is None else args.num_views
        if not 1 <= views <= len(own.views):
            raise ConfigError(f"--num-views {views}: checkpoint {own.name} has {len(own.views)} views")
        self._seen = replace(own, views=own.views[:views])
        self._spec = self._made(sensor=not args.disable_sensor)
        self._sets = self._frame_sets()

    @property
    def expert(self) -> str:
        return self._source.spec.expert

    @property
    def device(self) -> str:
        return self._source.device

    def as_it_is(self) -> list[dict[str, Any]]:
        """The checkpoint with what --disable-... and --num-views take away."""
        return self._measure({"": self._spec})

    def compare(self, kind: str) -> list[dict[str, Any]]:
        """kind: views, sensors, parallel."""
        return self._measure({"views": self._by_views, "sensors": self._by_sensor, "parallel": self._by_way}[kind]())

    def _made(self, *, sensor: bool) -> ModelSpec:
        return without(self._seen, sensor=sensor, robot=not self._args.disable_robot_states)

    def _by_views(self) -> dict[str, ModelSpec]:
        counts = range(1, len(self._spec.views) + 1)
        return {
            f"{count} view{'s' * (count > 1)}": replace(self._spec, views=self._spec.views[:count]) for count in counts
        }

    def _by_sensor(self) -> dict[str, ModelSpec]:
        if self._source.spec.sensor_encoder == "none":
            raise ConfigError(f"--compare-sensors: checkpoint {self._source.spec.name} was made without the sensor")
        return {"sensor": self._made(sensor=True), "no sensor": self._made(sensor=False)}

    def _by_way(self) -> dict[str, ModelSpec]:
        return {way: replace(self._spec, vl_sequence=way) for way in ("per_view", "joint")}

    def _frame_sets(self) -> list[FrameSet]:
        spec, most = self._spec, min(self._args.num_iterations, _MOST_SETS)
        if self._args.dataset_dir is not None:
            return recorded_sets(self._args.dataset_dir, spec.views, most)
        return drawn_sets(spec.image_height, spec.image_width, len(spec.views), most)

    def _measure(self, specs: dict[str, ModelSpec]) -> list[dict[str, Any]]:
        found = []
        for label, spec in specs.items():
            candidate = self._candidate(spec, label)
            progress(f"{candidate.name}: {self._args.num_iterations} iterations")
            found.append(measure(candidate, self._sets, self._args.num_iterations))
            progress("")
        return found

    def _candidate(self, spec: ModelSpec, label: str) -> Candidate:
        """The checkpoint's own weights where the spec has its inputs, else random ones."""
        own, notes = self._source.spec, []
        if (spec.sensor_encoder, spec.robot_encoder) == (own.sensor_encoder, own.robot_encoder):
            policy = self._source.policy()
        elif own.origin is not None:
            raise ConfigError(f"{own.name} is an imported model: it is what it is, and cannot be made without an input")
        else:
            policy = self._source.twin_of(spec)
            notes.append(
                f"{own.name} cannot do without its inputs: a model of the same sizes made without them was measured, "
                "with random weights; its times are right, its actions mean nothing"
            )
        if spec.views != own.views:
            notes.append(f"{own.name} was trained on {len(own.views)} views: with fewer its feature is another one")
        if spec.vl_sequence != own.vl_sequence:
            notes.append(f"{own.name} was trained on {own.vl_sequence}: the other way gives another feature")
        name = _NAMES[self.expert] + (f", {label}" if label else "")
        return Candidate(name, policy, self._source.encoder(spec), self._args.vl_engine, tuple(notes))
