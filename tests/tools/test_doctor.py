"""What each check says of a host: a folder stands for /, with the files of /proc and /sys that the check reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtvla.config import Config
from rtvla.procs.model_setup import require_checkpoint
from rtvla.procs.table import PROCESSES, check, cores_of
from rtvla.tools import doctor, doctor_clock, doctor_cores, doctor_kernel, doctor_memory, doctor_network, doctor_trial
from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, Tables, parse_cores

TABLES = Tables(PROCESSES, cores_of, check, require_checkpoint)
CPU = "sys/devices/system/cpu"
THP = "sys/kernel/mm/transparent_hugepage"
CORES = [f"realtime.cores.{name}=[0]" for name in ("sensor_ingest", "policy", "commander")]
IRQS = "      CPU0 CPU1\n 30: {} 5 IO-APIC eth0-rx\nNMI: 0 0 Non-maskable"
MEMINFO = "MemAvailable: {} kB\nHugePages_Free: {}\nHugepagesize: 2048 kB"

# check, files below /, what it says
HOSTS: list[tuple[Any, dict[str, str], str]] = [
    (doctor_kernel.preempt, {"sys/kernel/realtime": "1"}, PASS),
    (doctor_kernel.preempt, {"proc/version": "#1 SMP PREEMPT_DYNAMIC", "proc/cmdline": "preempt=full"}, PASS),
    (doctor_kernel.preempt, {"proc/version": "#1 SMP PREEMPT_DYNAMIC", "proc/cmdline": "preempt=voluntary"}, WARN),
    (doctor_kernel.preempt, {"proc/version": "#1 SMP"}, WARN),
    (doctor_kernel.rt_throttle, {f"proc/sys/kernel/sched_rt_{n}_us": "1000000" for n in ("runtime", "period")}, PASS),
    (
        doctor_kernel.rt_throttle,
        {"proc/sys/kernel/sched_rt_runtime_us": "0", "proc/sys/kernel/sched_rt_period_us": "1000000"},
        FAIL,
    ),
    (
        doctor_kernel.rt_throttle,
        {"proc/sys/kernel/sched_rt_runtime_us": "-1", "proc/sys/kernel/sched_rt_period_us": "1000000"},
        WARN,
    ),
    (doctor_kernel.autogroup, {"proc/sys/kernel/sched_autogroup_enabled": "1"}, WARN),
    (doctor_kernel.autogroup, {"proc/sys/kernel/sched_autogroup_enabled": "0"}, PASS),
    (doctor_kernel.pid_max, {"proc/sys/kernel/threads-max": "500"}, WARN),
    (
        doctor_kernel.interrupts,
        {"proc/interrupts": IRQS.format(99999), "proc/irq/30/effective_affinity_list": "0"},
        WARN,
    ),
    (
        doctor_kernel.interrupts,
        {"proc/interrupts": IRQS.format(99999), "proc/irq/30/effective_affinity_list": "1"},
        PASS,
    ),
    (doctor_kernel.interrupts, {"proc/interrupts": IRQS.format(10), "proc/irq/30/effective_affinity_list": "0"}, PASS),
    (doctor_kernel.irqbalance, {"proc/77/comm": "irqbalance"}, WARN),
    (doctor_kernel.irqbalance, {"proc/77/comm": "bash"}, PASS),
    (doctor_cores.cpu_quota, {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, WARN),
    (doctor_cores.cpu_quota, {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "max 100000"}, PASS),
    (doctor_cores.isolated, {f"{CPU}/isolated": "0"}, PASS),
    (doctor_cores.isolated, {f"{CPU}/isolated": ""}, WARN),
    (doctor_cores.governor, {f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"}, WARN),
    (doctor_cores.governor, {f"{CPU}/cpu0/cpufreq/scaling_governor": "performance"}, PASS),
    (
        doctor_cores.frequency,
        {f"{CPU}/cpu0/cpufreq/scaling_max_freq": "1000", f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "4000"},
        WARN,
    ),
    (
        doctor_cores.idle_states,
        {
            f"{CPU}/cpuidle/current_driver": "intel_idle",
            f"{CPU}/cpu0/cpuidle/state3/disable": "0",
            f"{CPU}/cpu0/cpuidle/state3/latency": "890",
        },
        WARN,
    ),
    (
        doctor_cores.idle_states,
        {
            f"{CPU}/cpuidle/current_driver": "intel_idle",
            f"{CPU}/cpu0/cpuidle/state3/disable": "1",
            f"{CPU}/cpu0/cpuidle/state3/latency": "890",
        },
        PASS,
    ),
    (doctor_cores.siblings, {f"{CPU}/cpu0/topology/thread_siblings_list": "0,4"}, WARN),
    (doctor_cores.siblings, {f"{CPU}/cpu0/topology/thread_siblings_list": "0"}, PASS),
    (doctor_cores.throttled, {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3"}, WARN),
    (doctor_cores.temperature, {"sys/class/thermal/thermal_zone0/temp": "97000"}, WARN),
    (doctor_cores.temperature, {"sys/class/thermal/thermal_zone0/temp": "41000"}, PASS),
    (doctor_cores.pressure, {"proc/pressure/cpu": "some avg10=45.00 avg60=1.00 avg300=0.00 total=1"}, WARN),
    (doctor_cores.virtual, {"proc/cpuinfo": "flags : fpu hypervisor lm", "sys/class/dmi/id/sys_vendor": "QEMU"}, WARN),
    (doctor_cores.virtual, {"proc/cpuinfo": "flags : fpu lm"}, PASS),
    (doctor_clock.source, {"sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet"}, WARN),
    (doctor_clock.keeper, {"proc/9/comm": "chronyd"}, PASS),
    (doctor_clock.keeper, {"proc/9/comm": "chronyd", "proc/10/comm": "systemd-timesyn"}, WARN),
    (doctor_clock.keeper, {"proc/9/comm": "bash"}, WARN),
    (doctor_memory.swap, {"proc/swaps": "Filename Type\n/dev/zram0 partition 1 0 5"}, WARN),
    (doctor_memory.swap, {"proc/swaps": "Filename Type"}, PASS),
    (doctor_memory.available, {"proc/meminfo": MEMINFO.format(100_000, 0)}, WARN),
    (doctor_memory.available, {"proc/meminfo": MEMINFO.format(9_000_000, 0)}, PASS),
    (doctor_memory.reserved, {"proc/meminfo": MEMINFO.format(9_000_000, 64)}, WARN),
    (doctor_memory.overcommit, {"proc/sys/vm/overcommit_memory": "2"}, WARN),
    (doctor_memory.huge_pages, {f"{THP}/enabled": "[always] madvise never"}, WARN),
    (doctor_memory.huge_pages, {f"{THP}/enabled": "always [madvise] never"}, PASS),
    (doctor_memory.huge_pages, {f"{THP}/enabled": "always madvise [never]"}, WARN),
    (doctor_memory.defrag, {f"{THP}/defrag": "[always] defer madvise never"}, WARN),
    (doctor_memory.same_page, {"sys/kernel/mm/ksm/run": "1"}, WARN),
    (doctor_memory.shm_kind, {"proc/self/mounts": "tmpfs /dev/shm tmpfs rw 0 0"}, PASS),
    (doctor_memory.shm_kind, {"proc/self/mounts": "/dev/sda1 /dev/shm ext4 rw 0 0"}, FAIL),
    (doctor_memory.shm_kind, {"proc/self/mounts": "/dev/sda1 / ext4 rw 0 0"}, FAIL),
    (doctor_network.dropped_datagrams, {"proc/net/snmp": "Udp: InDatagrams RcvbufErrors\nUdp: 100 7"}, WARN),
    (doctor_network.dropped_datagrams, {"proc/net/snmp": "Udp: InDatagrams RcvbufErrors\nUdp: 100 0"}, PASS),
]


def case_of(root: Path, *settings: str) -> Case:
    return Case(Config.load(None, [*CORES, *settings]), TABLES, root=root)


def build(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


@pytest.mark.parametrize(("look", "files", "status"), HOSTS, ids=[f"{h[0].__name__}-{h[2]}" for h in HOSTS])
def test_a_check_reads_the_host(look: Any, files: dict[str, str], status: str, tmp_path: Path) -> None:
    build(tmp_path, files)
    found = look(case_of(tmp_path))
    assert found.status == status, found


READ_ONLY = {look for look, _, _ in HOSTS} - {
    doctor_kernel.preempt,  # a kernel that says nothing is one without preemption
    doctor_kernel.irqbalance,
    doctor_clock.keeper,
    doctor_cores.isolated,
    doctor_cores.siblings,
    doctor_cores.virtual,
    doctor_memory.shm_kind,
}


@pytest.mark.parametrize("look", sorted(READ_ONLY, key=lambda look: look.__name__), ids=lambda look: look.__name__)
def test_what_this_kind_of_machine_does_not_have_is_skipped_with_the_reason(look: Any, tmp_path: Path) -> None:
    found = look(case_of(tmp_path))
    assert found.status == SKIP and "not there" in found.found


def test_what_only_costs_punctuality_is_graver_where_an_arm_moves(tmp_path: Path) -> None:
    build(tmp_path, {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "50000 100000"})
    assert doctor_cores.cpu_quota(case_of(tmp_path)).status == WARN
    assert doctor_cores.cpu_quota(case_of(tmp_path, 'network.robot_ip="192.0.2.10"')).status == FAIL


def test_a_core_that_is_not_there_is_a_fail(tmp_path: Path) -> None:
    build(tmp_path, {f"{CPU}/online": "0"})
    found = doctor_cores.cores_exist(case_of(tmp_path, "realtime.cores.vl_encoder=[7]"))
    assert found.status == FAIL and "7" in found.found


def test_while_the_pipeline_runs_grants_are_read_and_nothing_is_tried(tmp_path: Path) -> None:
    note = "cores 0: granted\nSCHED_FIFO 50: REFUSED (Operation not permitted)"
    case = case_of(tmp_path)
    case.rows = {"policy": {"alive": True, "pid": 1, "note": note, "gauges": {}, "counters": {}}}
    assert doctor_trial.fifo(case).status == WARN
    assert doctor_trial.pinning(case).status == PASS
    assert case.reports == {}


def test_the_trial_reports_what_the_kernel_grants(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    assert doctor_trial.pinning(case).status == PASS
    assert set(case.reports["trial"]["grants"]) == {"cores", "slack", "memory", "nice", "fifo"}
    assert len(case.reports["trial"]["late_us"]) == 3


def test_a_trial_that_fails_is_told_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    case = case_of(tmp_path)
    statuses = [one.status for one in doctor.examine(case, ["grants"]) if one.check in ("grant.cores", "grant.nice")]
    assert statuses == [FAIL, FAIL]
    assert "ended with 1" in case.reports["trial"]["error"]


def test_a_check_that_cannot_look_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_case: Case) -> Found:
        raise PermissionError(13, "not for you")

    def libraryless(_case: Case) -> Found:
        raise ModuleNotFoundError("No module named 'psutil'", name="psutil")

    def fine(_case: Case) -> Found:
        return Found(PASS, "fine")

    table = tuple(Check(look.__name__, look, "why", "mend") for look in (broken, libraryless, fine))
    monkeypatch.setattr(doctor_clock, "CHECKS", table)
    results = doctor.examine(case_of(tmp_path), ["clock"])
    assert [one.status for one in results] == [SKIP, FAIL, PASS]
    assert results[1].mend == "pip install --upgrade psutil"


def test_every_warning_has_a_reason_and_a_remedy() -> None:
    for module, table in doctor.GROUPS.values():
        for row in getattr(__import__(f"rtvla.tools.{module}", fromlist=["x"]), table):
            assert row.why and row.mend, row.name


def test_names_of_checks_are_unique() -> None:
    names = [
        row.name
        for module, table in doctor.GROUPS.values()
        for row in getattr(__import__(f"rtvla.tools.{module}", fromlist=["x"]), table)
    ]
    assert len(names) == len(set(names)) > 80


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,8", {0, 1, 2, 3, 8}), ("", set()), (None, set()), ("5", {5}), ("(null)", set())]
)
def test_lists_of_cores(text: str | None, cores: set[int]) -> None:
    assert parse_cores(text) == cores


def test_it_does_not_load_torch() -> None:
    code = "import sys, rtvla.cli; rtvla.cli.main(['doctor', '--only', 'software', 'config', 'kernel', 'memory']); "
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_wrong_usage_exits_2() -> None:
    command = [sys.executable, "-m", "rtvla", "doctor", "--test-data-reception", "0"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_json_has_every_check_and_its_number() -> None:
    command = [sys.executable, "-m", "rtvla", "doctor", "--json", "--only", "memory", "clock"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    assert sum(document["counts"].values()) == len(document["checks"])
    cost = next(one for one in document["checks"] if one["check"] == "clock.cost")
    assert cost["unit"] == "ns" and cost["value"] > 0
