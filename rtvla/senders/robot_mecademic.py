"""The robot PC with a Meca500: publishes what it measures and executes commands, through the vendor's mecademicpy.

State      each monitoring cycle of the robot (--hz): MEASURED joints and pose, not the target that the old robot PC
           sent; sampled = the robot's own microseconds on this machine's clock. While the connection is lost nothing
           is published: what is not known is not repeated
Commands   rules in mecademic_executor.py. The loop never waits for the robot, so a stop is executed within
           milliseconds, also while a start moves the arm, and before everything that came with it. The keys session,
           seq, issued_s and ttl_ms are obeyed where they are given (command_gate.py)
Lost       no cycle for --silence-ms, or a closed connection: motion ends (the robot's connection watchdog, its velocity
           timeout), a new connection is tried with growing pauses, and nothing moves before another start
At its end, also by SIGTERM: motion is cleared and the robot deactivated. Keys: as the simulated robot.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from typing import Any

import zmq

from rtvla.clock import MS, SECOND, WallOffset, now_ns, wall_s
from rtvla.errors import ConfigError, RobotFault, WireError
from rtvla.schema import STEP_NS
from rtvla.senders.command_gate import CommandGate
from rtvla.senders.faults import Outgoing
from rtvla.senders.loop import StopFlag
from rtvla.senders.mecademic_connector import Connector
from rtvla.senders.mecademic_executor import Executor, Phase
from rtvla.senders.mecademic_limits import add_arguments, limits_of
from rtvla.senders.mecademic_link import Link, library
from rtvla.senders.report import RateMeter, Refusals, close_flushed, print_report
from rtvla.senders.robot_clock import RobotClock
from rtvla.senders.robot_sim import MAX_COMMANDS_AT_ONCE, CommandReader, StatePublisher, open_curve
from rtvla.wire import command as command_wire
from rtvla.wire import command_stamp
from rtvla.wire import robot as wire

LONGEST_WAIT_NS = 10 * MS
END_S = 2.0  # so long is the deactivation waited for
__all__ = ["add_arguments", "run"]


def say(text: str) -> None:
    print(f"robot: {text}", file=sys.stderr, flush=True)


class StampedReader(CommandReader):
    """Commands with what they say about themselves."""

    def batch(self) -> list[tuple[command_wire.Command, command_stamp.CommandStamp]]:
        """The good ones among the next MAX_COMMANDS_AT_ONCE messages; the others are counted by cause."""
        good = []
        for _ in range(MAX_COMMANDS_AT_ONCE):
            if not self.socket.poll(0):
                break
            parts = self.socket.recv_multipart()
            try:
                if len(parts) != 1:
                    raise WireError("wrong_parts", f"{len(parts)} parts, a command has one")
                good.append((command_wire.decode(parts[0]), command_stamp.decode(parts[0])))
            except WireError as error:
                self.malformed[error.cause] += 1
        return good


class RobotSide:
    """One loop over commands, cycles of the robot and 100 ms ticks; the library's threads only fill queues."""

    def __init__(self, args: argparse.Namespace, publisher: StatePublisher, commands: StampedReader) -> None:
        self._args, self._publisher, self._commands = args, publisher, commands
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.executor = Executor(limits_of(args), say)
        self.gate = CommandGate()
        self.clock, self._wall, self.meter = RobotClock(), WallOffset(), RateMeter()
        self.dropped: Counter[str] = Counter()
        self.robot_errors: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.connections = self.malformed_cycles = 0
        self._link: Link | None = None
        self._may_clear_error = args.clear_error
        self._watchdog_due_ns = 0
        self.connector = Connector(self._make_link, 1 / args.hz, say, self._wake_fd)

    def _make_link(self) -> Link:
        args = self._args
        return Link(
            args.robot_address, args.control_port, args.monitor_port, lambda: os.eventfd_write(self._wake_fd, 1)
        )

    def run(self, stop: StopFlag) -> None:
        poller = zmq.Poller()
        poller.register(self._commands.socket, zmq.POLLIN)
        poller.register(self._wake_fd, zmq.POLLIN)
        start_ns = tick_ns = now_ns()
        self.connector.request()
        while not stop and (self._args.seconds is None or now_ns() - start_ns < self._args.seconds * SECOND):
            wait_ns = min(max(tick_ns - now_ns(), 0), LONGEST_WAIT_NS)
            if (self._wake_fd, zmq.POLLIN) in poller.poll(-(-wait_ns // MS)):
                os.eventfd_read(self._wake_fd)
            now = now_ns()
            is_due = now >= tick_ns
            if is_due:
                tick_ns += STEP_NS * (1 + (now - tick_ns) // STEP_NS)
            try:
                self._round(now, is_due)
            except RobotFault as fault:
                self._lose(str(fault))

    def _round(self, now: int, is_due: bool) -> None:
        self._take_link()
        self._publish_cycles()
        self._execute_arrived(now)
        link = self._link
        if link is None:
            return
        if link.lost or link.age_ns(now) > self._args.silence_ms * MS:
            raise RobotFault(link.lost or f"no state from the robot for {self._args.silence_ms:g} ms")
        self.executor.step(now)
        if is_due:
            self.executor.tick()
        if self._args.connection_watchdog_s and now >= self._watchdog_due_ns:
            link.watchdog(self._args.connection_watchdog_s)
            self._watchdog_due_ns = now + int(self._args.connection_watchdog_s * SECOND / 4)

    def _take_link(self) -> None:
        link = self.connector.take()
        if link is None:
            return
        self._link = link
        self.connections += 1
        self._watchdog_due_ns = 0
        self.executor.attach(link)
        say(f"connected to {self._args.robot_address}; nothing moves before a start")
        status = link.status()
        if status.activated and not status.error:
            link.clear()  # whatever an earlier connection left in the queue
        if status.error and self._may_clear_error:
            say("--clear-error: the robot's error is reset")
            link.reset_error()
        self._may_clear_error = False

    def _lose(self, reason: str) -> None:
        link, self._link = self._link, None
        self.lost[reason.partition(":")[0]] += 1
        say(f"connection lost: {reason}; motion has ended, connecting again")
        self.executor.detach()
        if link is not None:
            self._count_link(link)
        self.connector.request(link)

    def _count_link(self, link: Link) -> None:
        self.malformed_cycles += link.malformed
        while link.errors:
            self._count_error(link.errors.popleft())

    def _count_error(self, name: str) -> None:
        if not self.robot_errors[name]:
            say(f"the robot reports {name}")
        self.robot_errors[name] += 1

    def _publish_cycles(self) -> None:
        link = self._link
        if link is None:
            return
        while link.errors:
            self._count_error(link.errors.popleft())
        while link.cycles:
            cycle = link.cycles.popleft()
            sampled_ns = self.clock.to_monotonic_ns(cycle.robot_us, cycle.arrived_ns)
            self.meter.add(cycle.arrived_ns)
            stamps = (self._wall.to_wall_s(sampled_ns), self._wall.to_wall_s(now_ns()))
            self._publisher.send(Outgoing(wire.encode(*stamps, cycle.joints_deg, cycle.pose_mm_deg)))

    def _execute_arrived(self, now: int) -> None:
        self._commands.let_in()
        batch = self._commands.batch()
        stops = [at for at, (command, _) in enumerate(batch) if command.kind == "stop"]
        if stops:
            self.dropped["overtaken_by_stop"] += stops[-1] + 1 - len(stops)
            self.executor.commands["stop"] += len(stops)
            self.executor.stop()
            batch = batch[stops[-1] + 1 :]
        for command, stamp in batch:
            if cause := self.gate.refusal(command.kind, stamp, wall_s(), self.executor.is_fed(now)):
                self.dropped[cause] += 1
            else:
                self.executor.execute(command, now)

    def close(self) -> None:
        """Stand still, motors off, connection closed."""
        link = self._link
        if link is not None and not link.lost:
            try:
                self._switch_off(link)
            except RobotFault as fault:
                say(f"the robot could not be switched off: {fault}")
            self._count_link(link)
        if link is not None:
            link.close()
        self.connector.close()
        os.close(self._wake_fd)

    def _switch_off(self, link: Link) -> None:
        self.executor.stop()
        if not link.status().activated:
            return
        link.deactivate()
        end_ns = now_ns() + int(END_S * SECOND)
        with zmq.Context() as context, context.socket(zmq.PULL) as nothing:
            while link.status().activated and now_ns() < end_ns and not link.lost:
                nothing.poll(5)

    def counts(self) -> dict[str, Any]:
        executor = self.executor
        last = self._link.last if self._link else None
        return {
            "achieved_hz": self.meter.hz(),
            "cycles": self.meter.n,
            "malformed_cycles": self.malformed_cycles,
            "connections": self.connections,
            "connection_lost": dict(self.lost),
            "failed_attempts": self.connector.failures,
            "phase": executor.phase,
            "commands": dict(executor.commands),
            "dropped": dict(self.dropped),
            "malformed": dict(self._commands.malformed),
            "ignored_dposes": dict(executor.ignored_dposes),
            "refused_moves": dict(executor.refused_moves),
            "interrupted": dict(executor.interrupted),
            "robot_errors": dict(self.robot_errors),
            "watchdog_holds": executor.watchdog_holds,
            **{f"{name}_ticks": executor.ticks[name] for name in ("moved", "clamped", "empty", "blocked", "rearming")},
            "final_pose_mm_deg": list(last.pose_mm_deg) if last else None,
        }


def run(args: argparse.Namespace) -> int:
    if not args.robot_address:
        raise ConfigError("robot --arm mecademic: needs --robot-address, the address of the robot's controller")
    library()
    limits_of(args)
    with StopFlag() as stop:
        context: zmq.Context[Any] = zmq.Context()
        refusals = Refusals("robot")
        curve = open_curve(context, args, refusals)
        publisher = StatePublisher(context, args.bind, args.state_port, curve)
        commands = StampedReader(context, args.bind, args.command_port, curve)
        side = RobotSide(args, publisher, commands)
        try:
            side.run(stop)
        finally:
            side.close()
            curve.close()
        flushed = close_flushed(context, [commands.socket, publisher.socket], after_signal=bool(stop))
    print_report("robot", {**publisher.counts, "refused": dict(refusals.counts), "flushed": flushed, **side.counts()})
    return 0 if side.executor.phase is not Phase.ERROR else 1
