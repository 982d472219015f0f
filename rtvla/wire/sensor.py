"""Sensor datagrams <-> records of schema.SENSOR_WIRE.

Two forms arrive on the same UDP port and differ in length alone, so they cannot be mistaken for each other:
    batch        `<I` count 1..15, then count records of 4120 bytes (origin a.2)
    headerless   exactly one record, 4120 bytes, nothing before it (the later sender, origin a.2)
A record is `<ddf1025f`: sampled and sent (epoch s, sensor PC clock), force (raw), A-line (raw). The format has no
magic, sequence number or checksum: loss, reordering and a flipped bit inside a float cannot be seen from here.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from rtvla.errors import WireError
from rtvla.schema import ALINE_BINS, SENSOR_WIRE
from rtvla.wire.stamp import is_stamp

HEADER_BYTES = 4
RECORD_BYTES = SENSOR_WIRE.itemsize  # 4120
MAX_RECORDS = 15  # the most that fits the 65 507 bytes of a UDP payload
MAX_DATAGRAM_BYTES = HEADER_BYTES + MAX_RECORDS * RECORD_BYTES

_COUNT, _FRONT = struct.Struct("<I"), struct.Struct("<ddf")
_finite = bytearray(ALINE_BINS)  # one byte a bin: a search for 0 replaces all(), 1 us
_finite_array = np.frombuffer(_finite, np.bool_)


def count_records(n_bytes: int, count_field: int, truncated: bool) -> tuple[int, bool]:
    """How many records a received datagram holds, and whether it is the headerless form.

    For a receiver that scatters a datagram straight into ring slots and so knows only its length, its first four bytes
    as a little-endian number, and whether the kernel cut it (MSG_TRUNC). Raises WireError with cause too_short,
    too_long, bad_count or bad_length.
    """
    if truncated or n_bytes > MAX_DATAGRAM_BYTES:
        raise WireError("too_long", f"over {MAX_DATAGRAM_BYTES} bytes" if truncated else f"{n_bytes} bytes")
    if n_bytes == RECORD_BYTES:
        return 1, True
    if n_bytes < HEADER_BYTES + RECORD_BYTES:
        raise WireError("too_short", f"{n_bytes} bytes, a batch of one has {HEADER_BYTES + RECORD_BYTES}")
    if not 1 <= count_field <= MAX_RECORDS:
        raise WireError("bad_count", f"{count_field} records, 1 to {MAX_RECORDS} are possible")
    if n_bytes != HEADER_BYTES + count_field * RECORD_BYTES:
        raise WireError("bad_length", f"{n_bytes} bytes for {count_field} records")
    return count_field, False


def restore_headerless(head: bytes | bytearray | memoryview, slot: memoryview) -> None:
    """Put a headerless record right after it was scattered into [head, slot].

    Its first four bytes landed in `head` and the rest at the start of `slot` (a byte view of at least one record).
    """
    slot[HEADER_BYTES:RECORD_BYTES] = slot[: RECORD_BYTES - HEADER_BYTES]  # memoryview copies overlaps like memmove
    slot[:HEADER_BYTES] = head[:HEADER_BYTES]


def count_field(head: bytes | bytearray) -> int:
    """The first four bytes of a datagram as a number."""
    return int(_COUNT.unpack_from(head)[0])


def record_fault(record: Any) -> str | None:
    """What is wrong with one received record (an element of a SENSOR_WIRE array), or None.

    "not_finite": force, A-line or a stamp is NaN or infinite. "bad_stamp": a stamp is negative or too large.
    """
    return sample_fault(record.tobytes(), 0, record["aline"])


def sample_fault(data: bytes | memoryview, at: int, aline: npt.NDArray[np.float32]) -> str | None:
    """The same for a record that begins at byte `at` of `data`, its A-line given as an array. One thread only."""
    sampled_s, sent_s, force = _FRONT.unpack_from(data, at)
    np.isfinite(aline, _finite_array)
    if 0 in _finite or not (math.isfinite(sampled_s) and math.isfinite(sent_s) and math.isfinite(force)):
        return "not_finite"
    return None if is_stamp(sampled_s) and is_stamp(sent_s) else "bad_stamp"


def encode_batch(records: npt.NDArray[np.void]) -> bytes:
    """1 to 15 records as one datagram with its count in front."""
    if records.dtype != SENSOR_WIRE or records.ndim != 1:
        raise ValueError(f"records are {records.dtype.name} with shape {records.shape}: need a row of SENSOR_WIRE")
    if not 1 <= len(records) <= MAX_RECORDS:
        raise ValueError(f"{len(records)} records: a datagram holds 1 to {MAX_RECORDS}")
    return _COUNT.pack(len(records)) + records.tobytes()


def encode_single(record: Any) -> bytes:
    """One record in the headerless form."""
    if record.dtype != SENSOR_WIRE or record.size != 1:
        raise ValueError("record is not exactly one SENSOR_WIRE record")
    return bytes(record.tobytes())


def decode(datagram: bytes | bytearray | memoryview) -> npt.NDArray[np.void]:
    """All records of a datagram of either form, as a view of it. For tests and tools: checks form and contents."""
    head = _COUNT.unpack_from(datagram)[0] if len(datagram) >= HEADER_BYTES else 0
    count, headerless = count_records(len(datagram), head, False)
    records = np.frombuffer(datagram, SENSOR_WIRE, count, 0 if headerless else HEADER_BYTES)
    for record in records:
        fault = record_fault(record)
        if fault is not None:
            raise WireError(fault)
    return records
