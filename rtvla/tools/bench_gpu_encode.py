"""The encoder on this device: plain call against ours, by views, picture size and sequence; share of the roofline.

Ours runs as it is (eager), as one CUDA graph of the same kernels (graph), and, in the part `deployed`, by the engine
that the encoder process takes: on a GPU a graph of fused kernels, which takes minutes to build for each shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from rtvla.models.presets import vl_config, vl_spec
from rtvla.models.qwen_input import grid_of
from rtvla.models.qwen_load import Backbone
from rtvla.models.qwen_vl import VLEncoder
from rtvla.models.random_vl import StandInTokenizer, random_backbone
from rtvla.models.spec import ModelSpec
from rtvla.tools import bench_gpu_plain as plain
from rtvla.tools.bench_gpu_device import memory, peak, start_measuring_memory, unfused
from rtvla.tools.bench_gpu_flops import encode_flops
from rtvla.tools.bench_gpu_rows import Rows
from rtvla.tools.bench_model_vl import encode_at_once, encode_set
from rtvla.tools.latency import spread, took_ns

DEPLOYED = "deployed"
Sizes = list[tuple[int, int]]  # width, height


@dataclass(frozen=True)
class Shape:
    width: int
    height: int
    views: int
    vl_sequence: str

    def spec(self, own: ModelSpec) -> ModelSpec:
        views, way = own.views[: self.views], self.vl_sequence
        return replace(own, views=views, vl_sequence=way, image_width=self.width, image_height=self.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.views} views, {self.vl_sequence}"


def shapes(resolutions: Sizes) -> Iterator[Shape]:
    """The most telling first, in case the time ends: the usual size, other sizes of all views, then fewer views."""
    usual = (640, 360) if (640, 360) in resolutions else resolutions[0]
    others = [one for one in resolutions if one != usual]
    order = [(5, [usual]), (1, [usual]), (5, others), (3, [usual]), (2, [usual]), (4, [usual])]
    order += [(views, others) for views in (1, 2, 3, 4)]
    for views, sizes in order:
        for width, height in sizes:
            for way in ("per_view", "joint"):
                yield Shape(width, height, views, way)


class Bench:
    """The model, and what every row is held against."""

    def __init__(self, rows: Rows, preset: str, device: str, iterations: int) -> None:
        self.rows, self._preset, self._device, self._iterations = rows, preset, device, iterations
        self._own = vl_spec(preset)
        self._peak = peak(rows, device, self._own.dtype)
        start_measuring_memory()
        self._whole = random_backbone(preset, self._own.dtype, device)
        self._backbone = Backbone(self._whole.model, StandInTokenizer(preset))
        parameters = sum(one.numel() for one in self._whole.parameters())
        rows.add("weights", preset=preset, parameters=parameters, memory=memory())

    def row(self, shape: Shape, engines: Mapping[str, str], *, with_plain: bool = True, count: bool = False) -> None:
        """`engines`: title in the row -> name. `count`: also let torch count the FLOPs of the plain call."""
        spec, named = shape.spec(self._own), vars(shape)
        frames, whole = spec.fake_frames(0), self._whole
        inputs = plain.prepare(spec, self._backbone.tokenizer, frames, whole.config.image_token_id, self._device)
        grid = grid_of(shape.height, shape.width, spec)
        flops = encode_flops(vl_config(self._preset), grid, shape.views, *inputs["input_ids"].shape)
        if count:
            self._count(inputs, flops, named)
        feature = plain.encode(whole, inputs)
        if with_plain:
            values = self._measured(partial(plain.encode, whole, inputs), flops["total"] + flops["lm_head"])
            self.rows.add("encode", **named, who="plain", flops=flops["total"], **values)
        for title, engine in engines.items():
            with self.rows.attempt(f"{shape} by {title}"):
                self._ours(spec, frames, title, engine, flops["total"], feature)

    def _ours(self, spec: ModelSpec, frames: Any, title: str, engine: str, flops: float, feature: Any) -> None:
        """A per_view model in both ways; if deployed, only in the one that the encoder process takes by itself."""
        ways = {"one by one": (True, encode_set)} if spec.vl_sequence == "per_view" else {}
        if title != DEPLOYED or not ways:
            ways["at once"] = (False, encode_at_once)
        for way, (rolling, encode) in ways.items():
            encoder = VLEncoder(spec, self._backbone, "eye", self._device)
            with contextlib.nullcontext() if title == DEPLOYED else unfused(self._device):
                encoder.prepare(engine, rolling=rolling)
            values = self._measured(partial(encode, encoder, frames), flops)
            shape = Shape(spec.image_width, spec.image_height, len(spec.views), spec.vl_sequence)
            cosine = _cosine(feature, encode(encoder, frames))
            self.rows.add(
                "encode",
                **vars(shape),
                who=f"{title}, {way}",
                engine=encoder.engine.name,
                flops=flops,
                cosine=cosine,
                **values,
            )

    def _measured(self, call: Any, flops: float) -> dict[str, Any]:
        start_measuring_memory()
        times = spread(took_ns(call, self._iterations))
        return {"ms": times, "share": flops / (times["p50_ms"] / 1e3) / self._peak, "memory": memory()}

    def _count(self, inputs: Any, flops: dict[str, float], named: dict[str, Any]) -> None:
        """The formula beside torch's own counter, which sees the whole square of a causal attention, not its half."""
        with FlopCounterMode(display=False) as counter:
            plain.encode(self._whole, inputs)
        formula = flops["total"] + flops["lm_head"]
        self.rows.add("flops", **named, counted=float(counter.get_total_flops()), formula=formula)


def run(rows: Rows, preset: str, device: str, iterations: int, resolutions: Sizes) -> None:
    bench = Bench(rows, preset, device, iterations)
    engines = {"eager": "eager"} | ({"graph": "cuda_graph"} if device != "cpu" else {})
    if device == "cpu":
        rows.skip("encode by graph", "needs CUDA")
    else:
        print("graphs of this part are not fused on purpose: that the encoder says NOT COMPILED is no fault here")
    for at, shape in enumerate(shapes(resolutions)):
        if rows.left_s <= 0:
            rows.skip(f"{shape} and what follows it", "no time left")
            return
        with rows.attempt(str(shape)):
            bench.row(shape, engines, count=at < 2)


def run_deployed(rows: Rows, preset: str, device: str, iterations: int, resolutions: Sizes, most: int) -> None:
    """All views and one, of the usual size, by the engine that the encoder process takes by itself."""
    bench = Bench(rows, preset, device, iterations)
    for shape in list(shapes(resolutions))[:most]:
        if rows.left_s <= 0:
            rows.skip(f"{shape} and what follows it", "no time left")
            return
        with rows.attempt(str(shape)):
            bench.row(shape, {DEPLOYED: "auto"}, with_plain=False)


def _cosine(one: Any, other: Any) -> float:
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))
