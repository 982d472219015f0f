"""What the commander sees at a tick: how old each input is, who is dead, what robot and sensor measure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rtvla.clock import SECOND
from rtvla.config import Config
from rtvla.control.deciding import Seen
from rtvla.control.degrade import GONE_NS
from rtvla.control.guard import Measured
from rtvla.control.settings import STREAM_OF
from rtvla.procs.lifecycle import Me
from rtvla.schema import SENSOR_HZ, VIEWS
from rtvla.shm.ring import Records
from rtvla.streams import STREAMS

_MOST_SAMPLES = 400  # after a tick that came very late
Forces = np.ndarray[Any, np.dtype[np.floating[Any]]]


class InputReader:
    """Records are copied only when there is a new one. Ages count from capture, but are never less than from arrival,
    so that a stamp from the future makes nothing younger."""

    def __init__(self, me: Me, cfg: Config) -> None:
        self._readers = {name: me.reader(stream) for name, stream in STREAM_OF.items()}
        self._heads = dict.fromkeys(VIEWS, 0)
        self._view_ns = dict.fromkeys(VIEWS, (0, 0))  # captured, arrived
        self._chunk_cursor = self._readers["chunk"].head
        newest = self._readers["chunk"].newest()
        self._observed_ns = None if newest is None else (int(newest["observed_ns"]), int(newest["published_ns"]))
        self._limits_force = bool(cfg.guard.force or cfg.guard.force_rate)
        self._no_sensor = newest is not None and not newest["sensor_captured_ns"]
        self._rate_samples = max(1, round(SENSOR_HZ * cfg.guard.force_rate_ms / 1e3))
        self._period_ns = round(SECOND / cfg.commander.rate_hz)
        self._last_ns = -1

    def new_chunks(self) -> Records:
        """All that were published since the last call, oldest first; valid until the next."""
        chunks, _lost, self._chunk_cursor = self._readers["chunk"].since(self._chunk_cursor, 32)
        if len(chunks):
            self._observed_ns = int(chunks["observed_ns"][-1]), int(chunks["published_ns"][-1])
            self._no_sensor = not chunks["sensor_captured_ns"][-1]
        return chunks

    def seen(self, now_ns: int) -> Seen:
        ages = {"chunk": _age(now_ns, self._observed_ns)}
        feature = self._readers["vl_feature"].newest()
        captured = [] if feature is None else [int(ns) for ns in feature["view_captured_ns"]]
        in_use = [view for view, ns in zip(VIEWS, captured, strict=False) if ns > 0]
        ages["vl_feature"] = GONE_NS
        if feature is not None and in_use:
            ages["vl_feature"] = _age(now_ns, (min(ns for ns in captured if ns > 0), int(feature["published_ns"])))
        ages |= {view: self._view_age(view, now_ns) for view in in_use}
        state = self._readers["robot"].newest()
        forces, sensor_ns = self._forces(now_ns)
        # a model without the sensor and no limit of the force: nobody asks for it, and it may not exist
        is_asked_for = self._limits_force or not self._no_sensor
        if is_asked_for:
            ages["sensor"] = _age(now_ns, sensor_ns)
        ages["robot"] = _age(now_ns, None if state is None else _stamps(state))
        dead = {
            name: STREAMS[STREAM_OF[name]].writer
            for name, reader in self._readers.items()
            if (name in ages or (name not in VIEWS and name != "sensor")) and not reader.writer_alive()
        }
        ages |= dict.fromkeys(dead, GONE_NS)
        if state is None or (forces is None and is_asked_for):
            return Seen(ages, dead)
        pose, joints = state["pose_mm_deg"].tolist(), state["joints_deg"].tolist()
        largest, rate = (0.0, 0.0) if forces is None or not is_asked_for else _force(forces, self._rate_samples)
        return Seen(ages, dead, Measured(pose, joints, largest, rate), min(_stamps(state)))

    def _view_age(self, view: str, now_ns: int) -> int:
        reader = self._readers[view]
        head = reader.head
        if head != self._heads[view] and (frame := reader.newest()) is not None:
            self._heads[view], self._view_ns[view] = head, _stamps(frame)
        return _age(now_ns, self._view_ns[view] if self._heads[view] else None)

    def _forces(self, now_ns: int) -> tuple[Forces | None, tuple[int, int] | None]:
        """All forces since the last tick, and before them as many as the rise is taken over; the newest stamps."""
        reader = self._readers["sensor"]
        span_ns = max(self._period_ns, now_ns - self._last_ns) if self._last_ns >= 0 else self._period_ns
        self._last_ns = now_ns
        wanted = math.ceil(span_ns * SENSOR_HZ / SECOND) + self._rate_samples + 1
        samples = reader.latest(min(wanted, _MOST_SAMPLES, reader.head))
        if samples is None or not len(samples):
            return None, None
        return samples["wire"]["force"], _stamps(samples[-1])


def _stamps(record: np.void) -> tuple[int, int]:
    return int(record["captured_ns"]), int(record["received_ns"])


def _age(now_ns: int, captured_and_arrived_ns: tuple[int, int] | None) -> int:
    if captured_and_arrived_ns is None:
        return GONE_NS
    return max(now_ns - captured_and_arrived_ns[0], now_ns - captured_and_arrived_ns[1], 0)


def _force(forces: Forces, samples: int) -> tuple[float, float]:
    """(the force of the largest amount, the fastest rise of the amount a second). Counted in samples: where some were
    lost the rise comes out too large, which is the safe side. What is not finite stays so, for the guard to see."""
    amounts = np.abs(forces.astype(np.float64))
    if not np.isfinite(amounts).all():
        return math.nan, math.nan
    largest = float(forces[int(amounts.argmax())])
    if len(amounts) <= samples:
        return largest, 0.0
    return largest, float((amounts[samples:] - amounts[:-samples]).max()) * SENSOR_HZ / samples
