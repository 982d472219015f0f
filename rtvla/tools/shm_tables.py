"""`rtvla shm ls` and `watch`: one line a segment, of this machine or of a black box."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from rtvla.clock import MS, SECOND
from rtvla.config import namespace
from rtvla.dump_file import Dump
from rtvla.shm import inspect, watch
from rtvla.shm.segment import FOLDER
from rtvla.tools.exits import ABSENT, OK, WRONG
from rtvla.tools.values import WRITER_COLOUR, console, ms, number

_POLL_S = 0.1  # a follower that looks this often is not lapped by any stream of the table


def ls(args: argparse.Namespace) -> int:
    rows = _in_file(args.file) if args.file else inspect.listing()
    if args.json:
        print(json.dumps({"segments": rows}, indent=1))
    elif not rows:
        print(f"{args.file} holds no stream" if args.file else f"no segment in {FOLDER}")
    else:
        console().print(_listing(rows))
        for line in sorted({note for row in rows if (note := _note(row))}):
            print(line)
    return ABSENT if not rows else WRONG if any(row["fault"] for row in rows) else OK


def _in_file(file: Any) -> list[dict[str, Any]]:
    """The same rows of a black box. The rate is the mean over what it holds."""
    with Dump(file) as box:
        return [_row_in_file(box, stream) for stream in sorted(box.streams)]


def _row_in_file(box: Dump, stream: str) -> dict[str, Any]:
    about, records, field = box.streams[stream], box.records(stream), box.time_field(stream)
    times = records[field] if field and len(records) else None
    span_ns = int(times[-1]) - int(times[0]) if times is not None else 0
    return {
        "name": stream,
        "namespace": box.manifest["namespace"],
        "stream": stream,
        "kind": "segment",
        "bytes": records.nbytes,
        "loaded": None,
        "fault": "",
        "writer": about["writer"],
        "pid": about["claim"].get("writer_pid"),
        "epoch": about["claim"].get("epoch"),
        "records": about["count"],
        "fill": None if stream.startswith(inspect.HEALTH) else len(records) / about["capacity"],
        "age_ms": None if times is None else (box.read_ns(stream) - int(times[-1])) / MS,
        "hz": (len(records) - 1) * SECOND / span_ns if span_ns > 0 else None,
    }


def _note(row: Mapping[str, Any]) -> str:
    if row["fault"]:
        return f"! {row['name']}: {row['kind']}, {row['fault']}"
    if row["loaded"]:
        return f"{row['namespace']} was loaded from a dump of {row['loaded']['namespace']}; its ages count from there"
    return ""


def _listing(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None)
    for name in ("namespace", "stream", "writer"):
        table.add_column(name, no_wrap=True)
    for name in ("pid", "epoch", "records", "fill", "age ms", "Hz", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        state = Text(row.get("writer", row["kind"]), WRITER_COLOUR.get(row.get("writer", ""), "red"))
        cells = [str(row.get(name, "-")) for name in ("pid", "epoch", "records")]
        fill = f"{row['fill']:.0%}" if row.get("fill") is not None else "-"
        cells += [fill, ms(row.get("age_ms")), number(row.get("hz")), f"{row['bytes'] / 1e6:.2f}"]
        table.add_row(row["namespace"], row["stream"], state, *cells)
    return table


def follow(args: argparse.Namespace) -> int:
    where = args.namespace or namespace()
    watcher = watch.Watch(where)
    end = math.inf if args.seconds is None else time.monotonic() + args.seconds
    rows = watcher.take()
    if not rows:
        print(f"no stream in namespace {where}; rtvla shm ls shows every namespace", file=sys.stderr)
        return ABSENT
    screen = console()
    try:
        with Live(_watched(rows), console=screen, auto_refresh=False) if screen.is_terminal else nullcontext() as live:
            while rows and time.monotonic() < end:
                time.sleep(min(_POLL_S, max(0.0, end - time.monotonic())))
                rows = watcher.take()
                if live:
                    live.update(_watched(rows), refresh=True)
    except KeyboardInterrupt:
        end = 0.0
    if not screen.is_terminal:
        screen.print(_watched(rows))
    return OK if rows else ABSENT


def _watched(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, caption="p50, p99, max: spacing of arrivals in the last 10 s", caption_justify="left")
    for name in ("stream", "writer"):
        table.add_column(name, no_wrap=True)
    for name in ("Hz", "nominal", "age ms", "records", "lost", "p50 ms", "p99 ms", "max ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["stream"],
            Text("alive", "green") if row["writer_alive"] else Text("gone", "red"),
            number(row["hz"]),
            f"{row['nominal_hz']:g}" if row["nominal_hz"] else "-",
            ms(row["age_ms"]),
            str(row["records"]),
            Text(str(row["lost"]), "red" if row["lost"] else ""),
            *(ms(row[name]) for name in ("p50_ms", "p99_ms", "max_ms")),
        )
    return table
