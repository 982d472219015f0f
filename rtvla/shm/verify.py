"""Do header, lock and records of each segment hold together? And which files may be removed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtvla.clock import MS
from rtvla.errors import ShmError
from rtvla.shm.inspect import (
    Found,
    Mapped,
    files,
    is_held,
    lives,
    mapped,
    other_version,
)


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file, and what to do."""

    name: str
    problem: str
    remedy: str


def verify(namespace: str | None = None, seconds: float = 0.2) -> tuple[int, list[Finding]]:
    """(files looked at, findings). Two looks: what changes while a writer takes over is no finding."""
    everything = files(namespace)
    good, rest = mapped(everything)
    findings = [
        Finding(one.path.name, one.fault, f"rtvla shm rm {one.path.name}") for one in rest if not _is_being_made(one)
    ]
    first = [(one.count, _claim_faults(one)) for one in good]
    time.sleep(seconds if good else 0)
    for one, (count, faults) in zip(good, first, strict=True):
        name = one.found.path.name
        if version := other_version(one.found):
            findings.append(Finding(name, version, "rtvla down --purge, or use the version that made it"))
        both = [fault for fault in _claim_faults(one) if fault in faults]
        findings += [Finding(name, fault, f"restart its writer; if it is gone: rtvla shm rm {name}") for fault in both]
        if one.count < count:
            problem = f"its head went back from {count} to {one.count}"
            findings.append(Finding(name, problem, "something that is not its writer wrote to it: rtvla down --purge"))
        remedy = "do not trust this stream: rtvla shm dump FILE for the report, then rtvla down --purge"
        try:
            findings += [Finding(name, fault, remedy) for fault in _record_faults(one)]
        except ShmError as error:  # lapped again and again
            findings.append(Finding(name, f"was not read ({error})", "look again when this machine has CPU time"))
        one.close()
    return len(everything), findings


def _is_being_made(found: Found) -> bool:
    return found.kind == "leftover" and found.fault.startswith("is being made")


def _claim_faults(one: Mapped) -> list[str]:
    claim, held = one.claim(), is_held(one.found.path)
    pid, ticks, epoch, first = claim.values()
    if not epoch:
        return (
            [f"has {one.count} records or pid {pid}, but epoch 0: nobody ever claimed it"] if one.count or pid else []
        )
    faults = []
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    if not 0 < pid <= most:
        faults.append(f"writer pid {pid} is no process number (1 to {most})")
    uptime_ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
    if not one.found.loaded and not 0 < ticks <= uptime_ticks + 1:
        faults.append(f"writer start ticks {ticks} are not of this boot")
    if first > one.reader.head:
        faults.append(f"epoch {epoch} begins at record {first}, the head is at {one.reader.head}")
    if held and not lives(pid, ticks):
        faults.append(
            f"is locked, but its writer {pid} does not run: a child of it, or another container, has the lock"
        )
    return faults


def _record_faults(one: Mapped) -> list[str]:
    """What the stored records say against their position and against the clock."""
    misplaced, future, ahead_ns = 0, 0, 0
    for position, records in one.pieces():
        if not one.is_health:
            expected = np.arange(position, position + len(records), dtype=np.uint64)
            misplaced += int((records["index"] != expected).sum())
        if one.time_field:
            ahead = records[one.time_field] - one.found.now_ns
            future, ahead_ns = future + int((ahead > 0).sum()), max(ahead_ns, int(ahead.max()))
    faults = [f"{misplaced} records carry another index than their place"] if misplaced else []
    if future:
        faults.append(f"{future} records are from the future by {one.time_field}, up to {ahead_ns / MS:.1f} ms")
    return faults


def in_use(found: Iterable[Found]) -> dict[str, str]:
    """Namespace -> a file of it that a live process writes."""
    return {one.namespace: one.path.name for one in found if one.kind in ("segment", "misfit") and is_held(one.path)}


def kept_because(found: Found, used: dict[str, str]) -> str:
    """Why a file must not be removed now, or nothing. A stream whose writer is just being restarted is dead for some
    seconds; its readers have it mapped and would never see the new one. So one live writer keeps its namespace."""
    if found.kind == "foreign":
        return found.fault
    if found.kind == "leftover":
        return found.fault if _is_being_made(found) else ""
    if found.namespace not in used:
        return ""
    return "its writer lives" if is_held(found.path) else f"the namespace is up ({used[found.namespace]} is written)"
