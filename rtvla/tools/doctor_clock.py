"""Checks of this host's clocks. Ages are taken from the monotonic clock alone; the wall clock dates recordings and,
with commander.ttl_ms, decides how long a command is valid."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import rtvla
from rtvla.tools.doctor_case import FAIL, PASS, WARN, Case, Check, Found, unreadable

_TIME_ERROR, _UNSYNCHRONISED = 5, 0x40  # of adjtimex(2): what it returns, and STA_UNSYNC
_GOOD_SOURCES = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page")
_KEEPERS = {"chronyd": "chrony", "systemd-timesyn": "systemd-timesyncd", "ntpd": "ntpd", "ptp4l": "ptp4l"}
_SLOW_NS = 1000
_FAR_US = 50_000


class _Timex(ctypes.Structure):
    """The front of struct timex of adjtimex(2), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 24),
    )


def source(case: Case) -> Found:
    name = case.read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if name is None:
        return unreadable("the clock source")
    return Found(PASS if name in _GOOD_SOURCES else WARN, name)


def cost(_case: Case) -> Found:
    """The least of five rounds, so that a preemption does not count."""
    rounds = []
    for _ in range(5):
        start = time.monotonic_ns()
        for _ in range(1000):
            time.monotonic_ns()
        rounds.append((time.monotonic_ns() - start) / 1000)
    ns = min(rounds)
    return Found(WARN if ns > _SLOW_NS else PASS, f"{ns:.0f} ns a reading", ns, "ns")


def synchronised(case: Case) -> Found:
    timex = _Timex()  # modes 0: only asks
    state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    if state < 0:
        return unreadable("adjtimex")
    is_free = state == _TIME_ERROR or bool(timex.status & _UNSYNCHRONISED)
    text = f"{'not synchronised' if is_free else 'synchronised'}, error up to {timex.maxerror / 1000:.1f} ms"
    needed = case.cfg.commander.ttl_ms > 0 and case.moves_an_arm
    return Found((FAIL if needed else WARN) if is_free else PASS, text, timex.maxerror / 1000, "ms")


def keeper(case: Case) -> Found:
    names = {_KEEPERS[name] for path in case.paths("/proc/[0-9]*/comm") if (name := case.read(path) or "") in _KEEPERS}
    if len(names) > 1 and names != {"chrony", "ptp4l"}:
        return Found(WARN, f"{' and '.join(sorted(names))} pull at one clock", len(names), "programs")
    return Found(PASS if names else WARN, ", ".join(sorted(names)) or "nobody keeps the clock", len(names), "programs")


def plausible(_case: Case) -> Found:
    """A machine without a battery starts in the past: before the day that this program was put on it."""
    installed_s = Path(rtvla.__file__).stat().st_mtime
    now_s = time.time()
    days = (now_s - installed_s) / 86400
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if days < 0:
        return Found(FAIL, f"{text}, {-days:.1f} days before rtvla was installed", days, "days")
    return Found(PASS, text, days, "days")


CHECKS = (
    Check(
        "clock.source", source, "each look at another clock is a slow trap", "boot line: clocksource=tsc tsc=reliable"
    ),
    Check("clock.cost", cost, "each record is stamped several times", "boot line: clocksource=tsc tsc=reliable"),
    Check(
        "clock.synchronised",
        synchronised,
        "stamps of recordings cannot be held against other machines, nor can a time limit of a command",
        "apt-get install chrony; chronyc makestep; chronyc tracking",
    ),
    Check("clock.keeper", keeper, "one program, and only one, must keep the clock", "apt-get install chrony"),
    Check("clock.plausible", plausible, "files and commands are dated wrongly", "chronyc makestep"),
)
