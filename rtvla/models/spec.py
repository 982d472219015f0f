"""ModelSpec: everything about a model that is a fact of its training, stored as spec.json in the checkpoint.

Nothing in here is a setting of a site: a value that differs from the training makes a wrong feature or a wrong motion
without any error, so it travels with the weights and is checked by name when it is read.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from rtvla import schema
from rtvla.errors import CheckpointError
from rtvla.models import spec_rules
from rtvla.models.origin.facts import Origin

_WINDOWS = {"sensor_window": "sensor_hz", "robot_window": "robot_hz"}  # X is in spec.json in seconds too, as X_s
_VL_FIELDS = ("dtype", "views", "vl_sequence", "view_pooling", "image_height", "image_width", "image_rule", "prompt")


@dataclass(frozen=True)
class ModelSpec:
    """The defaults are the sizes of the models that this runtime was made for; a file must state every field."""

    name: str
    vl_backbone: str  # a folder beside spec.json, or a hub name such as Qwen/Qwen2.5-VL-3B-Instruct
    vl_fingerprint: str  # backbone.fingerprint_backbone of it; "" (a hub name only) means: not pinned
    format_version: int = spec_rules.FORMAT_VERSION
    trained: bool = True  # False: random weights; rtvla runs them on loopback only

    horizon: int = 8  # steps in a chunk
    action_dim: int = schema.ACTION_DIM
    step_ms: int = 100
    action_frame: str = "delta_pose_wrf_mm_deg"  # pose difference per step in the world reference frame
    sensor_window: int = 65  # samples, 100 ms
    sensor_hz: int = schema.SENSOR_HZ
    sensor_channels: int = schema.SENSOR_CHANNELS
    sensor_order: str = "force_first"  # of the training; windows here are always force first, the model reorders
    sensor_resample: str = "none"  # how a window of another length is made to fit; none: it is refused
    robot_window: int = 100  # samples, 1 s
    robot_hz: int = schema.ROBOT_HZ
    robot_channels: int = 12
    normalisation: str = "mean_std"  # of windows and actions, by stats.json

    missing_mask: bool = True  # the encoders see which samples of a window were missing
    vl_age_input: bool = True  # the age of the VL feature is an input

    sensor_encoder: str = "plain"  # none: the sensor is no input
    sensor_stages: tuple[int, ...] = (512, 1024, 1024, 1024)  # channels; each stage halves the time axis
    sensor_layers: int = 2
    sensor_heads: int = 8
    sensor_dim: int = 2048
    robot_encoder: str = "transformer"  # none: the robot state is no input
    robot_hidden: int = 256
    robot_layers: int = 3
    robot_heads: int = 8
    robot_dim: int = 2048

    fusion: str = "concat"
    expert: str = "flow_matching"
    expert_hidden: int = 1024
    expert_layers: int = 4
    expert_heads: int = 8
    expert_ff: int = 4096
    flow_steps: int = 10
    flow_solver: str = "euler"
    diffusion_timesteps: int = 100  # of the noise schedule
    diffusion_sampler: str = "ddim"
    diffusion_steps: int = 50  # of sampling

    dtype: str = "bfloat16"  # of the VL backbone; the action model always computes in float32
    vl_dim: int = 2048
    views: tuple[str, ...] = schema.VIEWS  # in the order of a joint sequence
    vl_sequence: str = "per_view"
    view_pooling: str = "mean"
    image_height: int = 360
    image_width: int = 640
    image_rule: str = "origin"  # see qwen_input.resize_stages
    prompt: str = "Perform {task} insertion task"

    origin: Origin | None = None  # facts of an imported model of the old system; None: a model of ours

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(ModelSpec)
        for field in fields(self):
            if field.name != "origin":  # checks itself
                _check_type(field.name, getattr(self, field.name), kinds[field.name])
        spec_rules.check(self)

    @property
    def feature_widths(self) -> dict[str, int]:
        """Values in the feature of each modality in use, in the order of the fusion: vl, sensor, robot."""
        encoders = {"sensor": self.sensor_encoder, "robot": self.robot_encoder}
        used = {name: getattr(self, f"{name}_dim") for name, encoder in encoders.items() if encoder != "none"}
        return {"vl": self.vl_dim, **used}

    @property
    def sensor_window_s(self) -> float:
        return self.sensor_window / self.sensor_hz

    @property
    def robot_window_s(self) -> float:
        return self.robot_window / self.robot_hz

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
            sensor_missing=np.zeros(self.sensor_window, np.bool_),
            robot_missing=np.zeros(self.robot_window, np.bool_),
            vl_age_s=0.3,
        )

    def fake_frames(self, seed: int) -> list[npt.NDArray[np.uint8]]:
        """One random (H, W, 3) RGB frame per view."""
        draw = np.random.default_rng(seed)
        return [draw.integers(0, 256, (self.image_height, self.image_width, 3), np.uint8) for _ in self.views]

    def to_json(self) -> str:
        seconds = {f"{name}_s": getattr(self, f"{name}_s") for name in _WINDOWS}
        return json.dumps({**asdict(self), **seconds}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"spec is not JSON: {error}") from None
        if not isinstance(given, Mapping):
            raise CheckpointError(f"spec is {type(given).__name__}: must be a JSON object")
        names, stated = {field.name for field in fields(cls)}, {f"{name}_s" for name in _WINDOWS}
        missing, unknown = sorted((names | stated) - set(given)), sorted(set(given) - names - stated)
        if missing or unknown:
            raise CheckpointError(
                f"spec: missing {missing}, unknown {unknown}; was it written by another version of rtvla?"
            )
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        values["origin"] = None if given["origin"] is None else Origin.from_json(given["origin"])
        spec = cls(**{name: values[name] for name in names})
        for window, rate in _WINDOWS.items():
            seconds, samples = values[f"{window}_s"], getattr(spec, window)
            if seconds != getattr(spec, f"{window}_s"):
                raise CheckpointError(
                    f"spec {window}_s = {seconds!r}: {window} = {samples} at {rate} = {getattr(spec, rate)} is "
                    f"{getattr(spec, f'{window}_s')} s; correct the one that is wrong"
                )
        return spec


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
