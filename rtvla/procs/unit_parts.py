"""The units that do not depend on the table, and what all units share. Why each line is as it is: systemd/README.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rtvla.config import Config
from rtvla.procs.table import EXIT_CONFIG

Pairs = list[tuple[str, object]]

USER, STATE, CACHE = "rtvla", "/var/lib/rtvla", "/var/cache/rtvla"
RUN_FOLDER = "/run/rtvla"
RUN_FILE = f"{RUN_FOLDER}/run.env"  # names the run folder, so that a recorder that comes back goes on in it
SYSTEMCTL = "/usr/bin/systemctl"

# Members of the groups reach the GPU's device nodes. A system user: logind does not clear its segments at a logout.
SYSUSERS = f'u {USER} - "rtvla runtime" {STATE}\nm {USER} video\nm {USER} render\n'

NETWORK = "AF_UNIX AF_INET AF_INET6 AF_NETLINK"  # libzmq ends the process if it may not ask for the interfaces

# For every rtvla-*.service, by the prefix of its name.
COMMON: Pairs = [
    ("User", USER),
    ("Group", USER),
    ("Slice", "rtvla.slice"),
    ("SyslogIdentifier", "%N"),
    ("KillMode", "mixed"),
    ("LimitCORE", 0),  # seconds of writing before a restart; the stack is in the journal
    ("UMask", "0027"),
    ("WorkingDirectory", STATE),
    ("StateDirectory", "rtvla rtvla/runs"),
    ("StateDirectoryMode", "0750"),
    ("CacheDirectory", "rtvla"),
    ("CacheDirectoryMode", "0750"),
    # the watchdog's SIGABRT leaves the stack of a hang in the journal
    ("Environment", "PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 PYTHONDONTWRITEBYTECODE=1"),
    (
        "Environment",
        f"XDG_CACHE_HOME={CACHE} HF_HOME={CACHE}/huggingface HF_HUB_OFFLINE=1 CUDA_CACHE_PATH={CACHE}/cuda",
    ),
    ("Environment", f"TORCHINDUCTOR_CACHE_DIR={CACHE}/inductor TRITON_CACHE_DIR={CACHE}/triton"),
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", ""),
    ("AmbientCapabilities", ""),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "yes"),
    ("ProtectProc", "invisible"),
    ("PrivateTmp", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectHostname", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("RestrictNamespaces", "yes"),
    ("LockPersonality", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallErrorNumber", "EPERM"),
]

HALT_UNIT = "rtvla-halt.service"


def text(sections: Mapping[str, Pairs]) -> str:
    blocks = ["\n".join([f"[{name}]", *(f"{key}={value}" for key, value in pairs)]) for name, pairs in sections.items()]
    return "\n\n".join(blocks) + "\n"


def tmpfiles(run_parent: str) -> str:
    rows = [
        ("/etc/rtvla", "0755", "root", "root"),
        (STATE, "0750", USER, USER),
        (f"{STATE}/models", "0755", "root", "root"),
    ]
    rows += [(run_parent, "0750", USER, USER)]
    return "".join(f"d {path} {mode} {user} {group} -\n" for path, mode, user, group in rows)


def target(stages: Iterable[str]) -> str:
    """Wants=, not Requires=: one that does not start leaves the others to hold the robot still and to record that."""
    names = " ".join(stages)
    unit: Pairs = [("Description", "rtvla: sensors and cameras to robot commands"), ("Wants", names), ("After", names)]
    return text({"Unit": unit, "Install": [("WantedBy", "multi-user.target")]})


def slice_unit(cores: str) -> str:
    return text({"Unit": [("Description", "rtvla")], "Slice": [("AllowedCPUs", cores)]})


def shm(program: str) -> str:
    """Starts before all and stops after all. A new run begins with a clean slate of crash counts: systemd counts the
    starts by an operator, too."""
    unit: Pairs = [
        ("Description", "rtvla shared memory and run folder"),
        ("PartOf", "rtvla.target"),
        ("Wants", "network-online.target"),
        ("After", "network-online.target"),
        ("StartLimitIntervalSec", 0),
        ("OnFailure", f"rtvla-alarm@%N.service {HALT_UNIT}"),
    ]
    service: Pairs = [
        ("Type", "oneshot"),
        ("RemainAfterExit", "yes"),
        ("RuntimeDirectory", "rtvla"),
        ("RuntimeDirectoryMode", "0750"),
        ("ExecStartPre", f"+-{SYSTEMCTL} reset-failed rtvla-*"),
        ("ExecStart", f"{program} service begin $RTVLA_OPTIONS"),
        ("ExecStop", f"{program} service end"),
        ("TimeoutStartSec", 120),
        ("TimeoutStopSec", 30),
        ("PrivateDevices", "yes"),
        ("RestrictAddressFamilies", NETWORK),
        ("IPAddressDeny", "any"),
    ]
    return text({"Unit": unit, "Service": service})


def halt() -> str:
    said = '"<2>the pipeline stops: a process that it cannot do without stays down"'
    unit: Pairs = [("Description", "rtvla stops because a critical process stays down"), ("Conflicts", "rtvla.target")]
    return text({"Unit": unit, "Service": [("Type", "oneshot"), ("ExecStart", f"/bin/echo {said}"), *_alone()]})


def alarm() -> str:
    """MONITOR_* is told since systemd 251; before, the words stay empty."""
    said = (
        "<1>ALARM: %i stays down, result $MONITOR_SERVICE_RESULT status $MONITOR_EXIT_STATUS; "
        "why: journalctl -u %i; then: systemctl start rtvla.target"
    )
    service: Pairs = [("Type", "oneshot"), ("ExecStart", f"/bin/sh -c 'echo \"{said}\"'"), *_alone()]
    return text({"Unit": [("Description", "rtvla alarm for %i")], "Service": service})


def _alone() -> Pairs:
    return [("PrivateDevices", "yes"), ("PrivateNetwork", "yes"), ("RestrictAddressFamilies", "AF_UNIX")]


def black_box_of(name: str) -> str:
    """An ExecStopPost= that has a black box taken by a unit of its own, at once: the restart does not wait for it. Not
    of an end that was asked for, nor of wrong settings."""
    instance = f"rtvla-blackbox@{name}:$SERVICE_RESULT:$EXIT_CODE:$EXIT_STATUS.service"
    start = f'exec {SYSTEMCTL} start --no-block "{instance}"'
    return f"+-/bin/sh -c 'case $SERVICE_RESULT:$EXIT_STATUS in success:*|*:{EXIT_CONFIG}) ;; *) {start};; esac'"


def blackbox(program: str, cfg: Config, cores: str) -> str:
    bounds = " ".join(f"--{name.replace('_', '-')}={value}" for name, value in vars(cfg.blackbox).items())
    service: Pairs = [
        ("Type", "oneshot"),
        ("EnvironmentFile", RUN_FILE),
        ("ExecStart", f"{program} shm dump --into ${{RTVLA_RUN_FOLDER}}/blackbox --because %i {bounds}"),
        ("SuccessExitStatus", "3 5"),  # nothing there any more; a bound
        ("TimeoutStartSec", 90),
        ("CPUAffinity", cores),
        *_alone(),
    ]
    return text({"Unit": [("Description", "rtvla black box of %i")], "Service": service})
