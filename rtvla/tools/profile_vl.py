"""The VL encoder by picture size and number of views, and how often its feature has to be used again at each."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtvla.errors import ConfigError
from rtvla.models.engines.engine import EngineChoice
from rtvla.models.qwen_input import grid_of, image_tokens
from rtvla.models.spec import ModelSpec
from rtvla.tools import plots
from rtvla.tools.bench_model_frames import drawn_sets
from rtvla.tools.bench_model_vl import encode_set, prepare
from rtvla.tools.latency import spread, took_ns
from rtvla.tools.model_source import ModelSource
from rtvla.tools.values import console


def reuse_for(encode_ms: float, period_ms: float) -> int:
    """Chunks per VL feature that the encoder can keep up with: periods that one whole set of views takes, rounded up.

    Rounding to the nearest, or down, asks for more features than there is time for.
    """
    return max(1, math.ceil(encode_ms / period_ms))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    source = ModelSource(args.checkpoint, args.preset, args.device, EngineChoice(), args.task_name)
    own = source.spec
    views = sorted({count for count in args.views if count <= len(own.views)})
    if not views:
        raise ConfigError(f"--views {args.views}: the model has {len(own.views)} views")
    if args.vl_sequence is not None:
        own = replace(own, vl_sequence=args.vl_sequence)
    sizes = list(args.resolutions)
    if source.folder is not None:  # the reuse to ask for is that of the size which the checkpoint was trained on
        sizes.append((own.image_width, own.image_height))
    rows = []
    for width, height in dict.fromkeys(sizes):
        for count in views:
            spec = replace(own, image_width=width, image_height=height, views=own.views[:count])
            engine, took = _measure(source, spec, args.vl_engine, args.iterations)
            rows.append(
                {
                    "width": width,
                    "height": height,
                    "views": count,
                    "tokens_per_view": image_tokens(grid_of(height, width, spec)),
                    "own_resolution": (width, height) == (own.image_width, own.image_height),
                    **took,
                    "reuse": reuse_for(took["p95_ms"], args.period_ms),
                }
            )
    return {
        "model": f"{source.title}, engine {engine}",
        "vl_sequence": own.vl_sequence,
        "views": views,
        "rows": rows,
    }


def _measure(source: ModelSource, spec: ModelSpec, engine: str, iterations: int) -> tuple[str, dict[str, float]]:
    """The engine that it really was, and the times."""
    encoder = source.encoder(spec)
    (frames,) = drawn_sets(spec.image_height, spec.image_width, len(spec.views), 1)
    prepare(encoder, engine, frames)
    return encoder.engine.name, spread(took_ns(lambda: encode_set(encoder, frames), iterations))


def show(document: Mapping[str, Any]) -> None:
    most = document["views"][-1]
    found = plots.table(
        "",
        *("resolution", "tokens a view", "ms", "p95 ms", "Hz", "reuse", "note"),
    )
    whole = [row for row in document["rows"] if row["views"] == most]
    for row in whole:
        cells = (row["tokens_per_view"], f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{1000 / row['p50_ms']:.2f}")
        note = "the model's own" if row["own_resolution"] else ""
        found.add_row(f"{row['width']}x{row['height']}", *map(str, cells), f"{row['reuse']}x", note)
    title = f"VL encode by picture size, {most} views, {document['vl_sequence']}, {document['model']}"
    console().print(title, found, "", sep="\n")
    if len(document["views"]) > 1:
        console().print(_by_views(document), "")
    for row in whole:
        if row["own_resolution"]:
            console().print(f"recommended: --vl-reuse {row['reuse']}")
    console().print(
        f"reuse: p95 of a whole set / {document['period_ms']:g} ms, rounded up; less asks for more features than there "
        "is time for. Other sizes than the model's own make other features: they need training."
    )


def _by_views(document: Mapping[str, Any]) -> Any:
    sizes = list(dict.fromkeys((row["width"], row["height"]) for row in document["rows"]))
    found = plots.table("ms (p50) by views", "views", *(f"{width}x{height}" for width, height in sizes))
    for count in document["views"]:
        times = {(row["width"], row["height"]): row["p50_ms"] for row in document["rows"] if row["views"] == count}
        found.add_row(str(count), *(f"{times[at]:.1f}" for at in sizes))
    return found


def plot(document: Mapping[str, Any], folder: Path) -> Path:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in document["rows"]:
        xs, ys = series.setdefault(f"{row['width']}x{row['height']}", ([], []))
        xs.append(row["views"])
        ys.append(row["p50_ms"])
    title = f"VL encode, {document['vl_sequence']}, {document['model']}"
    return plots.lines(folder / "profile_vl.png", title, series, "views", "ms (p50)")
