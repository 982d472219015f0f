"""The tables of `rtvla bench shm` for people. Times in microseconds: p50 / p99."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_TITLES = {"hot": "one after the other", "at_10_hz": "ten a second"}


def show(report: Mapping[str, Any], targets: Mapping[str, tuple[str, float]]) -> None:
    console, results, run = Console(width=120), report["results"], report["run"]
    machine = report["machine"]
    python = machine["versions"]["python"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {python}")
    console.print(
        f"{run['seconds']:.0f} s, load {run['load_before']:.2f} to {run['load_after']:.2f}; "
        f"other programs used {run['foreign_cpu_percent']:.0f} % of a core meanwhile\n"
    )
    console.print(_transports(results, report["record_bytes"]), "", _window(results), "", _costs(results), "")
    console.print(_targets(report["ratios"], targets))
    for line in report["left_out"]:
        console.print(f"left out: {line}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left")
    return table


def _spread(found: Mapping[str, float] | None) -> str:
    return f"{found['p50']:.1f} / {found['p99']:.1f}" if found else ""


def _transports(results: Mapping[str, Any], record_bytes: int) -> Table:
    columns = ("one way at 650 Hz", "back to back", "send at 650 Hz", "written/s", "read/s", "reader CPU at 650 Hz")
    table = _table(f"A record of {record_bytes} bytes, us p50 / p99", "transport", *columns)
    for name, paced in results["paced"].items():
        rate = results["throughput"][name]
        table.add_row(
            name,
            _spread(paced["latency_us"]),
            _spread(results["back_to_back"][name]["latency_us"]),
            _spread(paced["send_us"]),
            f"{rate['written_per_s']:,.0f}",
            f"{rate['read_per_s']:,.0f}",
            f"{paced['cpu_percent']:.1f} %",
        )
    return table


def _window(results: Mapping[str, Any]) -> Table:
    title = "The newest 65 records while a writer runs at 650 Hz, us p50 / p99"
    table = _table(title, "snapshot", "calls", "it", "numpy copy of the same bytes")
    for job, words in _TITLES.items():
        for name, found in results[job].items():
            table.add_row(name, words, _spread(found["snapshot_us"]), _spread(found["floor_us"]))
    return table


def _costs(results: Mapping[str, Any]) -> Table:
    table = _table("The rest", "what", "who", "value")
    for name, found in results["publish"].items():
        table.add_row("publish, nobody reads", name, f"{found['publish_us']['p50']:.2f} us")
    for name, found in results["publish"].items():
        table.add_row("numpy copy of the record", f"beside {name}", f"{found['floor_us']['p50']:.2f} us")
    for found in results["futex"].values():
        table.add_row("futex round trip between processes", "", f"{_spread(found['round_trip_us'])} us")
    for name, found in results["idle"].items():
        table.add_row("idle reader, asked to wait 0.1 s at a time", name, f"{found['cpu_percent']:.2f} % CPU")
    return table


def _targets(ratios: Mapping[str, float | None], targets: Mapping[str, tuple[str, float]]) -> Table:
    table = _table("Ratios", "ratio", "seen", "wanted", "")
    for name, value in ratios.items():
        if value is None:
            table.add_row(name, "a peer is missing")
            continue
        sign, bound = targets.get(name, ("", 0.0))
        is_met = {"<=": value <= bound, "<": value < bound, ">=": value >= bound, "": None}[sign]
        verdict = {True: "met", False: "MISSED", None: ""}[is_met]
        table.add_row(name, f"{value:.2f}", f"{sign} {bound:g}" if sign else "", verdict)
    return table
