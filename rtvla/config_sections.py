"""The sections of the config: one frozen dataclass each, every number within its range, every wrong one named.

Those of motion are in config_motion.py; how they are filled is in config.py.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from rtvla.errors import ConfigError

_VL_ENGINES = ("auto", "eager", "openvino", "cuda_graph")  # of models/qwen_engine.py


def within(section: str, values: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Every number of a section lies where it makes sense. NaN lies nowhere."""
    for name, (low, high) in ranges.items():
        value = getattr(values, name)
        if not low <= value <= high:
            raise ConfigError(f"{section}.{name} = {value}: must be from {low:g} to {high:g}")


def lengths(section: str, values: object, allowed: Mapping[str, tuple[int, ...]]) -> None:
    for name, lengths in allowed.items():
        if (found := len(getattr(values, name))) not in lengths:
            raise ConfigError(f"{section}.{name} has {found} numbers: needs {lengths[-1]}")


@dataclass(frozen=True)
class Network:
    """Addresses. `bind_ip = "auto"` is the address of this host that faces the robot: never all interfaces."""

    bind_ip: str = "auto"
    sensor_port: int = 9999
    camera_port: int = 5555
    robot_ip: str = "127.0.0.1"
    robot_port: int = 5556
    command_port: int = 5000

    def __post_init__(self) -> None:
        names = ("sensor_port", "camera_port", "robot_port", "command_port")
        within("network", self, dict.fromkeys(names, (1, 65535)))

    def listen_ip(self) -> str:
        """The address to bind. No packet is sent: connecting a UDP socket only asks the routing table."""
        if self.bind_ip != "auto":
            return self.bind_ip
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((self.robot_ip, self.robot_port))
            except OSError as error:
                raise ConfigError(
                    f"network.bind_ip = auto: no route to network.robot_ip = {self.robot_ip} ({error.strerror}); "
                    "set network.bind_ip to the address of this host in the robot's network"
                ) from error
            return str(probe.getsockname()[0])


@dataclass(frozen=True)
class Realtime:
    """What is asked of the kernel. What was refused is in `rtvla status` and in each process's log, once."""

    fifo: bool = True
    lock_memory: bool = True
    freeze_gc: bool = True
    timer_slack_ns: int = 1
    cores: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # per process; default: procs/table.py

    def __post_init__(self) -> None:
        within("realtime", self, {"timer_slack_ns": (1, 1e9)})


@dataclass(frozen=True)
class SensorIngest:
    receive_buffer_bytes: int = 8 * 1024 * 1024  # 208 KiB, the usual default, lost packets during stalls

    def __post_init__(self) -> None:
        within("sensor_ingest", self, {"receive_buffer_bytes": (65536, 2**30)})


@dataclass(frozen=True)
class VlEncoder:
    reuse: int = 4  # target number of chunks per renewed set of views
    task_name: str = "eye"
    device: str = "auto"
    engine: str = "auto"  # one of _VL_ENGINES
    rolling: bool = True  # view by view as frames come; else all views at once
    quantize: str = "none"  # int8, fp8: the language part in 8 bits, an approximation
    layers: int = 0  # of the language part; 0: all, less is an approximation
    skip_below: float = 0.0  # grey levels: a view that changed by less is not encoded anew; 0: every frame is

    def __post_init__(self) -> None:
        within("vl_encoder", self, {"reuse": (1, 1e9), "layers": (0, 1000), "skip_below": (0, 255)})
        for name, choices in (("engine", _VL_ENGINES), ("quantize", ("none", "int8", "fp8"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f'vl_encoder.{name} = "{getattr(self, name)}": must be one of {", ".join(choices)}')


ENGINES = ("auto", "eager", "compiled", "openvino", "cuda_graph")  # rtvla/models/engines/README.md
PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Policy:
    rate_hz: float = 10.0
    checkpoint: str = ""
    model_type: str = ""  # if given, the checkpoint must be of this type
    flow_steps: int = 0  # 0: as the checkpoint says
    diffusion_steps: int = 0  # likewise
    device: str = "auto"
    engine: str = "auto"
    precision: str = "float32"  # the others are faster, and refused at load beyond max_deviation
    max_deviation: float = 0.005  # mm and deg; the robot's largest step is 0.1
    threads: int = 0  # 0: one a core of the process
    max_missing: float = 0.2  # share of a window that may be missing; above it there is no chunk

    def __post_init__(self) -> None:
        within("policy", self, {"rate_hz": (0.1, 1e6), "max_missing": (0, 1)})
        within("policy", self, {"flow_steps": (0, 1000), "diffusion_steps": (0, 1000)})
        within("policy", self, {"threads": (0, 256), "max_deviation": (0, 0.1)})
        for name, choices in (("engine", ENGINES), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f'policy.{name} = "{getattr(self, name)}": must be one of {", ".join(choices)}')
        if self.model_type not in ("", "flow_matching", "regression", "diffusion"):
            raise ConfigError(
                f'policy.model_type = "{self.model_type}": must be flow_matching, regression or diffusion'
            )


@dataclass(frozen=True)
class Security:
    """Who may speak with this host (security/gate.py). Without keys: this machine, or what `insecure_lan` says."""

    keys: str = ""  # folder of `rtvla keys make`, or its part for the host; empty: no keys
    plain: tuple[str, ...] = ()  # machines that know no keys, although there are some: robot, cameras
    insecure_lan: bool = False
    udp_sources: tuple[str, ...] = ()  # addresses that sensor datagrams are taken from; empty: any that can reach us
    udp_tag: bool = False  # take only datagrams with the tag of wire/udp_tag.py

    def __post_init__(self) -> None:
        for name in self.plain:
            if name not in ("robot", "cameras"):
                raise ConfigError(f'security.plain names "{name}": must be robot or cameras')
        for source in self.udp_sources:
            try:
                ipaddress.IPv4Address(source)
            except ValueError as error:
                raise ConfigError(f'security.udp_sources names "{source}": must be IPv4 addresses ({error})') from None
        if self.udp_tag and not self.keys:
            raise ConfigError("security.udp_tag = true: needs security.keys, the folder that rtvla keys make wrote")


@dataclass(frozen=True)
class Recorder:
    out_dir: str = "."
    save_data: bool = False
    run_folder: str = ""  # set by `rtvla up`; empty: a new one below out_dir


@dataclass(frozen=True)
class Monitor:
    period_s: float = 2.0

    def __post_init__(self) -> None:
        within("monitor", self, {"period_s": (0.1, 20)})  # the watchdog sees a round of it within 30 s


@dataclass(frozen=True)
class BlackBox:
    """What `rtvla up` writes when a process dies: so many files in a run, of so many MB together (0 of either: none),
    and only while that leaves so much free on the disk. The first ones and the newest are kept."""

    keep: int = 8  # one has about 5 MB with the simulated senders
    max_mb: float = 400.0
    min_free_mb: float = 1000.0

    def __post_init__(self) -> None:
        within("blackbox", self, {"keep": (0, 1000), "max_mb": (0, 1e6), "min_free_mb": (0, 1e9)})

    @property
    def is_off(self) -> bool:
        return not (self.keep and self.max_mb)


@dataclass(frozen=True)
class Simulation:
    """Simulated senders that `rtvla up` starts beside the pipeline: sensor, camera, robot, each with its flags."""

    senders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
