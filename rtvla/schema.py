"""The records that streams carry and the types that rooms exchange. Formats live here, never in the config.

Every record begins with `index` (its sequence number in the stream, written by the ring) and every time in it is either
`*_s` (a sender's own wall clock in seconds, kept as data) or `*_ns` (this host's CLOCK_MONOTONIC, used for decisions).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

SENSOR_HZ = 650
ALINE_BINS = 1025
SENSOR_CHANNELS = 1 + ALINE_BINS  # force first, then the A-line
SENSOR_CHANNEL_NAMES = ("force", *(f"aline_{i}" for i in range(ALINE_BINS)))

ROBOT_HZ = 100
JOINT_NAMES = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6")  # deg
POSE_NAMES = ("pose_x", "pose_y", "pose_z", "pose_a", "pose_b", "pose_r")  # mm, mm, mm, deg, deg, deg
ROBOT_CHANNEL_NAMES = JOINT_NAMES + POSE_NAMES

ACTION_NAMES = ("dx_mm", "dy_mm", "dz_mm", "da_deg", "db_deg", "dg_deg", "gripper")
ACTION_DIM = len(ACTION_NAMES)
STEP_NS = 100_000_000  # one step of a chunk is one 100 ms period of the robot
MAX_HORIZON = 32

VIEWS = ("View1", "View2", "View3", "View4", "View5")
MAX_JPEG_BYTES = 512 * 1024
MAX_VL_DIM = 8192  # the widest Qwen2.5-VL language model (72B)

# One sample as it lies in a datagram (origin a.2): the bytes are received straight into the slot.
SENSOR_WIRE = np.dtype([("sampled_s", "<f8"), ("sent_s", "<f8"), ("force", "<f4"), ("aline", "<f4", (ALINE_BINS,))])

# Of a sample, a state, a frame: when it was taken, on this host's clock (control/sender_clock.py), and by how much that
# may be wrong. -1: the sender's clock is not trusted, and `captured_ns` is the arrival. A content that comes again
# keeps the `captured_ns` of the first time, so that what is frozen grows old.
CAPTURED = (("captured_ns", "<i8"), ("clock_uncertainty_ns", "<i8"))

SENSOR = np.dtype([("index", "<u8"), ("received_ns", "<i8"), *CAPTURED, ("wire", SENSOR_WIRE)], align=False)

ROBOT = np.dtype(
    [
        ("index", "<u8"),
        ("received_ns", "<i8"),
        *CAPTURED,
        ("sampled_s", "<f8"),
        ("sent_s", "<f8"),
        ("force", "<f4"),  # a placeholder on the wire: always 0
        ("joints_deg", "<f4", (6,)),
        ("pose_mm_deg", "<f4", (6,)),
    ]
)

FRAME = np.dtype(
    [
        ("index", "<u8"),
        ("received_ns", "<i8"),
        *CAPTURED,
        ("sampled_s", "<f8"),  # `timestamp` of the message: the sender's clock after the grab
        ("sent_s", "<f8"),  # 0 if the sender does not say
        ("camera", "S48"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("n_bytes", "<u4"),
        ("jpeg", "u1", (MAX_JPEG_BYTES,)),  # last, so that a writer touches only n_bytes of it
    ]
)

VL_FEATURE = np.dtype(
    [
        ("index", "<u8"),
        ("published_ns", "<i8"),
        ("encode_ns", "<i8"),  # time of the encode that made this publication
        ("update_number", "<u8"),  # how many times the whole set of views has been renewed
        ("update_ns", "<i8"),  # encode time of the last whole set
        ("fingerprint", "<u8"),  # of the model that made it; a policy with another one refuses it
        ("view_received_ns", "<i8", (len(VIEWS),)),  # arrival of each view's frame; 0 = not in it
        ("view_captured_ns", "<i8", (len(VIEWS),)),
        ("view_uncertainty_ns", "<i8", (len(VIEWS),)),
        ("view_index", "<u8", (len(VIEWS),)),  # its sequence number in the frame stream
        ("dim", "<u4"),
        ("feature", "<f4", (MAX_VL_DIM,)),
    ]
)

CHUNK = np.dtype(
    [
        ("index", "<u8"),  # the chunk id
        ("observed_ns", "<i8"),  # the tick: step 0 is due from here
        ("published_ns", "<i8"),
        ("wall_s", "<f8"),  # epoch seconds at the tick, for people and files
        ("horizon", "<u4"),
        ("sensor_count", "<u4"),  # samples in the window
        ("robot_count", "<u4"),
        ("sensor_missing", "<u4"),  # places of the window for which there was none
        ("robot_missing", "<u4"),
        ("vl_reuse", "<u4"),  # chunks made from this same feature before this one
        ("vl_index", "<u8"),
        ("vl_update_number", "<u8"),
        ("vl_update_ns", "<i8"),
        ("sensor_index", "<u8"),  # newest sample of the window
        ("robot_index", "<u8"),
        ("view_index", "<u8", (len(VIEWS),)),  # of the frames inside the feature
        ("sensor_captured_ns", "<i8"),  # of those samples and frames; 0 = a view that is not in the feature
        ("robot_captured_ns", "<i8"),
        ("view_captured_ns", "<i8", (len(VIEWS),)),
        ("sensor_age_ns", "<i8"),  # ages at the tick, counted from capture
        ("robot_age_ns", "<i8"),
        ("vl_age_ns", "<i8"),  # of the oldest view inside the feature
        ("view_age_ns", "<i8", (len(VIEWS),)),
        ("sensor_encode_ns", "<i8"),
        ("robot_encode_ns", "<i8"),
        ("action_ns", "<i8"),
        ("total_ns", "<i8"),  # tick to publication
        ("robot_state", "<f4", (12,)),  # newest row of the robot window: what the policy saw
        ("actions", "<f4", (MAX_HORIZON, ACTION_DIM)),
    ]
)

# What the commander decided in one tick. Kinds and reasons are positions in these tuples: append, never reorder.
COMMAND_KINDS = ("hold", "dpose", "start")
INPUTS = ("chunk", "vl_feature", "sensor", "robot", *VIEWS)  # whose ages the degrade table judges
AGE_LEVELS = ("fresh", "late", "stale", "gone")
DEGRADE_ACTIONS = ("act", "slow", "finish", "hold", "latch")  # from the best to the worst
# The guard's checks in its order; COMMAND.violations has a bit for each.
CLAMPABLE_CHECKS = ("step", "velocity", "acceleration", "jerk")
GUARD_CHECKS = ("not_finite", "joint_limit", "force", "force_rate", *CLAMPABLE_CHECKS, "workspace")
_FIRST_REASONS = (
    "none",
    "no_chunk",
    "chunk_late",
    "chunk_finished",
    "policy_dead",
    "robot_stale",
    "not_finite",
    "outside_workspace",
    "send_failed",
    "starting",
    "vl_encoder_dead",
    "step_done",
    "sensor_ingest_dead",
    "robot_ingest_dead",
    "camera_ingest_dead",
    "resuming",  # the inputs are back, but not yet for long enough
    "latched",
    "joint_limit",
    "force",
    "force_rate",
    *CLAMPABLE_CHECKS,  # where they are set to reject
)
HOLD_REASONS = tuple(
    dict.fromkeys((*_FIRST_REASONS, *(f"{name}_{level}" for name in INPUTS for level in AGE_LEVELS[1:])))
)

COMMAND = np.dtype(
    [
        ("index", "<u8"),  # the command id
        ("decided_ns", "<i8"),
        ("sent_ns", "<i8"),  # when it was given to the socket; 0: nothing was
        ("start_ns", "<i8"),  # the motion is what the chunks say about [start, end)
        ("end_ns", "<i8"),
        ("session", "S16"),  # as on the wire
        ("seq", "<u8"),  # as on the wire: of the newest message up to here; a hold sends none
        ("kind", "<u4"),
        ("reason", "<u4"),
        ("clamped", "<u4"),  # 1 if the requested step was over a limit and was shortened
        ("step", "<i4"),  # index inside the chunk, -1 without one
        ("chunk_index", "<u8"),
        ("vl_reuse", "<u4"),
        ("action", "<u4"),  # of the degrade table, position in DEGRADE_ACTIONS
        ("cause", "<u4"),  # why that and not "act", position in HOLD_REASONS
        ("latched", "<u4"),  # why it is latched, position in HOLD_REASONS; 0: it is not
        ("latched_ns", "<i8"),  # since when
        ("violations", "<u4"),  # what the guard found, bits in the order of GUARD_CHECKS
        ("speed", "<f4"),  # share of the chunk's speed
        ("force", "<f4"),  # largest since the last tick, in the sensor's unit
        ("force_rate", "<f4"),
        ("requested_mm_deg", "<f8", (6,)),
        ("sent_mm_deg", "<f8", (6,)),  # what went out; zeros only where `kind` is hold and nothing was sent
        ("sensor_captured_ns", "<i8"),  # of what the chunk was made from; 0 without a chunk
        ("robot_captured_ns", "<i8"),
        ("view_captured_ns", "<i8"),  # the oldest view inside the feature
        ("sensor_age_ns", "<i8"),  # ages at this tick of what the chunk was made from; -1 without a chunk
        ("robot_age_ns", "<i8"),
        ("vl_age_ns", "<i8"),
        ("chunk_age_ns", "<i8"),
        ("input_age_ns", "<i8", (len(INPUTS),)),  # of the newest of each input, as judged; -1: none, or not in use
    ]
)


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one tick: windows oldest first, newest last, in the units of the wire."""

    sensor: F32  # (T, 1026) force first, then the A-line
    robot: F32  # (R, 12) joints in deg, then pose in mm and deg
    vl_feature: F32  # (D,)
    sensor_missing: Flags  # (T,) True where a sample never came and its row is a stand-in
    robot_missing: Flags  # (R,)
    vl_age_s: float  # of the oldest view inside the feature at the observation time, counted from capture


@dataclass(frozen=True)
class Prediction:
    """One action chunk and where its time went."""

    actions: F32  # (H, 7) mm, deg, gripper, as named in ACTION_NAMES
    sensor_encode_ns: int
    robot_encode_ns: int
    action_ns: int
