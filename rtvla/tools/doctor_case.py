"""What a check of `rtvla doctor` is, what it may look at, and the few ways in which it looks. Standard library only: a
doctor that needs a library could not say that it is missing."""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rtvla.config import Config

PASS, WARN, FAIL, SKIP = "PASS", "WARN", "FAIL", "SKIP"


class Found(NamedTuple):
    """What a check saw. `value` is the number behind `found`, in `unit`; `mend` and `why` replace those of the table
    where this case needs others."""

    status: str
    found: str
    value: float | None = None
    unit: str = ""
    mend: str = ""
    why: str = ""


@dataclass(frozen=True)
class Check:
    """A row of the table. `look` reads and changes nothing; `mend` is a command, or what to edit."""

    name: str
    look: Callable[[Case], Found]
    why: str
    mend: str


@dataclass(frozen=True)
class Tables:
    """What the tables of `procs` say. The command line hands it over, because tools do not import processes."""

    processes: Mapping[str, Any]
    cores_of: Callable[..., tuple[int, ...]]
    check: Callable[[Config], None]
    require_checkpoint: Callable[[Config], Path]


@dataclass
class Case:
    """The patient: settings, tables, and who runs. `root` is / except in tests."""

    cfg: Config
    tables: Tables
    options: Sequence[str] = ()  # the --config and --set that made `cfg`
    config_error: str = ""  # then `cfg` holds the defaults
    camera_ip: str = ""
    reception_s: float = 0.0  # 0: do not receive
    root: Path = Path("/")
    rows: Mapping[str, Any] = field(default_factory=dict)  # health rows of the namespace
    shm_error: str = ""  # why they cannot be read
    others: Sequence[str] = ()  # namespaces of this host in which a pipeline runs, or may run
    reports: dict[str, Any] = field(default_factory=dict)  # of child processes, each started once

    @property
    def is_running(self) -> bool:
        """Whether a process of the namespace lives. Where that cannot be told, nothing may be disturbed either."""
        return bool(self.shm_error) or any(row["alive"] for row in self.rows.values())

    @property
    def hands_off(self) -> Found | None:
        """Why nothing may be tried or loaded although no pipeline of this namespace runs."""
        if not self.others:
            return None
        return Found(SKIP, f"a pipeline runs or may run in namespace {', '.join(self.others)}: --try-anyway")

    @property
    def moves_an_arm(self) -> bool:
        """Whether the robot is another machine. What only costs punctuality is then a FAIL, else a WARN."""
        try:
            return not ipaddress.ip_address(self.cfg.network.robot_ip).is_loopback
        except ValueError:
            return self.cfg.network.robot_ip != "localhost"

    @property
    def graver(self) -> str:
        return FAIL if self.moves_an_arm else WARN

    @functools.cached_property
    def allowed(self) -> tuple[int, ...]:
        return tuple(sorted(os.sched_getaffinity(0)))

    @functools.cached_property
    def cores(self) -> dict[str, tuple[int, ...]]:
        return {name: self.tables.cores_of(process, self.cfg) for name, process in self.tables.processes.items()}

    @property
    def rt_cores(self) -> set[int]:
        """Of the processes that run under SCHED_FIFO."""
        return {core for name, process in self.tables.processes.items() if process.fifo for core in self.cores[name]}

    def read(self, path: str) -> str | None:
        """A file of the system, stripped; None where there is none or it is not for us."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        text = self.read(path)
        return int(text) if text and text.lstrip("-").isdigit() else None

    def paths(self, pattern: str) -> list[str]:
        """Paths below / that match, each beginning with /."""
        return sorted(f"/{path.relative_to(self.root)}" for path in self.root.glob(pattern.lstrip("/")))


def parse_cores(text: str | None) -> set[int]:
    """A kernel's list of cores, such as "0-3,8"."""
    cores: set[int] = set()
    for part in (text or "").split(","):
        first, dash, last = part.strip().partition("-")
        if first.isdigit():
            cores |= set(range(int(first), int(last) + 1 if dash and last.isdigit() else int(first) + 1))
    return cores


def cores_text(cores: Sequence[int] | set[int]) -> str:
    return ",".join(map(str, sorted(cores))) or "none"


def output_of(*command: str, timeout_s: float = 10.0) -> str | None:
    """What a program of the system prints, or None if it is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def child_answer(module: str, given: Any, timeout_s: float, **options: Any) -> dict[str, Any]:
    """The JSON that `python -m module GIVEN` prints last, or {"error": the last thing it said}."""
    command = [sys.executable, "-m", module, json.dumps(given)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)
    except subprocess.TimeoutExpired:
        return {"error": f"{module} did not answer within {timeout_s:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"{module} ended with {done.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def config_of(options: Sequence[str]) -> tuple[str | None, list[str]]:
    """What follows --config, and what follows each --set, so that a child loads the same settings."""
    config = options[options.index("--config") + 1] if "--config" in options else None
    return config, [options[at + 1] for at, option in enumerate(options) if option == "--set"]


def unreadable(what: str) -> Found:
    return Found(SKIP, f"{what} is not there on this kind of machine, or not for us to read")
