"""Robot state messages <-> records of schema.ROBOT.

Multipart [topic, payload] on a ZMQ PUB socket (origin a.3). Topic `robot_state` carries `<ddf12f`, 68 bytes: sampled
and sent (epoch s, robot PC clock), a force placeholder that is always 0, joints 1..6 (deg), pose x y z a b r (mm, deg).
Topic `episode_end` with the body `finished` ends a scripted run. The values may be the robot's commanded target, not a
measurement: the old sender asks for the target (origin a.3), and nothing on the wire says which it is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from rtvla.errors import WireError
from rtvla.schema import JOINT_NAMES, POSE_NAMES
from rtvla.wire.stamp import is_stamp

STATE_TOPIC = b"robot_state"
EPISODE_END_TOPIC = b"episode_end"
EPISODE_END_BODY = b"finished"

_STATE = struct.Struct("<ddf12f")
STATE_BYTES = _STATE.size  # 68


class Topic(StrEnum):
    """What a message turned out to be."""

    STATE = "robot_state"
    EPISODE_END = "episode_end"


def encode(sampled_s: float, sent_s: float, joints_deg: Sequence[float], pose_mm_deg: Sequence[float]) -> list[bytes]:
    """One state as its two parts. Refuses a wrong number of values; the numbers themselves are the caller's."""
    if len(joints_deg) != len(JOINT_NAMES) or len(pose_mm_deg) != len(POSE_NAMES):
        raise ValueError(f"{len(joints_deg)} joints and {len(pose_mm_deg)} pose values: need 6 and 6")
    return [STATE_TOPIC, _STATE.pack(sampled_s, sent_s, 0.0, *joints_deg, *pose_mm_deg)]


def encode_record(record: Any) -> list[bytes]:
    """A received state (one schema.ROBOT record) as the very bytes that it came as."""
    front = [record[name] for name in ("sampled_s", "sent_s", "force")]
    return [STATE_TOPIC, _STATE.pack(*front, *record["joints_deg"], *record["pose_mm_deg"])]


def encode_episode_end() -> list[bytes]:
    return [EPISODE_END_TOPIC, EPISODE_END_BODY]


def decode(parts: Sequence[bytes | memoryview], out: Any) -> Topic:
    """Check one message; a state fills every field of `out` (one schema.ROBOT record) but index and received_ns.

    `out` is untouched by anything else. Raises WireError with cause wrong_parts, unknown_topic, bad_length,
    not_finite or bad_stamp. The body of `episode_end` is not looked at.
    """
    if len(parts) != 2:
        raise WireError("wrong_parts", f"{len(parts)} parts, need topic and payload")
    topic, payload = parts
    if topic == EPISODE_END_TOPIC:
        return Topic.EPISODE_END
    if topic != STATE_TOPIC:
        raise WireError("unknown_topic", repr(bytes(topic[:32])))
    if len(payload) != STATE_BYTES:
        raise WireError("bad_length", f"{len(payload)} bytes, a state has {STATE_BYTES}")
    values = _STATE.unpack(payload)
    if not all(map(math.isfinite, values)):
        raise WireError("not_finite", "a state holds NaN or infinity")
    if not (is_stamp(values[0]) and is_stamp(values[1])):
        raise WireError("bad_stamp", f"sampled {values[0]:g} s, sent {values[1]:g} s")
    out["sampled_s"], out["sent_s"], out["force"] = values[:3]
    out["joints_deg"] = values[3:9]
    out["pose_mm_deg"] = values[9:15]
    return Topic.STATE
