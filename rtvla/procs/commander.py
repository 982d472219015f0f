"""commander: action chunks -> one safe command a tick -> robot. The only process that moves anything.

Reads   action_chunk, vl_feature, sensor, robot, frame.*, and what an operator asks (shm/operator.py)
Writes  command (every decision, also to hold), tcp://network.robot_ip:command_port (JSON dpose, start)
Late    what a late tick has missed is past: a command is the motion of its own stretch of time

It waits for nobody. What it decides and why is control/deciding.py; to hold means that it sends nothing. A latch, the
session on the wire and the motion that is under way survive its own death: they are in its last records.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq

from rtvla import schema
from rtvla.clock import MS, SECOND, now_ns, wall_s
from rtvla.config import Config
from rtvla.control.deciding import Decider, Decision, Seen
from rtvla.procs.commander_inputs import InputReader
from rtvla.procs.commander_record import CommandRecord
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.security import gate
from rtvla.security.curve import Curve
from rtvla.shm import operator
from rtvla.wire import command as wire
from rtvla.wire import command_stamp

_STILL_MM, _STILL_NS = 0.02, 300 * MS  # moved less than this for that long: the robot has arrived
_TELL_NS = SECOND // 2  # so often a change of state is logged; all are counted, and on record
# Not acknowledged for so long: the kernel gives the connection up, and with it what it still holds. Otherwise a link
# that was down for 3 s delivered the 30 commands of that time when it was back.
_UNHEARD_MS = 300
_TAKEN_BACK = 63  # records of the last command: all that may still be under way at 100 Hz


class Commander:
    """One decision a tick: `tick` looks, decides, sends and puts it on record."""

    def __init__(self, me: Me, cfg: Config, sock: zmq.Socket[bytes]) -> None:
        self._me, self._sock, self._cfg = me, sock, cfg.commander
        self._decider, self._inputs = Decider(cfg), InputReader(me, cfg)
        self._out, self._record = me.writer("command"), CommandRecord()
        self._operator = operator.requests(me.hub)
        self._asked = self._operator.head  # what was asked of a predecessor has been answered, or is too old
        # Asked once a run, also across a restart of this process: `start` moves the arm to the start pose.
        self._must_start = cfg.commander.auto_start and me.health.counter("start_done") == 0
        self._still_since: tuple[Sequence[float], int] | None = None
        self._state, self._told_ns, self._untold = "", -SECOND, 0
        self._session, self._seq = secrets.token_hex(8), 0
        self._take_over()

    def tick(self, now: int) -> None:
        """`now` is the real start of the tick."""
        self._obey(now)
        for chunk in self._inputs.new_chunks():
            index, steps = int(chunk["index"]), chunk["actions"][: int(chunk["horizon"]), :6].tolist()
            self._record.remember(chunk)
            if why := self._decider.take(index, int(chunk["observed_ns"]), steps, now):
                self._me.count(f"chunk.{why}")
        seen = self._inputs.seen(now)
        decision = self._decider.decide(now, seen, starting=self._must_start)
        kind, reason, sent_ns = decision.kind, decision.reason, 0
        if kind == "start" and seen.measured is not None:
            kind, reason, sent_ns = self._start(seen.measured.pose_mm_deg, now)
        elif kind == "dpose" and decision.delta is not None:
            delta = decision.delta
            sent_ns = self._send(lambda stamp: wire.encode_dpose(delta, stamp=stamp))
            if sent_ns:
                self._decider.sent(decision, now)
            else:
                self._decider.not_sent(now)
                kind, reason = "hold", "send_failed"
        self._conclude(now, decision, seen, kind, reason, sent_ns)

    def _take_over(self) -> None:
        """Go on where the last record of a predecessor in this run ends."""
        commands = self._me.reader("command")
        last = commands.latest(min(commands.head, _TAKEN_BACK))
        if last is None or not len(last):
            return
        for record in last:
            if record["sent_ns"] and schema.COMMAND_KINDS[int(record["kind"])] == "dpose":
                self._decider.done_ns = int(record["end_ns"])
                self._decider.pending.add(int(record["decided_ns"]), record["sent_mm_deg"].tolist())
        newest = last[-1]
        # One more: between sending and recording a process can be killed, and no number may come twice.
        self._session, self._seq = bytes(newest["session"]).decode(), int(newest["seq"]) + 1
        if newest["latched"]:
            self._decider.latch.set(schema.HOLD_REASONS[int(newest["latched"])], int(newest["latched_ns"]))
            self._me.log.warning("still latched: %s; rtvla resume ends it", self._decider.latch.cause)

    def _obey(self, now: int) -> None:
        """An operator may end the latch that he has seen, and no other, and only now."""
        if self._operator.head == self._asked:
            return
        self._asked = self._operator.head
        request = self._operator.newest()
        if request is None:
            return
        who, cause = bytes(request["who"]).decode(errors="replace"), self._decider.latch.cause
        is_new = 0 <= now_ns() - int(request["received_ns"]) <= operator.VALID_NS
        if is_new and self._decider.release(int(request["latched_ns"]), now):
            self._me.count("resumed")
            self._me.log.warning("%s has ended the latch %s", who, cause)
        else:
            self._me.count("resume_ignored")
            self._me.events.warn("resume_ignored", f"{who} asked {'for another latch' if is_new else 'too long ago'}")

    def _start(self, pose: Sequence[float], now: int) -> tuple[str, str, int]:
        """(kind, reason, when sent). Send `start` once, then hold until the arm stands still at the start pose."""
        me, target = self._me, self._cfg.start_pose_mm_deg
        if me.health.counter("start_sent") == 0:
            me.count("start_sent")  # before it is: whoever is killed in between must not have it sent twice
            sent_ns = self._send(lambda stamp: wire.encode_start(target, stamp=stamp))
            if not sent_ns:
                me.count("start_sent", -1)  # it is known not to have gone
                return "hold", "send_failed", 0
            me.log.info("start sent: the robot moves to %s (mm, deg)", target)
            return "start", "", sent_ns
        if self._still_since is None or math.dist(pose[:3], self._still_since[0]) > _STILL_MM:
            self._still_since = (pose[:3], now)
        far_mm = math.dist(pose[:3], target[:3])
        if far_mm <= self._cfg.start_tolerance_mm and now - self._still_since[1] >= _STILL_NS:
            self._must_start = False
            me.count("start_done")
            me.log.info("the robot has arrived at the start pose, %.3f mm off", far_mm)
        return "hold", "starting", 0

    def _send(self, encode: Callable[[Mapping[str, Any]], bytes]) -> int:
        """When it was given away (ns), or 0. Never waits and never queues for a robot that is not there: an old
        command must not come out later."""
        self._seq += 1
        payload = encode(command_stamp.fields(self._session, self._seq, wall_s(), self._cfg.ttl_ms))
        try:
            self._sock.send(payload, zmq.DONTWAIT)
        except zmq.Again:
            return 0
        return now_ns()

    def _conclude(self, now: int, decision: Decision, seen: Seen, kind: str, reason: str, sent_ns: int) -> None:
        me, latch = self._me, self._decider.latch
        record = self._record.fill(now, decision, seen, kind, reason, sent_ns, latch)
        record["session"], record["seq"] = self._session.encode(), self._seq
        self._out.put(record)
        me.count(f"hold.{reason}" if kind == "hold" else kind)
        if decision.clamped:
            me.count("clamped")
        for check in decision.violated:
            me.count(f"guard.{check}")
        if reason != "step_done":
            self._tell(now, kind, reason or decision.verdict.cause, decision.verdict.action)

    def _tell(self, now: int, kind: str, cause: str, action: str) -> None:
        """Each change of state is counted, and logged with its cause unless one was just logged."""
        name = "hold" if kind == "hold" else "retract" if cause in ("force", "force_rate") else kind
        name = action if name == "dpose" else name
        state = f"{name}: {cause}" if cause else name
        if state == self._state:
            return
        was, self._state = self._state or "nothing", state
        self._me.count(f"became.{name}")
        if now - self._told_ns < _TELL_NS:
            self._untold += 1
            return
        more = f", {self._untold} changes before it not logged" if self._untold else ""
        latched = f"; latched by {self._decider.latch.cause}, rtvla resume ends it" if cause == "latched" else ""
        self._me.log.info("%s (was %s)%s%s", state, was, latched, more)
        self._told_ns, self._untold = now, 0


def forget(sock: zmq.Socket[bytes]) -> None:
    """Options with which what cannot be delivered now is never delivered."""
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.IMMEDIATE, 1)  # no queue for a robot that is not connected
    sock.setsockopt(zmq.SNDHWM, 1)
    sock.setsockopt(zmq.SNDBUF, 4096)
    sock.setsockopt(zmq.TCP_MAXRT, _UNHEARD_MS)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)


def main(cfg: Config) -> None:
    with (
        lifecycle("commander", cfg) as me,
        zmq.Context() as context,
        context.socket(zmq.PUSH) as sock,
        Curve(context, gate.host_command_port(cfg, me.log.warning), me.refused) as curve,
    ):
        forget(sock)
        curve.connect(sock, "robot", f"tcp://{cfg.network.robot_ip}:{cfg.network.command_port}")
        if not cfg.guard.workspace_min_mm:
            me.log.warning("no workspace box: set guard.workspace_min_mm and workspace_max_mm")
        commander = Commander(me, cfg, sock)
        me.ready()
        for tick in me.ticks(cfg.commander.rate_hz, int(cfg.commander.phase_ms * MS)):
            commander.tick(tick.start_ns)
            curve.serve()
