"""Records -> rows of the user's files. Times of a chunk's making are in ms, inference_time alone in s (as it was)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rtvla.record.json_text import shortest
from rtvla.schema import (
    COMMAND_KINDS,
    DEGRADE_ACTIONS,
    GUARD_CHECKS,
    HOLD_REASONS,
    INPUTS,
    ROBOT_CHANNEL_NAMES,
    VIEWS,
)

Row = dict[str, Any]
CSV_HEADER = ",".join(
    ("recv_timestamp", "origin_timestamp", "send_timestamp", "force_placeholder", *ROBOT_CHANNEL_NAMES)
)


def timing_row(chunk: np.void, first_of_update: bool) -> Row:
    """One line of performance_timings: where the time of this chunk went (ms) and how old its data was (ms).

    Ages count from capture. `*_captured_ns` are on this host's CLOCK_MONOTONIC, as `received_ns` and `captured_ns` are
    in the samples' file; `*_missing` are places of a window for which there was no sample.

    `vl_update_time` is the encode time of the whole set of views, on the first chunk that uses it, else 0.
    An age that does not exist (a view that is not in the feature) is null.
    """
    return {
        "timestamp": float(chunk["wall_s"]),
        "action_id": action_id(chunk["index"]),
        "vl_update_number": int(chunk["vl_update_number"]),
        "vl_update_time": _ms(chunk["vl_update_ns"]) if first_of_update else 0.0,
        "sensor_encoding_time": _ms(chunk["sensor_encode_ns"]),
        "robot_encoding_time": _ms(chunk["robot_encode_ns"]),
        "action_prediction_time": _ms(chunk["action_ns"]),
        "total_time": _ms(chunk["total_ns"]),
        "sensor_buffer_size": int(chunk["sensor_count"]),
        "robot_buffer_size": int(chunk["robot_count"]),
        "vl_reuse": int(chunk["vl_reuse"]),
        "sensor_age_ms": _age_ms(chunk["sensor_age_ns"]),
        "robot_age_ms": _age_ms(chunk["robot_age_ns"]),
        "vl_age_ms": _age_ms(chunk["vl_age_ns"]),
        "view_age_ms": {view: _age_ms(age) for view, age in zip(VIEWS, chunk["view_age_ns"], strict=True)},
        "sensor_index": int(chunk["sensor_index"]),
        "robot_index": int(chunk["robot_index"]),
        "vl_index": int(chunk["vl_index"]),
        "sensor_missing": int(chunk["sensor_missing"]),
        "robot_missing": int(chunk["robot_missing"]),
        "view_index": {view: int(index) for view, index in zip(VIEWS, chunk["view_index"], strict=True)},
        "sensor_captured_ns": int(chunk["sensor_captured_ns"]),
        "robot_captured_ns": int(chunk["robot_captured_ns"]),
        "view_captured_ns": {view: int(ns) or None for view, ns in zip(VIEWS, chunk["view_captured_ns"], strict=True)},
    }


def result_row(chunk: np.void) -> Row:
    """One element of inference_results: what the model said, and on which robot state.

    `delta` equals `actions`: the old model was given its last actions and put out a difference to them; this one
    starts from zero each time, so the difference is the action. Both are H x 7 in the units of schema.ACTION_NAMES.
    `robot_state.timestamp` is the capture of that state (epoch s of this host).
    """
    state, actions = shortest(chunk["robot_state"]), shortest(chunk["actions"][: int(chunk["horizon"])])
    wall_s = float(chunk["wall_s"])
    return {
        "timestamp": wall_s,
        "action_id": action_id(chunk["index"]),
        "actions": actions,
        "delta": actions,
        "inference_time": int(chunk["total_ns"]) / 1e9,
        "vl_update_number": int(chunk["vl_update_number"]),
        "robot_state": {
            "joints": state[:6],
            "pose": state[6:],
            "timestamp": wall_s - int(chunk["robot_age_ns"]) / 1e9,
        },
    }


def command_row(command: np.void, mono_to_wall_s: Callable[[int], float]) -> Row:
    """One line of commands: what was decided, what went out, why not. `action_id` names the chunk as in the timings.

    `start_ms` and `end_ms`: the stretch of time, from the decision, whose motion it is. `input_age_ms`: of the newest
    of each input, as the degrade table saw it; the ages beside it are of what the chunk was made from.
    """
    with_chunk = int(command["chunk_age_ns"]) >= 0
    return {
        "index": int(command["index"]),
        "timestamp": mono_to_wall_s(int(command["decided_ns"])),
        "kind": _name(COMMAND_KINDS, int(command["kind"])),
        "reason": _name(HOLD_REASONS, int(command["reason"])),
        "clamped": bool(command["clamped"]),
        "action_id": action_id(command["chunk_index"]) if with_chunk else None,
        "step": int(command["step"]) if int(command["step"]) >= 0 else None,
        "requested_mm_deg": command["requested_mm_deg"].tolist(),
        "sent_mm_deg": command["sent_mm_deg"].tolist(),
        "sensor_age_ms": _age_ms(command["sensor_age_ns"]),
        "robot_age_ms": _age_ms(command["robot_age_ns"]),
        "vl_age_ms": _age_ms(command["vl_age_ns"]),
        "chunk_age_ms": _age_ms(command["chunk_age_ns"]),
        "session": bytes(command["session"]).decode(errors="replace"),
        "seq": int(command["seq"]),
        "start_ms": (int(command["start_ns"]) - int(command["decided_ns"])) / 1e6,
        "end_ms": (int(command["end_ns"]) - int(command["decided_ns"])) / 1e6,
        "action": _name(DEGRADE_ACTIONS, int(command["action"])),
        "cause": _name(HOLD_REASONS, int(command["cause"])),
        "speed": float(command["speed"]),
        "violations": [name for bit, name in enumerate(GUARD_CHECKS) if int(command["violations"]) >> bit & 1],
        "latched": _name(HOLD_REASONS, int(command["latched"])),
        "vl_reuse": int(command["vl_reuse"]) if with_chunk else None,
        "force": float(command["force"]),
        "force_rate": float(command["force_rate"]),
        "input_age_ms": {name: _age_ms(age) for name, age in zip(INPUTS, command["input_age_ns"], strict=True)},
    }


def robot_line(state: np.void, recv_s: float) -> str:
    """One line of robot_state: seconds, then deg, then mm and deg. `recv_s`: arrival here in epoch s."""
    values = [recv_s, float(state["sampled_s"]), float(state["sent_s"])]
    values += shortest(np.hstack((state["force"], state["joints_deg"], state["pose_mm_deg"])))
    return ",".join(map(repr, values))


def action_id(chunk_index: int | np.integer) -> int:
    """What the user's files call a chunk: counted from 1."""
    return int(chunk_index) + 1


def _ms(ns: int | np.integer) -> float:
    return int(ns) / 1e6


def _age_ms(ns: int | np.integer) -> float | None:
    return _ms(ns) if ns >= 0 else None


def _name(names: tuple[str, ...], at: int) -> str:
    """A newer commander may know more reasons than this recorder."""
    return names[at] if at < len(names) else f"unknown_{at}"
