"""`rtvla doctor`: is this host, its network, its model and its data fit for the pipeline, and if not, what mends it.

It reads, and writes nothing. While the pipeline of this namespace runs it only looks: no port is called, no model is
loaded, nothing is tried on its cores, and the data is read from its rings. While one of another namespace runs, what
could disturb it is skipped.

Each check says PASS, WARN (it works, but worse), FAIL (it will not work, or must not be used) or SKIP (cannot be told
here, and why). Exit code: 0 without a FAIL, 1 with one, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rtvla.config import Config, namespace
from rtvla.errors import ConfigError, RtvlaError, ShmError
from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, Tables
from rtvla.tools.doctor_data import ASKED
from rtvla.tools.exits import OK, WRONG

RECEPTION_S = 8.0  # long enough for the drift of a clock
# group -> where its checks stand: module, name of the table
GROUPS = {
    "software": ("doctor_software", "CHECKS"),
    "gpu": ("doctor_gpu", "CHECKS"),
    "config": ("doctor_model", "SETTINGS_CHECKS"),
    "kernel": ("doctor_kernel", "CHECKS"),
    "cores": ("doctor_cores", "CHECKS"),
    "clock": ("doctor_clock", "CHECKS"),
    "memory": ("doctor_memory", "CHECKS"),
    "grants": ("doctor_trial", "CHECKS"),
    "network": ("doctor_network", "CHECKS"),
    "model": ("doctor_model", "CHECKS"),
    "data": ("doctor_data", "CHECKS"),
}
_NEEDS_SETTINGS = ("network", "model", "data")
_COLOUR = {PASS: "green", WARN: "yellow", FAIL: "bold red", SKIP: "bright_black"}


@dataclass(frozen=True)
class Result:
    group: str
    check: str
    status: str
    found: str
    value: float | None
    unit: str
    why: str
    mend: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument(
        "--test-data-reception",
        nargs="?",
        type=_seconds,
        const=RECEPTION_S,
        default=0.0,
        metavar="SECONDS",
        help=f"receive what the senders send, for so long ({RECEPTION_S:g})",
    )
    parser.add_argument(
        "--try-anyway", action="store_true", help="although a pipeline of another namespace runs on this host"
    )
    parser.add_argument(
        "--camera-ip", "--jetson-ip", default="", metavar="IP", help="the cameras' host, to see if it answers"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0.5 to 600 s")
    return value


def run(args: argparse.Namespace, options: Sequence[str], settings: Sequence[str], tables: Tables) -> int:
    """`options`: the --config and --set that make the settings; `settings`: what follows each --set."""
    case = _case(args, options, settings, tables)
    results = examine(case, args.only or list(GROUPS))
    if args.json:
        print(json.dumps(_document(case, results), indent=1))
    else:
        _print(case, results)
    return WRONG if any(result.status == FAIL for result in results) else OK


def _case(args: argparse.Namespace, options: Sequence[str], settings: Sequence[str], tables: Tables) -> Case:
    try:
        cfg, error = Config.load(args.config, settings), ""
    except ConfigError as refused:
        cfg, error = Config(), str(refused)
    case = Case(cfg, tables, options, error, args.camera_ip, args.test_data_reception)
    try:
        from rtvla.shm.hub import Hub
        from rtvla.shm.survey import process_rows

        case.rows = process_rows(Hub(namespace()))
    except ShmError as refused:
        case.shm_error = str(refused)
    case.others = () if args.try_anyway else other_pipelines(namespace())
    return case


def other_pipelines(ours: str) -> tuple[str, ...]:
    """Namespaces of this host with a process that lives, or that we may not look into. By the headers alone, which all
    versions have at the same place."""
    from rtvla.shm.segment import FOLDER, HEADER_BYTES, OFFSETS, PREFIX, process_start_ticks

    found = set()
    for path in FOLDER.glob(f"{PREFIX}*.health.*"):
        name = path.name.split(".")[1]
        try:
            with open(path, "rb") as file:
                words = memoryview(file.read(HEADER_BYTES)).cast("Q")
        except FileNotFoundError:
            continue
        except (PermissionError, TypeError):  # of another user, or no whole header
            found.add(name)
            continue
        pid, ticks = (words[OFFSETS[field] >> 3] for field in ("writer_pid", "writer_start_ticks"))
        if ticks and process_start_ticks(pid) == ticks:
            found.add(name)
    return tuple(sorted(found - {ours}))


def examine(case: Case, groups: Sequence[str]) -> list[Result]:
    found = []
    for group in groups:
        module, table = GROUPS[group]
        checks: tuple[Check, ...] = getattr(importlib.import_module(f"rtvla.tools.{module}"), table)
        if group == "data":
            checks = (ASKED, *checks) if case.reception_s else (ASKED,)
        for check in checks:
            seen = _look(case, group, check)
            is_fine = seen.status in (PASS, SKIP)
            why, mend = ("", "") if is_fine else (seen.why or check.why, seen.mend or check.mend)
            found.append(Result(group, check.name, seen.status, seen.found, seen.value, seen.unit, why, mend))
    return found


def _look(case: Case, group: str, check: Check) -> Found:
    """A check that cannot look says so; it never ends the others."""
    if case.config_error and group in _NEEDS_SETTINGS:
        return Found(SKIP, "the settings do not load")
    try:
        return check.look(case)
    except ImportError as error:
        return Found(FAIL, f"cannot be looked at: {error}", mend=f"pip install --upgrade {error.name or 'rtvla'}")
    except RtvlaError as error:
        return Found(FAIL, str(error))
    except (OSError, ValueError, IndexError, KeyError) as error:
        return Found(SKIP, f"cannot be read here: {type(error).__name__}: {error}")


def _counts(results: Sequence[Result]) -> dict[str, int]:
    return {status: sum(result.status == status for result in results) for status in (PASS, WARN, FAIL, SKIP)}


def _document(case: Case, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "namespace": namespace(),
        "running": case.is_running,
        "machine": f"{platform.node()} {platform.machine()} {platform.release()}",
        "counts": _counts(results),
        "checks": [asdict(result) for result in results],
    }


def _print(case: Case, results: Sequence[Result]) -> None:
    counts = _counts(results)
    state = "the pipeline runs: only looked at" if case.is_running else "the pipeline does not run"
    head = f"{platform.node()} {platform.machine()} {platform.release()}, namespace {namespace()}: {state}"
    foot = ", ".join(f"{count} {status}" for status, count in counts.items())
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # it is one of the libraries that may be missing
        print(head, *(_plain(result) for result in results), foot, sep="\n")
        return
    table = Table("", "check", "found", box=None, title=head, title_justify="left")
    for result in results:
        found = Text(result.found)
        if result.why:
            found.append(f"\nwhy: {result.why}", "italic")
            found.append(f"\nmend: {result.mend}", "cyan")
        table.add_row(Text(result.status, _COLOUR[result.status]), result.check, found)
    console = Console()
    console.print(table)
    console.print(Text(foot, "red" if counts[FAIL] else "green"))


def _plain(result: Result) -> str:
    more = f"\n      why: {result.why}\n      mend: {result.mend}" if result.why else ""
    return f"{result.status}  {result.check}  {result.found}{more}"
