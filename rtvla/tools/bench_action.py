"""`rtvla bench action`: a whole tick of the policy, from numpy windows to a numpy chunk, by each engine against the
straightforward module.

Random models of the old system's sizes. Every engine runs in a process of its own, set up as the policy process is.
They take turns, one tick each, so that whatever else happens on the machine happens to all alike, and a ratio is the
median over the turns. The straightforward module runs twice, with and without OpenMP threads that spin while they wait,
and the faster one counts. The VL feature changes every fourth tick. Deviation is the largest difference of an action
from the straightforward module's on the same observations, in the unit of the actions, whose largest is printed:
weights are random, so it says how an engine computes, not how far off a trained model would be. Prints a table; the
last line is one JSON document.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from rtvla.errors import RtvlaError
from rtvla.rt import set_thread_environment
from rtvla.tools.bench_machine import Bystanders, describe, progress

# Of the old flow matching with 10 steps and the old regression: times faster, and how far the actions may be off.
TARGETS = {"float32": (3.0, 1e-5), "fastest": (6.0, float("inf"))}
_SHORT = {"flow_matching": "flow{}", "regression": "regression", "diffusion": "diffusion{}"}
_VL_REUSE = 4
_COMPARED = 8  # ticks, whose actions are compared; they warm up, too
_GIVE_UP_S = 1800.0  # of a build on a slow machine
_JOIN_S = 10.0
_REST_S = 0.02  # after a tick, so that threads that spin have gone to sleep before the next engine's turn
Row = dict[str, Any]


class Job(NamedTuple):
    family: str
    expert: str
    steps: int
    threads: int
    engine: str
    precision: str
    spins: bool = False

    @property
    def label(self) -> str:
        return f"{self.engine} {self.precision}" + (", spinning" if self.spins else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", nargs="+", choices=["origin", "ours"], default=["origin", "ours"])
    parser.add_argument("--expert", nargs="+", choices=list(_SHORT), default=list(_SHORT))
    parser.add_argument("--engine", nargs="+", choices=["openvino", "compiled"], default=["openvino"])
    parser.add_argument("--steps", type=int, default=10, help="of the sampling (%(default)d)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="one table each (%(default)s)")
    parser.add_argument("--turns", type=int, default=40, help="ticks of each engine (%(default)d)")
    parser.add_argument("--small", action="store_true", help="small models: to try the benchmark itself")
    parser.add_argument("--json", action="store_true", help="only the JSON line")


def run(args: argparse.Namespace) -> int:
    bystanders, rows = Bystanders(), []
    with tempfile.TemporaryDirectory() as place:
        for threads in args.threads:
            for family in args.family:
                for expert in args.expert:
                    rows += compare(jobs(args, family, expert, threads), args.turns, args.small, Path(place))
    progress("")
    report = {
        "benchmark": "action",
        "machine": describe("numpy", "torch", "openvino"),
        "run": bystanders.look(),
        "steps": args.steps,
        "turns": args.turns,
        "small": args.small,
        "rows": rows,
        "ratios": ratios(rows, args.threads[0]),
    }
    if not args.json:
        show(report)
    print(json.dumps(report))
    return 0


def jobs(args: argparse.Namespace, family: str, expert: str, threads: int) -> list[Job]:
    """The straightforward module twice, then each engine with each precision that it offers."""
    offered = {"openvino": ("float32", "bfloat16", "int8"), "compiled": ("float32", "bfloat16")}
    case = (family, expert, args.steps, threads)
    plain = [Job(*case, "eager", "float32"), Job(*case, "eager", "float32", spins=True)]
    return plain + [Job(*case, engine, precision) for engine in args.engine for precision in offered[engine]]


class Worker:
    """The parent's side of one engine's process."""

    def __init__(self, job: Job, small: bool, place: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job, small, place), daemon=True)
        self._process.start()
        theirs.close()

    def hear(self) -> Any:
        if not self._connection.poll(_GIVE_UP_S):
            raise RtvlaError(f"benchmark process {self._process.pid} does not answer")
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RtvlaError(f"benchmark process {self._process.pid} has ended; its error is above") from None
        if isinstance(answer, str):
            raise RtvlaError(answer)
        return answer

    def tick(self, number: int) -> tuple[int, np.ndarray]:
        """(nanoseconds, actions)"""
        self._connection.send(number)
        answer: tuple[int, np.ndarray] = self.hear()
        time.sleep(_REST_S)
        return answer

    def close(self) -> None:
        self._connection.close()
        self._process.join(_JOIN_S)
        self._process.kill()


def compare(wanted: Sequence[Job], turns: int, small: bool, place: Path) -> list[Row]:
    """One row an engine; the first two are the straightforward module."""
    name, reports = f"{wanted[0].family} {wanted[0].expert}", []
    with ExitStack() as stack:
        workers = []
        for job in wanted:
            progress(f"{name}: {job.label} is built")
            workers.append(Worker(job, small, place))
            stack.callback(workers[-1].close)
            reports.append(workers[-1].hear())
        answers = np.array([[worker.tick(number)[1] for number in range(_COMPARED)] for worker in workers])
        times_ms = np.zeros((turns, len(workers)))
        for turn in range(turns):
            progress(f"{name}: turn {turn + 1} of {turns}")
            times_ms[turn] = [worker.tick(turn)[0] / 1e6 for worker in workers]
    return _rows(wanted, times_ms, answers, reports)


def _rows(wanted: Sequence[Job], times: np.ndarray, answers: np.ndarray, reports: Sequence[Row]) -> list[Row]:
    base = min((0, 1), key=lambda at: float(np.median(times[:, at])))
    return [
        {
            **job._asdict(),
            "label": job.label,
            "p50_ms": float(np.median(times[:, at])),
            "min_ms": float(times[:, at].min()),
            "max_ms": float(times[:, at].max()),
            "ratio": float(np.median(times[:, base] / times[:, at])),
            "is_base": at == base,
            "deviation": float(np.abs(answers[at] - answers[0]).max()),
            "largest_action": float(np.abs(answers[0]).max()),
            **reports[at],
        }
        for at, job in enumerate(wanted)
    ]


def serve(answers: Connection, job: Job, small: bool, place: Path) -> None:
    """A process: load one engine, then one tick a request, until the other end is closed."""
    set_thread_environment(job.threads)  # before torch, which keeps what it was born with
    if job.spins:
        del os.environ["OMP_WAIT_POLICY"]
    os.environ["XDG_CACHE_HOME"] = str(place)
    from rtvla.models.engines.engine import EngineChoice
    from rtvla.models.policy import VlaPolicy
    from rtvla.models.random_action import SMALL, random_action_model

    model = random_action_model(job.family, job.expert, job.steps, sizes=SMALL if small else None)
    folder = place / f"{job.family}-{job.expert}"
    folder.mkdir(exist_ok=True)
    sums = [hashlib.sha256(value.numpy()).hexdigest() for value in model.state_dict().values()]
    (folder / "checksums.json").write_text(json.dumps({"small": small, "sums": sums}))
    choice = EngineChoice(job.engine, job.precision, job.threads, max_deviation=float("inf"))
    try:
        policy = VlaPolicy(model, "cpu", choice, folder)
    except RtvlaError as error:
        answers.send(f"{job.family} {job.expert}, {job.threads} threads, {job.label}: {error}")
        return
    del model
    given = [policy.spec.fake_observation(seed) for seed in range(_COMPARED)]
    report = policy.engine_report
    answers.send({"build_s": report.build_s, "load_s": report.load_s})
    while True:
        try:
            tick = answers.recv()
        except EOFError:
            return
        obs = given[tick % _COMPARED]
        obs = replace(obs, vl_feature=given[tick // _VL_REUSE % 2].vl_feature)
        started_ns = time.perf_counter_ns()
        prediction = policy.predict(obs, tick % _COMPARED)
        answers.send((time.perf_counter_ns() - started_ns, prediction.actions))


def ratios(rows: Sequence[Row], threads: int) -> dict[str, Row]:
    """Of the old models: the best float32 engine and the fastest of all, against the straightforward module."""
    found: dict[str, Row] = {}
    for expert, short in _SHORT.items():
        mine = [r for r in rows if (r["family"], r["expert"], r["threads"]) == ("origin", expert, threads)]
        mine = [row for row in mine if row["engine"] != "eager"]
        for name, among in (("float32", [r for r in mine if r["precision"] == "float32"]), ("fastest", mine)):
            if among:
                best = max(among, key=lambda row: row["ratio"])
                told = {key: best[key] for key in ("label", "ratio", "deviation", "largest_action")}
                found[f"{short.format(best['steps'])}_{name}"] = told | _verdict(best, *TARGETS[name])
    return found


def _verdict(best: Row, wanted: float, allowed: float) -> Row:
    """Nothing is wanted of the diffusion expert."""
    if best["expert"] == "diffusion":
        return {}
    return {"wanted": wanted, "met": best["ratio"] >= wanted and best["deviation"] <= allowed}


def show(report: Row) -> None:
    console, machine = Console(width=120), report["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['versions']}")
    console.print(f"other programs used {report['run']['foreign_cpu_percent']:.0f} % of a core meanwhile")
    for threads, family, expert in dict.fromkeys((r["threads"], r["family"], r["expert"]) for r in report["rows"]):
        rows = [r for r in report["rows"] if (r["threads"], r["family"], r["expert"]) == (threads, family, expert)]
        steps = "" if expert == "regression" else f", {report['steps']} steps"
        largest = rows[0]["largest_action"]
        table = _table(f"{family} {expert}{steps}, {threads} threads, largest action {largest:.2f}; one tick, ms")
        for row in rows:
            table.add_row(*_cells(row))
        console.print("", table)
    console.print("", f"against the faster straightforward module, median of {report['turns']} paired turns:", sep="\n")
    for name, best in report["ratios"].items():
        told = f"{name}: {best['ratio']:.2f} times faster ({best['label']}, deviation {best['deviation']:.1e})"
        bound = f"; wanted {best['wanted']:g}: {'met' if best['met'] else 'MISSED'}" if "wanted" in best else ""
        console.print(told + bound)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for at, column in enumerate(("engine", "p50", "min", "max", "times faster", "deviation", "build s", "load s")):
        table.add_column(column, justify="right" if at else "left")
    return table


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (f"{row[name]:.1f}" for name in ("p50_ms", "min_ms", "max_ms"))
    faster = "1 (base)" if row["is_base"] else f"{row['ratio']:.2f}"
    return (row["label"], *numbers, faster, f"{row['deviation']:.1e}", f"{row['build_s']:.1f}", f"{row['load_s']:.1f}")
