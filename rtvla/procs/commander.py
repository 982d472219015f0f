"""commander: action chunk -> one safe command per tick -> robot. The only process that moves anything.

Reads   action_chunk, robot
Writes  command (every decision, also to hold), tcp://network.robot_ip:command_port (JSON dpose, start)
Late    a missed tick sends nothing: the step that is due is a matter of time, never of counting

It waits for nobody. Silence from the policy, a chunk that is too old or finished, a dead policy or encoder, a silent
robot, a step that is not finite or leaves the workspace: each makes it hold, which means that it sends nothing.
"""

from __future__ import annotations

import math

import numpy as np
import zmq

from rtvla import schema
from rtvla.clock import MS, SECOND
from rtvla.config import Config
from rtvla.control.chunk import due_step
from rtvla.control.safety import Guard
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.streams import stale_ns
from rtvla.wire import command as wire

_STILL_MM, _STILL_NS = 0.02, 300 * MS  # moved less than this for that long: the robot has arrived


class Commander:
    """One decision a tick. `decide` names a step or the reason to hold; `tick` sends and puts it on record."""

    def __init__(self, me: Me, cfg: Config, sock: zmq.Socket[bytes]) -> None:
        self._me, self._sock, self._cfg = me, sock, cfg.commander
        self._chunks, self._robot = me.reader("action_chunk"), me.reader("robot")
        self._features = me.reader("vl_feature")  # only to know whether its writer lives
        self._out = me.writer("command")
        self._record = np.zeros((), schema.COMMAND)
        limits = cfg.commander
        self._guard = Guard(limits.max_step_mm, limits.max_step_deg, limits.workspace_min_mm, limits.workspace_max_mm)
        self._chunk_stale_ns = stale_ns("action_chunk", cfg.stale_ms)
        self._robot_stale_ns = stale_ns("robot", cfg.stale_ms)
        # Asked once a run, also across a restart of this process: `start` moves the arm to the start pose.
        self._must_start = cfg.commander.auto_start and me.health.counter("start_done") == 0
        self._still_since: tuple[np.ndarray, int] | None = None
        self._last_step, self._last_sent_ns = self._before_restart()

    def tick(self, now: int) -> None:
        """Decide for `now`, the real start of the tick: a late tick takes the step that is due then, not an old one."""
        record = self._record
        chunk, state = self._chunks.newest(), self._robot.newest()
        self._describe(chunk, now)
        step = due_step(int(chunk["observed_ns"]), int(chunk["horizon"]), schema.STEP_NS, now) if chunk else -1
        record["step"] = step
        reason = self._why_not(chunk, state, step, now)
        sent, kind = None, "hold"
        if not reason and self._must_start and state is not None:
            kind, reason = self._start(state["pose_mm_deg"], now)
        elif not reason and chunk is not None and state is not None:
            requested = chunk["actions"][step][:6]
            record["requested_mm_deg"] = requested
            sent, shortened, reason = self._guard.check(requested.tolist(), state["pose_mm_deg"].tolist())
            record["clamped"] = int(shortened)
            if sent is not None:
                kind, reason = ("dpose", "") if self._send(wire.encode_dpose(sent)) else ("hold", "send_failed")
        if kind == "dpose" and chunk is not None:
            self._last_step, self._last_sent_ns = (int(chunk["index"]), step), now
        record["sent_mm_deg"] = sent if kind == "dpose" and sent is not None else 0
        self._conclude(kind, reason)

    def _why_not(self, chunk: np.void | None, state: np.void | None, step: int, now: int) -> str:
        """The first reason to hold before the step itself is looked at, or ""."""
        checks = (
            ("no_chunk", lambda: chunk is None or step < 0),
            ("policy_dead", lambda: not self._chunks.writer_alive()),
            ("vl_encoder_dead", lambda: not self._features.writer_alive()),
            ("chunk_late", lambda: now - int(chunk["observed_ns"]) > self._chunk_stale_ns),  # type: ignore[index]
            ("chunk_finished", lambda: step >= int(chunk["horizon"])),  # type: ignore[index]
            # A late tick is followed by one on time: without this the robot PC would add up two steps in one period.
            ("step_done", lambda: (int(chunk["index"]), step) == self._last_step or self._is_too_soon(now)),  # type: ignore[index]
            ("robot_stale", lambda: state is None or now - int(state["received_ns"]) > self._robot_stale_ns),
        )
        return next((reason for reason, is_so in checks if is_so()), "")

    def _is_too_soon(self, now: int) -> bool:
        return now - self._last_sent_ns < schema.STEP_NS // 2

    def _before_restart(self) -> tuple[tuple[int, int], int]:
        """(chunk, step) and time of the last step that this process, or the one it took over from, has sent."""
        last = self._me.reader("command").newest()
        if last is None or schema.COMMAND_KINDS[int(last["kind"])] != "dpose":
            return (-1, -1), -schema.STEP_NS
        return (int(last["chunk_index"]), int(last["step"])), int(last["decided_ns"])

    def _start(self, pose: np.ndarray, now: int) -> tuple[str, str]:
        """Send `start` once, then hold until the arm stands still at the start pose."""
        if self._me.health.counter("start_sent") == 0:
            if not self._send(wire.encode_start(self._cfg.start_pose_mm_deg)):
                return "hold", "send_failed"
            self._me.count("start_sent")
            self._me.log.info("start sent: the robot moves to %s (mm, deg)", self._cfg.start_pose_mm_deg)
            return "start", ""
        if self._still_since is None or math.dist(pose[:3], self._still_since[0]) > _STILL_MM:
            self._still_since = (pose[:3].copy(), now)
        far_mm = math.dist(pose[:3], self._cfg.start_pose_mm_deg[:3])
        if far_mm <= self._cfg.start_tolerance_mm and now - self._still_since[1] >= _STILL_NS:
            self._must_start = False
            self._me.count("start_done")
            self._me.log.info("the robot has arrived at the start pose, %.3f mm off", far_mm)
        return "hold", "starting"

    def _send(self, payload: bytes) -> bool:
        """Never waits and never queues for a robot that is not there: an old command must not come out later."""
        try:
            self._sock.send(payload, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _describe(self, chunk: np.void | None, now: int) -> None:
        """Ages at this tick of what the chunk was made from, so that each command carries them."""
        record = self._record
        record["decided_ns"] = now
        record["requested_mm_deg"], record["clamped"] = 0, 0
        if chunk is None:
            record["chunk_index"] = 0
            for name in ("sensor_age_ns", "robot_age_ns", "vl_age_ns", "chunk_age_ns"):
                record[name] = -1
            return
        age = now - int(chunk["observed_ns"])
        record["chunk_index"], record["chunk_age_ns"] = chunk["index"], age
        for name in ("sensor_age_ns", "robot_age_ns", "vl_age_ns"):
            record[name] = int(chunk[name]) + age

    def _conclude(self, kind: str, reason: str) -> None:
        record, me = self._record, self._me
        record["kind"] = schema.COMMAND_KINDS.index(kind)
        record["reason"] = schema.HOLD_REASONS.index(reason or "none")
        self._out.put(record)
        me.count(f"hold.{reason}" if kind == "hold" else kind)
        if record["clamped"]:
            me.count("clamped")


def main(cfg: Config) -> None:
    with lifecycle("commander", cfg) as me, zmq.Context() as context, context.socket(zmq.PUSH) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.IMMEDIATE, 1)  # no queue for a robot that is not connected
        sock.setsockopt(zmq.SNDHWM, 1)
        sock.setsockopt(zmq.SNDBUF, 4096)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.connect(f"tcp://{cfg.network.robot_ip}:{cfg.network.command_port}")
        if not cfg.commander.workspace_min_mm:
            me.log.warning("no workspace box: set commander.workspace_min_mm and workspace_max_mm")
        commander = Commander(me, cfg, sock)
        me.ready()
        for tick in me.ticks(SECOND / schema.STEP_NS, int(cfg.commander.phase_ms * MS)):
            commander.tick(tick.start_ns)
