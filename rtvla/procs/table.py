"""THE table of processes: what runs, on which cores, how urgent, after whom, and how it is brought back.

The supervisor and `rtvla run` read it; a process names nothing of this about itself.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.streams import FRAME_STREAMS, STREAMS


@dataclass(frozen=True)
class Process:
    name: str
    module: str  # has main(cfg); named by string: nobody imports a process
    role: str  # which cores: a column of CORE_PLANS
    needs: tuple[str, ...] = ()  # ready before this one is started; stopped after this one
    fifo: int = 0  # SCHED_FIFO priority once it is ready; 0: an ordinary process
    nice: int = 0
    torch: bool = False  # loads torch: threads are limited, memory is locked as it is touched
    ready_s: float = 15.0  # longer than this from start to ready: killed and started again
    watchdog_s: float = 2.0  # a ready process without a round for this long is dead
    stop_s: float = 5.0  # from SIGTERM to SIGKILL
    critical: bool = True  # if it stays down, the pipeline stops
    console: bool = False  # its standard output is the terminal's
    notifies: bool = True  # says READY and WATCHDOG; else it counts as ready once it is started
    outlives_supervisor: bool = False  # told to stop (SIGTERM) instead of killed when the supervisor dies


_INGESTS = ("sensor_ingest", "robot_ingest", "camera_ingest")
_P = "rtvla.procs."

# The recorder starts first and stops last, so the begin and the end are on record. The commander starts last and stops
# first: no command is the safe command.
PROCESSES: Mapping[str, Process] = {
    process.name: process
    for process in (
        Process("recorder", f"{_P}recorder", "background", nice=5, watchdog_s=30, stop_s=300, outlives_supervisor=True),
        Process("monitor", f"{_P}monitor", "background", nice=10, watchdog_s=30, console=True, critical=False),
        Process("sensor_ingest", f"{_P}sensor_ingest", "ingest", ("recorder",), fifo=60),
        Process("robot_ingest", f"{_P}robot_ingest", "ingest", ("recorder",), nice=-5),
        Process("camera_ingest", f"{_P}camera_ingest", "ingest", ("recorder",), nice=-5),
        Process("vl_encoder", f"{_P}vl_encoder", "vl", _INGESTS, torch=True, ready_s=600, watchdog_s=30),
        Process("policy", f"{_P}policy", "policy", _INGESTS, fifo=50, torch=True, ready_s=300),
        Process("commander", f"{_P}commander", "control", ("vl_encoder", "policy"), fifo=55),
    )
}

SENDERS = ("robot", "camera", "sensor")  # what `simulation.senders` may name


def sender_process(kind: str) -> Process:
    """A simulated sender beside the pipeline: a program of its own, over the real sockets; stopped before the ingests,
    so that everything it has sent is received."""
    return Process(f"send_{kind}", f"rtvla.senders.{kind}_sim", "background", _INGESTS, notifies=False, critical=False)


BACKOFF_S, BACKOFF_MAX_S = 0.2, 5.0  # before a restart, doubled each time; back to the first after a quiet minute
CRASHES, CRASHES_WITHIN_S = 5, 60.0  # so many in so long: it stays down, and the pipeline stops and says so
EXIT_CONFIG = 78  # EX_CONFIG: an error in the settings, never restarted

# At least so many cores -> the cores of each role, as positions in the list of cores this process may use.
CORE_PLANS: Mapping[int, Mapping[str, tuple[int, ...]]] = {
    8: {"background": (0,), "ingest": (1,), "control": (2,), "policy": (3, 4), "vl": (5, 6, 7)},
    4: {"background": (0,), "ingest": (1,), "control": (1,), "policy": (2,), "vl": (3,)},
    2: {"background": (1,), "ingest": (0,), "control": (0,), "policy": (0,), "vl": (1,)},
    1: {"background": (0,), "ingest": (0,), "control": (0,), "policy": (0,), "vl": (0,)},
}


def cores_of(process: Process, cfg: Config, available: Sequence[int] | None = None) -> tuple[int, ...]:
    """The cores of a process: the config's if it names some, else the plan for this number of cores."""
    if process.name in cfg.realtime.cores:
        return cfg.realtime.cores[process.name]
    cores = sorted(os.sched_getaffinity(0)) if available is None else sorted(available)
    plan = CORE_PLANS[max(least for least in CORE_PLANS if least <= len(cores))]
    return tuple(cores[at] for at in plan[process.role])


def check(cfg: Config) -> None:
    """What only the tables and this host know: names of processes, streams and senders, and which cores exist."""
    for name, cores in cfg.realtime.cores.items():
        if not cores or not set(cores) <= set(range(os.cpu_count() or 1)):
            raise ConfigError(
                f"realtime.cores.{name} = {list(cores)}: this host has cores 0 to {(os.cpu_count() or 1) - 1}"
            )
    for where, given, known in (
        ("realtime.cores", cfg.realtime.cores, PROCESSES),
        ("stale_ms", cfg.stale_ms, STREAMS),
        ("shortest_way_ms", cfg.shortest_way_ms, ("sensor", "robot", *FRAME_STREAMS)),
        ("simulation.senders", cfg.simulation.senders, SENDERS),
    ):
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, list(known), 1, 0.4)
                hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
                raise ConfigError(f'{where} names "{name}", which does not exist; {hint}')
