import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvla.errors import WireError
from rtvla.schema import ROBOT
from rtvla.wire import robot

JOINTS = (1.5, -2.25, 3.0, -4.5, 5.125, 179.5)
POSE = (190.5, 1.25, 309.0, 1.0, 90.5, -179.75)


def golden(sampled_s=1700000000.125, sent_s=1700000000.25, force=0.0, joints=JOINTS, pose=POSE) -> list[bytes]:
    payload = struct.pack("<d", sampled_s) + struct.pack("<d", sent_s) + struct.pack("<f", force)
    for value in (*joints, *pose):
        payload += struct.pack("<f", value)
    return [b"robot_state", payload]


def cause_of(parts, out=None) -> str:
    with pytest.raises(WireError) as caught:
        robot.decode(parts, np.zeros(1, ROBOT)[0] if out is None else out)
    return caught.value.cause


def test_state_is_the_old_format_byte_for_byte():
    parts = robot.encode(1700000000.125, 1700000000.25, JOINTS, POSE)
    assert parts == golden()
    assert len(parts[1]) == 68
    assert robot.encode(1700000000.125, 1700000000.25, np.array(JOINTS, "f4"), np.array(POSE, "f8")) == golden()


def test_decode_fills_a_record_in_place_and_leaves_index_and_received():
    slots = np.zeros(3, ROBOT)
    slots["index"], slots["received_ns"] = 7, 8
    assert robot.decode(golden(), slots[1]) is robot.Topic.STATE
    record = slots[1]
    assert (record["index"], record["received_ns"], record["force"]) == (7, 8, 0.0)
    assert (record["sampled_s"], record["sent_s"]) == (1700000000.125, 1700000000.25)
    assert tuple(record["joints_deg"]) == JOINTS
    assert tuple(record["pose_mm_deg"]) == POSE
    assert not slots[0]["pose_mm_deg"].any() and not slots[2]["pose_mm_deg"].any()


def test_decode_takes_the_buffers_of_zmq_frames():
    out = np.zeros(1, ROBOT)
    assert robot.decode([memoryview(part) for part in golden()], out[0]) is robot.Topic.STATE
    assert tuple(out[0]["pose_mm_deg"]) == POSE


def test_episode_end_is_recognised_and_writes_nothing():
    out = np.zeros(1, ROBOT)
    assert robot.encode_episode_end() == [b"episode_end", b"finished"]
    assert robot.decode([b"episode_end", b"finished"], out[0]) is robot.Topic.EPISODE_END
    assert robot.decode([b"episode_end", b""], out[0]) == "episode_end"
    assert out.tobytes() == np.zeros(1, ROBOT).tobytes()


@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ([], "wrong_parts"),
        ([b"robot_state"], "wrong_parts"),
        ([*golden(), b""], "wrong_parts"),
        ([b"robot_cmd", golden()[1]], "unknown_topic"),
        ([b"", golden()[1]], "unknown_topic"),
        ([b"robot_state2", golden()[1]], "unknown_topic"),
        ([b"robot_state", golden()[1][:-1]], "bad_length"),
        ([b"robot_state", golden()[1] + b"\0"], "bad_length"),
        ([b"robot_state", b""], "bad_length"),
        (golden(sampled_s=-0.001), "bad_stamp"),
        (golden(sent_s=1.1e11), "bad_stamp"),
    ],
)
def test_every_fault_has_its_cause(parts, cause):
    assert cause_of(parts) == cause


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", range(15))
def test_no_number_may_be_infinite_or_nan(value, at):
    values = [1.7e9, 1.7e9, 0.0, *JOINTS, *POSE]
    values[at] = value
    out = np.zeros(1, ROBOT)
    assert cause_of([b"robot_state", struct.pack("<ddf12f", *values)], out[0]) == "not_finite"
    assert out.tobytes() == np.zeros(1, ROBOT).tobytes()  # a refused message leaves nothing behind


@given(
    st.lists(st.binary(max_size=80), max_size=4)
    | st.binary(min_size=68, max_size=68).map(lambda b: [b"robot_state", b])
)
def test_random_parts_never_raise_anything_else(parts):
    try:
        robot.decode(parts, np.zeros(1, ROBOT)[0])
    except WireError as error:
        assert error.cause in {"wrong_parts", "unknown_topic", "bad_length", "not_finite", "bad_stamp"}


def test_encode_refuses_a_wrong_number_of_values():
    with pytest.raises(ValueError, match="need 6 and 6"):
        robot.encode(0.0, 0.0, JOINTS[:5], POSE)
