"""Tables and pictures of a run of `rtvla bench gpu`, from its rows: again at any time, on any machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rtvla.errors import ConfigError
from rtvla.tools import plots
from rtvla.tools.bench_gpu_rows import Row, read

_WIDTH = 140


def write(folder: Path) -> list[Path]:
    """report.txt and results.json, and the pictures if matplotlib is there."""
    rows = read(folder)
    if not rows:
        raise ConfigError(f"--out {folder}: there is no row in {folder}/rows.jsonl to make a report of")
    report, document = folder / "report.txt", folder / "results.json"
    with open(report, "w") as file:
        console = Console(file=file, width=_WIDTH)
        for line in dict.fromkeys(_head(rows)):  # a run in pieces says it once a piece
            console.print(line, markup=False)
        for table in tables(rows):
            console.print("", table)
        for row in rows:
            for verdict in ("skipped", "failed"):
                if verdict in row:
                    console.print(f"{verdict}: {row['part']}: {row['what']}: {row[verdict]}", markup=False)
    document.write_text(json.dumps(rows, indent=1) + "\n")
    return [report, document, *_pictures(folder, rows)]


def of(rows: Sequence[Row], part: str) -> list[Row]:
    return [row for row in rows if row["part"] == part and not {"skipped", "failed"} & set(row)]


def _head(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in of(rows, "machine"):
        told = row["machine"]
        lines += [f"GPU: {told['gpu']}", f"host: {told['cpu']}, {told['cores']} cores, {told['system']}"]
        lines.append(f"preset {told['preset']}, {', '.join(f'{k} {v}' for k, v in told['versions'].items())}")
    for row in of(rows, "peak"):
        lines.append(f"peak: {row['tflops']:.4g} TFLOP/s in products of side {row['side']}, {row['dtype']}")
    for row in of(rows, "flops"):
        lines.append(
            f"FLOPs of {_shape(row)}, with the language head: formula {row['formula'] / 1e12:.4g} T, torch's counter "
            f"{row['counted'] / 1e12:.4g} T"
        )
    return lines


def tables(rows: Sequence[Row]) -> list[Table]:
    return [table for table in (_encode(rows), _action(rows), _shared(rows)) if table.row_count]


def _shape(row: Row) -> str:
    return f"{row['width']}x{row['height']}, {row['views']} views, {row['vl_sequence']}"


def _encode(rows: Sequence[Row]) -> Table:
    columns = ("call", "ms p50", "p99", "times plain", "TFLOP", "of the peak", "cosine", "GB")
    made = plots.table("VL encode: the plain transformers call and ours", "pictures", *columns)
    plain = {_shape(row): row["ms"]["p50_ms"] for row in of(rows, "encode") if row["who"] == "plain"}
    order = list(dict.fromkeys(map(_shape, of(rows, "encode"))))
    for row in sorted(of(rows, "encode"), key=lambda row: order.index(_shape(row))):
        found = row["ms"]
        made.add_row(
            *(_shape(row), row["who"], f"{found['p50_ms']:.2f}", f"{found['p99_ms']:.2f}"),
            *(_times(plain.get(_shape(row)), found["p50_ms"]), f"{row['flops'] / 1e12:.4g}", f"{row['share']:.1%}"),
            *(f"{row['cosine']:.6f}" if "cosine" in row else "", _gigabytes(row["memory"])),
        )
    return made


def _times(plain_ms: float | None, ours_ms: float) -> str:
    return "-" if plain_ms is None else f"{plain_ms / ours_ms:.2f}"


def _action(rows: Sequence[Row]) -> Table:
    columns = ("p50", "p99", "p99.9", "max", "deviation", "load s", "GB")
    made = plots.table("Action model, one tick, ms", "model, engine", *columns)
    for row in of(rows, "action"):
        cells = (*_tail(row["tick_ms"]), f"{row['deviation']:.0e}", f"{row['load_s']:.1f}", _gigabytes(row["memory"]))
        made.add_row(f"{row['family']} {row['expert']}, {row['engine']}", *cells)
    return made


def _shared(rows: Sequence[Row]) -> Table:
    columns = ("expert", "p50", "p99", "p99.9", "max", "ticks", "encode p50")
    made = plots.table("One tick beside the encoder, ms", "setting", *columns)
    for row in of(rows, "shared"):
        encoder = f"{row['encoder_ms']['p50_ms']:.1f}" if row["encoder_ms"] else "-"
        tick = row["tick_ms"]
        made.add_row(row["setting"], row["expert"], *_tail(tick), f"{tick['count']:.0f}", encoder)
    return made


def _tail(tick: Mapping[str, float]) -> list[str]:
    return [f"{tick[name]:.2f}" for name in ("p50_ms", "p99_ms", "p99_9_ms", "max_ms")]


def _gigabytes(memory: float | None) -> str:
    return "-" if memory is None else f"{memory / 1e9:.2f}"


def _pictures(folder: Path, rows: Sequence[Row]) -> list[Path]:
    try:
        plots.require_matplotlib()
    except ConfigError as error:
        print(f"no pictures: {error}; later: rtvla bench gpu --render --out {folder}")
        return []
    paths = []
    for name, x, series in (("encode_views", "views", _by_views(rows)), ("encode_sizes", "pixels", _by_size(rows))):
        if series:
            paths.append(plots.lines(folder / f"{name}.png", "VL encode, plain call and ours", series, x, "ms (p50)"))
    bars = {"action": [f"{r['family']} {r['expert']}, {r['engine']}" for r in of(rows, "action")]}
    bars["shared"] = [f"{r['setting']}: {r['expert']}" for r in of(rows, "shared")]
    for part, labels in bars.items():
        if labels:
            ticks = [row["tick_ms"] for row in of(rows, part)]
            stages = {"p50": "p50_ms", "to p99": "p99_ms", "to p99.9": "p99_9_ms"}
            paths.append(plots.stacked_bars(folder / f"{part}.png", part, _steps(ticks, stages), labels, "ms"))
    return paths


def _steps(ticks: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> dict[str, list[float]]:
    """Each percentile's height above the one before it, so that stacked they end at their own value."""
    heights: dict[str, list[float]] = {}
    before = [0.0] * len(ticks)
    for label, name in names.items():
        heights[label] = [tick[name] - low for tick, low in zip(ticks, before, strict=True)]
        before = [tick[name] for tick in ticks]
    return heights


def _series(rows: Sequence[Row], x: Any) -> dict[str, tuple[list[float], list[float]]]:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in sorted(rows, key=x):
        xs, ys = series.setdefault(f"{row['who']}, {row['vl_sequence']}", ([], []))
        xs.append(x(row))
        ys.append(row["ms"]["p50_ms"])
    return series


def _by_views(rows: Sequence[Row]) -> Any:
    found = of(rows, "encode")
    return _series([row for row in found if row["width"] == found[0]["width"]], lambda row: row["views"])


def _by_size(rows: Sequence[Row]) -> Any:
    found = of(rows, "encode")
    most = max((row["views"] for row in found), default=0)
    return _series([row for row in found if row["views"] == most], lambda row: row["width"] * row["height"])
