"""Checks of the cores: are they there, fast, awake, cool, and ours alone?"""

from __future__ import annotations

import os
import re
import time

from rtvla.tools.doctor_case import FAIL, PASS, WARN, Case, Check, Found, cores_text, parse_cores, unreadable

_CPU = "/sys/devices/system/cpu"
_DEEP_US = 100  # exit latency of an idle state
_HOT_C = 85.0
_STEAL_PERCENT, _BUSY_SHARE = 1.0, 0.05
_LOOK_S = 0.25


def cpu_quota(case: Case) -> Found:
    """Of our own cgroup and all above it, version 2."""
    line = next((one for one in (case.read("/proc/self/cgroup") or "").splitlines() if one.startswith("0::")), None)
    if line is None:
        return unreadable("a cgroup of version 2")
    path, worst = line[3:].rstrip("/"), None
    while path:
        quota, _, period = (case.read(f"/sys/fs/cgroup{path}/cpu.max") or "max 1").partition(" ")
        if quota.isdigit():
            cores = int(quota) / int(period)
            worst = cores if worst is None else min(worst, cores)
        path = path.rpartition("/")[0]
    if worst is None:
        return Found(PASS, "none")
    return Found(case.graver, f"{worst:.2f} cores", worst, "cores")


def core_count(case: Case) -> Found:
    count = len(case.allowed)
    return Found(PASS if count >= 8 else WARN, f"{count} cores for us ({cores_text(case.allowed)})", count, "cores")


def cores_exist(case: Case) -> Found:
    online = parse_cores(case.read(f"{_CPU}/online"))
    missing = {core for cores in case.cores.values() for core in cores} - online
    barred = {core for cores in case.cores.values() for core in cores} - set(case.allowed) - missing
    if missing:
        return Found(FAIL, f"cores {cores_text(missing)} are configured, online are {cores_text(online)}")
    if barred:
        return Found(WARN, f"this shell may not use cores {cores_text(barred)}; a service of its own slice may")
    return Found(PASS, f"{cores_text({core for cores in case.cores.values() for core in cores})}, all online")


def cores_apart(case: Case) -> Found:
    """The processes with torch beside those that command."""
    processes = case.tables.processes
    heavy = {core for name in processes if processes[name].role == "vl" for core in case.cores[name]}
    both = heavy & case.rt_cores
    return Found(WARN if both else PASS, f"encoder on {cores_text(heavy)}, real time on {cores_text(case.rt_cores)}")


def isolated(case: Case) -> Found:
    kept = parse_cores(case.read(f"{_CPU}/isolated"))
    for path in case.paths("/sys/fs/cgroup/*/cpuset.cpus.partition"):
        if (case.read(path) or "").startswith("isolated"):
            kept |= parse_cores(case.read(path.removesuffix(".partition") + ".effective"))
    rest = case.rt_cores - kept
    text = f"cores {cores_text(rest)} of the real-time processes are not isolated" if rest else cores_text(kept)
    return Found(WARN if rest else PASS, text, len(rest), "cores")


def governor(case: Case) -> Found:
    found = {
        core: value
        for core in sorted(case.rt_cores)
        if (value := case.read(f"{_CPU}/cpu{core}/cpufreq/scaling_governor"))
    }
    if not found:
        return unreadable("cpufreq")
    slow = [core for core, value in found.items() if value != "performance"]
    return Found(WARN if slow else PASS, ", ".join(f"core {core} {value}" for core, value in found.items()))


def frequency(case: Case) -> Found:
    shares = []
    for core in sorted(case.rt_cores):
        now, most = (
            case.number(f"{_CPU}/cpu{core}/cpufreq/{name}") for name in ("scaling_max_freq", "cpuinfo_max_freq")
        )
        if now and most:
            shares.append(100 * now / most)
    if not shares:
        return unreadable("cpufreq")
    return Found(WARN if min(shares) < 99 else PASS, f"limit {min(shares):.0f} % of the most", min(shares), "%")


def idle_states(case: Case) -> Found:
    driver = case.read(f"{_CPU}/cpuidle/current_driver")
    if driver in (None, "none"):
        return unreadable("cpuidle")
    core = min(case.rt_cores, default=0)
    latencies = [
        case.number(path.removesuffix("disable") + "latency") or 0
        for path in case.paths(f"{_CPU}/cpu{core}/cpuidle/state*/disable")
        if case.read(path) == "0"
    ]
    deepest = max(latencies, default=0)
    return Found(WARN if deepest > _DEEP_US else PASS, f"{driver}, wakes within {deepest} us", deepest, "us")


def siblings(case: Case) -> Found:
    shared = {}
    for core in case.rt_cores:
        others = parse_cores(case.read(f"{_CPU}/cpu{core}/topology/thread_siblings_list")) - {core} - case.rt_cores
        if others:
            shared[core] = others
    text = ", ".join(f"{core} with {cores_text(others)}" for core, others in shared.items())
    return Found(WARN if shared else PASS, text or "real-time cores share no execution units with others")


def throttled(case: Case) -> Found:
    paths = case.paths(f"{_CPU}/cpu*/thermal_throttle/core_throttle_count")
    if not paths:
        return unreadable("thermal_throttle")
    count = sum(case.number(path) or 0 for path in paths)
    return Found(WARN if count else PASS, f"{count} times since boot", count, "events")


def temperature(case: Case) -> Found:
    values = [value for path in case.paths("/sys/class/thermal/thermal_zone*/temp") if (value := case.number(path))]
    if not values:
        return unreadable("a thermal zone")
    hottest = max(values) / 1000
    return Found(WARN if hottest > _HOT_C else PASS, f"{hottest:.0f} C", hottest, "C")


def neighbours(case: Case) -> Found:
    """Processes that are not ours and use the cores of real-time processes just now."""
    import psutil

    ours = {row["pid"] for row in case.rows.values()} | {os.getpid()}
    before = {}
    for process in psutil.process_iter(["pid", "name", "cpu_times"]):
        times = process.info["cpu_times"]
        if process.pid not in ours and times is not None:
            before[process] = times.user + times.system
    time.sleep(_LOOK_S)
    users = []
    for process, spent in before.items():
        try:
            times, core = process.cpu_times(), process.cpu_num()
        except psutil.Error:  # gone meanwhile
            continue
        share = (times.user + times.system - spent) / _LOOK_S
        if core in case.rt_cores and share > _BUSY_SHARE:
            users.append((share, f"{process.info['name']} (pid {process.pid}) {100 * share:.0f} % of core {core}"))
    users.sort(reverse=True)
    return Found(WARN if users else PASS, ", ".join(text for _, text in users[:5]) or "nobody", len(users), "processes")


def pressure(case: Case) -> Found:
    text = case.read("/proc/pressure/cpu")
    match = re.search(r"some avg10=([\d.]+)", text or "")
    if match is None:
        return unreadable("/proc/pressure/cpu")
    share = float(match[1])
    return Found(WARN if share > 20 else PASS, f"somebody waited for a core in {share:.0f} % of 10 s", share, "%")


def steal(case: Case) -> Found:
    def times() -> list[int]:
        return [int(word) for word in (case.read("/proc/stat") or "cpu 0 0 0 0 0 0 0 0").splitlines()[0].split()[1:9]]

    before = times()
    time.sleep(_LOOK_S)
    spent = [after - earlier for earlier, after in zip(before, times(), strict=True)]
    share = 100 * spent[7] / max(1, sum(spent))
    return Found(WARN if share > _STEAL_PERCENT else PASS, f"{share:.1f} %", share, "%")


def virtual(case: Case) -> Found:
    kinds = []
    if " hypervisor" in (case.read("/proc/cpuinfo") or ""):
        kinds.append(f"virtual machine ({case.read('/sys/class/dmi/id/sys_vendor') or 'unnamed'})")
    if case.paths("/.dockerenv") or case.paths("/run/.containerenv") or case.paths("/run/systemd/container"):
        kinds.append("container")
    return Found(WARN if kinds else PASS, ", ".join(kinds) or "hardware of its own")


_ISOLATE = "boot line: isolcpus=managed_irq,domain,LIST nohz_full=LIST rcu_nocbs=LIST; or AllowedCPUs= of other slices"
CHECKS = (
    Check(
        "cpu.quota",
        cpu_quota,
        "a process is stopped for the rest of the period when its quota is used up",
        "take the limit off: docker run without --cpus, no CPUQuota= in the unit",
    ),
    Check("cpu.count", core_count, "below 8 cores roles share cores, and torch delays others", "a host with 8 cores"),
    Check("cpu.configured", cores_exist, "a process cannot be pinned to a core that is not there", "[realtime.cores]"),
    Check(
        "cpu.apart",
        cores_apart,
        "an encoder beside the policy on one core delays whatever is not SCHED_FIFO",
        "[realtime.cores]: own cores for vl_encoder",
    ),
    Check("cpu.isolated", isolated, "other programs are put on these cores", _ISOLATE),
    Check("cpu.governor", governor, "a core that sped down is late", "cpupower frequency-set -g performance"),
    Check("cpu.frequency", frequency, "a limit slows every tick", "cpupower frequency-set --max MOST; check cooling"),
    Check(
        "cpu.idle_states",
        idle_states,
        "waking a core from a deep state takes so long",
        "cpupower idle-set -D 50; Jetson: jetson_clocks",
    ),
    Check("cpu.siblings", siblings, "a hyperthread beside takes half of the core", "boot line: nosmt"),
    Check("cpu.throttled", throttled, "heat slowed the cores down", "check fans and dust; lower the power limit"),
    Check("cpu.temperature", temperature, "above this cores are slowed down", "check fans and dust"),
    Check("cpu.neighbours", neighbours, "they take time from what must be punctual", _ISOLATE),
    Check("cpu.pressure", pressure, "there is more to do than cores", "end what is not needed: top"),
    Check("cpu.steal", steal, "the host of this virtual machine takes the cores away", "pin its cores on the host"),
    Check("cpu.virtual", virtual, "times measured here say nothing about other machines", "use the real machine"),
)
