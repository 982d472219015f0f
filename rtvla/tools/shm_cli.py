"""`rtvla shm`: what lies in shared memory, decoded, also after everything was killed; the black box; clean-up.

Looks and leaves no trace: `ls`, `show`, `watch`, `verify` and `dump` map read-only and create nothing there.
Exit codes: 0 fine, 1 something is wrong, 2 wrong usage, 3 nothing there.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rtvla.config import namespace
from rtvla.shm import blackbox, decode, inspect, verify, watch
from rtvla.shm.ring import Records
from rtvla.shm.segment import FOLDER, PREFIX, path_of

OK, WRONG, USAGE, ABSENT = 0, 1, 2, 3
_POLL_S = 0.25  # a follower that looks this often is not lapped by any stream of the table
_PEOPLE_VALUES, _JSON_VALUES = 12, 64  # longer arrays become shape, min, mean, max
_PIPE_COLUMNS = 160  # of a table that goes into a file
_COLOUR = {"alive": "green", "dead": "red", "closed": "yellow", "none": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    def add(name: str, verb: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=summary)
        action.set_defaults(verb=verb)
        return action

    ls = add("ls", ls_verb, "every segment of every namespace on this machine, leftovers and misfits too")
    ls.add_argument("--json", action="store_true", help="one JSON document")
    show = add("show", show_verb, "the newest records of a stream, or a health row (health.policy), decoded")
    show.add_argument("stream", metavar="STREAM")
    show.add_argument("--last", type=_count, default=1, metavar="N", help="how many records (1)")
    source = show.add_mutually_exclusive_group()
    _add_namespace(source)
    source.add_argument("--from", dest="file", type=Path, metavar="FILE", help="out of a black box instead")
    show.add_argument("--json", action="store_true", help=f"one JSON document; arrays over {_JSON_VALUES} shortened")
    show.add_argument("--full", action="store_true", help="with --json: every value (bytes as base64)")
    watch = add("watch", watch_verb, "a live table of rates, ages, losses and spacing, until Ctrl-C")
    _add_namespace(watch)
    watch.add_argument("--seconds", type=float, metavar="N", help="end after N s; into a pipe goes the last table only")
    dump = add("dump", dump_verb, "the black box: all that the streams and health rows hold, into one file")
    dump.add_argument("file", type=Path, metavar="FILE")
    _add_namespace(dump)
    load = add("load", load_verb, "a black box back into shared memory, under a new namespace")
    load.add_argument("file", type=Path, metavar="FILE")
    load.add_argument("--namespace", type=_namespace, required=True, metavar="NEW")
    verify = add("verify", verify_verb, "headers and invariants of every segment; a line per finding, with the remedy")
    _add_namespace(verify, "only this one (all)")
    rm = add("rm", rm_verb, "remove segments that nobody needs; says what it kept and why")
    rm.add_argument("names", nargs="*", metavar="NAME", help="names as `rtvla shm ls` prints them: rtvla.NS.STREAM")
    _add_namespace(rm, "all segments of this one")
    rm.add_argument("--force", action="store_true", help="also what a live process still uses")


def _add_namespace(parser: argparse._ActionsContainer, meaning: str = "RTVLA_NAMESPACE, or default") -> None:
    parser.add_argument("--namespace", type=_namespace, metavar="NS", help=meaning)


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[\w-]{1,64}", text):
        raise argparse.ArgumentTypeError(f'"{text}": use 1 to 64 letters, digits, "_" or "-"')
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}": must be a whole number from 1')
    return int(text)


def _console() -> Console:
    """In a pipe as wide as the tables need, so that no column is cut."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)


def ls_verb(args: argparse.Namespace) -> int:
    rows = inspect.listing()
    if args.json:
        print(json.dumps({"segments": rows}, indent=1))
    elif not rows:
        print(f"no segment in {FOLDER}")
    else:
        _console().print(_listing(rows))
        for line in sorted({note for row in rows if (note := _note(row))}):
            print(line)
    return ABSENT if not rows else WRONG if any(row["fault"] for row in rows) else OK


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
        state = Text(row.get("writer", row["kind"]), _COLOUR.get(row.get("writer", ""), "red"))
        cells = [str(row.get(name, "-")) for name in ("pid", "epoch", "records")]
        fill = f"{row['fill']:.0%}" if row.get("fill") is not None else "-"
        cells += [fill, _ms(row.get("age_ms")), _number(row.get("hz")), f"{row['bytes'] / 1e6:.2f}"]
        table.add_row(row["namespace"], row["stream"], state, *cells)
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def show_verb(args: argparse.Namespace) -> int:
    shown = _from_file(args.file, args.stream, args.last) if args.file else _from_segment(args)
    if isinstance(shown, str):
        print(shown, file=sys.stderr)
        return ABSENT
    origin, records, now_ns, field = shown
    decoded = [decode.decoded(args.stream, record) for record in records]
    if args.json:
        most = sys.maxsize if args.full else _JSON_VALUES
        values = [{name: _plain(value, most) for name, value in fields.items()} for fields in decoded]
        print(json.dumps(origin | {"stream": args.stream, "now_ns": now_ns, "records": values}, indent=1))
        return OK if decoded else ABSENT
    print(", ".join(f"{key} {value}" for key, value in ({"stream": args.stream} | origin).items()))
    for fields in decoded:
        print()
        for line in _lines(fields, field, now_ns):
            print(line)
    if not decoded:
        print("it holds no record yet")
    return OK if decoded else ABSENT


Shown = tuple[dict[str, Any], Records, int, str | None]  # origin, records, now, time field


def _from_segment(args: argparse.Namespace) -> Shown | str:
    where = args.namespace or namespace()
    found = inspect.examine(path_of(where, args.stream))
    if found is None:
        there = ", ".join(one.stream for one in inspect.files(where)) or "nothing; rtvla shm ls shows every namespace"
        return f"no stream {args.stream} in namespace {where}; there is {there}"
    one = inspect.Mapped(found)
    records, now_ns = one.last(args.last), found.now_ns
    origin = {"namespace": where, "writer": one.writer(), "pid": one.claim()["writer_pid"], "published": one.count}
    field = one.time_field
    one.close()
    return origin | ({"loaded_from": found.loaded["namespace"]} if found.loaded else {}), records, now_ns, field


def _from_file(file: Path, stream: str, last: int) -> Shown | str:
    with blackbox.Dump(file) as box:
        if stream not in box.streams:
            return f"{file} has no stream {stream}; it has {', '.join(box.streams)}"
        about, records = box.streams[stream], box.records(stream)[-last:]
        origin = {"file": str(file), "namespace": box.manifest["namespace"], "published": about["count"]}
        origin |= {"writer": about["writer"], "dumped": _utc(box.manifest["wall_s"])}
        return origin, records, int(box.manifest["monotonic_ns"]), about["time_field"]


def _lines(fields: Mapping[str, Any], time_field: str | None, now_ns: int) -> list[str]:
    width = max(len(name) for name in fields)
    lines = []
    for name, value in fields.items():
        note = f"  ({_ms((now_ns - value) / 1e6)} ms old)" if name == time_field else ""
        if name.endswith("_s") and isinstance(value, float) and value > 1e9:  # a wall clock, not a duration
            note = f"  ({_utc(value)})"
        lines.append(f"  {name:<{width}}  {_for_people(value)}{note}")
    return lines


def _utc(wall_s: float) -> str:
    try:
        return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    except (OverflowError, OSError, ValueError):
        return "no time of a clock"


def _for_people(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if value.size <= _PEOPLE_VALUES:
            return " ".join(f"{item:g}" if value.dtype.kind == "f" else str(item) for item in value.ravel())
        return " ".join(f"{key} {_for_people(item)}" for key, item in _summary(value).items())
    if isinstance(value, dict):
        return ", ".join(f"{key} {_for_people(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return "x".join(str(item) for item in value)
    return f"{value:.9g}" if isinstance(value, float) and abs(value) < 1e9 else str(value)


def _summary(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Shape, min, mean, max of what is finite; how much is not, since at night that is the question."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    summary: dict[str, Any] = {"shape": list(array.shape)}
    if finite.size:
        summary |= {
            "min": finite.min().item(),
            "mean": float(finite.mean(dtype=np.float64)),
            "max": finite.max().item(),
        }
    return summary | ({"not_finite": int(array.size - finite.size)} if finite.size < array.size else {})


def _plain(value: Any, most: int) -> Any:
    """For JSON, which knows neither arrays nor NaN: those become the words NaN, Infinity, -Infinity."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size <= most:
        return base64.b64encode(value.tobytes()).decode()
    if isinstance(value, np.ndarray):
        return _plain(_summary(value) if value.size > most else value.tolist(), most)
    if isinstance(value, dict):
        return {key: _plain(item, most) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, most) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def watch_verb(args: argparse.Namespace) -> int:
    where = args.namespace or namespace()
    watcher = watch.Watch(where)
    end = math.inf if args.seconds is None else time.monotonic() + args.seconds
    rows = watcher.take()
    if not rows:
        print(f"no stream in namespace {where}; rtvla shm ls shows every namespace", file=sys.stderr)
        return ABSENT
    console = _console()
    try:
        with (
            Live(_watched(rows), console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live
        ):
            while rows and time.monotonic() < end:
                time.sleep(min(_POLL_S, max(0.0, end - time.monotonic())))
                rows = watcher.take()
                if live:
                    live.update(_watched(rows), refresh=True)
    except KeyboardInterrupt:
        end = 0.0
    if not console.is_terminal:
        console.print(_watched(rows))
    return OK if rows else ABSENT


def _watched(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None)
    table.add_column("stream", no_wrap=True)
    for name in ("Hz", "nominal", "age ms", "records", "lost", "spacing ms p50", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("writer")
    for row in rows:
        table.add_row(
            row["stream"],
            _number(row["hz"]),
            f"{row['nominal_hz']:g}" if row["nominal_hz"] else "-",
            _ms(row["age_ms"]),
            str(row["records"]),
            Text(str(row["lost"]), "red" if row["lost"] else ""),
            *(_ms(row[name]) for name in ("p50_ms", "p99_ms", "max_ms")),
            Text("alive", "green") if row["writer_alive"] else Text("gone", "red"),
        )
    return table


def dump_verb(args: argparse.Namespace) -> int:
    where = args.namespace or namespace()
    if not inspect.files(where):
        print(f"nothing to dump in namespace {where}; rtvla shm ls shows every namespace", file=sys.stderr)
        return ABSENT
    manifest = blackbox.dump(where, args.file)
    held = ", ".join(f"{name} {about['records']}" for name, about in sorted(manifest["streams"].items()))
    print(f"{args.file}: {args.file.stat().st_size / 1e6:.1f} MB, records: {held}")
    for name, reason in manifest["skipped"].items():
        print(f"! left out {name}: {reason}")
    return WRONG if manifest["skipped"] else OK


def load_verb(args: argparse.Namespace) -> int:
    made = blackbox.load(args.file, args.namespace)
    print(
        f"made {len(made)} segments in namespace {args.namespace}; when done: rtvla shm rm --namespace {args.namespace}"
    )
    return OK


def verify_verb(args: argparse.Namespace) -> int:
    looked, findings = verify.verify(args.namespace)
    for finding in findings:
        print(f"{finding.name}: {finding.problem}; remedy: {finding.remedy}")
    where = f" of namespace {args.namespace}" if args.namespace else ""
    print(f"{looked} files{where}, {len(findings)} findings")
    return ABSENT if not looked else WRONG if findings else OK


def rm_verb(args: argparse.Namespace) -> int:
    if bool(args.names) == bool(args.namespace):
        print("rtvla shm rm: name either segments or --namespace NS (rtvla shm ls shows both)", file=sys.stderr)
        return USAGE
    there = {found.path.name: found for found in inspect.files(args.namespace)}
    used = verify.in_use(there.values())
    kept, absent = 0, [name for name in args.names if name not in there]
    for name in absent:
        print(f"no such segment: {name} (a name begins with {PREFIX}NAMESPACE.)", file=sys.stderr)
    for name in [name for name in args.names if name in there] if args.names else list(there):
        reason = "" if args.force else verify.kept_because(there[name], used)
        if not reason:
            reason = _remove(there[name].path)
        kept += bool(reason)
        print(f"kept {name}: {reason}" if reason else f"removed {name}")
    if kept and not args.force:
        print("stop what runs first (rtvla down), or use --force")
    return WRONG if kept else ABSENT if absent or not there else OK


def _remove(path: Path) -> str:
    """Why it could not be removed, or nothing. Mapped pages live on in whoever still has them, unreachable."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return str(error.strerror)
    return ""
