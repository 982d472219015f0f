"""`rtvla status`: one look at a running pipeline, as a table for people, a live table, or one JSON document."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rtvla.config import Config, namespace
from rtvla.shm.hub import Hub
from rtvla.shm.survey import Survey

_LOOK_S = 0.5  # rates are measured over this long
OK, PROBLEMS, ABSENT = 0, 1, 3
_COLOUR = {"fresh": "green", "stale": "red", "empty": "yellow"}


def status(cfg: Config, *, as_json: bool, watch: bool) -> int:
    """Print, and return 0 if all is well, 1 if something is wrong, 3 if nothing is up in this namespace."""
    hub = Hub(namespace())
    if not hub.exists():
        if as_json:
            print(json.dumps({"namespace": hub.namespace, "processes": {}, "problems": ["nothing is up"]}))
        else:
            print(f"nothing is up in namespace {hub.namespace}: rtvla infer --help")
        return ABSENT
    survey = Survey(hub, cfg.stale_ms)
    if watch:
        return _watch(hub, survey)
    time.sleep(_LOOK_S)
    look = survey.take()
    if as_json:
        print(json.dumps(look, indent=1))
    else:
        Console().print(page(look))
    return PROBLEMS if look["problems"] else OK


def _watch(hub: Hub, survey: Survey) -> int:
    """Until Ctrl-C or the end of the pipeline."""
    try:
        with Live(auto_refresh=False) as live:
            while hub.exists():
                live.update(page(survey.take()), refresh=True)
                time.sleep(1.0)
    except KeyboardInterrupt:
        return OK
    return ABSENT


def page(look: dict[str, Any]) -> Group:
    parts: list[Any] = [Text(f"namespace {look['namespace']}"), _processes(look), _streams(look)]
    parts += [table for table in (_ages(look), _clocks(look)) if table.row_count]
    parts.append(Text("counted"))
    for name, row in look["processes"].items():
        counted = ", ".join(f"{key} {value}" for key, value in row["counters"].items() if value)
        if counted:
            parts.append(Text(f" {name}: {counted}"))
    parts += [Text(f"note: {note}", "yellow") for note in look["notes"]]
    parts += [Text(f"! {problem}", "red") for problem in look["problems"]] or [Text("all is well", "green")]
    return Group(*parts)


def _processes(look: dict[str, Any]) -> Table:
    table = Table("process", "state", "pid", "up s", "cpu s", "MB", "beat ms", "restarts", box=None)
    for name, row in look["processes"].items():
        is_dead = not row["alive"] and row["state"] != "stopped"
        table.add_row(
            name,
            Text("dead", "red") if is_dead and row["state"] != "absent" else row["state"],
            str(row["pid"]),
            f"{row['up_s']:.0f}",
            f"{row['cpu_seconds']:.1f}" if row["cpu_seconds"] is not None else "-",
            f"{row['rss_mb']:.0f}" if row["rss_mb"] is not None else "-",
            f"{row['heartbeat_age_ms']:.0f}",
            str(row["restarts"]),
        )
    return table


def _streams(look: dict[str, Any]) -> Table:
    table = Table("stream", "state", "records", "Hz", "nominal", "age ms", "stale ms", "writer", box=None)
    for name, row in look["streams"].items():
        table.add_row(
            name,
            Text(row["state"], _COLOUR[row["state"]]),
            str(row["records"]),
            f"{row['hz']:.1f}",
            f"{row['nominal_hz']:g}",
            f"{row['age_ms']:.0f}" if row["age_ms"] is not None else "-",
            f"{row['stale_ms']:.0f}",
            Text(row["writer"], "" if row["writer_alive"] else "red"),
        )
    return table


def _ages(look: dict[str, Any]) -> Table:
    """How old the inputs of the last chunks were, from capture to the policy's tick."""
    table = Table("input of chunks", "age ms p50", "p99", "max", box=None)
    for name, row in look["ages"].items():
        table.add_row(name, *(f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms")))
    return table


def _clocks(look: dict[str, Any]) -> Table:
    table = Table("sender's clock", "state", "drift ppm", "+- us", "steps", box=None)
    for stream, row in look["clocks"].items():
        known = bool(row.get("trusted"))
        table.add_row(
            stream,
            Text("trusted", "green") if known else Text("arrival counts", "yellow"),
            f"{row['drift_ppm']:.1f}" if known else "-",
            f"{row['uncertainty_us']:.0f}" if known else "-",
            f"{row['steps']:.0f}",
        )
    return table
