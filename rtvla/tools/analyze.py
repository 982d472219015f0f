"""`rtvla analyze FILE`: what happened before a black box was written: streams, processes, the last commands.

Exit codes: 0; 2 for a file that is no black box.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rtvla.dump_file import Dump
from rtvla.errors import DumpError
from rtvla.tools.analysis import analysis
from rtvla.tools.exits import OK, USAGE
from rtvla.tools.values import WRITER_COLOUR, console, ms, number, utc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a black box (rtvla shm dump, or RUN/blackbox/)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    try:
        with Dump(args.file) as box:
            found = analysis(box)
    except DumpError as error:
        print(f"rtvla: {error}", file=sys.stderr)
        return USAGE
    if args.json:
        print(json.dumps(found, indent=1))
        return OK
    screen = console()
    for part in _page(found):
        screen.print(part, soft_wrap=isinstance(part, Text))  # a sentence is not cut where the tables end
    return OK


def _page(found: Mapping[str, Any]) -> Iterator[Any]:
    yield Text(f"{found['file']}: namespace {found['namespace']} on {found['host']}, {utc(found['wall_s'])}")
    if found["because"]:
        yield Text(f"because: {found['because']}", "yellow")
    for name, reason in (found["skipped"] or {}).items():
        yield Text(f"! left out {name}: {reason}", "red")
    yield _streams(found["streams"])
    yield _processes(found["processes"])
    yield Text("counted")
    for name, row in found["processes"].items():
        if row["counters"]:
            yield Text(f" {name}: {', '.join(f'{key} {n}' for key, n in row['counters'].items())}")
    yield Text("last commands, before the dump" if found["commands"] else "no command was decided")
    for command in found["commands"]:
        yield Text(f" {in_words(command)}")
    yield from _chunk(found["chunk"])


def _table(left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(box=None)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _streams(streams: Mapping[str, Any]) -> Table:
    columns = ("records", "span s", "Hz", "nominal", "period ms p50", "p99", "max", "gaps", "lost", "age ms")
    table = _table(("stream", "writer"), columns)
    for name, row in streams.items():
        table.add_row(
            name,
            Text(row["writer"], WRITER_COLOUR.get(row["writer"], "")),
            str(row["records"]),
            f"{row['span_s']:.2f}",
            number(row["hz"]),
            f"{row['nominal_hz']:g}",
            *(ms(row[key]) for key in ("p50_ms", "p99_ms", "max_ms")),
            *(Text(str(row[key]), "red" if row[key] else "") for key in ("gaps", "lost")),
            ms(row["age_ms"]),
        )
    return table


def _processes(processes: Mapping[str, Any]) -> Table:
    table = _table(("process", "was", "state"), ("pid", "up s", "last beat ms"))
    for name, row in processes.items():
        was = Text(row["writer"], WRITER_COLOUR.get(row["writer"], ""))
        up_s = "-" if row["up_s"] is None else f"{row['up_s']:.0f}"
        table.add_row(name, was, row["state"], str(row["pid"]), up_s, ms(row["heartbeat_age_ms"]))
    return table


def in_words(command: Mapping[str, Any]) -> str:
    """One decision of the commander: when, what was sent or why not, and how old was what it was made from."""
    what = {"hold": f"hold, nothing sent: {command['reason']}", "start": "start: to the start pose"}.get(
        command["kind"]
    )
    if what is None:
        x, y, z, a, b, g = command["sent_mm_deg"]
        what = f"{command['kind']} {x:+.4f} {y:+.4f} {z:+.4f} mm {a:+.4f} {b:+.4f} {g:+.4f} deg"
        what += " (shortened)" if command["clamped"] else ""
    step = f", step {command['step']} of chunk {command['chunk_index']}" if command["step"] >= 0 else ""
    ages = ", ".join(f"{name} {age:.0f}" for name, age in command["ages_ms"].items())
    return f"{command['before_dump_ms']:.0f} ms: {what}{step}" + (f"; ages ms: {ages}" if ages else "")


def _chunk(chunk: Mapping[str, Any] | None) -> Iterator[Any]:
    if chunk is None:
        yield Text("no action chunk was made")
        return
    ages = ", ".join(f"{name} {age:.0f}" for name, age in chunk["ages_ms"].items())
    yield Text(
        f"last chunk {chunk['index']}: observed {chunk['before_dump_ms']:.0f} ms before the dump, made in "
        f"{chunk['total_ms']:.1f} ms, VL reuse {chunk['vl_reuse']}; ages ms: {ages}"
    )
    table = _table((), ("step", *chunk["action_names"]))
    for step, action in enumerate(chunk["actions"]):
        table.add_row(str(step), *(f"{value:+.4f}" if isinstance(value, float) else str(value) for value in action))
    yield table
