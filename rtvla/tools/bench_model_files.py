"""What `rtvla bench model` writes and prints: comparison.csv, comparison.png, one JSON document a model; tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtvla.tools import plots
from rtvla.tools.bench_model_stages import STAGES
from rtvla.tools.latency import where
from rtvla.tools.values import console

Result = Mapping[str, Any]  # of bench_model_stages.measure
HEADER = ("Model", "Type", "VL (ms)", "Sensor (ms)", "Action (ms)", "Total (ms)", "FPS")
_COLUMNS = ("vl_encoding", "sensor_encoding", "action_prediction", "total")
_PARTS = {"VL": "vl_encoding", "sensor": "sensor_encoding", "robot": "robot_encoding", "action": "action_prediction"}
_FILES = {
    "regression": "regression_results.json",
    "flow_matching": "flow_matching_results.json",
    "diffusion": "diffusion_results.json",
}


def rows(results: Sequence[Result]) -> list[list[str]]:
    """Means, as the columns have always been. Total holds the robot encoder too, which has no column."""
    return [
        [
            found["model_name"],
            found["model_type"],
            *(f"{found[stage]['mean_ms']:.2f}" for stage in _COLUMNS),
            f"{found['fps']:.2f}",
        ]
        for found in results
    ]


def write_models(folder: Path, results: Sequence[Result], frame: Mapping[str, Any]) -> list[Path]:
    """One document a model; `frame` (machine, run, frames) is in each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for found in results:
        paths.append(folder / _FILES[found["model_type"]])
        paths[-1].write_text(json.dumps({**frame, **found}, indent=2) + "\n")
    return paths


def write_comparison(folder: Path, results: Sequence[Result], title: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    table, document = folder / "comparison.csv", folder / "comparison.json"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(rows(results))
    document.write_text(json.dumps(list(results), indent=2) + "\n")
    parts = {name: [found[stage]["mean_ms"] for found in results] for name, stage in _PARTS.items()}
    labels = [found["model_name"] for found in results]
    return [table, document, plots.stacked_bars(folder / "comparison.png", title, parts, labels, "ms (mean)")]


def show_frame(frame: Mapping[str, Any]) -> None:
    console().print(
        where(frame["machine"], frame["run"]), f"device {frame['device']}, pictures {frame['pictures']}\n", sep="\n"
    )


def show(title: str, results: Sequence[Result]) -> None:
    out = console()
    out.print(title)
    means = plots.table("mean", *HEADER, "VL share")
    for found, row in zip(results, rows(results), strict=True):
        means.add_row(*row, f"{100 * found['vl_encoding']['mean_ms'] / found['total']['mean_ms']:.1f} %")
    out.print(means, "")
    tails = plots.table("ms, p50 / p99 / max", "Model", *STAGES)
    for found in results:
        cells = [found[stage] for stage in STAGES]
        tails.add_row(
            found["model_name"], *(f"{c['p50_ms']:.1f} / {c['p99_ms']:.1f} / {c['max_ms']:.1f}" for c in cells)
        )
    out.print(tails, "")
    engines = (f"encoder by {found['config']['vl_engine']}, policy by {found['config']['engine']}" for found in results)
    for line in dict.fromkeys([*engines, *(_proof(found["images"]) for found in results)]):
        out.print(line)
    for note in dict.fromkeys(note for found in results for note in found["notes"]):
        out.print(f"note: {note}")


def _proof(images: Mapping[str, Any]) -> str:
    """Of bench_model_check.prove_encoded."""
    least = min(images["other_picture_differs"].values())
    return (
        f"pictures are in the feature: {images['image_tokens']} image tokens, another picture in any one view moves it "
        f"by {100 * least:.2g} % or more"
    )
