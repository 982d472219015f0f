"""The table of the old training scripts: how each one's files are known, and what their tensors do not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rtvla.errors import CheckpointError

_TRAINED_PROMPT, _V1_PROMPT = "Perform {task} insertion task", "Perform needle insertion into the {task}"
ANY = ""


@dataclass(frozen=True)
class Layout:
    name: str
    whole: bool  # model_state_dict, or the parts as keys of their own
    expert: str  # a kind of origin.classes
    sensor: str = ANY  # a kind, ANY (or none)
    lora: bool | None = None  # None: does not matter
    file: str = ".*"  # pattern of the file's name
    sensor_length: int = 65
    vl_sequence: str = "per_view"  # as the old receiver encoded it
    prompt: str = _TRAINED_PROMPT
    script: str = ""


def _v1(name: str, whole: bool, expert: str, script: str, **more: object) -> Layout:
    fixed = {"vl_sequence": "joint", "prompt": _V1_PROMPT}
    return Layout(name, whole, expert, script=script, **fixed | more)  # type: ignore[arg-type]


_WITH_SENSOR, _V1_DIFFUSION = "v1.QwenActionExpertWithSensor", "v1.DiffusionActionExpert"
_REGRESSION, _FLOW = "v2.RegressionActionExpert", "v2.FlowMatchingActionExpert"
# The first that fits is taken.
LAYOUTS = (
    _v1("v1 stage 1", False, _WITH_SENSOR, "A5st_VLA_TRAIN_VL_Lora_with_sensor.py (best, latest)"),
    _v1("v1 diffusion", False, _V1_DIFFUSION, "A5st_VLA_TRAIN_Diffusion_with_sensor.py"),
    _v1("v1 async LoRA", True, _WITH_SENSOR, "A6_VLA_TRAIN_ASYNC.py", lora=True),
    _v1(
        "v1 encoder and action",
        True,
        _WITH_SENSOR,
        "train_encoder_action.py",
        file=r"encoder_action.*",
        sensor_length=650,
    ),
    _v1("v1 whole", True, _WITH_SENSOR, "A5st_VLA_TRAIN_VL_Lora_with_sensor.py (final), A5st_VLA_TRAIN_Unified.py"),
    _v1("v1 whole diffusion", True, _V1_DIFFUSION, "A5st_VLA_TRAIN_Unified.py, diffusion stage 2"),
    _v1("v1 without sensor", True, "v1.QwenActionExpert", "5st_VLA_TRAIN_VL_Lora.py"),
    Layout("v2 unified regression", True, _REGRESSION, "v2.SensorEncoder", script="TRAIN_Unified.py"),
    Layout("v2 unified flow matching", True, _FLOW, "v2.SensorEncoder", script="TRAIN_Unified.py"),
    Layout("v2 unified diffusion", True, "v2.DiffusionActionExpert", script="TRAIN_Unified.py (never ran)"),
    Layout("v2 regression", True, _REGRESSION, script="TRAIN_Regression.py"),
    Layout("v2 flow matching", True, _FLOW, script="TRAIN_FlowMatching.py"),
)
# Kinds whose file holds an encoder that was trained for its own sake.
PRETRAINED: Mapping[str, Layout] = {
    "v2.MAERobotStateModel": Layout("v2 MAE", True, "v2.MAERobotStateModel", script="TRAIN_RobotState_MAE.py"),
    "v2.CLIPModel": Layout("v2 CLIP", True, "v2.CLIPModel", sensor_length=60, script="TRAIN_SensorImage_CLIP.py"),
}
# What each layout may consist of; a sensor of v1 with an expert of v2 is no model that ever was.
_VERSION_PARTS = {"v1": ("v1.SensorEncoder",), "v2": ("v2.SensorEncoder", "v2.ForceAwareSensorEncoder")}


def find_layout(file: str, whole: bool, expert: str, sensor: str | None, lora: bool) -> Layout:
    """`file`: its name, which for one script is the only trace of its window."""
    if sensor is not None and sensor not in _VERSION_PARTS[expert[:2]]:
        raise CheckpointError(f"{file}: sensor encoder {sensor} with expert {expert}: no old script combined them")
    for layout in LAYOUTS:
        if (
            (layout.whole, layout.expert) == (whole, expert)
            and layout.sensor in (ANY, sensor)
            and layout.lora in (None, lora)
            and re.fullmatch(layout.file, file)
        ):
            return layout
    where = "model_state_dict" if whole else "parts as keys of their own"
    known = "; ".join(f"{one.name} ({one.script})" for one in LAYOUTS)
    raise CheckpointError(f"{file}: {expert} in {where} fits no known layout. Known: {known}")
