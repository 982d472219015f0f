import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvla.errors import WireError
from rtvla.wire import command, command_stamp

SIX = (1.0, -2.0, 0.5, 0.0, -0.25, 10.0)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def cause_of(payload: bytes) -> str:
    with pytest.raises(WireError) as caught:
        command.decode(payload)
    return caught.value.cause


def test_commands_are_the_old_json_byte_for_byte():
    assert command.encode_start((191, 1, 309, 1, 91, 1)) == (
        b'{"cmd":"start","start_joints":[191.0,1.0,309.0,1.0,91.0,1.0],"lock_j6":false}'
    )
    assert command.encode_start(SIX, True, field="start_pose") == (
        b'{"cmd":"start","start_pose":[1.0,-2.0,0.5,0.0,-0.25,10.0],"lock_j6":true}'
    )
    assert command.encode_dpose(np.array(SIX, np.float32)) == b'{"cmd":"dpose","dp":[1.0,-2.0,0.5,0.0,-0.25,10.0]}'
    assert command.encode_apose(SIX) == b'{"cmd":"apose","pose":[1.0,-2.0,0.5,0.0,-0.25,10.0]}'
    assert command.encode_stop() == b'{"cmd":"stop"}'


@given(st.lists(finite, min_size=6, max_size=6))
def test_finite_values_survive_exactly(values):
    assert command.decode(command.encode_dpose(values)) == command.Command("dpose", tuple(values))
    assert command.decode(command.encode_apose(values)) == command.Command("apose", tuple(values))
    for field in command.START_FIELDS:
        got = command.decode(command.encode_start(values, True, field=field))
        assert got == command.Command("start", tuple(values), True)


def test_the_auto_start_of_the_old_receiver_is_understood():
    got = command.decode(b'{"cmd": "start", "start_joints": [191, 1, 309, 1, 91, 1], "lock_j6": false}')
    assert got == command.Command("start", (191.0, 1.0, 309.0, 1.0, 91.0, 1.0), False)
    assert command.decode(memoryview(b'{"cmd":"stop"}')) == command.Command("stop")


@pytest.mark.parametrize("encode", [command.encode_start, command.encode_dpose, command.encode_apose])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
@pytest.mark.parametrize("at", range(6))
def test_nothing_but_finite_numbers_goes_out(encode, bad, at):
    values = list(SIX)
    values[at] = bad
    with pytest.raises(ValueError, match="6 finite numbers"):
        encode(values)


@pytest.mark.parametrize("encode", [command.encode_start, command.encode_dpose, command.encode_apose])
@pytest.mark.parametrize("values", [(), SIX[:5], (*SIX, 1.0)])
def test_a_wrong_number_of_values_does_not_go_out(encode, values):
    with pytest.raises(ValueError, match="6 finite numbers"):
        encode(values)


def test_an_unknown_start_field_does_not_go_out():
    with pytest.raises(ValueError, match="must be one of"):
        command.encode_start(SIX, field="start_position")


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\x80\x81", "bad_json"),
        (b'"stop"', "bad_json"),
        (b"[]", "bad_json"),
        (b"[" * 4000, "bad_json"),
        (b'{"cmd":"stop"}' + b" " * 4096, "bad_json"),
        (b'{"cmd":"dpose","dp":[NaN,0,0,0,0,0]}', "bad_json"),
        (b'{"cmd":"dpose","dp":[-Infinity,0,0,0,0,0]}', "bad_json"),
        (b"{}", "unknown_command"),
        (b'{"cmd":null}', "unknown_command"),
        (b'{"cmd":["stop"]}', "unknown_command"),
        (b'{"cmd":"STOP"}', "unknown_command"),
        (b'{"cmd":"\\ud800"}', "unknown_command"),
        (b'{"cmd":"dpose"}', "bad_values"),
        (b'{"cmd":"dpose","dp":null}', "bad_values"),
        (b'{"cmd":"dpose","dp":"123456"}', "bad_values"),
        (b'{"cmd":"dpose","dp":[1,2,3,4,5]}', "bad_values"),
        (b'{"cmd":"dpose","dp":[1,2,3,4,5,6,7]}', "bad_values"),
        (b'{"cmd":"dpose","dp":[1,2,3,4,5,"6"]}', "bad_values"),
        (b'{"cmd":"dpose","dp":[1,2,3,4,5,true]}', "bad_values"),
        (b'{"cmd":"dpose","dp":[1,2,3,4,5,1e999]}', "bad_values"),
        (b'{"cmd":"dpose","dp":[1,2,3,4,5,1' + b"0" * 400 + b"]}", "bad_values"),
        (b'{"cmd":"apose","dp":[1,2,3,4,5,6]}', "bad_values"),
        (b'{"cmd":"start"}', "bad_values"),
        (b'{"cmd":"start","start_joints":[1,2,3,4,5,6],"start_pose":[1,2,3,4,5,6]}', "bad_values"),
        (b'{"cmd":"start","start_pose":[1,2,3,4,5,6],"lock_j6":1}', "bad_values"),
    ],
)
def test_every_fault_has_its_cause(payload, cause):
    assert cause_of(payload) == cause


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(payload):
    assert cause_of(payload) in {"bad_json", "unknown_command", "bad_values"}


@given(
    st.fixed_dictionaries(
        {"cmd": st.sampled_from(command.KINDS) | json_values},
        optional=dict.fromkeys(("dp", "pose", "start_pose", "start_joints", "lock_j6"), json_values),
    )
)
def test_random_json_gives_a_finite_command_or_a_wire_error(message):
    try:
        got = command.decode(json.dumps(message).encode())
    except WireError as error:
        assert error.cause in {"bad_json", "unknown_command", "bad_values"}
    else:
        assert got.kind in command.KINDS
        assert all(map(math.isfinite, got.values_mm_deg)) and len(got.values_mm_deg) in (0, 6)


@given(st.integers(0, 80))
def test_truncated_commands_are_refused(cut):
    payload = command.encode_start(SIX)
    assert cause_of(payload[:cut] if cut < len(payload) else payload[:-1]) == "bad_json"


def test_what_a_command_says_about_itself_stands_beside_the_old_keys():
    said = command_stamp.fields("ab12", 7, 1_800_000_000.5, 300.0)
    payload = command.encode_dpose([0.1] * 6, stamp=said)
    assert json.loads(payload) == {"cmd": "dpose", "dp": [0.1] * 6, **said}
    assert command.decode(payload) == command.Command("dpose", (0.1,) * 6), "an old receiver sees what it always saw"
    assert command_stamp.decode(payload) == command_stamp.CommandStamp("ab12", 7, 1_800_000_000.5, 300.0)
    untimed = command.encode_start([1.0] * 6, stamp=command_stamp.fields("ab12", 8, 1_800_000_000.5, 0.0))
    assert command_stamp.decode(untimed) == command_stamp.CommandStamp("ab12", 8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_time_that_is_no_number_does_not_go_out(bad):
    with pytest.raises(ValueError, match="JSON"):
        command.encode_dpose([0.0] * 6, stamp=command_stamp.fields("a", 1, bad, 300.0))
