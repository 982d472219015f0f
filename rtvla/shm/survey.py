"""One look at everything in a namespace, from read-only mappings: what `rtvla status` and the status block show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from rtvla import schema
from rtvla.clock import MS, SECOND, now_ns
from rtvla.shm.health import read_row
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader
from rtvla.streams import FRAME_STREAMS, STREAMS, stale_ns

_RECENT_CHUNKS = 20
_AGED_CHUNKS = 50  # five seconds
_TOLD = ("dropped.", "queued.", "frozen.", "clock_steps.", "out_of_order.", "repeated_stamp.")
_FAST_HZ, _MIN_RATE = 50, 0.8  # slower streams have too few records in one look for a rate that means something
_FOLLOW_COMMANDS, _FOLLOW_MM, _FOLLOW_RATIO = 20, 0.1, 0.1  # two seconds; shorter paths prove nothing


def process_rows(hub: Hub) -> dict[str, Any]:
    """The health row of every process that ever ran in the namespace, with its restarts by the supervisor's count."""
    rows: dict[str, Any] = {}
    for path in hub.segments():
        name = path.name.split(".", 2)[2]
        if name.startswith("health.") and not name.endswith(".tmp"):
            segment = hub.health_segment(name.removeprefix("health."))
            if segment is not None:
                rows[name.removeprefix("health.")] = read_row(segment)
                segment.close()
    restarts = rows.get("supervisor", {}).get("counters", {})
    for name, row in rows.items():
        row["restarts"] = int(restarts.get(f"restart.{name}", 0))
    return rows


class Survey:
    """Keeps its mappings and the last heads, so that two looks give rates. Not real-time safe; disturbs nobody."""

    def __init__(self, hub: Hub, stale_ms: Mapping[str, float], windows: tuple[int, int] = (65, 100)) -> None:
        self._hub, self._stale_ms, self._windows = hub, stale_ms, windows
        self._readers: dict[str, RingReader] = {}
        self._open()
        self._last = {name: (self._head(name), now_ns()) for name in STREAMS}

    def _open(self) -> None:
        """Map what exists and was not there before. Never makes a segment: whoever looks must leave no trace."""
        for name in STREAMS:
            if name not in self._readers and (reader := self._hub.existing_reader(name)):
                self._readers[name] = reader

    def _head(self, name: str) -> int:
        return self._readers[name].head if name in self._readers else 0

    def _newest(self, name: str) -> np.void | None:
        return self._readers[name].newest() if name in self._readers else None

    def take(self) -> dict[str, Any]:
        self._open()
        look: dict[str, Any] = {
            "namespace": self._hub.namespace,
            "wall_time_s": time.time(),
            "processes": process_rows(self._hub),
            "streams": {name: self._stream(name) for name in STREAMS},
            "vl": self._vl(),
            "actions": self._actions(),
            "commands": self._commands(),
            "buffers": self._buffers(),
            "robot": self._robot(),
            "ages": self._ages(),
        }
        look["clocks"] = clocks(look["processes"])
        look["problems"], look["notes"] = problems(look), notes(look)
        return look

    def _stream(self, name: str) -> dict[str, Any]:
        stream, now, head = STREAMS[name], now_ns(), self._head(name)
        last_head, last_ns = self._last[name]
        self._last[name] = (head, now)
        newest = self._newest(name)
        field = "captured_ns" if "captured_ns" in (stream.dtype.names or ()) else stream.time_field
        age_ns = None if newest is None else now - int(newest[field])
        limit_ns = stale_ns(name, self._stale_ms)
        return {
            "records": head,
            "hz": (head - last_head) * SECOND / max(now - last_ns, 1),
            "nominal_hz": stream.nominal_hz,
            "age_ms": None if age_ns is None else age_ns / MS,
            "stale_ms": limit_ns / MS,
            "state": "empty" if age_ns is None else "stale" if age_ns > limit_ns else "fresh",
            "writer": stream.writer,
            "writer_alive": name in self._readers and self._readers[name].writer_alive(),
        }

    def _vl(self) -> dict[str, Any]:
        feature = self._newest("vl_feature")
        if feature is None or not (feature["view_received_ns"] > 0).any():
            return {"updates": 0, "update_ms": None, "age_ms": None, "features": 0}
        seen = feature["view_captured_ns"][feature["view_received_ns"] > 0]
        return {
            "updates": int(feature["update_number"]),
            "update_ms": int(feature["update_ns"]) / MS,
            "age_ms": (now_ns() - int(seen.min())) / MS,  # of the oldest view in it
            "features": int(feature["index"]) + 1,
        }

    def _actions(self) -> dict[str, Any]:
        head = self._head("action_chunk")
        count = min(head, _RECENT_CHUNKS)
        chunks = self._readers["action_chunk"].latest(count) if count else None
        if chunks is None:
            return {"chunks": 0, "action_ms": None, "total_ms": None, "period_ms": None, "vl_reuse": None}
        periods = np.diff(chunks["observed_ns"])
        return {
            "chunks": head,
            "action_ms": float(chunks["action_ns"].mean()) / MS,
            "total_ms": float(chunks["total_ns"].mean()) / MS,
            "period_ms": float(periods.mean()) / MS if len(periods) else None,
            "vl_reuse": int(chunks["vl_reuse"][-1]),
        }

    def _commands(self) -> dict[str, Any]:
        follows = self._follows()  # first: it reads from the same ring, and `newest` is only good until the next read
        newest = self._newest("command")
        if newest is None:
            return {"last": None, "reason": None, "age_ms": None}
        return {
            "last": schema.COMMAND_KINDS[int(newest["kind"])],
            "reason": schema.HOLD_REASONS[int(newest["reason"])],
            "age_ms": (now_ns() - int(newest["decided_ns"])) / MS,
            "follows": follows,
            "sensor_age_ms": int(newest["sensor_age_ns"]) / MS,
            "robot_age_ms": int(newest["robot_age_ns"]) / MS,
            "vl_age_ms": int(newest["vl_age_ns"]) / MS,
        }

    def _follows(self) -> bool | None:
        """Whether the measured pose moves when steps are sent; None while too little was sent to say."""
        if self._head("command") < _FOLLOW_COMMANDS or not self._head("robot"):
            return None
        commands = self._readers["command"].latest(_FOLLOW_COMMANDS)
        states = self._readers["robot"].latest(min(self._head("robot"), 3 * schema.ROBOT_HZ))
        if commands is None or states is None or (commands["kind"] != schema.COMMAND_KINDS.index("dpose")).any():
            return None
        sent_mm = float(np.linalg.norm(commands["sent_mm_deg"][:, :3], axis=1).sum())
        moved_mm = float(np.linalg.norm(np.diff(states["pose_mm_deg"][:, :3], axis=0), axis=1).sum())
        return None if sent_mm < _FOLLOW_MM else moved_mm > _FOLLOW_RATIO * sent_mm

    def _buffers(self) -> dict[str, Any]:
        """How many samples of each window are young enough to be used."""
        result: dict[str, Any] = {}
        for name, window, hz in (
            ("sensor", self._windows[0], schema.SENSOR_HZ),
            ("robot", self._windows[1], schema.ROBOT_HZ),
        ):
            head = self._head(name)
            records = self._readers[name].latest(min(head, window)) if head else None
            oldest_ns = now_ns() - window * SECOND // hz - stale_ns(name, self._stale_ms)
            fresh = 0 if records is None else int((records["captured_ns"] >= oldest_ns).sum())
            result[name] = {"fresh": fresh, "window": window}
        return result

    def _ages(self) -> dict[str, Any]:
        """Of what the last chunks were made from, from capture to the tick: p50, p99 and the greatest, in ms."""
        head = self._head("action_chunk")
        chunks = self._readers["action_chunk"].latest(min(head, _AGED_CHUNKS)) if head else None
        if chunks is None:
            return {}
        of = {name: chunks[f"{name}_age_ns"] for name in ("sensor", "robot", "vl")}
        of |= {view: chunks["view_age_ns"][:, at] for at, view in enumerate(schema.VIEWS)}
        return {
            name: dict(zip(("p50_ms", "p99_ms", "max_ms"), np.percentile(ages, (50, 99, 100)) / MS, strict=True))
            for name, ages in of.items()
            if (ages >= 0).all()
        }

    def _robot(self) -> dict[str, Any] | None:
        state = self._newest("robot")
        if state is None:
            return None
        return {"joints_deg": state["joints_deg"].tolist(), "pose_mm_deg": state["pose_mm_deg"].tolist()}


def clocks(rows: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """For each sender, by its stream: trusted (0 or 1), drift_ppm, uncertainty_us (-1 without trust) and steps."""
    found: dict[str, dict[str, float]] = {}
    for row in rows.values():
        for name, value in row["gauges"].items():
            if name.startswith("clock."):
                stream, _, what = name.removeprefix("clock.").rpartition(".")
                of = found.setdefault(stream, {"steps": row["counters"].get(f"clock_steps.{stream}", 0)})
                of[what] = value
    return found


def problems(look: Mapping[str, Any]) -> list[str]:
    """What the person paged at night wants to read first: one line each, nothing if all is well."""
    found = [text for name, row in look["processes"].items() for text in _process_problems(name, row)]
    found += [text for name, row in look["streams"].items() if (text := _stream_problem(name, row))]
    commands = look["commands"]
    if commands["last"] == "hold":
        found.append(f"the robot is held: {commands['reason']}")
    if commands.get("follows") is False:
        found.append("the robot does not follow the commands: was it started (--auto-start), or restarted meanwhile?")
    return found


def _process_problems(name: str, row: Mapping[str, Any]) -> list[str]:
    lost = [
        f"{name}: {counter} {count}"
        for counter, count in row["counters"].items()
        if count and counter.startswith(("lost.", "write_failed."))
    ]
    if row["state"] == "absent":
        return [f"{name} is not up yet", *lost]
    if not row["alive"] and row["state"] != "stopped":
        return [f"{name} is dead (was {row['state']}, pid {row['pid']})", *lost]
    return [f"{name} is starting", *lost] if row["state"] == "starting" else lost


def _stream_problem(name: str, row: Mapping[str, Any]) -> str:
    if row["state"] == "empty":
        return f"{name} has no data yet (its writer is {row['writer']})"
    if row["state"] == "stale":
        return f"{name} is stale: {row['age_ms']:.0f} ms old, limit {row['stale_ms']:.0f}"
    if row["nominal_hz"] >= _FAST_HZ and row["hz"] < _MIN_RATE * row["nominal_hz"]:
        return f"{name} comes at {row['hz']:.0f} Hz instead of {row['nominal_hz']:g}"
    return ""


def notes(look: Mapping[str, Any]) -> list[str]:
    """No problems, but worth a line: what was dropped as malformed, came late, out of order or again, clocks that have
    stepped, and what the kernel refused to a process, which runs without it, only less punctual."""
    dropped = [
        f"{name}: {counter} {count}"
        for name, row in look["processes"].items()
        for counter, count in row["counters"].items()
        if count and counter.startswith(_TOLD)
    ]
    return dropped + [
        f"{name}: {part}"
        for name, row in look["processes"].items()
        for part in row["note"].splitlines()
        if "REFUSED" in part
    ]


def missing_views(look: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix("frame.") for name in FRAME_STREAMS if look["streams"][name]["state"] != "fresh"]
