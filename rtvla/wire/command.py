"""JSON commands to the robot PC: start, dpose, apose, stop (origin a.5). One frame, no reply.

The old field `start_joints` is in fact executed as a Cartesian pose (MovePose): our code calls it `start_pose_mm_deg`
and writes the old spelling, which is what the robot PC expects. Poses are x y z (mm) a b g (deg) in the world frame;
a dpose is a motion relative to wherever the arm is. Only finite numbers ever go on the wire: else a ValueError here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rtvla.errors import WireError
from rtvla.wire.json_object import finite_number, parse

MAX_COMMAND_BYTES = 4096  # a real command has under 300
KINDS = ("start", "dpose", "apose", "stop")
START_FIELDS = ("start_joints", "start_pose")  # both mean a Cartesian pose
_FIELDS: Mapping[str, tuple[str, ...]] = {"start": START_FIELDS, "dpose": ("dp",), "apose": ("pose",), "stop": ()}
_NO_STAMP: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Command:
    """A checked command. `values_mm_deg` is the start pose, the step or the pose by `kind`; empty for stop."""

    kind: str
    values_mm_deg: tuple[float, ...] = ()
    lock_j6: bool = False


def encode_start(
    start_pose_mm_deg: Iterable[float],
    lock_j6: bool = False,
    *,
    field: str = "start_joints",
    stamp: Mapping[str, Any] = _NO_STAMP,
) -> bytes:
    """Move to a Cartesian pose, then obey dposes. `field` is the spelling on the wire, see above. `stamp`: what the
    command says about itself, from wire/command_stamp.py; an old receiver looks for its own keys and at no others."""
    if field not in START_FIELDS:
        raise ValueError(f"field = {field!r}: must be one of {', '.join(START_FIELDS)}")
    pose = _six_finite(start_pose_mm_deg, "start_pose_mm_deg")
    return _dump({"cmd": "start", field: pose, "lock_j6": bool(lock_j6), **stamp})


def encode_dpose(delta_pose_mm_deg: Iterable[float], *, stamp: Mapping[str, Any] = _NO_STAMP) -> bytes:
    """Move by this much more. The robot side adds up what comes within its own 100 ms, moves by the sum in the next
    100 ms, and discards what of it is over 0.1 mm or 0.1 deg: so the motion of 100 ms may also come in parts."""
    return _dump({"cmd": "dpose", "dp": _six_finite(delta_pose_mm_deg, "delta_pose_mm_deg"), **stamp})


def encode_apose(pose_mm_deg: Iterable[float]) -> bytes:
    """Move to an absolute pose; dposes are ignored on the way."""
    return _dump({"cmd": "apose", "pose": _six_finite(pose_mm_deg, "pose_mm_deg")})


def encode_stop() -> bytes:
    """End: zero velocity, then the robot PC shuts down in order."""
    return _dump({"cmd": "stop"})


def decode(payload: bytes | memoryview) -> Command:
    """Raises WireError with cause bad_json, unknown_command or bad_values, and nothing else, whatever the bytes."""
    message = parse(payload, MAX_COMMAND_BYTES)
    kind = message.get("cmd")
    if not isinstance(kind, str) or kind not in KINDS:
        raise WireError("unknown_command", ascii(kind[:32]) if isinstance(kind, str) else type(kind).__name__)
    lock_j6 = message.get("lock_j6", False) if kind == "start" else False
    if not isinstance(lock_j6, bool):
        raise WireError("bad_values", f"lock_j6 is a {type(lock_j6).__name__}")
    return Command(kind, _values(message, _FIELDS[kind]), lock_j6)


def _values(message: Mapping[str, Any], fields: tuple[str, ...]) -> tuple[float, ...]:
    if not fields:
        return ()
    present = [field for field in fields if field in message]
    if len(present) != 1:
        raise WireError("bad_values", f"needs exactly one of {', '.join(fields)}")
    raw = message[present[0]]
    if not isinstance(raw, list) or len(raw) != 6:
        raise WireError("bad_values", f"{present[0]} is not a list of 6")
    values = tuple(number for number in map(finite_number, raw) if number is not None)
    if len(values) != 6:
        raise WireError("bad_values", f"{present[0]} holds something that is not a finite number")
    return values


def _six_finite(values: Iterable[float], name: str) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} = {numbers}: must be 6 finite numbers")
    return numbers


def _dump(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()  # as pyzmq's send_json writes it
