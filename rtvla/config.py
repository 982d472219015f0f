"""Site and tuning: frozen dataclasses, filled from defaults, then a TOML file, then `--set section.field=value`.

What is not here: formats (`wire/`, `schema.py`) and model facts (`ModelSpec` in the checkpoint) are never configurable.
An unknown key or a wrong type is an error that names the nearest right name. Order: defaults, file, overrides. The
sections themselves are in config_sections.py and config_motion.py.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from rtvla.config_motion import Commander, Degrade, Guard
from rtvla.config_sections import (
    BlackBox,
    Monitor,
    Network,
    Policy,
    Realtime,
    Recorder,
    Security,
    SensorIngest,
    Simulation,
    VlEncoder,
)
from rtvla.errors import ConfigError

CONFIG_FOLDER = Path(__file__).parent / "configs"
_MOVED = {
    f"commander.{n}": f"guard.{n}" for n in ("max_step_mm", "max_step_deg", "workspace_min_mm", "workspace_max_mm")
}
NAMESPACE_VARIABLE = "RTVLA_NAMESPACE"  # the only thing read from the environment: tests, two pipelines on one machine


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
