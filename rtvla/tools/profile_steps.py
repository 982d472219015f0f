"""The sampled experts by number of steps: what one tick of the policy costs, and which counts keep the period."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtvla.models.engines.engine import EngineChoice
from rtvla.tools import plots
from rtvla.tools.latency import WARM_UP, spread
from rtvla.tools.model_source import ModelSource
from rtvla.tools.values import console

RECOMMENDED = "recommended: the most steps that meet it"
ODD = "meets it, but fewer did not: measure again on a quiet machine"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    source = ModelSource(args.checkpoint, args.preset, args.device, EngineChoice(args.engine, args.precision))
    rows = [_row(source, args.expert, steps, args.iterations) for steps in sorted(set(args.steps))]
    return {"model": source.title, "expert": args.expert, "rows": judge(rows, args.period_ms)}


def _row(source: ModelSource, expert: str, steps: int, iterations: int) -> dict[str, Any]:
    policy = source.policy_of(expert, steps)
    observation = policy.spec.fake_observation(0)
    predictions = [policy.predict(observation, seed) for seed in range(WARM_UP + iterations)][WARM_UP:]
    return {
        "steps": steps,
        "engine": f"{policy.engine_report.engine} {policy.engine_report.precision}",
        "expert_ms": spread([one.action_ns for one in predictions]),
        "tick_ms": spread([one.sensor_encode_ns + one.robot_encode_ns + one.action_ns for one in predictions]),
    }


def judge(rows: Sequence[Mapping[str, Any]], period_ms: float) -> list[dict[str, Any]]:
    """Adds to each row whether the 99th percentile of its whole tick keeps the period, and a note to the last before
    the first that does not. `rows` by rising steps."""
    judged: list[dict[str, Any]] = [{**row, "meets": row["tick_ms"]["p99_ms"] <= period_ms, "note": ""} for row in rows]
    kept = list(itertools.takewhile(lambda row: row["meets"], judged))
    for row in judged[len(kept) :]:
        row["note"] = ODD if row["meets"] else "too slow"
    if kept:
        kept[-1]["note"] = RECOMMENDED
    return judged


def show(document: Mapping[str, Any]) -> None:
    hz = 1000 / document["period_ms"]
    found = plots.table(
        "",
        *("steps", "expert ms", "tick ms", "tick p99 ms", "Hz", f"meets {hz:g} Hz", "note"),
    )
    for row in document["rows"]:
        tick = row["tick_ms"]
        times = (row["expert_ms"]["p50_ms"], tick["p50_ms"], tick["p99_ms"])
        cells = [f"{time:.1f}" for time in times] + [f"{1000 / tick['p50_ms']:.0f}"]
        found.add_row(str(row["steps"]), *cells, "yes" if row["meets"] else "no", row["note"])
    engine = document["rows"][0]["engine"]
    console().print(
        f"{document['expert']} by sampling steps, {document['model']}, engine {engine}", found, "", sep="\n"
    )
    count = document["rows"][0]["tick_ms"]["count"]
    console().print(
        f"tick: sensor, robot and expert together, p50 of {count:.0f} after a warm-up. "
        "Meets: its p99. Quality by steps is not measured here."
    )


def plot(document: Mapping[str, Any], folder: Path) -> Path:
    rows, period_ms = document["rows"], document["period_ms"]
    steps = [row["steps"] for row in rows]
    series = {f"tick {name}": (steps, [row["tick_ms"][f"{name}_ms"] for row in rows]) for name in ("p50", "p99")}
    series["expert p50"] = (steps, [row["expert_ms"]["p50_ms"] for row in rows])
    title = f"{document['expert']} by sampling steps"
    path, limit = folder / f"{document['benchmark']}.png", f"period {period_ms:g} ms"
    return plots.lines(path, title, series, "sampling steps", "ms", limit=period_ms, limit_label=limit)
