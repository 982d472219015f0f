"""Camera messages <-> CameraMessage.

Multipart [JSON meta, JPEG] on a ZMQ PUSH socket (origin a.4). Meta: `camera` (str), `timestamp` (epoch s on the camera
PC, taken after the grab), and, depending on the sender, `size` (JPEG bytes) and `send_time` (epoch s). Which damage to
a JPEG is found and which is not is said in jpeg.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rtvla.errors import WireError
from rtvla.schema import FRAME, MAX_JPEG_BYTES
from rtvla.wire import jpeg as jpeg_format
from rtvla.wire.json_object import finite_number, parse
from rtvla.wire.stamp import is_stamp

MAX_META_BYTES = 64 * 1024
MAX_CAMERA_CHARS = FRAME["camera"].itemsize  # 48

# A key of digits is a ZED's serial number and needs "left" beside it; any other key is enough by itself (origin a.4).
DEFAULT_VIEWS: Mapping[str, str] = MappingProxyType(
    {"41182735": "View1", "49429257": "View2", "44377151": "View3", "49045152": "View4", "oak": "View5"}
)


@dataclass(frozen=True, slots=True)
class CameraMessage:
    """One checked image; `jpeg` is the received part itself, not a copy."""

    camera: str
    view: str
    sampled_s: float
    sent_s: float  # 0.0 if the sender does not say
    jpeg: bytes | memoryview
    width: int
    height: int


def view_of(camera: str, table: Mapping[str, str] = DEFAULT_VIEWS) -> str | None:
    """The view that a camera name belongs to, or None. Upper and lower case are the same."""
    name = camera.lower()
    for key, view in table.items():
        if key.lower() in name and (not key.isdigit() or "left" in name):
            return view
    return None


def encode(
    camera: str, sampled_s: float, jpeg: bytes, sent_s: float | None = None, *, size: bool = True
) -> list[bytes]:
    """One image as its two parts. `size` and `sent_s` are there or not, as the old senders differ in them."""
    meta: dict[str, Any] = {"camera": camera, "timestamp": sampled_s}
    if size:
        meta["size"] = len(jpeg)
    if sent_s is not None:
        meta["send_time"] = sent_s
    return [json.dumps(meta, allow_nan=False).encode(), jpeg]


def decode(parts: Sequence[bytes | memoryview], table: Mapping[str, str] = DEFAULT_VIEWS) -> CameraMessage:
    """Check one message completely, the JPEG included.

    Raises WireError with cause wrong_parts, bad_json, bad_meta, unknown_view, too_large, size_differs or bad_jpeg.
    """
    if len(parts) != 2:
        raise WireError("wrong_parts", f"{len(parts)} parts, need meta and JPEG")
    meta, jpeg = parse(parts[0], MAX_META_BYTES), parts[1]
    camera = _camera(meta)
    sampled_s, sent_s = _stamp(meta, "timestamp"), _stamp(meta, "send_time") if "send_time" in meta else 0.0
    view = view_of(camera, table)
    if view is None:
        raise WireError("unknown_view", camera)
    if len(jpeg) > MAX_JPEG_BYTES:
        raise WireError("too_large", f"{len(jpeg)} bytes from {camera}, at most {MAX_JPEG_BYTES}")
    if "size" in meta:
        _check_size(meta["size"], len(jpeg))
    width, height = jpeg_format.check(jpeg)
    return CameraMessage(camera, view, sampled_s, sent_s, jpeg, width, height)


def _camera(meta: Mapping[str, Any]) -> str:
    camera = meta.get("camera")
    if not isinstance(camera, str):
        raise WireError("bad_meta", f"camera is a {type(camera).__name__}")
    if not 1 <= len(camera) <= MAX_CAMERA_CHARS or not camera.isascii() or not camera.isprintable():
        raise WireError("bad_meta", f"camera needs 1 to {MAX_CAMERA_CHARS} printable ASCII characters")
    return camera


def _stamp(meta: Mapping[str, Any], name: str) -> float:
    stamp_s = finite_number(meta.get(name))
    if stamp_s is None or not is_stamp(stamp_s):
        raise WireError("bad_meta", f"{name} is missing or not a time in seconds")
    return stamp_s


def _check_size(size: object, n_bytes: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int):
        raise WireError("bad_meta", f"size is a {type(size).__name__}")
    if size != n_bytes:
        raise WireError("size_differs", f"the JPEG has {n_bytes} bytes, its meta says otherwise")
