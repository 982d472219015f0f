"""The record of one decision: what the next person needs who asks why the arm did that."""

from __future__ import annotations

import numpy as np

from rtvla.control.deciding import Decision, Seen
from rtvla.control.degrade import GONE_NS
from rtvla.control.latch import Latch
from rtvla.schema import CHUNK, COMMAND, COMMAND_KINDS, DEGRADE_ACTIONS, GUARD_CHECKS, HOLD_REASONS, INPUTS, MAX_HORIZON

_OF_THE_CHUNK = ("sensor_captured_ns", "robot_captured_ns", "view_captured_ns")
_AGES = ("sensor_age_ns", "robot_age_ns", "vl_age_ns")


class CommandRecord:
    """Filled again and again; remembers the chunks that a command may be made of."""

    def __init__(self) -> None:
        self._record = np.zeros((), COMMAND)
        self._chunks = np.zeros(MAX_HORIZON, CHUNK)  # by index: as many as can be under way
        self._newest = -1

    def remember(self, chunk: np.void) -> None:
        self._newest = int(chunk["index"])
        kept = self._chunks[self._newest % MAX_HORIZON]
        for name in CHUNK.names or ():
            kept[name] = chunk[name]

    def fill(
        self, now: int, decision: Decision, seen: Seen, kind: str, reason: str, sent_ns: int, latch: Latch
    ) -> np.ndarray:
        record, verdict, measured = self._record, decision.verdict, seen.measured
        record["decided_ns"], record["sent_ns"] = now, sent_ns
        record["start_ns"], record["end_ns"] = decision.start_ns, decision.end_ns
        record["kind"], record["reason"] = COMMAND_KINDS.index(kind), HOLD_REASONS.index(reason or "none")
        record["action"], record["speed"] = DEGRADE_ACTIONS.index(verdict.action), verdict.speed
        record["cause"] = HOLD_REASONS.index(verdict.cause or "none")
        record["latched"], record["latched_ns"] = HOLD_REASONS.index(latch.cause or "none"), latch.since_ns
        record["violations"] = sum(1 << GUARD_CHECKS.index(check) for check in decision.violated)
        record["clamped"] = decision.clamped
        record["force"], record["force_rate"] = (measured.force, measured.force_rate) if measured else (0, 0)
        record["requested_mm_deg"] = decision.requested or 0
        is_sent = kind == "dpose" and decision.delta is not None
        record["sent_mm_deg"] = decision.delta if is_sent else 0
        for at, name in enumerate(INPUTS):
            age_ns = seen.ages_ns.get(name, GONE_NS)
            record["input_age_ns"][at] = age_ns if age_ns != GONE_NS else -1
        self._describe_chunk(now, decision)
        return record

    def _describe_chunk(self, now: int, decision: Decision) -> None:
        """Of the chunk that the motion was made of; of the newest one if there is no motion."""
        record, index = self._record, decision.chunk if decision.chunk >= 0 else self._newest
        chunk = self._chunks[index % MAX_HORIZON]
        record["step"] = decision.step
        if index < 0 or int(chunk["index"]) != index:
            record["chunk_index"], record["vl_reuse"] = 0, 0
            for name in _OF_THE_CHUNK:
                record[name] = 0
            for name in (*_AGES, "chunk_age_ns"):
                record[name] = -1
            return
        age_ns = now - int(chunk["observed_ns"])
        record["chunk_index"], record["chunk_age_ns"], record["vl_reuse"] = index, age_ns, chunk["vl_reuse"]
        record["sensor_captured_ns"] = chunk["sensor_captured_ns"]
        record["robot_captured_ns"] = chunk["robot_captured_ns"]
        views = chunk["view_captured_ns"]
        record["view_captured_ns"] = views[views > 0].min(initial=now) if (views > 0).any() else 0
        for name in _AGES:
            record[name] = int(chunk[name]) + age_ns
