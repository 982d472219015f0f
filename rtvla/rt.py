"""Real-time set-up of the calling process. Each request is granted or refused; nothing is silently ignored.

What each lever is worth (2-core VM, 500 Hz loop beside a busy neighbour, p99 lateness): plain 3900 us, SCHED_FIFO
18 us; timer slack 50 us of the median; one generation-2 garbage collection with torch imported stops 31 ms.
"""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import dataclass

_PR_SET_TIMERSLACK = 29
_PR_SET_PDEATHSIG = 1
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_LARGE_BYTES = 4 * 2**20
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Grant:
    """One real-time request and what became of it."""

    what: str
    granted: bool
    why: str = ""

    def __str__(self) -> str:
        return f"{self.what}: granted" if self.granted else f"{self.what}: REFUSED ({self.why})"


def _call(what: str, rc: int) -> Grant:
    return Grant(what, True) if rc == 0 else Grant(what, False, os.strerror(ctypes.get_errno()))


def pin(cores: tuple[int, ...]) -> Grant:
    """Pin to `cores`. Must come before torch is imported: its thread pool keeps the mask it was born with."""
    what = "cores " + ",".join(map(str, cores))
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        return Grant(what, False, f"{error.strerror}; this host has cores {sorted(os.sched_getaffinity(0))}")
    return Grant(what, True)


def set_thread_environment(n_threads: int) -> None:
    """No more OpenMP threads than cores, and no spinning while they wait (7 ms against seconds beside other load)."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n_threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def fifo(priority: int) -> Grant:
    """All threads that there are now: one that waits for workers is no sooner done than they are."""
    what = f"SCHED_FIFO {priority}"
    try:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        return Grant(what, False, f"{error.strerror}; needs root, CAP_SYS_NICE or an rtprio limit of {priority}")
    return Grant(what, True)


def nice(value: int) -> Grant:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, value)
    except OSError as error:
        return Grant(f"nice {value}", False, str(error.strerror))
    return Grant(f"nice {value}", True)


def timer_slack(slack_ns: int) -> Grant:
    """Linux rounds sleeps up by 50 us by default; does not apply under SCHED_FIFO."""
    return _call(f"timer slack {slack_ns} ns", _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0))


def lock_memory(on_fault: bool) -> Grant:
    """mlockall. `on_fault` for processes with torch: locking what CUDA merely reserves would take tens of GB."""
    flags = _MCL_CURRENT | _MCL_FUTURE | (_MCL_ONFAULT if on_fault else 0)
    grant = _call("locked memory", _libc.mlockall(flags))
    return grant if grant.granted else Grant(grant.what, False, f"{grant.why}; raise the memlock limit")


def huge_pages() -> Grant:
    """Put what lies in large pieces of memory, which is weights, into pages of 2 MB, at once. Call after loading.

    A tick reads every weight once, so with small pages each of them costs a walk through the page tables: 10 to 20 % of
    a tick on a virtual machine.
    """
    what, moved_bytes, refused = "huge pages", 0, 0
    for start, size in _large_mappings():
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
        if _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_COLLAPSE) == 0:
            moved_bytes += size
        else:
            refused = ctypes.get_errno()
    if refused and not moved_bytes:
        return Grant(what, False, f"{os.strerror(refused)}; needs Linux 6.1 and transparent_hugepage not at never")
    return Grant(f"{what} for {moved_bytes // 2**20} MB", True)


def _large_mappings() -> list[tuple[int, int]]:
    """(address, bytes) of the writable memory of this process that no file is behind, 4 MB and more."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, access, _, _, inode, *name = line.split(maxsplit=5)
            start, end = (int(number, 16) for number in span.split("-"))
            is_plain = inode == "0" and (not name or name[0].strip() == "[heap]")
            if is_plain and access.startswith("rw") and end - start >= _LARGE_BYTES:
                found.append((start, end - start))
    return found


def freeze_gc() -> Grant:
    """Collect once, freeze what is alive, switch the collector off. After warm-up only."""
    gc.collect()
    gc.freeze()
    gc.disable()
    return Grant("garbage collector off", True)


def die_with_parent(parent_pid: int, signal_number: int) -> None:
    """Between fork and exec: the kernel sends the signal when the parent dies, however it dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
