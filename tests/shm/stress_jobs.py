"""The jobs of the stress test, what each must show, and one way to run them: in a fresh process of their own.

python stress_jobs.py JOB OPTIONS runs one, with OPTIONS as JSON: its progress line by line, then its report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stress_kill import kill
from stress_stop import stop_follower, stop_readers, stop_writer
from stress_torn64 import torn64

import rtvla
from rtvla import rt
from rtvla.shm.atomics import FENCES_VARIABLE

JOBS = {job.__name__: job for job in (kill, stop_follower, stop_readers, stop_writer, torn64)}
MUST_BE_ZERO = (
    "torn_accepted",
    "blocked",
    "head_went_back",
    "claims_refused",
    "miscounted",
    "unaccounted",
    "refused_copies",
    "called_dead",
    "called_alive",
)
MID_WRITE_SHARE = 0.05  # of the kills; a test whose kills land between two records has shown nothing
WAYS = ("put", "batch")


@dataclass(frozen=True)
class Row:
    """One run of a job. `must_see`: what has to have happened at least so often, or it has shown nothing."""

    job: str
    options: dict[str, Any]
    fenced: bool = False
    must_see: tuple[str, int] = ("", 0)

    @property
    def variant(self) -> str:
        return "fenced" if self.fenced else "plain"

    @property
    def name(self) -> str:
        words = (self.job, *(value for value in self.options.values() if isinstance(value, str)), self.variant)
        return " ".join(words)

    def run(self, progress: Callable[[int], None] = lambda _done: None) -> dict[str, Any]:
        """Its report. RuntimeError if it ended without one."""
        options = self.options | dict([self.must_see] if self.must_see[0] else [])
        command = [sys.executable, __file__, self.job, json.dumps(options)]
        ours = {FENCES_VARIABLE: "1" if self.fenced else "0", "PYTHONPATH": str(Path(rtvla.__file__).parents[1])}
        report: dict[str, Any] = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **ours}) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                said = json.loads(line)
                if isinstance(said, int):
                    progress(said)
                else:
                    report = said
        if worker.returncode or not report:
            raise RuntimeError(f"{self.name} ended with code {worker.returncode}, without a report")
        return report

    def faults(self, report: dict[str, Any]) -> list[str]:
        """What of it must not be."""
        key, least = self.must_see
        shown = [] if not key or report[key] >= least else [f"{key} only {report[key]}, needs {least}"]
        return shown + [f"{name} {report[name]}" for name in MUST_BE_ZERO if report.get(name)]


def plan(kills: int, fenced: bool) -> list[Row]:
    """All that must hold, sized by the number of kills."""
    half, rounds = kills // len(WAYS), max(10, kills // 20)
    rows = [Row("torn64", {"reads": 1000 * kills}, fenced, ("changes_seen", 1000))]
    for way in WAYS:
        rows += [
            Row("kill", {"way": way, "kills": half}, fenced, ("mid_write", int(half * MID_WRITE_SHARE) + 1)),
            Row("stop_follower", {"way": way, "rounds": 4 * rounds}, fenced, ("lapped", rounds)),
            Row("stop_readers", {"way": way, "rounds": rounds}, fenced, ("laps", rounds // 20 + 1)),
            Row("stop_writer", {"way": way, "rounds": rounds}, fenced, ("mid_write", rounds // 50 + 1)),
        ]
    return rows


def controls() -> list[Row]:
    """The same jobs with something broken on purpose: each must be caught."""
    broken = [("off_by_one", "put"), ("off_by_one", "batch"), ("forgets_burst", "batch"), ("no_check", "put")]
    return [
        Row("torn64", {"reads": 200_000, "store": "pack_into"}, must_see=("changes_seen", 1000)),
        *(Row("kill", {"way": way, "kills": 1000, "mutant": mutant}) for mutant, way in broken),
        Row("stop_readers", {"way": "batch", "rounds": 1000, "mutant": "no_check"}),
    ]


def main() -> None:
    rt.freeze_gc()  # less to copy at each fork
    report = JOBS[sys.argv[1]](lambda done: print(done, flush=True), **json.loads(sys.argv[2]))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
