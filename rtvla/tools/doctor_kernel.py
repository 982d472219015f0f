"""Checks of the kernel: who may interrupt a real-time process, and for how long."""

from __future__ import annotations

import gzip
import os
import re
import time

from rtvla.tools.doctor_case import FAIL, PASS, WARN, Case, Check, Found, parse_cores, unreadable

_BUSY_IRQS = 1000  # interrupts since boot; below it a line is not worth moving


def preempt(case: Case) -> Found:
    version = case.read("/proc/version") or ""
    if case.read("/sys/kernel/realtime") == "1" or "PREEMPT_RT" in version:
        return Found(PASS, "PREEMPT_RT")
    mode = case.read("/sys/kernel/debug/sched/preempt") or case.read("/proc/cmdline") or ""
    chosen = re.search(r"\((\w+)\)", mode) or re.search(r"\bpreempt=(\w+)", mode)
    kind = (re.search(r"PREEMPT\w*", version) or ["no preemption"])[0]
    if chosen:
        return Found(PASS if chosen[1] in ("full", "lazy") else WARN, f"{kind}, mode {chosen[1]}")
    return Found(PASS if kind == "PREEMPT" else WARN, kind + (", its mode cannot be read" if "DYNAMIC" in kind else ""))


def rt_group_sched(case: Case) -> Found:
    release = os.uname().release
    packed, text = case.root / "proc/config.gz", case.read(f"/boot/config-{release}")
    if packed.exists():
        text = gzip.decompress(packed.read_bytes()).decode()
    if text is None:
        return unreadable("the kernel's configuration")
    is_on = "CONFIG_RT_GROUP_SCHED=y" in text and "rt_group_sched=0" not in (case.read("/proc/cmdline") or "")
    return Found(WARN if is_on else PASS, "on" if is_on else "off")


def rt_throttle(case: Case) -> Found:
    runtime, period = (case.number(f"/proc/sys/kernel/sched_rt_{name}_us") for name in ("runtime", "period"))
    if runtime is None or period is None:
        return unreadable("sched_rt_runtime_us")
    text = f"{runtime} of {period} us" if runtime >= 0 else "no limit"
    return Found(FAIL if runtime == 0 else WARN if runtime < 0 else PASS, text, runtime, "us")


def resolution(_case: Case) -> Found:
    ns = time.clock_getres(time.CLOCK_MONOTONIC) * 1e9
    return Found(PASS if ns <= 1000 else FAIL, f"{ns:.0f} ns", ns, "ns")


def autogroup(case: Case) -> Found:
    value = case.number("/proc/sys/kernel/sched_autogroup_enabled")
    if value is None:
        return unreadable("sched_autogroup_enabled")
    return Found(WARN if value else PASS, "on" if value else "off", value)


def pid_max(case: Case) -> Found:
    value = case.number("/proc/sys/kernel/threads-max")
    if value is None:
        return unreadable("threads-max")
    return Found(WARN if value < 4096 else PASS, f"{value} threads", value, "threads")


def interrupts(case: Case) -> Found:
    """Lines that may come to a real-time core, and did so since boot."""
    table = (case.read("/proc/interrupts") or "").splitlines()
    if not table:
        return unreadable("/proc/interrupts")
    columns = [int(name.removeprefix("CPU")) for name in table[0].split()]
    busy = []
    for line in table[1:]:
        number, _, rest = line.partition(":")
        lands = case.read(f"/proc/irq/{number.strip()}/effective_affinity_list")
        if lands is None or not parse_cores(lands) & case.rt_cores:
            continue
        counts = dict(
            zip(columns, (int(word) for word in rest.split()[: len(columns)] if word.isdigit()), strict=False)
        )
        total = sum(counts.get(core, 0) for core in case.rt_cores)
        if total > _BUSY_IRQS:
            busy.append(f"{number.strip()} {rest.split()[-1]} ({total})")
    return Found(WARN if busy else PASS, ", ".join(busy) or "no busy line on a real-time core", len(busy), "lines")


def _running(case: Case, names: set[str]) -> set[str]:
    return names & {case.read(path) or "" for path in case.paths("/proc/[0-9]*/comm")}


def irqbalance(case: Case) -> Found:
    runs = bool(_running(case, {"irqbalance"}))
    return Found(WARN if runs else PASS, "running" if runs else "not running")


CHECKS = (
    Check("kernel.preempt", preempt, "code of the kernel delays a real-time process", "boot line: preempt=full"),
    Check(
        "kernel.rt_group_sched",
        rt_group_sched,
        "services get EPERM for SCHED_FIFO on such a kernel",
        "boot line: rt_group_sched=0, or a kernel without CONFIG_RT_GROUP_SCHED",
    ),
    Check(
        "kernel.rt_throttle",
        rt_throttle,
        "0 forbids SCHED_FIFO; without a limit a spinning process takes the machine",
        "sysctl kernel.sched_rt_runtime_us=950000",
    ),
    Check("kernel.resolution", resolution, "ticks of 10 Hz need timers of high resolution", "boot line: highres=on"),
    Check(
        "kernel.autogroup",
        autogroup,
        "nice counts only within a session: that of the ingests is without effect against other sessions",
        "sysctl kernel.sched_autogroup_enabled=0",
    ),
    Check("kernel.threads", pid_max, "a stage that cannot start a thread dies", "sysctl kernel.threads-max=65536"),
    Check(
        "irq.affinity",
        interrupts,
        "interrupts are served before any process",
        "echo CORES > /proc/irq/N/smp_affinity_list, with cores outside of the real-time ones",
    ),
    Check(
        "irq.irqbalance",
        irqbalance,
        "it moves interrupts to cores that shall have none",
        "systemctl disable --now irqbalance",
    ),
)
