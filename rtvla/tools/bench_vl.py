"""`rtvla bench vl`: JPEG bytes to VL feature, ours against the processor and the plain transformers call, on the same
weights; and how old the pictures are that the policy acts on, encoded rolling and as whole sets.

Contestants take turns in one process on as many threads as there are cores, so other load hits all of them alike; a
ratio is the median over turns. The pipeline runs as `rtvla infer --sim`, rolling and not in turn. Random weights of a
preset: time depends on shapes, not on values. Prints tables; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import util
from typing import Any

import numpy as np
from rich.table import Table

from rtvla import rt
from rtvla.errors import RtvlaError
from rtvla.tools.bench_machine import Bystanders, describe, progress
from rtvla.tools.bench_vl_age import ages
from rtvla.tools.values import console, ms

WANTED_SPEEDUP, WANTED_AGE = 1.3, 0.6
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", choices=("tiny", "small", "full"), default="small", help="size of the model (%(default)s)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--pairs", type=int, default=9, help="turns of each row (%(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="pipeline runs of each kind, 0: none (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of them (%(default)g)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")


def run(args: argparse.Namespace) -> int:
    bystanders = Bystanders()
    rows = [row for dtype in args.dtypes for sequence in ("per_view", "joint") for row in race(args, dtype, sequence)]
    approximate = race(args, args.dtypes[-1], "per_view", approximations=True)
    seen = ages(args.preset, args.runs, args.seconds) if args.runs else []
    progress("")
    report = {
        "benchmark": "vl",
        "machine": describe("torch", "transformers", "openvino", "numpy", "pillow", "simplejpeg"),
        "run": bystanders.look(),
        "preset": args.preset,
        "rows": rows,
        "approximations": approximate,
        "ages": seen,
        "ratios": ratios(rows, seen),
        "wanted": {"speedup": WANTED_SPEEDUP, "rolling_age": WANTED_AGE},
    }
    if not args.json:
        show(report)
    print(json.dumps(report))
    return 0


def engines() -> list[str]:
    """Those of this machine, the one that `auto` takes on a CPU last."""
    return ["eager", "openvino"] if util.find_spec("openvino") else ["eager"]


def race(args: argparse.Namespace, dtype: str, sequence: str, *, approximations: bool = False) -> list[Row]:
    views = [max(args.views)] if approximations else args.views
    progress(f"{dtype}, {sequence}, {views} views{', approximations' * approximations}")
    command = [sys.executable, "-m", "rtvla.tools.bench_vl_child", "--preset", args.preset, "--dtype", dtype]
    command += ["--sequence", sequence, "--pairs", str(args.pairs), "--engines", *engines()]
    command += ["--views", *map(str, views), *(["--approximations"] if approximations else [])]
    environment = dict(os.environ)
    rt.set_thread_environment(len(os.sched_getaffinity(0)))
    environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RtvlaError(f"the measuring process ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def ratios(rows: list[Row], seen: list[Row]) -> dict[str, float]:
    """The smallest and the median speed-up over all rows, of what `auto` takes; and the visual ages."""
    found: dict[str, float] = {}
    for name in engines():
        for against in ("plain", "plain_base"):
            factors = [row["contestants"][name]["plain_over_this"][against] for row in rows]
            found[f"{against}_over_{name}_smallest"] = min(factors)
            found[f"{against}_over_{name}_median"] = float(np.median(factors))
    for sequence in ("per_view", "joint"):
        pairs = [one["ratio"] for one in seen if one["sequence"] == sequence]
        if pairs:
            found[f"rolling_over_batch_age_{sequence}"] = float(np.median(pairs))
    return found


def show(report: Row) -> None:
    out, machine = console(), report["machine"]
    out.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['versions']}")
    out.print(f"other programs used {report['run']['foreign_cpu_percent']:.0f} % of a core meanwhile\n")
    out.print(_times(f"JPEG bytes to feature, 640x360, preset {report['preset']}, ms (medians)", report["rows"]), "")
    out.print(_times("What approximations are worth, and what they cost", report["approximations"]), "")
    if report["ages"]:
        out.print(_ages(report["ages"]), "")
    best, wanted = engines()[-1], report["wanted"]
    speedup = report["ratios"][f"plain_over_{best}_smallest"]
    verdict = "met" if speedup >= wanted["speedup"] else "MISSED"
    out.print(f"{best} against plain, smallest of all rows: {speedup:.2f}; wanted {wanted['speedup']}: {verdict}")
    age = report["ratios"].get("rolling_over_batch_age_per_view")
    if age is not None:
        verdict = "met" if age <= wanted["rolling_age"] else "MISSED"
        out.print(f"mean visual age, rolling over batch: {age:.2f}; wanted {wanted['rolling_age']}: {verdict}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at > 3 else "left")
    return table


def _times(title: str, rows: list[Row]) -> Table:
    stages = ("decode", "preprocess", "model", "total")
    columns = ("dtype", "sequence", "views", "who", *stages, "plain / this", "base / this", "relative difference")
    table = _table(title, *columns)
    for row in rows:
        for name, one in row["contestants"].items():
            factors = (f"{one['plain_over_this'][against]:.2f}" for against in ("plain", "plain_base"))
            head = (row["dtype"], row["sequence"], str(row["views"]), name)
            table.add_row(*head, *(ms(one[stage]) for stage in stages), *factors, f"{one['relative_difference']:.1e}")
    return table


def _ages(seen: list[Row]) -> Table:
    # an encode below a camera's period leaves less to win than the lab's
    rates = ("rolling sets/s", "batch sets/s", "batch encode ms")
    columns = ("sequence", "engine", "cameras", "", "rolling ms", "batch ms", "ratio", *rates)
    table = _table("Mean age of all views at each chunk, in the running pipeline", *columns)
    for one in seen:
        numbers = (ms(one["rolling"]["age_ms"]), ms(one["batch"]["age_ms"]), f"{one['ratio']:.2f}")
        per_s = (f"{one[kind]['updates_per_s']:.1f}" for kind in ("rolling", "batch"))
        head = (one["sequence"], one["engine"], f"{one['camera_hz']:g} Hz", "")
        table.add_row(*head, *numbers, *per_s, ms(one["batch"]["set_ms"]))
    return table
