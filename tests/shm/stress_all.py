"""The whole stress test of the shared-memory ring, as `scripts/stress` runs it.

Writers are killed with SIGKILL at random microseconds, readers and writers are stopped wherever they are, and every
record that a reader accepts is checked; once as this CPU needs it and once with the fences that other CPUs need. Then
the same with something broken on purpose, which must be caught. Ends with tables and one JSON line; the exit code is 1
if anything that must be zero is not, or if too little was attacked to say so.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from stress_jobs import MUST_BE_ZERO, Row, controls, plan

from rtvla.shm.hub import Hub
from rtvla.tools.bench_machine import Bystanders, describe, progress

Done = Sequence[tuple[Row, dict[str, Any]]]
# of the kills: column -> what the report calls it
KILL_COLUMNS = {
    "kills": "kills",
    "early": "early",
    "in mid-record": "mid_write",
    "begun, not published": "unpublished",
    "published": "published",
    "windows checked": "windows",
    "records checked": "records",
    "copies lapped": "laps",
    "lost": "lost",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=3000, metavar="N", help="of each variant (%(default)s)")
    kills = parser.parse_args().kills
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError:
        sys.exit("the variant with fences needs libatomic.so.1: apt-get install libatomic1")
    hub, bystanders = Hub(f"stress-{os.getpid()}"), Bystanders()
    os.environ["RTVLA_NAMESPACE"] = hub.namespace
    try:
        held = _run(plan(kills, fenced=False) + plan(kills, fenced=True))
        broken = _run(controls())
    finally:
        hub.purge()  # what an interrupted job has left
    report = _summary(held, broken) | {"machine": describe("numpy"), "run": bystanders.look()}
    _show(held, broken, report)
    print(json.dumps(report))
    return 1 if report["bad"] else 0


def _run(rows: Sequence[Row]) -> Done:
    done = []
    for row in rows:
        total = max(value for value in row.options.values() if isinstance(value, int))
        report = row.run(lambda count, row=row, total=total: progress(f"{row.name}: {count:,} of {total:,}"))
        done.append((row, report))
    progress("")
    return done


def _summary(held: Done, broken: Done) -> dict[str, Any]:
    def total(name: str) -> int:
        return sum(report.get(name, 0) for _row, report in held)

    bad = [f"{row.name}: {fault}" for row, report in held for fault in row.faults(report)]
    return {
        "kills": total("kills"),
        "mid_write": sum(report["mid_write"] for row, report in held if row.job == "kill"),
        "records_checked": total("records"),
        "windows_checked": total("windows"),
        "laps": total("laps"),
        "lost": total("lost"),
        **{name: total(name) for name in MUST_BE_ZERO},
        "bad": bad + [f"{row.name}: not caught" for row, report in broken if not report["torn_accepted"]],
        "rows": {row.name: report for row, report in [*held, *broken]},
    }


def _show(held: Done, broken: Done, report: dict[str, Any]) -> None:
    console, machine, run = Console(width=150), report["machine"], report["run"]
    python = machine["versions"]["python"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {python}")
    load = f"load {run['load_before']:.2f} to {run['load_after']:.2f}"
    console.print(f"{run['seconds']:.0f} s, {load}; other programs used {run['foreign_cpu_percent']:.0f} % of a core\n")
    console.print(_kills(held), "", _others(held), "", _controls(broken), "", _verdict(report))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left")
    return table


def _kills(held: Done) -> Table:
    table = _table("SIGKILL of the writer, three readers all the time", "way", *KILL_COLUMNS, "ms a kill")
    for row, report in held:
        if row.job == "kill":
            values = [f"{report[name]:,}" for name in KILL_COLUMNS.values()]
            table.add_row(row.name, *values, f"{1000 * report['seconds'] / report['kills']:.1f}")
    return table


def _others(held: Done) -> Table:
    table = _table("SIGSTOP, and the one word that publishes", "job", "rounds", "what it had to meet", "so often")
    for row, report in held:
        if row.job != "kill":
            rounds = report.get("rounds", report.get("reads"))
            table.add_row(row.name, f"{rounds:,}", row.must_see[0], f"{report[row.must_see[0]]:,}")
    return table


def _controls(broken: Done) -> Table:
    table = _table("Broken on purpose", "what", "torn accepted", "")
    for row, report in broken:
        torn = report["torn_accepted"]
        table.add_row(row.name, f"{torn:,}", "caught" if torn else "NOT CAUGHT")
    return table


def _verdict(report: dict[str, Any]) -> Table:
    table = _table("Must be zero", "what", "seen")
    for name in MUST_BE_ZERO:
        table.add_row(name.replace("_", " "), f"{report[name]:,}")
    for fault in report["bad"]:
        table.add_row(f"BAD: {fault}", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
