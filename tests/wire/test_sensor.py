import math
import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvla.errors import WireError
from rtvla.schema import ALINE_BINS, SENSOR_WIRE
from rtvla.wire import sensor


def by_hand(count: int) -> tuple[bytes, np.ndarray]:
    """`count` records as the old C++ sender lays them out, with struct alone, and the same as an array."""
    data, records = b"", np.zeros(count, SENSOR_WIRE)
    for i in range(count):
        aline = [float(i * 2000 + j) for j in range(ALINE_BINS)]
        data += struct.pack("<ddf", 1700000000.25 + i, 1700000000.5 + i, -1.5 * i)
        data += struct.pack(f"<{ALINE_BINS}f", *aline)
        records[i] = (1700000000.25 + i, 1700000000.5 + i, -1.5 * i, aline)
    return data, records


def cause_of(call, *args) -> str:
    with pytest.raises(WireError) as caught:
        call(*args)
    return caught.value.cause


@pytest.mark.parametrize("count", [1, 2, 15])
def test_batch_is_the_old_format_byte_for_byte(count):
    data, records = by_hand(count)
    golden = struct.pack("<I", count) + data
    assert sensor.encode_batch(records) == golden
    assert len(golden) == sensor.HEADER_BYTES + count * sensor.RECORD_BYTES <= sensor.MAX_DATAGRAM_BYTES <= 65507
    np.testing.assert_array_equal(sensor.decode(golden), records)
    assert sensor.count_records(len(golden), count, False) == (count, False)


def test_headerless_is_one_bare_record():
    data, records = by_hand(1)
    assert len(data) == sensor.RECORD_BYTES == 4120
    assert sensor.encode_single(records[0]) == data
    assert sensor.encode_single(records) == data
    np.testing.assert_array_equal(sensor.decode(data), records)
    # whatever its first four bytes look like: no batch has this length
    for head in (0, 1, 15, 2**32 - 1):
        assert sensor.count_records(4120, head, False) == (1, True)


def test_headerless_received_by_scatter_is_put_right():
    data, records = by_hand(1)
    slots = np.zeros(2, SENSOR_WIRE)
    view = memoryview(slots).cast("B")
    view[: len(data) - 4] = data[4:]
    sensor.restore_headerless(bytearray(data[:4]), view[: sensor.RECORD_BYTES])
    np.testing.assert_array_equal(slots[:1], records)
    assert not slots[1:].tobytes().strip(b"\0")


@pytest.mark.parametrize(
    ("n_bytes", "count", "truncated", "cause"),
    [
        (0, 0, False, "too_short"),
        (3, 0, False, "too_short"),
        (4119, 1, False, "too_short"),
        (4121, 1, False, "too_short"),
        (4123, 1, False, "too_short"),
        (4124, 0, False, "bad_count"),
        (4124, 16, False, "bad_count"),
        (4124, 2**32 - 1, False, "bad_count"),
        (4124, 2, False, "bad_length"),
        (8244, 1, False, "bad_length"),
        (8240, 2, False, "bad_length"),
        (sensor.MAX_DATAGRAM_BYTES + 1, 15, False, "too_long"),
        (sensor.MAX_DATAGRAM_BYTES, 15, True, "too_long"),
    ],
)
def test_every_wrong_length_has_its_cause(n_bytes, count, truncated, cause):
    assert cause_of(sensor.count_records, n_bytes, count, truncated) == cause


def test_only_the_sixteen_valid_lengths_pass():
    passed = []
    for n_bytes in range(66000):
        try:
            sensor.count_records(n_bytes, (n_bytes - 4) // 4120 if n_bytes > 4120 else 1, False)
        except WireError:
            continue
        passed.append(n_bytes)
    assert passed == [4120, *(4 + 4120 * n for n in range(1, 16))]


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("sampled_s", math.nan, "not_finite"),
        ("sent_s", math.inf, "not_finite"),
        ("force", -math.inf, "not_finite"),
        ("sampled_s", -1.0, "bad_stamp"),
        ("sent_s", 2e11, "bad_stamp"),
        ("sampled_s", 0.0, None),
        ("force", 3e38, None),
    ],
)
def test_record_fault_names_what_is_wrong(field, value, fault):
    _, records = by_hand(3)
    records[1][field] = value
    assert [sensor.record_fault(r) for r in records] == [None, fault, None]
    assert sensor.record_fault(records[1:2][0]) == fault


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 512, ALINE_BINS - 1])
def test_record_fault_looks_at_the_whole_aline(value, at):
    _, records = by_hand(1)
    records[0]["aline"][at] = value
    assert sensor.record_fault(records[0]) == "not_finite"
    assert cause_of(sensor.decode, sensor.encode_batch(records)) == "not_finite"


def test_aline_with_both_infinities_or_huge_values():
    _, records = by_hand(1)
    records[0]["aline"][:] = 3e38  # finite, though the sum is not
    assert sensor.record_fault(records[0]) is None
    records[0]["aline"][:2] = (math.inf, -math.inf)
    assert sensor.record_fault(records[0]) == "not_finite"


def test_encode_refuses_what_does_not_fit():
    for count in (0, 16):
        with pytest.raises(ValueError, match="1 to 15"):
            sensor.encode_batch(np.zeros(count, SENSOR_WIRE))
    with pytest.raises(ValueError, match="SENSOR_WIRE"):
        sensor.encode_batch(np.zeros(3))
    with pytest.raises(ValueError, match="exactly one"):
        sensor.encode_single(np.zeros(2, SENSOR_WIRE))


@given(st.binary(max_size=300) | st.integers(0, 66000).map(bytes))
def test_random_bytes_never_raise_anything_else(data):
    try:
        sensor.decode(data)
    except WireError as error:
        assert error.cause in {"too_short", "too_long", "bad_count", "bad_length", "not_finite", "bad_stamp"}


def test_every_truncation_is_refused():
    golden = sensor.encode_batch(by_hand(2)[1])
    cuts = [*range(0, 40), 4119, 4121, 4123, 4124, 8000, len(golden) - 1]
    assert all(cause_of(sensor.decode, golden[:cut]) for cut in cuts)


def test_damaged_records_never_raise_anything_else():
    rng = random.Random(5)
    golden = bytearray(sensor.encode_batch(by_hand(2)[1]))
    for _ in range(300):
        damaged = bytearray(golden)
        for _ in range(20):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            sensor.decode(damaged)
        except WireError:
            continue
