"""The rendered units: those that are checked in, with the numbers of the table, sound to systemd itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.procs import units
from rtvla.procs.service_cli import checked_in_name
from rtvla.procs.table import PROCESSES, cores_of
from rtvla.procs.units import EXTRAS, UNITS, Site, check_readable, options, render

CHECKED_IN = Path(__file__).parents[2] / "systemd"
RENEW = (
    "rm -r systemd/rtvla*; rtvla service render --config lab --set network.bind_ip=192.0.2.2 --cores 0-7 "
    "--python /opt/rtvla/venv/bin/python --with mps udp-socket --out systemd"
)
LAB = ("lab", ["network.bind_ip=192.0.2.2"])
SITE = Site("/opt/rtvla/venv/bin/python", tuple(range(8)), frozenset(EXTRAS))
MOST_EXPOSED = 3.0  # of 10, by systemd-analyze security


def sections(text: str) -> dict[str, list[str]]:
    """Each key with all its values."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


# Directive -> the systemd that brought it, by its man pages; older ones are not listed with their number.
SINCE = {"TimeoutAbortSec": 243, "AllowedCPUs": 244, "ProtectKernelLogs": 244, "ProtectClock": 245, "ProtectProc": 247}
SINCE |= {"Timestamping": 247, "ProtectHostname": 242, "RestrictSUIDSGID": 242, "Type": 240, "CacheDirectory": 235}
OLD = """
After AmbientCapabilities Before BindsTo CPUAffinity CacheDirectoryMode CapabilityBoundingSet Conflicts Description
DeviceAllow DevicePolicy Environment EnvironmentFile ExecStart ExecStartPost ExecStartPre ExecStop ExecStopPost
FreeBind Group IPAddressAllow IPAddressDeny KillMode LimitCORE LimitMEMLOCK LimitNICE LimitRTPRIO ListenDatagram
LockPersonality LogsDirectory MemoryDenyWriteExecute NoNewPrivileges NotifyAccess OOMScoreAdjust OnFailure PartOf
PrivateDevices PrivateNetwork PrivateTmp ProtectControlGroups ProtectHome ProtectKernelModules ProtectKernelTunables
ProtectSystem ReceiveBuffer RemainAfterExit Requires Restart RestartPreventExitStatus RestartSec
RestrictAddressFamilies RestrictNamespaces RuntimeDirectory RuntimeDirectoryMode Slice StartLimitBurst
StartLimitIntervalSec StateDirectory StateDirectoryMode SuccessExitStatus SyslogIdentifier SystemCallArchitectures
SystemCallErrorNumber SystemCallFilter TimeoutStartSec TimeoutStopSec UMask User WantedBy Wants WatchdogSec
WorkingDirectory
""".split()  # noqa: SIM905


def unit(process: str, cfg: Config | None = None, site: Site = SITE) -> dict[str, list[str]]:
    return sections(render(cfg or Config.load(*LAB), site)[f"{UNITS}/rtvla-{process}.service"])


def test_what_is_checked_in_is_what_is_rendered() -> None:
    rendered = {checked_in_name(name): text for name, text in render(Config.load(*LAB), SITE).items()}
    there = {str(p.relative_to(CHECKED_IN)): p.read_text() for p in CHECKED_IN.rglob("*") if p.is_file()}
    there.pop("README.md", None)
    assert there == rendered, f"renew them: {RENEW}"


@pytest.mark.parametrize("name", PROCESSES)
def test_a_unit_has_the_numbers_of_the_table(name: str) -> None:
    process, has = PROCESSES[name], unit(name)
    assert has["CPUAffinity"] == [" ".join(map(str, cores_of(process, Config(), range(8))))]
    assert has["TimeoutStartSec"] == [f"{process.ready_s:g}"] and has["TimeoutStopSec"] == [f"{process.stop_s:g}"]
    assert has["WatchdogSec"] == [f"{process.watchdog_s:g}"]
    assert has.get("LimitRTPRIO", ["0"]) == [str(process.fifo)]
    assert set(has["After"][0].split()) >= {f"rtvla-{need}.service" for need in (*process.needs, "shm")}
    assert ("rtvla-halt.service" in has["OnFailure"][0]) == process.critical
    assert "Requires=" not in " ".join(has) and has["Requires"] == ["rtvla-shm.service"]


def test_a_process_that_was_pinned_before_it_started_still_gets_the_cores_of_the_plan() -> None:
    """Regression: the plan by the number of cores would have been the plan for the two that systemd had left it."""
    words = options(Config(), SITE).split()
    again = Config.load(None, [words[at + 1] for at, word in enumerate(words) if word == "--set"])
    for process in PROCESSES.values():
        assert cores_of(process, again, [3, 4]) == cores_of(process, Config(), range(8))


def test_the_cores_of_the_config_are_those_of_the_unit() -> None:
    assert unit("policy", Config.load("lab", [*LAB[1], "realtime.cores.policy=[6,7]"]))["CPUAffinity"] == ["6 7"]


def test_without_fifo_and_locked_memory_in_the_config_no_unit_grants_them() -> None:
    cfg = Config.load("lab", [*LAB[1], "realtime.fifo=false", "realtime.lock_memory=false"])
    text = "".join(render(cfg, SITE).values())
    assert "LimitRTPRIO" not in text and "LimitMEMLOCK" not in text


def test_simulated_senders_are_units_that_nobody_stops_for() -> None:
    cfg = Config.load("sim")
    files = render(cfg, Site(SITE.python, SITE.cores))
    for kind in cfg.simulation.senders:
        has = sections(files[f"{UNITS}/rtvla-send_{kind}.service"])
        assert f"send {kind}" in has["ExecStart"][0] and "rtvla-halt" not in has["OnFailure"][0]
        assert f"rtvla-send_{kind}.service" in sections(files[f"{UNITS}/rtvla.target"])["Wants"][0]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("policy.checkpoint=/home/me/model", "services do not see /home"),
        ("policy.checkpoint=models/one", "absolute path"),
        ('recorder.out_dir="/data/my runs"', "absolute path"),
        ("security.keys=/run/user/0/keys", "services do not see /run/user"),
        ("network.bind_ip=auto", "needs the address itself"),
        ('simulation.senders.sensor=["--rate $(reboot)"]', "cannot stand in a unit"),
    ],
)
def test_what_cannot_work_in_a_unit_is_refused_by_name(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        render(Config.load("lab", [*LAB[1], setting]), SITE)


def test_no_directive_is_newer_than_the_oldest_systemd_that_we_run_on() -> None:
    """Ubuntu 22.04 and JetPack 6 have 249. Unknown ones are only warned of there, so nobody would notice."""
    text = [text for name, text in render(Config.load(*LAB), SITE).items() if name.startswith(UNITS)]
    used = {key for one in text for key in sections(one)}
    assert used - set(OLD) <= set(SINCE), "look its version up in systemd's man pages, and add it here"
    assert max(SINCE.values()) <= 249


def test_runs_outside_the_state_folder_may_be_written() -> None:
    cfg = Config.load("lab", [*LAB[1], "recorder.out_dir=/data/runs"])
    assert "ReadWritePaths=/data/runs" in render(cfg, SITE)[f"{UNITS}/rtvla-.service.d/10-rtvla.conf"]


def test_a_path_that_the_service_cannot_enter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "closed" / "model"
    place.mkdir(parents=True)
    with pytest.raises(ConfigError, match="services do not see /tmp"):
        check_readable("policy.checkpoint", "/tmp")
    monkeypatch.setattr(units, "_HIDDEN", ())
    (tmp_path / "closed").chmod(0o700)
    with pytest.raises(ConfigError, match=f"chmod o.rx {tmp_path}/closed"):
        check_readable("policy.checkpoint", str(place))
    check_readable("policy.checkpoint", str(place), owned=str(tmp_path.parents[-2]))  # what its user owns it can enter
    with pytest.raises(ConfigError, match="does not exist"):
        check_readable("policy.checkpoint", str(place / "gone"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Units of both configs in one folder, with a program that exists on this machine."""
    folder = tmp_path_factory.mktemp("units")
    for cfg, extras in ((Config.load("sim"), ()), (Config.load(*LAB), ("udp-socket",))):
        for name, text in render(cfg, Site("/bin/true", (0,), frozenset(extras))).items():
            if name.startswith(UNITS):
                path = folder / name.removeprefix(f"{UNITS}/")
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
    return sorted(path for path in folder.iterdir() if path.is_file())


def analyze(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, cwd=cwd)


def test_systemd_finds_no_fault(written: list[Path]) -> None:
    done = analyze("verify", "--recursive-errors=no", *(f"./{path.name}" for path in written), cwd=written[0].parent)
    ours = [line for line in done.stderr.splitlines() if "rtvla" in line]
    assert not ours, "\n".join(ours)


def test_no_unit_is_more_exposed_than_it_may_be(written: list[Path]) -> None:
    services = [path.name for path in written if path.suffix == ".service"]
    assert len(services) > len(PROCESSES)
    for name in services:
        done = analyze(
            "security", "--offline=yes", f"--threshold={MOST_EXPOSED * 10:.0f}", f"./{name}", cwd=written[0].parent
        )
        if "unrecognized option" in done.stderr:
            pytest.skip("systemd-analyze security --offline needs systemd 250")
        assert done.returncode == 0, done.stdout[-300:] + done.stderr
