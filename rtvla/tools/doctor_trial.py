"""Asks the kernel, in a child process that then ends, for what each process of the pipeline will ask: the very calls of
rt.py. While the pipeline runs nothing is tried: what its processes were refused stands in their health rows."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict
from typing import Any

from rtvla import rt
from rtvla.errors import RtvlaError
from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, child_answer, cores_text

_ROUNDS, _PERIOD_NS = 150, 2_000_000
_LATE_US = 500
_WAIT_S = 60.0
_WORDS = {"cores": "cores", "fifo": "SCHED_FIFO", "memory": "locked memory", "nice": "nice", "slack": "timer slack"}


def child(cores: list[int], priority: int, slack_ns: int) -> dict[str, Any]:
    """Runs in the child: the grants, and how late a loop of 2 ms wakes up (p50, p99 and max in us)."""
    grants = {
        "cores": rt.pin(tuple(cores)),
        "slack": rt.timer_slack(slack_ns),
        "memory": rt.lock_memory(on_fault=False),
        "nice": rt.nice(-5),
        "fifo": rt.fifo(priority),
    }
    due, late = time.monotonic_ns() + _PERIOD_NS, []
    for _ in range(_ROUNDS):
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        late.append((time.monotonic_ns() - due) / 1000)
        due += _PERIOD_NS
    late.sort()
    found = [late[_ROUNDS // 2], late[_ROUNDS * 99 // 100], late[-1]]
    return {"grants": {name: asdict(grant) for name, grant in grants.items()}, "late_us": found}


def _trial(case: Case) -> dict[str, Any]:
    if "trial" not in case.reports:
        priority = max(process.fifo for process in case.tables.processes.values())
        given = [list(case.cores["policy"]), priority, case.cfg.realtime.timer_slack_ns]
        case.reports["trial"] = child_answer("rtvla.tools.doctor_trial", given, _WAIT_S)
    report: dict[str, Any] = case.reports["trial"]
    if "error" in report:
        raise RtvlaError(f"the trial did not end well: {report['error']}")
    return report


def _granted(case: Case, name: str) -> Found:
    if case.is_running:
        notes = {process: row["note"].splitlines() for process, row in case.rows.items() if row["alive"]}
        said = [(who, line) for who, lines in notes.items() for line in lines if line.startswith(_WORDS[name])]
        refused = [f"{who}: {line}" for who, line in said if "REFUSED" in line]
        told = f"granted to {len(said)} processes that run" if said else "no process that runs has said yet"
        text = "; ".join(refused) or told
        return Found(case.graver if refused else PASS if said else SKIP, text, len(refused), "refused")
    if case.hands_off:
        return case.hands_off
    grant = _trial(case)["grants"][name]
    text = f"{grant['what']}: {'granted' if grant['granted'] else 'refused, ' + grant['why'].partition(';')[0]}"
    return Found(PASS if grant["granted"] else case.graver, text)


def fifo(case: Case) -> Found:
    if not case.cfg.realtime.fifo:
        return Found(WARN, "switched off: realtime.fifo = false", mend="[realtime] fifo = true")
    return _granted(case, "fifo")


def memory(case: Case) -> Found:
    if not case.cfg.realtime.lock_memory:
        return Found(WARN, "switched off: realtime.lock_memory = false", mend="[realtime] lock_memory = true")
    found, limit = _granted(case, "memory"), resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if found.status == SKIP:
        return found
    text = "no limit" if limit == resource.RLIM_INFINITY else f"limit {limit // 1024} KB"
    return found._replace(found=f"{found.found} (of this shell: {text})")


def nice(case: Case) -> Found:
    return _granted(case, "nice")


def slack(case: Case) -> Found:
    return _granted(case, "slack")


def pinning(case: Case) -> Found:
    return _granted(case, "cores")


def wake_up(case: Case) -> Found:
    if case.is_running:
        urgent = [name for name, process in case.tables.processes.items() if process.fifo and name in case.rows]
        gauges = {name: case.rows[name]["gauges"] for name in urgent}
        late = {name: of["tick_late_us"] for name, of in gauges.items() if "tick_late_us" in of}
        if not late:
            return Found(SKIP, "the pipeline runs, and must not be disturbed by a trial")
        worst = max(late.values())
        text = ", ".join(f"{name} {us:.0f} us late at its last tick" for name, us in late.items())
        return Found(WARN if worst > _LATE_US else PASS, text, worst, "us")
    if case.hands_off:
        return case.hands_off
    p50, p99, most = _trial(case)["late_us"]
    text = f"a loop of 2 ms is late by p50 {p50:.0f}, p99 {p99:.0f}, at most {most:.0f} us"
    return Found(WARN if p99 > _LATE_US else PASS, text, p99, "us")


def files(_case: Case) -> Found:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Found(PASS if limit >= 1024 else FAIL, f"{limit} open files", limit, "files")


def thread_cores(case: Case) -> Found:
    """Every thread of a process that runs lies on the cores of that process."""
    rows = {name: row for name, row in case.rows.items() if row["alive"] and name in case.cores}
    if not rows:
        return Found(SKIP, "the pipeline does not run")
    astray = {}
    for name, row in rows.items():
        threads = os.listdir(f"/proc/{row['pid']}/task")
        masks = [os.sched_getaffinity(int(thread)) for thread in threads]
        outside = sum(not mask <= set(case.cores[name]) for mask in masks)
        if outside:
            astray[name] = f"{name}: {outside} of {len(threads)} threads beyond cores {cores_text(case.cores[name])}"
    return Found(case.graver if astray else PASS, "; ".join(astray.values()) or f"{len(rows)} processes as planned")


_LIMITS = "/etc/security/limits.d/rtvla.conf"
CHECKS = (
    Check("grant.cores", pinning, "a process that wanders between cores is late", "[realtime.cores]; AllowedCPUs="),
    Check(
        "grant.fifo",
        fifo,
        "an ordinary process waits for its neighbours: 3.9 ms instead of 0.02 ms at p99",
        f"echo '@rtvla - rtprio 80' >> {_LIMITS}, then log in again; in a unit: LimitRTPRIO=80",
    ),
    Check(
        "grant.memory_lock",
        memory,
        "memory that is not locked can be taken away, and its next use waits for it",
        f"echo '@rtvla - memlock unlimited' >> {_LIMITS}, then log in again; in a unit: LimitMEMLOCK=infinity; "
        "docker run --ulimit memlock=-1",
    ),
    Check("grant.nice", nice, "the ZMQ ingests wait for ordinary work", f"echo '@rtvla - nice -10' >> {_LIMITS}"),
    Check("grant.timer_slack", slack, "sleeps are rounded up by 50 us", "a kernel with PR_SET_TIMERSLACK"),
    Check("grant.wake_up", wake_up, "so late does a tick begin", "grant.fifo, cpu.isolated and cpu.idle_states first"),
    Check("grant.open_files", files, "sockets, rings and weights are files", "ulimit -n 4096"),
    Check("grant.thread_cores", thread_cores, "threads beyond their cores delay others", "rtvla down, then rtvla up"),
)

if __name__ == "__main__":
    print(json.dumps(child(*json.loads(sys.argv[1]))))
