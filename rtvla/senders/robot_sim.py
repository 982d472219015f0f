"""`rtvla send robot`: the robot PC without a robot. Publishes state and executes commands by the rules of robot_arm.py.

State      XPUB, the same on the wire as the old PUB, but it shows who listens: a state is sent only while somebody has
           subscribed to it and is otherwise counted `states_unheard`; `states_refused` found a subscriber 10 000 behind
Commands   PULL, read between two states; a malformed one is counted by its cause and dropped. The keys session, seq,
           issued_s and ttl_ms are obeyed where they are given (command_gate.py)
Late       a state whose time has passed is skipped, never made up for; the arm's 100 ms ticks are computed in any case
With --keys both ports let in the host of these keys only. Without, whoever reaches the command port moves the robot:
beyond loopback that needs --insecure-lan.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import zmq

from rtvla.clock import MS, SECOND, Pacer, now_ns, wall_s
from rtvla.errors import ConfigError, WireError
from rtvla.schema import ROBOT_HZ
from rtvla.security import gate
from rtvla.security import keys as key_files
from rtvla.security.curve import Curve
from rtvla.senders.command_gate import CommandGate
from rtvla.senders.faults import FaultInjector, Outbox, Outgoing, add_fault_arguments
from rtvla.senders.loop import StopFlag, Waiter
from rtvla.senders.options import add_keys, add_seconds, port, positive
from rtvla.senders.report import RateMeter, Refusals, close_flushed, print_report
from rtvla.senders.robot_arm import Arm
from rtvla.wire import command as command_wire
from rtvla.wire import command_stamp
from rtvla.wire import robot as wire

STATE_HWM = 10_000  # states queued for a slow subscriber: 100 s
MAX_COMMANDS_AT_ONCE = 100  # so that a flood of commands cannot stop the states
MAX_COMMAND_MESSAGE_BYTES = 1 << 20  # above it ZMQ drops the connection; wire/command.py refuses far less


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bind", default="127.0.0.1", help="address to bind both ports to (%(default)s)")
    parser.add_argument("--state-port", type=port, default=5556)
    parser.add_argument("--command-port", type=port, default=5000)
    parser.add_argument("--hz", type=positive, default=float(ROBOT_HZ), help="states a second (%(default)g)")
    add_keys(parser, "robot")
    parser.add_argument(
        "--insecure-lan", action="store_true", help="bind beyond loopback without keys: anybody there moves the robot"
    )
    add_seconds(parser)
    add_fault_arguments(parser)


def open_curve(context: zmq.Context[Any], args: argparse.Namespace, refusals: Refusals) -> Curve:
    """For both ports. Raises ConfigError for a command port without keys beyond loopback, unless it was asked for."""
    keys = key_files.read(args.keys, "robot") if args.keys else None
    gate.command_port(
        "--bind", args.bind, args.command_port, keyed=bool(keys), insecure_lan=args.insecure_lan, warn=_warn
    )
    return Curve(context, keys, refusals)


def _warn(text: str) -> None:
    print(f"robot: {text}", file=sys.stderr, flush=True)


def _bind(socket: zmq.Socket[bytes], ip: str, port_number: int, what: str) -> None:
    try:
        socket.bind(f"tcp://{ip}:{port_number}")
    except zmq.ZMQError as error:
        socket.context.destroy(linger=0)
        raise ConfigError(f"robot {what} tcp://{ip}:{port_number}: {error}; is another sender running there?") from None


class StatePublisher:
    """An XPUB socket that knows whether anybody hears it."""

    def __init__(self, context: zmq.Context[Any], ip: str, port_number: int, curve: Curve) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.XPUB)
        curve.listen(self.socket, "host")
        self.socket.setsockopt(zmq.SNDHWM, STATE_HWM)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)  # a full queue is then an error that can be counted
        _bind(self.socket, ip, port_number, "--state-port")
        self._topics: set[bytes] = set()
        self.counts = dict.fromkeys(("states_sent", "states_unheard", "states_refused"), 0)
        self.damaged_sent = {"cut": 0, "flip": 0}

    def send(self, message: Outgoing) -> None:
        if not self.is_heard():
            self.counts["states_unheard"] += 1
            return
        try:
            self.socket.send_multipart(message.parts, zmq.NOBLOCK)
        except zmq.Again:
            self.counts["states_refused"] += 1
            return
        self.counts["states_sent"] += 1
        if message.damage:
            self.damaged_sent[message.damage] += 1

    def is_heard(self) -> bool:
        """Whether anybody has subscribed to the states."""
        self._read_subscriptions()
        return any(wire.STATE_TOPIC.startswith(topic) for topic in self._topics)

    def _read_subscriptions(self) -> None:
        while self.socket.poll(0):
            news = self.socket.recv()
            if news[:1] == b"\x01":
                self._topics.add(news[1:])
            elif news[:1] == b"\x00":
                self._topics.discard(news[1:])


class CommandReader:
    """The PULL socket of the command port: gives checked commands, counts the others by cause."""

    def __init__(self, context: zmq.Context[Any], ip: str, port_number: int, curve: Curve) -> None:
        self.let_in = curve.serve  # once a round of the loop
        self.socket: zmq.Socket[bytes] = context.socket(zmq.PULL)
        curve.listen(self.socket, "host")
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_COMMAND_MESSAGE_BYTES)
        _bind(self.socket, ip, port_number, "--command-port")
        self.malformed: Counter[str] = Counter()

    def arrived(self) -> Iterator[tuple[command_wire.Command, command_stamp.CommandStamp]]:
        """The good ones among the next MAX_COMMANDS_AT_ONCE messages, each read only when it is asked for, with what
        they say about themselves."""
        for _ in range(MAX_COMMANDS_AT_ONCE):
            if not self.socket.poll(0):
                return
            parts = self.socket.recv_multipart()
            try:
                if len(parts) != 1:
                    raise WireError("wrong_parts", f"{len(parts)} parts, a command has one")
                yield command_wire.decode(parts[0]), command_stamp.decode(parts[0])
            except WireError as error:
                self.malformed[error.cause] += 1


class RobotSender:
    """One loop: a state each period, commands as they come, ticks of the arm at their own times."""

    def __init__(self, args: argparse.Namespace, publisher: StatePublisher, commands: CommandReader) -> None:
        self._args, self._commands = args, commands
        self.faults = FaultInjector(args, damageable=(1,))
        self.outbox = Outbox(self.faults, publisher.send)
        self.arm, self.gate = Arm(now_ns()), CommandGate()
        self.dropped: Counter[str] = Counter()
        self.meter = RateMeter()
        self.skipped = 0
        self._content = (self.arm.joints_deg(), self.arm.pose_mm_deg)

    def run(self, stop: StopFlag) -> None:
        waiter = Waiter(stop, self.outbox, sleep=self._serve)
        pacer = Pacer(int(SECOND / self._args.hz), sleep=waiter.seconds)
        start_ns = now_ns()
        self.faults.begin(start_ns)
        while not stop and (self._args.seconds is None or now_ns() - start_ns < self._args.seconds * SECOND):
            tick = pacer.wait()
            if tick is None:
                continue  # woken early: the loop's condition sees the stop flag
            self.skipped += tick.skipped
            self.meter.add(tick.start_ns)
            self._execute_arrived()
            self._put_state(tick.start_ns)
        self.outbox.flush()

    def _serve(self, seconds: float) -> None:
        """The waiter's sleep: returns early if a command came, having executed it."""
        timeout_ms = int(seconds * SECOND) // MS
        if self.arm.reads_commands() and timeout_ms:
            if self._commands.socket.poll(timeout_ms):
                self._execute_arrived()
        else:
            time.sleep(seconds)

    def _execute_arrived(self) -> None:
        self._commands.let_in()
        now = now_ns()
        self.arm.advance(now)
        if not self.arm.reads_commands():
            return
        for command, stamp in self._commands.arrived():
            if cause := self.gate.refusal(command.kind, stamp, wall_s(), self.arm.is_fed(now)):
                self.dropped[cause] += 1
                continue
            self.arm.execute(command, now)
            if not self.arm.reads_commands():
                return  # a start: what comes behind it stays in the socket

    def _put_state(self, now: int) -> None:
        if not self.faults.is_frozen(now):
            self._content = (self.arm.joints_deg(), self.arm.pose_mm_deg)
        sampled_s = wall_s()
        self.outbox.put(Outgoing(wire.encode(sampled_s, wall_s(), *map(list, self._content))), now)

    def arm_counts(self) -> dict[str, Any]:
        arm = self.arm
        return {
            "commands": dict(arm.commands),
            "ignored_dposes": dict(arm.ignored_dposes),
            "malformed": dict(self._commands.malformed),
            "dropped": dict(self.dropped),
            "refused_moves": arm.refused_moves,
            "clamped_ticks": arm.ticks["clamped"],
            "moved_ticks": arm.ticks["moved"],
            "empty_ticks": arm.ticks["empty"],
            "longest_dpose_gap_ms": round(arm.longest_dpose_gap_ns / MS, 3),
            "final_pose_mm_deg": [round(float(value), 6) for value in arm.pose_mm_deg],
            "path_length_mm": round(arm.path_length_mm, 6),
            "dpose_path_mm": round(arm.dpose_path_mm, 6),
            "largest_step_mm": round(arm.largest_step_mm, 6),
            "largest_step_deg": round(arm.largest_step_deg, 6),
        }


def run(args: argparse.Namespace) -> int:
    with StopFlag() as stop:
        context: zmq.Context[Any] = zmq.Context()
        refusals = Refusals("robot")
        curve = open_curve(context, args, refusals)
        publisher = StatePublisher(context, args.bind, args.state_port, curve)
        commands = CommandReader(context, args.bind, args.command_port, curve)
        sender = RobotSender(args, publisher, commands)
        sender.run(stop)
        curve.close()
        flushed = close_flushed(context, [commands.socket, publisher.socket], after_signal=bool(stop))
    rate = {"achieved_hz": sender.meter.hz(), "states_made": sender.meter.n, "skipped": sender.skipped}
    damaged = {f"{kind}_sent": n for kind, n in publisher.damaged_sent.items()}
    counts = {**publisher.counts, "refused": dict(refusals.counts), **rate, "flushed": flushed, **sender.arm_counts()}
    print_report("robot", {**counts, **damaged, **sender.faults.counts})
    return 0
