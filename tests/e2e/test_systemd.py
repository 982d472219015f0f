"""The units under a real systemd: one boot, with the small model and simulated senders."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from systemd_host import PYTHON, Host, booted, may_raise_limits, what_this_machine_lacks, why_not

from rtvla.config import CONFIG_FOLDER, Config
from rtvla.procs.table import CRASHES, PROCESSES, cores_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.skipif(bool(why_not()), reason=why_not())]

SITE, UNITS = "/opt/rtvla/site/site.toml", "/etc/systemd/system"
# From when the robot's state is gone it holds until an operator says otherwise: a latch can be had by a kill.
SETTINGS = """
[blackbox]
min_free_mb = 0.0
[degrade.robot]
at_gone = "latch"
"""


def unit(process: str) -> str:
    return f"rtvla-{process}.service"


STAGES = [unit(process) for process in PROCESSES]


def say(what: str) -> None:
    print(f"ok {time.monotonic() - _BEGUN_S:5.1f} s  {what}", flush=True)


_BEGUN_S = time.monotonic()


@pytest.mark.timeout(420)
def test_the_units_do_under_systemd_what_the_supervisor_does(checkpoint: Path, tmp_path: Path) -> None:
    with booted(tmp_path, checkpoint) as host:
        say(f"booted {host.do('systemctl', '--version').splitlines()[0]}")
        installs_what_it_checks(host)
        starts_in_order(host)
        has_what_was_asked_for(host)
        commands_the_robot(host)
        comes_back_when_killed(host)
        comes_back_when_hung_and_the_latch_outlives_the_commander(host)
        ends_a_crash_loop(host)
        restarts_and_stops_in_order(host)
        never_loops_on_wrong_settings(host)
        starts_nothing_without_a_model(host)
        uninstalls(host)


def installs_what_it_checks(host: Host) -> None:
    text = (CONFIG_FOLDER / "sim.toml").read_text()
    text = '[network]\nbind_ip = "127.0.0.1"\n' + text
    model = '[policy]\ncheckpoint = "/opt/rtvla/site/model"\nengine = "eager"\n'
    host.path(SITE).write_text(text.replace("[policy]\n", model) + SETTINGS)
    done = host.rtvla("service", "install", "--config", SITE)
    assert done.returncode == 0 and f"wrote {UNITS}/rtvla.target" in done.stdout, done.stdout + done.stderr
    assert host.rtvla("service", "install").stdout.startswith("all is as it should be")
    assert host.rtvla("service", "check").returncode == 0
    policy = host.path(f"{UNITS}/{unit('policy')}")
    policy.write_text(policy.read_text().replace("Restart=always", "Restart=no"))
    checked = host.rtvla("service", "check")
    assert checked.returncode == 1 and "has `Restart=no`, wanted is `Restart=always`" in checked.stdout, checked.stdout
    assert host.rtvla("service", "install").returncode == 0 and "Restart=always" in policy.read_text()
    spec = host.path("/opt/rtvla/site/model/spec.json")
    spec.chmod(0o600)
    assert "it would not start: [Errno 13]" in host.rtvla("service", "check").stdout
    spec.chmod(0o644)
    say("installed; a changed unit is found by check and mended by install")
    _drop_in(host, "rtvla-.service.d", what_this_machine_lacks())
    print(f"with a drop-in, for this is no host:\n{what_this_machine_lacks()}")


def starts_in_order(host: Host) -> None:
    begun_s = time.monotonic()
    host.do("systemctl", "enable", "--now", "rtvla.target", timeout_s=120)
    assert {name: host.state(name) for name in STAGES} == dict.fromkeys(STAGES, "active")
    ready_us = {name: int(host.show(unit(name), "ActiveEnterTimestampMonotonic")[0]) for name in PROCESSES}
    for process in PROCESSES.values():
        begun_us = int(host.show(unit(process.name), "ExecMainStartTimestampMonotonic")[0])
        late = [need for need in process.needs if ready_us[need] > begun_us]
        assert not late, f"{process.name} was started before {late} were ready"
    order = sorted(ready_us, key=lambda name: ready_us[name])
    assert order[-1] == "commander"
    assert host.rtvla("service", "check").returncode == 0
    say(f"all ready after {time.monotonic() - begun_s:.1f} s, in order: {' '.join(order)}")


def has_what_was_asked_for(host: Host) -> None:
    cfg, available = Config.load("sim"), sorted(os.sched_getaffinity(0))
    may_be_fifo = host.ask("chrt", "-f", "1", "true").returncode == 0
    for process in PROCESSES.values():
        pid = host.main_pid(unit(process.name))
        status = dict(
            line.split(":\t", 1) for line in host.path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        cores = ",".join(map(str, sorted(cores_of(process, cfg, available))))
        assert _spelled_out(status["Cpus_allowed_list"]) == cores, process.name
        stat = host.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        nice, priority, policy = int(stat[16]), int(stat[37]), int(stat[38])
        if may_be_fifo:
            wanted = (process.fifo, os.SCHED_FIFO) if process.fifo else (0, os.SCHED_OTHER)
            assert (priority, policy & ~os.SCHED_RESET_ON_FORK) == wanted, process.name
        assert process.fifo or nice == process.nice, process.name
        assert int(status["VmLck"].split()[0]) > 0, process.name
        assert status["Uid"].split()[0] != "0" and status["NoNewPrivs"].strip() == "1"
        if may_raise_limits():
            assert int(status["CapEff"], 16) == 0, process.name
    if not may_be_fifo:
        print("NOT SHOWN: this kernel gives nobody SCHED_FIFO")
    say("cores, SCHED_FIFO, nice, locked memory as in the table; no process runs as root")


def commands_the_robot(host: Host) -> None:
    host.until(lambda: _count(host, "commander", "dpose") >= 5, "motion")
    say("the simulated robot moves")


def comes_back_when_killed(host: Host) -> None:
    before = {name: host.main_pid(unit(name)) for name in PROCESSES}
    begun_s = time.monotonic()
    host.do("kill", "-KILL", str(before["policy"]))
    host.until(lambda: _came_back(host, "policy", before["policy"]), "the policy's return")
    took_s = time.monotonic() - begun_s
    others = {name: host.main_pid(unit(name)) for name in PROCESSES if name != "policy"}
    assert others == {name: pid for name, pid in before.items() if name != "policy"}
    moved = _count(host, "commander", "dpose")
    host.until(lambda: _count(host, "commander", "dpose") >= moved + 3, "motion after it")
    host.until(lambda: bool(_boxes(host)), "its black box")
    assert "policy_signal_killed_KILL" in _boxes(host)[0]
    say(f"policy killed: ready again after {took_s:.1f} s, the others kept running, black box {_boxes(host)[0]}")


def comes_back_when_hung_and_the_latch_outlives_the_commander(host: Host) -> None:
    hung = host.main_pid(unit("robot_ingest"))
    begun_s = time.monotonic()
    host.do("kill", "-STOP", str(hung))
    host.until(lambda: _came_back(host, "robot_ingest", hung), "the return of a hung process")
    assert f"{unit('robot_ingest')}: Watchdog timeout" in host.journal()
    say(f"robot_ingest stopped in its tracks: ready again after {time.monotonic() - begun_s:.1f} s")
    host.until(lambda: _now(host) == "latched", "the latch")
    killed = host.main_pid(unit("commander"))
    host.do("kill", "-KILL", str(killed))
    host.until(lambda: _came_back(host, "commander", killed), "the commander's return")
    moved = _count(host, "commander", "dpose")
    held = _count(host, "commander", "hold.latched")
    host.until(lambda: _count(host, "commander", "hold.latched") >= held + 5, "the hold")
    assert _now(host) == "latched" and _count(host, "commander", "dpose") == moved
    say("the latched commander was killed and is latched still")


def ends_a_crash_loop(host: Host) -> None:
    others = {name: host.main_pid(unit(name)) for name in PROCESSES if name != "monitor"}
    before = int(host.show(unit("monitor"), "NRestarts")[0])
    path = _drop_in(host, f"{unit('monitor')}.d", "[Service]\nExecStart=\nExecStart=/bin/false\n")
    assert "50-test.conf is not ours" in host.rtvla("service", "check").stdout
    host.do("kill", "-KILL", str(host.main_pid(unit("monitor"))))
    host.until(lambda: host.state(unit("monitor")) == "failed", "the end of the crash loop")
    restarts = int(host.show(unit("monitor"), "NRestarts")[0]) - before
    told = "\n".join(line for line in host.journal().splitlines() if "monitor" in line)
    assert restarts <= CRASHES + 1, told  # systemd counts the one that it refused, and begins to count at a reload
    host.until(lambda: "ALARM: rtvla-monitor stays down" in host.journal(), "the alarm")
    assert {name: host.main_pid(unit(name)) for name in others} == others, "one that is not critical stopped the rest"
    path.unlink()
    host.do("systemctl", "daemon-reload")
    say(f"a crash loop of the monitor ended after {restarts} restarts, with the alarm; the others go on")


def restarts_and_stops_in_order(host: Host) -> None:
    """With systemd's own socket for the sensor from here on: its process has no network then, and receives."""
    pids, runs = {name: host.main_pid(unit(name)) for name in PROCESSES}, _runs(host)
    installed = host.rtvla("service", "install", "--with", "udp-socket")
    assert installed.returncode == 0, installed.stderr
    host.do("systemctl", "restart", "rtvla.target", timeout_s=120)
    host.until(lambda: all(host.state(name) == "active" for name in STAGES), "the restart")
    assert not set(pids.values()) & {host.main_pid(name) for name in STAGES}
    assert len(_runs(host)) == len(runs) + 1
    host.until(lambda: _count(host, "commander", "dpose") >= 5, "motion after the restart of the target")
    namespaces = {name: os.stat(host.path(f"/proc/{host.main_pid(unit(name))}/ns/net")).st_ino for name in PROCESSES}
    assert namespaces["sensor_ingest"] not in {n for name, n in namespaces.items() if name != "sensor_ingest"}
    say("sensor_ingest receives in a network namespace of its own, by the socket unit")
    say("the target restarted: every process is new, in a run folder of its own; the failed monitor is back")
    began_s = time.monotonic()
    host.do("systemctl", "stop", "rtvla.target", "rtvla-shm.service", timeout_s=120)
    told_s, gone_s = _times(host, "Stopping {}"), _times(host, "Stopped {}")
    well_s = _times(host, "{}: Deactivated successfully.")
    assert {name: host.state(name) for name in STAGES} == dict.fromkeys(STAGES, "inactive")
    for process in PROCESSES.values():
        early = [need for need in process.needs if told_s[need] < gone_s[process.name]]
        assert not early, f"{early} were told to stop before {process.name} had stopped"
        assert told_s[process.name] < well_s[process.name], f"{process.name} did not stop by itself"
    order = sorted(gone_s, key=lambda name: gone_s[name])
    assert order[0] in ("commander", "monitor")  # nobody needs the monitor
    assert not _segments(host)
    summary = json.loads(next(_runs(host)[-1].glob("performance_summary_*.json")).read_text())
    assert summary["recorded"], "the recorder did not finish its files"
    say(f"stopped in {time.monotonic() - began_s:.1f} s: {' '.join(order)}; no segment is left, the run is complete")


def never_loops_on_wrong_settings(host: Host) -> None:
    wrong = f"{PYTHON} -P -m rtvla run policy $RTVLA_OPTIONS --set policy.rate_hz=0"
    path = _drop_in(host, f"{unit('policy')}.d", f"[Service]\nExecStart=\nExecStart={wrong}\n")
    host.ask("systemctl", "start", "rtvla.target", timeout_s=120)
    host.until(lambda: host.state(unit("policy")) == "failed", "the policy's end")
    assert host.show(unit("policy"), "ExecMainStatus", "NRestarts") == ["78", "0"]
    host.until(lambda: "ALARM: rtvla-policy stays down" in host.journal(), "the alarm")
    host.until(lambda: host.state("rtvla-shm.service") == "inactive", "the stop of all that ran")
    assert "policy.rate_hz = 0" in host.journal()
    assert {host.state(name) for name in STAGES if name != unit("policy")} == {"inactive"} and not _segments(host)
    path.unlink()
    host.do("systemctl", "daemon-reload")
    say("wrong settings of a critical process: not restarted, alarm, the rest stopped; no segment is left")


def starts_nothing_without_a_model(host: Host) -> None:
    model = host.path("/opt/rtvla/site/model")
    model.rename(model.with_name("gone"))
    host.ask("systemctl", "start", "rtvla.target", timeout_s=120)
    host.until(lambda: "ALARM: rtvla-shm stays down" in host.journal(), "the alarm")
    host.until(lambda: host.state("rtvla.target") == "inactive", "the target's end")
    assert {host.state(name) for name in STAGES} <= {"inactive", "failed"} and not _segments(host)
    assert 'policy.checkpoint = "/opt/rtvla/site/model"' in host.journal()
    assert host.rtvla("service", "check").returncode == 78
    say("no checkpoint: said before any process is started, with the alarm")


def uninstalls(host: Host) -> None:
    done = host.rtvla("service", "uninstall")
    assert done.returncode == 0, done.stdout + done.stderr
    left = [path.name for path in host.path(UNITS).rglob("rtvla*") if path.is_file()]
    assert not left and host.path("/etc/rtvla/rtvla.toml").exists(), left
    assert host.rtvla("service", "check").returncode == 3
    say("uninstalled; the config and the runs are kept")


def _spelled_out(ranges: str) -> str:
    cores = []
    for part in ranges.strip().split(","):
        low, _, high = part.partition("-")
        cores += range(int(low), int(high or low) + 1)
    return ",".join(map(str, cores))


def _times(host: Host, message: str) -> dict[str, float]:
    """When systemd last said so of each process, in seconds of the monotonic clock."""
    lines = [line for line in host.journal().splitlines() if " systemd[1]: " in line]
    said = {name: [line for line in lines if message.format(unit(name)) in line] for name in PROCESSES}
    return {name: float(found[-1].split("]")[0].strip("[ ")) for name, found in said.items()}


def _drop_in(host: Host, folder: str, text: str) -> Path:
    path = host.path(f"{UNITS}/{folder}/50-test.conf")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    host.do("systemctl", "daemon-reload")
    return path


def _came_back(host: Host, process: str, pid: int) -> bool:
    state, now = host.show(unit(process), "ActiveState", "MainPID")
    return state == "active" and now not in ("0", str(pid))


def _status(host: Host) -> dict[str, Any]:
    shown = host.rtvla("status", "--json")
    return dict(json.loads(shown.stdout)) if shown.stdout.startswith("{") else {"processes": {}, "commands": {}}


def _count(host: Host, process: str, counter: str) -> int:
    return int(_status(host)["processes"].get(process, {}).get("counters", {}).get(counter, 0))


def _now(host: Host) -> str:
    return str(_status(host)["commands"].get("reason"))


def _segments(host: Host) -> list[str]:
    return [path.name for path in host.path("/dev/shm").iterdir()]


def _runs(host: Host) -> list[Path]:
    return sorted(host.path("/var/lib/rtvla/runs").iterdir())


def _boxes(host: Host) -> list[str]:
    return [path.name for path in sorted((_runs(host)[-1] / "blackbox").glob("*.zip"))]
