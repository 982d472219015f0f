"""The systemd units of the pipeline, rendered from THE table and a config: systemd does as our supervisor does.

Only what systemd 249 knows (Ubuntu 22.04, JetPack 6). Real-time priority, nice value and locked memory are taken by
each process itself once it is ready, as under the supervisor, within the limits that its unit grants: a model that
loads under SCHED_FIFO would starve the ingests of its core, and threads made later would not have the priority.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.procs import unit_extras as extras
from rtvla.procs import unit_parts as parts
from rtvla.procs.sender_command import sender_command
from rtvla.procs.table import CRASHES, CRASHES_WITHIN_S, EXIT_CONFIG, PROCESSES, Process, cores_of, sender_process
from rtvla.procs.unit_parts import NETWORK, STATE, Pairs, text

MARK = "# Rendered by `rtvla service`: edit the config and install again, or add a drop-in beside it.\n"
CONFIG_FILE = "/etc/rtvla/rtvla.toml"
UNITS, SYSUSERS, TMPFILES = "etc/systemd/system", "etc/sysusers.d/rtvla.conf", "etc/tmpfiles.d/rtvla.conf"
EXTRAS = ("mps", "udp-socket")
_MONITOR_S = 10.0  # a status block in the journal, not more often; well within its watchdog
_NEEDS_NO_NETWORK = ("recorder", "monitor", "vl_encoder", "policy")
_OUT_OF_MEMORY = {
    "control": -900,
    "policy": -500,
    "vl": -500,
    "ingest": -500,
    "background": 200,
}  # last, by role, first
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # by ProtectHome= and PrivateTmp=


@dataclass(frozen=True)
class Site:
    """One host. `python` is the interpreter of the environment that rtvla is installed in, `cores` those it may use."""

    python: str
    cores: tuple[int, ...]
    extras: frozenset[str] = frozenset()


def render(cfg: Config, site: Site) -> dict[str, str]:
    """Path below the root of the host -> text. ConfigError for what cannot work in a unit."""
    check_paths(cfg, site)
    units = {f"rtvla-{process.name}.service": _process_unit(process, cfg, site) for process in PROCESSES.values()}
    for kind in cfg.simulation.senders:
        units[f"rtvla-send_{kind}.service"] = _sender_unit(kind, cfg, site)
    stages = sorted(units)
    units |= {
        "rtvla.target": parts.target(stages),
        "rtvla.slice": parts.slice_unit(_words(_all_cores(cfg, site))),
        "rtvla-shm.service": parts.shm(_program(site)),
        "rtvla-halt.service": parts.halt(),
        "rtvla-alarm@.service": parts.alarm(),
        "rtvla-blackbox@.service": parts.blackbox(_program(site), cfg, _cores_of(PROCESSES["recorder"], cfg, site)),
        "rtvla-.service.d/10-rtvla.conf": _common(cfg, site),
    }
    if "mps" in site.extras:
        units |= extras.mps(_uses_gpu(cfg))
    if "udp-socket" in site.extras:
        units |= extras.udp_socket(cfg)
    files = {f"{UNITS}/{name}": content for name, content in units.items()}
    files |= {SYSUSERS: parts.SYSUSERS, TMPFILES: parts.tmpfiles(run_parent(cfg))}
    return {path: MARK + content for path, content in sorted(files.items())}


def check_paths(cfg: Config, site: Site) -> None:
    """Each path that a unit reads is absolute and not where a hardened unit sees nothing."""
    named = {"the python of this installation": site.python, "policy.checkpoint": cfg.policy.checkpoint}
    named |= {"security.keys": cfg.security.keys, "recorder.out_dir": run_parent(cfg)}
    for what, path in named.items():
        if not path:
            continue
        if not re.fullmatch(r"/[\w./+-]*", path, re.ASCII):
            raise ConfigError(f'{what} = "{path}": a unit needs an absolute path of letters, digits and . _ + - /')
        _check_seen(what, path)


def _check_seen(what: str, path: str) -> None:
    for hidden in _HIDDEN:
        if PurePosixPath(path).is_relative_to(hidden):
            raise ConfigError(f'{what} = "{path}": services do not see {hidden}; move it below /opt or {STATE}')


def check_readable(what: str, path: str, owned: str = "") -> None:
    """ConfigError unless the service's user can get to a path of this host. What lies below `owned` is that user's."""
    real = Path(path).resolve()
    _check_seen(what, str(real))
    for folder in (real, *real.parents):
        if not folder.exists():
            raise ConfigError(f'{what} = "{path}": {folder} does not exist')
        if not folder.stat().st_mode & 0o001 and not (owned and folder.is_relative_to(owned)):
            raise ConfigError(f'{what} = "{path}": others may not enter {folder}; remedy: chmod o+rx {folder}')


def run_parent(cfg: Config) -> str:
    """Where run folders are made: recorder.out_dir, or below the state folder if that is left at its default."""
    return f"{STATE}/runs" if cfg.recorder.out_dir == Config().recorder.out_dir else cfg.recorder.out_dir


def options(cfg: Config, site: Site) -> str:
    """What every process is started with. The cores are spelled out: who is pinned at its start cannot count them."""
    settings: dict[str, object] = {
        f"realtime.cores.{p.name}": [*cores_of(p, cfg, site.cores)] for p in PROCESSES.values()
    }
    settings |= {"recorder.out_dir": run_parent(cfg), "monitor.period_s": max(cfg.monitor.period_s, _MONITOR_S)}
    words = [f"--set {name}={value}".replace(", ", ",") for name, value in settings.items()]
    return " ".join([f"--config {CONFIG_FILE}", *words])


def _program(site: Site) -> str:
    return f"{site.python} -P -m rtvla"


def _process_unit(process: Process, cfg: Config, site: Site) -> str:
    run = f"{_program(site)} run {process.name} $RTVLA_OPTIONS --set recorder.run_folder=${{RTVLA_RUN_FOLDER}}"
    service: Pairs = [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("EnvironmentFile", parts.RUN_FILE),
        ("ExecStart", run),
        ("ExecStopPost", parts.black_box_of(process.name)),
        ("TimeoutStartSec", f"{process.ready_s:g}"),
        ("WatchdogSec", f"{process.watchdog_s:g}"),
        ("TimeoutAbortSec", 1),
        ("TimeoutStopSec", f"{process.stop_s:g}"),
        ("CPUAffinity", _cores_of(process, cfg, site)),
        ("OOMScoreAdjust", _OUT_OF_MEMORY[process.role]),
    ]
    if process.fifo and cfg.realtime.fifo:
        service.append(("LimitRTPRIO", process.fifo))
    if process.nice < 0:
        service.append(("LimitNICE", process.nice))
    return text({"Unit": _dependencies(process), "Service": [*service, *_restart(), *_sandbox(process, cfg)]})


def _sender_unit(kind: str, cfg: Config, site: Site) -> str:
    process = sender_process(kind)
    command = [part.replace("%", "%%") for part in sender_command(cfg, kind)]
    if odd := [part for part in command if not re.fullmatch(r"[\w.,:=/%+-]+", part)]:
        raise ConfigError(f"simulation.senders.{kind}: {odd[0]!r} cannot stand in a unit; use plain words")
    service: Pairs = [
        ("Type", "exec"),
        ("ExecStart", " ".join([_program(site), *command])),
        ("TimeoutStopSec", f"{process.stop_s:g}"),
        ("CPUAffinity", _cores_of(process, cfg, site)),
        ("PrivateDevices", "yes"),
        ("RestrictAddressFamilies", NETWORK),
    ]
    return text({"Unit": _dependencies(process), "Service": [*service, *_restart()]})


def _dependencies(process: Process) -> Pairs:
    """After= is the order of the start, and backwards that of the stop. No process requires another: who loses its
    input holds, and one crash must not become the stop of all."""
    what_then = "rtvla-alarm@%N.service" + (f" {parts.HALT_UNIT}" if process.critical else "")
    after = " ".join(f"rtvla-{name}.service" for name in ("shm", *process.needs))
    after += " nvidia-persistenced.service" if process.torch else ""
    return [
        ("Description", f"rtvla {process.name}"),
        ("PartOf", "rtvla.target"),
        ("Requires", "rtvla-shm.service"),
        ("After", after),
        ("StartLimitIntervalSec", f"{CRASHES_WITHIN_S:g}"),
        ("StartLimitBurst", CRASHES),
        ("OnFailure", what_then),
    ]


def _restart() -> Pairs:
    """Always, as under the supervisor: nobody but systemd is to tell a process to end."""
    return [("Restart", "always"), ("RestartSec", "200ms"), ("RestartPreventExitStatus", EXIT_CONFIG)]


def _sandbox(process: Process, cfg: Config) -> Pairs:
    """What of the machine and the network this process may reach."""
    found: Pairs = []
    if process.name in _uses_gpu(cfg):
        found += extras.gpu()
    else:
        found.append(("PrivateDevices", "yes"))
    if not process.torch:
        found.append(("MemoryDenyWriteExecute", "yes"))
    if process.name in _NEEDS_NO_NETWORK:
        return [*found, ("RestrictAddressFamilies", "AF_UNIX"), ("IPAddressDeny", "any")]
    found.append(("RestrictAddressFamilies", NETWORK))
    if peers := _peers(process, cfg):
        found += [("IPAddressDeny", "any"), ("IPAddressAllow", " ".join(peers))]
    return found


def _peers(process: Process, cfg: Config) -> list[str]:
    """The only addresses that this process has to do with, where the config says them; else nothing."""
    known = {
        "robot_ingest": [cfg.network.robot_ip],
        "commander": [cfg.network.robot_ip],
        "sensor_ingest": list(cfg.security.udp_sources),
    }.get(process.name, [])
    return ["localhost", *known] if known and all(map(_is_address, known)) else []


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _uses_gpu(cfg: Config) -> list[str]:
    """The processes that may: asked for, or left to what the machine has."""
    return [name for name in ("vl_encoder", "policy") if getattr(cfg, name).device != "cpu"]


def _all_cores(cfg: Config, site: Site) -> list[int]:
    return sorted({core for process in PROCESSES.values() for core in cores_of(process, cfg, site.cores)})


def _common(cfg: Config, site: Site) -> str:
    own: Pairs = [("Environment", f'"RTVLA_OPTIONS={options(cfg, site)}"')]
    if cfg.realtime.lock_memory:
        own.append(("LimitMEMLOCK", "infinity"))
    if not PurePosixPath(run_parent(cfg)).is_relative_to(STATE):
        own.append(("ReadWritePaths", run_parent(cfg)))
    return text({"Service": [*parts.COMMON, *own]})


def _cores_of(process: Process, cfg: Config, site: Site) -> str:
    return _words(cores_of(process, cfg, site.cores))


def _words(items: Iterable[object]) -> str:
    return " ".join(map(str, items))
