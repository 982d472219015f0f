"""`rtvla status`: one look at a running pipeline, as a table for people or one JSON document for machines."""

from __future__ import annotations

import json
import time
from typing import Any

from rtvla.config import Config, namespace
from rtvla.shm.hub import Hub
from rtvla.shm.survey import Survey

_LOOK_S = 0.5  # rates are measured over this long
OK, PROBLEMS, ABSENT = 0, 1, 3


def status(cfg: Config, *, as_json: bool) -> int:
    """Print, and return 0 if all is well, 1 if something is wrong, 3 if nothing is up in this namespace."""
    hub = Hub(namespace())
    if not hub.exists():
        if as_json:
            print(json.dumps({"namespace": hub.namespace, "processes": {}, "problems": ["nothing is up"]}))
        else:
            print(f"nothing is up in namespace {hub.namespace}: rtvla infer --help")
        return ABSENT
    survey = Survey(hub, cfg.stale_ms)
    time.sleep(_LOOK_S)
    look = survey.take()
    if as_json:
        print(json.dumps(look, indent=1))
    else:
        _print_tables(look)
    return PROBLEMS if look["problems"] else OK


def _print_tables(look: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    processes = Table("process", "state", "pid", "up s", "cpu s", "beat ms", "restarts", box=None)
    for name, row in look["processes"].items():
        state = row["state"] if row["alive"] else "[red]dead[/red]" if row["state"] != "stopped" else "stopped"
        processes.add_row(
            name,
            state,
            str(row["pid"]),
            f"{row['up_s']:.0f}",
            f"{row['cpu_seconds']:.1f}" if row["cpu_seconds"] is not None else "-",
            f"{row['heartbeat_age_ms']:.0f}",
            str(row["restarts"]),
        )
    streams = Table("stream", "state", "records", "Hz", "nominal", "age ms", "stale ms", "writer", box=None)
    for name, row in look["streams"].items():
        colour = {"fresh": "green", "stale": "red", "empty": "yellow"}[row["state"]]
        streams.add_row(
            name,
            f"[{colour}]{row['state']}[/{colour}]",
            str(row["records"]),
            f"{row['hz']:.1f}",
            f"{row['nominal_hz']:g}",
            f"{row['age_ms']:.0f}" if row["age_ms"] is not None else "-",
            f"{row['stale_ms']:.0f}",
            row["writer"] + ("" if row["writer_alive"] else " [red](dead)[/red]"),
        )
    console.print(f"namespace {look['namespace']}")
    console.print(processes)
    console.print(streams)
    console.print("counted", style="bold")
    for name, row in look["processes"].items():
        counted = ", ".join(f"{key} {value}" for key, value in row["counters"].items() if value)
        if counted:
            console.print(f" {name}: {counted}", highlight=False)
    for problem in look["problems"]:
        console.print(f"[red]![/red] {problem}")
    if not look["problems"]:
        console.print("[green]all is well[/green]")
