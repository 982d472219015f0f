"""Site and tuning: frozen dataclasses, filled from defaults, then a TOML file, then `--set section.field=value`.

What is not here: formats (`wire/`, `schema.py`) and model facts (`ModelSpec` in the checkpoint) are never configurable.
An unknown key or a wrong type is an error that names the nearest right name. Order: defaults, file, overrides.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import math
import operator
import os
import socket
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from rtvla.errors import ConfigError

CONFIG_FOLDER = Path(__file__).parent / "configs"
_VL_ENGINES = ("auto", "eager", "openvino", "cuda_graph")  # of models/qwen_engine.py
COMMANDER_MODES = ("switch", "blend", "ensemble")  # of control/execution.py
_MOVED = {
    f"commander.{n}": f"guard.{n}" for n in ("max_step_mm", "max_step_deg", "workspace_min_mm", "workspace_max_mm")
}
NAMESPACE_VARIABLE = "RTVLA_NAMESPACE"  # the only thing read from the environment: tests, two pipelines on one machine


def _within(section: str, values: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Every number of a section lies where it makes sense. NaN lies nowhere."""
    for name, (low, high) in ranges.items():
        value = getattr(values, name)
        if not low <= value <= high:
            raise ConfigError(f"{section}.{name} = {value}: must be from {low:g} to {high:g}")


def _lengths(section: str, values: object, allowed: Mapping[str, tuple[int, ...]]) -> None:
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
        _within("network", self, dict.fromkeys(names, (1, 65535)))

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
        _within("realtime", self, {"timer_slack_ns": (1, 1e9)})


@dataclass(frozen=True)
class SensorIngest:
    receive_buffer_bytes: int = 8 * 1024 * 1024  # 208 KiB, the usual default, lost packets during stalls

    def __post_init__(self) -> None:
        _within("sensor_ingest", self, {"receive_buffer_bytes": (65536, 2**30)})


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
        _within("vl_encoder", self, {"reuse": (1, 1e9), "layers": (0, 1000), "skip_below": (0, 255)})
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
        _within("policy", self, {"rate_hz": (0.1, 1e6), "max_missing": (0, 1)})
        _within("policy", self, {"flow_steps": (0, 1000), "diffusion_steps": (0, 1000)})
        _within("policy", self, {"threads": (0, 256), "max_deviation": (0, 0.1)})
        for name, choices in (("engine", ENGINES), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f'policy.{name} = "{getattr(self, name)}": must be one of {", ".join(choices)}')
        if self.model_type not in ("", "flow_matching", "regression", "diffusion"):
            raise ConfigError(
                f'policy.model_type = "{self.model_type}": must be flow_matching, regression or diffusion'
            )


@dataclass(frozen=True)
class Commander:
    """What is made of the chunks, and how it is sent. Limits of what leaves are in Guard."""

    rate_hz: float = 10.0  # commands a second; both robot sides add up what comes within their own 100 ms
    phase_ms: float = 50.0  # after the policy's tick
    mode: str = "blend"  # one of COMMANDER_MODES: a new chunk takes over at once, over blend_ms, or all are averaged
    blend_ms: float = 50.0
    action_horizon: int = 0  # steps of a chunk that are executed; 0: all
    ttl_ms: float = 0.0  # a command is void so long after it was issued, by clocks that must agree; 0: no limit
    auto_start: bool = False
    start_pose_mm_deg: tuple[float, ...] = (191.0, 1.0, 309.0, 1.0, 91.0, 1.0)
    start_tolerance_mm: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in COMMANDER_MODES:
            raise ConfigError(f'commander.mode = "{self.mode}": must be one of {", ".join(COMMANDER_MODES)}')
        _lengths("commander", self, {"start_pose_mm_deg": (6,)})
        ranges = {
            "rate_hz": (10, 100),  # slower, and the robot side would stop between two commands
            "phase_ms": (0, 100),
            "blend_ms": (0, 1000),
            "action_horizon": (0, 32),
            "ttl_ms": (0, 10_000),
            "start_tolerance_mm": (1e-3, 10),
        }
        _within("commander", self, ranges)


@dataclass(frozen=True)
class Guard:
    """The last limits before a motion leaves; control/guard.py says how each works. 0 or empty: no such limit."""

    max_step_mm: float = 0.1  # of each axis in 100 ms, however many commands that are
    max_step_deg: float = 0.1
    velocity_mm_s: float = 0.0  # of all axes together, as the following
    velocity_deg_s: float = 0.0
    acceleration_mm_s2: float = 10.0
    acceleration_deg_s2: float = 10.0
    jerk_mm_s3: float = 0.0
    jerk_deg_s3: float = 0.0
    workspace_min_mm: tuple[float, ...] = ()
    workspace_max_mm: tuple[float, ...] = ()
    keep_out_mm: tuple[float, ...] = ()  # boxes of six numbers: low x y z, high x y z
    joint_min_deg: tuple[float, ...] = ()
    joint_max_deg: tuple[float, ...] = ()
    force: float = 0.0  # in the sensor's unit, either sign
    force_rate: float = 0.0  # rise of its amount a second
    force_rate_ms: float = 20.0  # over which the rise is taken
    on_force: str = "hold"  # or "retract": by retract_mm each 100 ms, at most retract_limit_mm
    retract_mm: tuple[float, ...] = ()  # x y z in the world frame
    retract_limit_mm: float = 2.0
    reject: tuple[str, ...] = ()  # of step, velocity, acceleration, jerk: send nothing instead of less
    latch_after: int = 10  # motions refused within latch_window_s; then only `rtvla resume` ends the hold; 0: never
    latch_window_s: float = 10.0

    def __post_init__(self) -> None:
        box = {"workspace_min_mm": (0, 3), "workspace_max_mm": (0, 3), "retract_mm": (0, 3)}
        _lengths("guard", self, {**box, "joint_min_deg": (0, 6), "joint_max_deg": (0, 6)})
        # What is above 0.1 the robot PC discards without a word, so a larger limit here would only hide the loss.
        _within("guard", self, dict.fromkeys(("max_step_mm", "max_step_deg"), (1e-6, 0.1)))
        limits = ("velocity_mm_s", "velocity_deg_s", "acceleration_mm_s2", "acceleration_deg_s2", "jerk_mm_s3")
        _within("guard", self, dict.fromkeys((*limits, "jerk_deg_s3", "force", "force_rate"), (0, 1e6)))
        ranges = {"force_rate_ms": (2, 100), "retract_limit_mm": (0, 100), "latch_after": (0, 1000)}
        _within("guard", self, {**ranges, "latch_window_s": (0.1, 3600)})
        self._check_boxes()
        if self.on_force not in ("hold", "retract"):
            raise ConfigError(f'guard.on_force = "{self.on_force}": must be hold or retract')
        if self.on_force == "retract" and not any(self.retract_mm):
            raise ConfigError("guard.on_force = retract: needs guard.retract_mm, the x y z in mm of 100 ms of it")
        if unknown := set(self.reject) - {"step", "velocity", "acceleration", "jerk"}:
            raise ConfigError(f"guard.reject {sorted(unknown)}: must be of step, velocity, acceleration, jerk")

    def _check_boxes(self) -> None:
        for what, low, high in (
            ("workspace", self.workspace_min_mm, self.workspace_max_mm),
            ("joint", self.joint_min_deg, self.joint_max_deg),
        ):
            if len(low) != len(high):
                raise ConfigError(f"guard.{what}_min and {what}_max: give both or neither")
            if not all(map(operator.lt, low, high)):
                raise ConfigError(f"guard.{what}_min {list(low)} is not below {what}_max {list(high)}")
        if len(self.keep_out_mm) % 6:
            raise ConfigError(f"guard.keep_out_mm has {len(self.keep_out_mm)} numbers: needs six a box")
        for at in range(0, len(self.keep_out_mm), 6):
            low, high = self.keep_out_mm[at : at + 3], self.keep_out_mm[at + 3 : at + 6]
            if not all(map(operator.lt, low, high)):
                raise ConfigError(f"guard.keep_out_mm: {list(low)} is not below {list(high)}")


@dataclass(frozen=True)
class DegradeRow:
    """What the age of one input leads to (control/degrade.py). Stale it is beyond its stream's limit in [stale_ms];
    gone, `decelerate_ms` later. The actions: act, slow, finish, hold, latch."""

    late_ms: float = 100.0
    decelerate_ms: float = 100.0
    at_late: str = "act"
    at_stale: str = "finish"
    at_gone: str = "hold"

    def __post_init__(self) -> None:
        _within("degrade", self, {"late_ms": (1, 60_000), "decelerate_ms": (0, 60_000)})
        order = ("act", "slow", "finish", "hold", "latch")
        actions = (self.at_late, self.at_stale, self.at_gone)
        if unknown := set(actions) - set(order):
            raise ConfigError(f"degrade: {', '.join(sorted(unknown))} is no action; known: {', '.join(order)}")
        if sorted(actions, key=order.index) != list(actions) or self.at_gone not in ("hold", "latch"):
            raise ConfigError(f"degrade: {', '.join(actions)}: must not get better with age, and end in hold or latch")


@dataclass(frozen=True)
class Degrade:
    """The degrade table. `view` stands for each of them."""

    chunk: DegradeRow = DegradeRow(late_ms=200.0)
    vl_feature: DegradeRow = DegradeRow(late_ms=1200.0)
    sensor: DegradeRow = DegradeRow()
    robot: DegradeRow = DegradeRow(decelerate_ms=0.0, at_stale="hold")
    view: DegradeRow = DegradeRow(late_ms=600.0)
    resume_after_ms: float = 200.0  # so long must all inputs be good again before motion resumes

    def __post_init__(self) -> None:
        _within("degrade", self, {"resume_after_ms": (0, 60_000)})


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
        _within("monitor", self, {"period_s": (0.1, 20)})  # the watchdog sees a round of it within 30 s


@dataclass(frozen=True)
class BlackBox:
    """What `rtvla up` writes when a process dies: so many files in a run, of so many MB together (0 of either: none),
    and only while that leaves so much free on the disk. The first ones and the newest are kept."""

    keep: int = 8  # one has about 5 MB with the simulated senders
    max_mb: float = 400.0
    min_free_mb: float = 1000.0

    def __post_init__(self) -> None:
        _within("blackbox", self, {"keep": (0, 1000), "max_mb": (0, 1e6), "min_free_mb": (0, 1e9)})

    @property
    def is_off(self) -> bool:
        return not (self.keep and self.max_mb)


@dataclass(frozen=True)
class Simulation:
    """Simulated senders that `rtvla up` starts beside the pipeline: sensor, camera, robot, each with its flags."""

    senders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    network: Network = field(default_factory=Network)
    realtime: Realtime = field(default_factory=Realtime)
    sensor_ingest: SensorIngest = field(default_factory=SensorIngest)
    vl_encoder: VlEncoder = field(default_factory=VlEncoder)
    policy: Policy = field(default_factory=Policy)
    commander: Commander = field(default_factory=Commander)
    guard: Guard = field(default_factory=Guard)
    degrade: Degrade = field(default_factory=Degrade)
    security: Security = field(default_factory=Security)
    recorder: Recorder = field(default_factory=Recorder)
    monitor: Monitor = field(default_factory=Monitor)
    blackbox: BlackBox = field(default_factory=BlackBox)
    simulation: Simulation = field(default_factory=Simulation)
    stale_ms: Mapping[str, float] = field(default_factory=dict)  # per stream; default: streams.py
    shortest_way_ms: Mapping[str, float] = field(default_factory=dict)  # per stream, measured by the site; default: 0

    def __post_init__(self) -> None:
        for name, limit in self.stale_ms.items():
            if not 1 <= limit <= 60_000:
                raise ConfigError(f"stale_ms.{name} = {limit}: must be from 1 to 60000")
        for name, way in self.shortest_way_ms.items():
            if not 0 <= way <= 1000:
                raise ConfigError(f"shortest_way_ms.{name} = {way}: must be from 0 to 1000")
        guard = self.guard
        box = zip(guard.workspace_min_mm, guard.workspace_max_mm, self.commander.start_pose_mm_deg, strict=False)
        for low, high, start in box:
            if not low <= start <= high:
                raise ConfigError(
                    f"commander.start_pose_mm_deg: {start:g} mm lies outside the workspace {low:g} to {high:g}; "
                    "`start` would drive the arm out of it"
                )

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
        """`path`: a TOML file, or the bare name of one in rtvla/configs (sim, lab). `overrides`: "a.b=value" each."""
        tree: dict[str, Any] = {}
        if path is not None:
            tree = _read_toml(Path(path))
        for item in overrides:
            _set(tree, item)
        built = _build(cls(), tree, "")
        assert isinstance(built, Config)
        return built

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def digest(self) -> str:
        """Names the effective config in logs and recordings."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def namespace() -> str:
    """Prefix of all segments: RTVLA_NAMESPACE, or "default"."""
    name = os.environ.get(NAMESPACE_VARIABLE, "default")
    if not name or not all(c.isalnum() or c in "_-" for c in name) or len(name) > 64:
        raise ConfigError(f'{NAMESPACE_VARIABLE} = "{name}": use 1 to 64 letters, digits, "_" or "-"')
    return name


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists() and path.suffix == "" and (CONFIG_FOLDER / f"{path.name}.toml").exists():
        path = CONFIG_FOLDER / f"{path.name}.toml"
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        shipped = ", ".join(sorted(p.stem for p in CONFIG_FOLDER.glob("*.toml")))
        raise ConfigError(f"config {path}: no such file; the configs that come with rtvla are: {shipped}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config {path}: {error}") from None


def _set(tree: dict[str, Any], item: str) -> None:
    """Put one "a.b=value" into the tree. The value is read as TOML; what is not TOML is taken as a string."""
    key, equals, text = item.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f'--set "{item}": must look like section.field=value')
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    # a value meant for a stream name that itself has a dot, such as stale_ms.frame.View1, stays one key
    names = [names[0], ".".join(names[1:])] if names[0] in ("stale_ms", "shortest_way_ms") else names
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f'--set "{item}": {name} is not a section')
    tree[names[-1]] = value


def _build(defaults: Any, tree: Mapping[str, Any], where: str) -> object:
    """`defaults` with what the tree says: a section that is given in part keeps the rest of its own place."""
    types_of = typing.get_type_hints(type(defaults))
    names = {f.name for f in fields(defaults)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{where}{key}"
        if key not in names:
            near = difflib.get_close_matches(key, names, 1, 0.5)
            hint = f'; did you mean "{where}{near[0]}"?' if near else f"; known here: {', '.join(sorted(names))}"
            hint = f'; it is now "{_MOVED[path]}"' if path in _MOVED else hint
            raise ConfigError(f'unknown setting "{path}"{hint}')
        values[key] = _convert(types_of[key], value, path, getattr(defaults, key))
    built: object = replace(defaults, **values)
    return built


def _convert(kind: Any, value: Any, path: str, default: Any = None) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ConfigError(f'"{path}" = {value!r}: must be a section [{path}]')
        return _build(default, value, f"{path}.")
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(args[0], item, path) for item in items)
    if origin in (Mapping, dict) or isinstance(origin, types.GenericAlias):
        if not isinstance(value, dict):
            raise ConfigError(f'"{path}" = {value!r}: must be a table')
        return {name: _convert(args[1], item, f"{path}.{name}") for name, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f'"{path}" = {value!r}: must be {kind.__name__}, not {type(value).__name__}')
    if kind is float and not math.isfinite(value):
        raise ConfigError(f'"{path}" = {value}: must be a finite number')
    return value
