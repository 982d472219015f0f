"""Checks of memory and of shared memory: what stops a process that touches a page, and what keeps one from starting."""

from __future__ import annotations

import os
import stat

from rtvla.config import namespace
from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, unreadable

_VM = "/proc/sys/vm"
_THP = "/sys/kernel/mm/transparent_hugepage"
_NEED_MB = 2048  # of the pipeline with a small model; the weights of a large one come on top


def swap(case: Case) -> Found:
    text = case.read("/proc/swaps")
    if text is None:
        return unreadable("/proc/swaps")
    used = [line.split()[0] for line in text.splitlines()[1:]]
    return Found(WARN if used else PASS, ", ".join(used) or "none", len(used), "areas")


def available(case: Case) -> Found:
    values = {line.split(":")[0]: line.split() for line in (case.read("/proc/meminfo") or "").splitlines()}
    if "MemAvailable" not in values:
        return unreadable("/proc/meminfo")
    free_mb = int(values["MemAvailable"][1]) // 1024
    return Found(PASS if free_mb > _NEED_MB else case.graver, f"{free_mb} MB available", free_mb, "MB")


def overcommit(case: Case) -> Found:
    value = case.number(f"{_VM}/overcommit_memory")
    if value is None:
        return unreadable("overcommit_memory")
    return Found(WARN if value == 2 else PASS, str(value), value)


def huge_pages(case: Case) -> Found:
    text = case.read(f"{_THP}/enabled")
    if text is None:
        return unreadable("transparent_hugepage")
    chosen = text.partition("[")[2].partition("]")[0]
    why = "weights cannot be put into large pages: 10 to 20 % of a tick" if chosen == "never" else ""
    return Found(PASS if chosen == "madvise" else WARN, chosen, why=why)


def defrag(case: Case) -> Found:
    text = case.read(f"{_THP}/defrag")
    if text is None:
        return unreadable("transparent_hugepage")
    chosen = text.partition("[")[2].partition("]")[0]
    return Found(WARN if chosen == "always" else PASS, chosen)


def reserved(case: Case) -> Found:
    """Pages of hugetlbfs, which rtvla has no use for."""
    values = {line.split(":")[0]: line.split()[1] for line in (case.read("/proc/meminfo") or "").splitlines()}
    if "HugePages_Free" not in values:
        return unreadable("HugePages_Free")
    idle_mb = int(values["HugePages_Free"]) * int(values["Hugepagesize"]) // 1024
    return Found(WARN if idle_mb else PASS, f"{idle_mb} MB lie idle", idle_mb, "MB")


def numa(case: Case) -> Found:
    nodes = len(case.paths("/sys/devices/system/node/node[0-9]*"))
    moves = case.number("/proc/sys/kernel/numa_balancing")
    return Found(WARN if nodes > 1 and moves else PASS, f"{nodes} nodes, balancing {'on' if moves else 'off'}", nodes)


def same_page(case: Case) -> Found:
    value = case.number("/sys/kernel/mm/ksm/run")
    if value is None:
        return unreadable("ksm")
    return Found(WARN if value == 1 else PASS, "on" if value == 1 else "off", value)


def shm_kind(case: Case) -> Found:
    kinds = [line.split()[2] for line in (case.read("/proc/self/mounts") or "").splitlines() if " /dev/shm " in line]
    if not kinds:
        return Found(FAIL, "nothing is mounted on /dev/shm")
    return Found(PASS if kinds[-1] == "tmpfs" else FAIL, kinds[-1])


def shm_space(case: Case) -> Found:
    """What `rtvla up` would still have to make, against what is free."""
    from rtvla.shm import health
    from rtvla.shm.hub import layout_of
    from rtvla.shm.segment import FOLDER, path_of
    from rtvla.streams import STREAMS

    sizes = {name: layout_of(stream).size for name, stream in STREAMS.items()}
    sizes |= {health.stream_of(name): health.LAYOUT.size for name in (*case.tables.processes, "supervisor")}
    need = sum(size for name, size in sizes.items() if not path_of(namespace(), name).exists())
    room = os.statvfs(FOLDER)
    free = room.f_bavail * room.f_frsize
    text = f"{free / 1e6:.0f} MB free of {room.f_blocks * room.f_frsize / 1e6:.0f}, needs {need / 1e6:.0f} more"
    return Found(PASS if free >= need else FAIL, text, free / 1e6, "MB")


def shm_owner(case: Case) -> Found:
    """A pipeline has one user. As root somebody else's may be looked at, but not a mixture."""
    from rtvla.shm.hub import Hub

    owners = {path: path.stat().st_uid for path in Hub(namespace()).segments()}
    users = set(owners.values())
    if not owners:
        return Found(PASS, "no segment in this namespace")
    if users == {os.geteuid()} or (os.geteuid() == 0 and len(users) == 1 and case.is_running):
        return Found(PASS, f"{len(owners)} segments of user {min(users)}", len(owners), "segments")
    wrong = {path: user for path, user in owners.items() if user != os.geteuid()}
    path, user = next(iter(wrong.items()))
    text = f"{path} belongs to user {user}, we are user {os.geteuid()}; {len(wrong)} of {len(owners)} so"
    return Found(FAIL, text, len(wrong), "segments")


def shm_mode(_case: Case) -> Found:
    from rtvla.shm.hub import Hub

    open_to_all = [path for path in Hub(namespace()).segments() if stat.S_IMODE(path.stat().st_mode) & 0o022]
    text = f"others may write {', '.join(path.name for path in open_to_all)}" if open_to_all else "only its user writes"
    return Found(FAIL if open_to_all else PASS, text, len(open_to_all), "segments")


def shm_leftover(case: Case) -> Found:
    """Segments of a run that is over, and those that this version cannot read."""
    from rtvla.shm.hub import Hub

    if case.shm_error:
        return Found(FAIL, case.shm_error)
    count = len(Hub(namespace()).segments())
    if not count or case.is_running:
        return Found(PASS, "the pipeline is up" if count else "none", count, "segments")
    return Found(WARN, f"{count} segments of a run that was killed", count, "segments")


def remove_ipc(case: Case) -> Found:
    files = ["/etc/systemd/logind.conf", *case.paths("/etc/systemd/logind.conf.d/*.conf")]
    lines = [line for path in files for line in (case.read(path) or "").splitlines() if line.startswith("RemoveIPC=")]
    if case.read("/proc/1/comm") != "systemd":
        return Found(SKIP, "systemd is not process 1: nobody removes what a user leaves at logout")
    is_kept = os.geteuid() < 1000 or (lines and lines[-1].partition("=")[2].strip() in ("no", "false", "0"))
    text = f"user {os.geteuid()}, {lines[-1] if lines else 'RemoveIPC=yes, the default'}"
    return Found(PASS if is_kept else FAIL, text)


CHECKS = (
    Check("memory.swap", swap, "a page that was swapped out takes milliseconds to come back", "swapoff -a"),
    Check(
        "memory.available", available, "a stage that gets no memory is killed", "end what is not needed: top -o %MEM"
    ),
    Check("memory.overcommit", overcommit, "2 refuses what CUDA reserves", "sysctl vm.overcommit_memory=0"),
    Check(
        "memory.huge_pages",
        huge_pages,
        "always: a process that touches memory waits while large pages are made",
        f"echo madvise > {_THP}/enabled",
    ),
    Check("memory.defrag", defrag, "a process waits for memory to be moved", f"echo defer+madvise > {_THP}/defrag"),
    Check("memory.reserved", reserved, "memory that nobody can use", "sysctl vm.nr_hugepages=0"),
    Check("memory.numa", numa, "pages are taken away to be watched", "sysctl kernel.numa_balancing=0"),
    Check(
        "memory.same_page", same_page, "pages are merged, and copied when written", "echo 0 > /sys/kernel/mm/ksm/run"
    ),
    Check("shm.kind", shm_kind, "rings on a disk would wait for it", "mount -t tmpfs -o size=1g tmpfs /dev/shm"),
    Check(
        "shm.space",
        shm_space,
        "the pipeline does not start without room for its rings",
        "mount -o remount,size=1g /dev/shm; in a container: --shm-size=1g; what is in it: rtvla shm ls, ls -l /dev/shm",
    ),
    Check(
        "shm.owner",
        shm_owner,
        "a process cannot open, or should not trust, a segment of another user",
        "as that user: rtvla down --purge; or another RTVLA_NAMESPACE",
    ),
    Check("shm.mode", shm_mode, "another user could move the arm", "rtvla down --purge"),
    Check("shm.leftover", shm_leftover, "rtvla up keeps a black box of it, and removes it", "rtvla down --purge"),
    Check(
        "shm.remove_ipc",
        remove_ipc,
        "logind deletes the segments of a user when it logs out",
        "RemoveIPC=no in /etc/systemd/logind.conf.d/rtvla.conf, or a system user (number below 1000)",
    ),
)
