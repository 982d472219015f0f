"""ModelSpec: everything about a model that is a fact of its training, stored as spec.json in the checkpoint.

Nothing in here is a setting of a site: a value that differs from the training makes a wrong feature or a wrong motion
without any error, so it travels with the weights and is checked by name when it is read.
"""

from __future__ import annotations

import hashlib
import json
import string
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from rtvla import schema
from rtvla.errors import CheckpointError

FORMAT_VERSION = 1
NORM_GROUPS = 8  # of the convolution stages; every channel count must be a multiple

# Values that the rest of rtvla is built on: a model trained on others cannot be run by changing this file.
_FIXED = {
    "format_version": FORMAT_VERSION,
    "action_dim": schema.ACTION_DIM,
    "step_ms": schema.STEP_NS // 1_000_000,
    "sensor_hz": schema.SENSOR_HZ,
    "sensor_channels": schema.SENSOR_CHANNELS,
    "robot_hz": schema.ROBOT_HZ,
    "robot_channels": len(schema.ROBOT_CHANNEL_NAMES),
}
_CHOICES = {
    "action_frame": ("delta_pose_wrf_mm_deg",),
    "sensor_order": ("force_first",),
    "expert": ("flow_matching", "regression"),
    "flow_solver": ("euler", "rk4"),
    "dtype": ("float32", "bfloat16"),  # no float16: the vision tower of Qwen2.5-VL-3B overflows in it
    "vl_sequence": ("per_view", "joint"),
    "view_pooling": ("mean",),
    "image_rule": ("origin", "hub"),
}
_AT_MOST = {"horizon": schema.MAX_HORIZON, "vl_dim": schema.MAX_VL_DIM}
_HEADS = {"robot_hidden": "robot_heads", "expert_hidden": "expert_heads"}
_VL_FIELDS = ("dtype", "views", "vl_sequence", "view_pooling", "image_height", "image_width", "image_rule", "prompt")


@dataclass(frozen=True)
class ModelSpec:
    """The defaults are the sizes of the models that this runtime was made for; a file must state every field."""

    name: str
    vl_backbone: str  # a folder beside spec.json, or a hub name such as Qwen/Qwen2.5-VL-3B-Instruct
    vl_fingerprint: str  # backbone.fingerprint_backbone of it; "" (a hub name only) means: not pinned
    format_version: int = FORMAT_VERSION
    trained: bool = True  # False: random weights; rtvla runs them on loopback only

    horizon: int = 8  # steps in a chunk
    action_dim: int = schema.ACTION_DIM
    step_ms: int = 100
    action_frame: str = "delta_pose_wrf_mm_deg"  # pose difference per step in the world reference frame
    sensor_window: int = 65  # samples, 100 ms
    sensor_hz: int = schema.SENSOR_HZ
    sensor_channels: int = schema.SENSOR_CHANNELS
    sensor_order: str = "force_first"
    robot_window: int = 100  # samples, 1 s
    robot_hz: int = schema.ROBOT_HZ
    robot_channels: int = 12

    sensor_stages: tuple[int, ...] = (512, 1024, 1024, 1024)  # channels; each stage halves the time axis
    sensor_layers: int = 2
    sensor_heads: int = 8
    sensor_dim: int = 2048
    robot_hidden: int = 256
    robot_layers: int = 3
    robot_heads: int = 8
    robot_dim: int = 2048

    expert: str = "flow_matching"
    expert_hidden: int = 1024
    expert_layers: int = 4
    expert_heads: int = 8
    expert_ff: int = 4096
    flow_steps: int = 10
    flow_solver: str = "euler"

    dtype: str = "bfloat16"  # of the VL backbone; the action model always computes in float32
    vl_dim: int = 2048
    views: tuple[str, ...] = schema.VIEWS  # in the order of a joint sequence
    vl_sequence: str = "per_view"
    view_pooling: str = "mean"
    image_height: int = 360
    image_width: int = 640
    image_rule: str = "origin"  # see qwen_input.resize_stages
    prompt: str = "Perform {task} insertion task"

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(ModelSpec)
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), kinds[field.name])
        for name, value in _FIXED.items():
            if getattr(self, name) != value:
                raise CheckpointError(f"spec {name} = {getattr(self, name)}: this rtvla runs models with {value} only")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise CheckpointError(f'spec {name} = "{getattr(self, name)}": must be one of {", ".join(choices)}')
        for name, most in _AT_MOST.items():
            if getattr(self, name) > most:
                raise CheckpointError(f"spec {name} = {getattr(self, name)}: shared memory has room for {most}")
        self._check_sizes()
        self._check_vl()

    def _check_sizes(self) -> None:
        if not self.sensor_stages or any(channels % NORM_GROUPS for channels in self.sensor_stages):
            raise CheckpointError(f"spec sensor_stages = {self.sensor_stages}: needs multiples of {NORM_GROUPS}")
        if self.sensor_stages[-1] % self.sensor_heads:
            raise CheckpointError(f"spec sensor_heads = {self.sensor_heads}: must divide {self.sensor_stages[-1]}")
        for width, heads in _HEADS.items():
            if getattr(self, width) % getattr(self, heads):
                raise CheckpointError(
                    f"spec {heads} = {getattr(self, heads)}: must divide {width} = {getattr(self, width)}"
                )
        if self.expert_hidden % 2:
            raise CheckpointError(f"spec expert_hidden = {self.expert_hidden}: must be even (sine and cosine halves)")

    def _check_vl(self) -> None:
        unknown = [view for view in self.views if view not in schema.VIEWS]
        if unknown or not self.views or len(set(self.views)) != len(self.views):
            raise CheckpointError(f"spec views = {self.views}: name each of {', '.join(schema.VIEWS)} at most once")
        if self.vl_backbone.startswith((".", "/")) or self.vl_backbone.count("/") > 1 or not self.vl_backbone:
            raise CheckpointError(
                f'spec vl_backbone = "{self.vl_backbone}": must be a folder beside spec.json (one plain name, '
                "which may be a symbolic link) or a hub name (organisation/model)"
            )
        pinned = len(self.vl_fingerprint) == 64 and set(self.vl_fingerprint) <= set(string.hexdigits.lower())
        if not pinned and not (self.vl_fingerprint == "" and self.on_hub):
            raise CheckpointError(
                f'spec vl_fingerprint = "{self.vl_fingerprint}": must be the 64 hex digits that '
                "backbone.fingerprint_backbone gives for the backbone"
            )
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None}
        except ValueError as error:
            raise CheckpointError(f'spec prompt = "{self.prompt}": {error}') from None
        if not names <= {"task"}:
            raise CheckpointError(f'spec prompt = "{self.prompt}": may use {{task}} and no other field')

    @property
    def on_hub(self) -> bool:
        return "/" in self.vl_backbone

    def fingerprint(self) -> int:
        """64 bits of everything that defines the VL feature. Two specs that agree may exchange features."""
        made_by: dict[str, Any] = {name: getattr(self, name) for name in _VL_FIELDS}
        made_by["backbone"] = self.vl_fingerprint or self.vl_backbone
        text = json.dumps(made_by, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def fake_observation(self, seed: int) -> schema.Observation:
        """Random arrays of the right shapes, for warm-up and benchmarks."""
        draw = np.random.default_rng(seed)
        return schema.Observation(
            sensor=draw.standard_normal((self.sensor_window, self.sensor_channels), np.float32),
            robot=draw.standard_normal((self.robot_window, self.robot_channels), np.float32),
            vl_feature=draw.standard_normal(self.vl_dim, np.float32),
        )

    def fake_frames(self, seed: int) -> list[npt.NDArray[np.uint8]]:
        """One random (H, W, 3) RGB frame per view."""
        draw = np.random.default_rng(seed)
        return [draw.integers(0, 256, (self.image_height, self.image_width, 3), np.uint8) for _ in self.views]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"spec is not JSON: {error}") from None
        if not isinstance(given, Mapping):
            raise CheckpointError(f"spec is {type(given).__name__}: must be a JSON object")
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - set(given)), sorted(set(given) - names)
        if missing or unknown:
            raise CheckpointError(
                f"spec: missing {missing}, unknown {unknown}; was it written by another version of rtvla?"
            )
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return cls(**values)


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Exact types (a bool is no int); every number in a spec is a count or a size, so it must be positive."""
    is_tuple = typing.get_origin(kind) is tuple
    item = typing.get_args(kind)[0] if is_tuple else kind
    values = value if is_tuple and isinstance(value, tuple) else (value,)
    if is_tuple != isinstance(value, tuple) or any(type(one) is not item for one in values):
        wanted = f"a list of {item.__name__}" if is_tuple else item.__name__
        raise CheckpointError(f"spec {name} = {value!r}: must be {wanted}")
    if item is int and any(one <= 0 for one in values):
        raise CheckpointError(f"spec {name} = {value!r}: must be positive")
