"""Is this really a whole JPEG, and how large is its image?

`image_size` walks the markers up to the first scan; `check` then decodes strictly, at an eighth of the size, in grey:
all entropy-coded data is read, only the transform is saved (0.15 ms instead of 0.4 ms for 640x360).
What that finds (simplejpeg 1.9): every truncation, a missing end marker, zeroed or cut-out stretches, wrong structure.
What it cannot find: a JPEG has no checksum, so a flipped bit that still decodes goes through (8 of 10 single flipped
bits, about half of 200 random bytes in the middle of the scan), and so do bytes after the end marker.
Only one-scan baseline or extended Huffman images are taken, up to MAX_SIDE: that is what the senders make
(cv2.imencode), and it bounds the time and memory that a hostile header can ask for (a progressive file may hold
thousands of scans).
"""

from __future__ import annotations

import struct

import simplejpeg

from rtvla.errors import WireError

MAX_SIDE = 4096

_SEGMENT = struct.Struct(">H")
_FRAME = struct.Struct(">HBHHB")  # length, precision, height, width, components
_START, _SCAN = 0xD8, 0xDA
_FRAMES_TAKEN = (0xC0, 0xC1)
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def image_size(jpeg: bytes | memoryview) -> tuple[int, int]:
    """Width and height in pixels from the header. WireError("bad_jpeg") if it is not one that rtvla takes."""
    if len(jpeg) < 4 or jpeg[0] != 0xFF or jpeg[1] != _START:
        raise WireError("bad_jpeg", "does not begin like a JPEG")
    at, size, components = 2, (0, 0), 0
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _SCAN:
            if not components or jpeg[at + 4 : at + 5] != bytes([components]):
                raise WireError("bad_jpeg", "no frame header before the scan, or more than one scan")
            return size
        if marker in _FRAMES:
            size, components = _frame_header(jpeg, at, marker)
        at += 2 + _SEGMENT.unpack_from(jpeg, at + 2)[0]
    raise WireError("bad_jpeg", "header is cut or broken")


def _frame_header(jpeg: bytes | memoryview, at: int, marker: int) -> tuple[tuple[int, int], int]:
    if marker not in _FRAMES_TAKEN:
        raise WireError("bad_jpeg", f"frame type 0x{marker:02x} (progressive, lossless or arithmetic) is not taken")
    if at + 2 + _FRAME.size > len(jpeg):
        raise WireError("bad_jpeg", "frame header is cut")
    _, precision, height, width, components = _FRAME.unpack_from(jpeg, at + 2)
    if precision != 8 or components not in (1, 3):
        raise WireError("bad_jpeg", f"{precision} bits, {components} components: need 8 bits, grey or YCbCr")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise WireError("bad_jpeg", f"{width}x{height}: sides of 1 to {MAX_SIDE} are taken")
    return (width, height), components


def check(jpeg: bytes | memoryview) -> tuple[int, int]:
    """Width and height of a JPEG that decodes completely; WireError("bad_jpeg") for anything else."""
    size = image_size(jpeg)
    try:
        simplejpeg.decode_jpeg(jpeg, "GRAY", min_height=1, min_width=1, strict=True)
    except (ValueError, RuntimeError, MemoryError, BufferError) as error:
        raise WireError("bad_jpeg", str(error)[:120]) from None
    return size
