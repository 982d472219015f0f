"""What a benchmark says about where and when it ran, and how much of the machine others used meanwhile."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rtvla.errors import ConfigError


def describe(*packages: str) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def two_cores(wanted: str | None) -> tuple[int, int]:
    """The cores named "A,B", or the first and the last that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    try:
        cores = tuple(int(core) for core in wanted.split(",")) if wanted else (allowed[0], allowed[-1])
    except ValueError:
        cores = ()
    if len(set(cores)) != 2 or not set(cores) <= set(allowed):
        raise ConfigError(f"needs two different cores of {allowed}: --cores A,B (got {wanted or cores})")
    return cores[0], cores[1]


class Bystanders:
    """CPU that other processes used between two looks, in percent of one core. Children count once they were waited
    for, so look after the last one ended."""

    def __init__(self) -> None:
        self._busy, self._own, self._started = _busy_s(), _own_s(), time.monotonic()
        self._load = os.getloadavg()[0]

    def look(self) -> dict[str, float]:
        took = time.monotonic() - self._started
        others = (_busy_s() - self._busy) - (_own_s() - self._own)
        return {
            "seconds": took,
            "foreign_cpu_percent": max(0.0, 100 * others / took),
            "load_before": self._load,
            "load_after": os.getloadavg()[0],
        }


def _busy_s() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")  # all but idle and iowait


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def progress(text: str) -> None:
    """One line that says where we are, on a terminal only and never among the results."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
