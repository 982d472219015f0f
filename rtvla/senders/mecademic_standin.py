"""`rtvla send controller`: a stand-in for a Meca500 controller, for the vendor's own library to talk to.

Ports      control (10000) and monitoring (10001) as on the robot, and one for tests. Loopback only: nothing checks who
           speaks. Give --control-port 0 and so on for free ports; the first line on stdout names all three
Speaks     enough of the vendor's text protocol for mecademicpy to connect, activate, home, move to poses and by
           velocities, pause, clear, deactivate, reset errors, and to be monitored with the robot's own microseconds.
           One control connection at a time; any number of monitoring ones
Test port  lines of text, one JSON line back each: `account`, `error CODE`, `pause`, `reset` (as an operator at the
           robot), `freeze` and `thaw` (connections stay, nothing is read or sent), `drop` (closes them), `refuse` and
           `accept` (new connections), `quit`
It is NOT a robot: no kinematics, no singularities, no joint limits, no accelerations, no brakes, no safety inputs; see
standin_arm.py. What works against it has yet to be tried, slowly and with a hand on the stop, on the real arm.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
from collections import Counter
from dataclasses import dataclass, field

from rtvla.clock import SECOND, now_ns
from rtvla.errors import ConfigError
from rtvla.senders.loop import StopFlag
from rtvla.senders.options import add_seconds
from rtvla.senders.report import print_report
from rtvla.senders.robot_arm import F64
from rtvla.senders.standin_arm import StandinArm
from rtvla.senders.standin_protocol import WELCOME, Interpreter, Settings

MAX_BEHIND_BYTES = 1 << 20  # a client that is this far behind is cut off
POLL_S = 0.002
ERROR_TEXT = "Raised by the stand-in's test port."


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{text}: must be a port number, or 0 for a free one")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bind", default="127.0.0.1", help="a loopback address (%(default)s)")
    parser.add_argument("--control-port", type=_port, default=10000)
    parser.add_argument("--monitor-port", type=_port, default=10001)
    parser.add_argument("--test-port", type=_port, default=0, help="(a free one)")
    add_seconds(parser)


@dataclass(eq=False)
class Client:
    """One connection. `role` is control, monitor or test."""

    socket: socket.socket
    role: str
    unread: bytes = b""
    unsent: bytes = b""
    interpreter: Interpreter | None = field(default=None)

    def put(self, message: str) -> None:
        self.unsent += message.encode("ascii") + (b"\n" if self.role == "test" else b"\0")


def _numbers(values: F64) -> str:
    return ",".join(f"{value:.5f}" for value in values)


class Standin:
    """One loop around `select`: commands, time, monitoring, the test port."""

    def __init__(self, bind: str, ports: dict[str, int]) -> None:
        if not bind.startswith("127."):
            raise ConfigError(f"controller --bind {bind}: the stand-in serves loopback only, give a 127.x address")
        self._start_ns = now_ns()
        self.arm = StandinArm(self._start_ns)
        self.settings = Settings()
        self.heard: Counter[str] = Counter()
        self._clients: list[Client] = []
        self._select = selectors.DefaultSelector()
        self.ports: dict[str, int] = {}
        self._cycle_due_ns, self._watchdog_ns = self._start_ns, 0
        self._last_status = ""
        self._is_frozen = self._is_refusing = self.is_over = False
        for role, number in ports.items():
            self.ports[role] = self._listen(bind, number, role)

    def _listen(self, bind: str, number: int, role: str) -> int:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((bind, number))
        except OSError as error:
            listener.close()
            raise ConfigError(f"controller --{role}-port {number}: {error}; is another one running there?") from None
        listener.listen()
        self._select.register(listener, selectors.EVENT_READ, role)
        return int(listener.getsockname()[1])

    def step(self) -> None:
        for key, _ in self._select.select(POLL_S):
            if isinstance(key.data, str):
                self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
            elif key.data in self._clients and not (self._is_frozen and key.data.role != "test"):
                self._read(key.data)
        now = now_ns()
        self.arm.advance(now)
        self._check_watchdog(now)
        if not self._is_frozen:
            self._report_news()
            self._send_cycle(now)
        for client in list(self._clients):
            if not (self._is_frozen and client.role != "test"):
                self._flush(client)

    def _accept(self, listener: socket.socket, role: str) -> None:
        connection, _ = listener.accept()
        is_taken = role == "control" and any(client.role == "control" for client in self._clients)
        if role != "test" and (self._is_refusing or is_taken):
            if is_taken:
                connection.sendall(b"[3001][Another user is already connected, closing connection]\0")
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(connection, role)
        if role == "control":
            self.settings.is_monitored_on_control, self.settings.watchdog_s = False, 0.0
            client.interpreter = Interpreter(self.arm, self.settings, self.heard)
        if role != "test":
            client.put(WELCOME)
        if role == "monitor":
            client.put(f"[2007][{self.arm.status()}]")
        self._clients.append(client)
        self._select.register(connection, selectors.EVENT_READ, client)

    def _read(self, client: Client) -> None:
        try:
            data = client.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._close(client)
            return
        *lines, client.unread = (client.unread + data).replace(b"\0", b"\n").split(b"\n")
        for line in lines:
            text = line.decode("ascii", "replace")
            self.arm.advance(now_ns())
            if client.role == "test":
                client.put(json.dumps(self._obey_test(text)))
            elif client.interpreter is not None:
                for reply in client.interpreter.answer(text):
                    client.put(reply)
                self._watchdog_ns = now_ns()
            self._report_news()

    def _obey_test(self, line: str) -> object:
        word, _, rest = line.strip().partition(" ")
        if word == "error":
            self.arm.fail(int(rest), ERROR_TEXT)
        elif word in ("pause", "reset"):
            {"pause": self.arm.pause, "reset": self.arm.reset_error}[word]()
        elif word in ("freeze", "thaw"):
            self._is_frozen = word == "freeze"
        elif word in ("refuse", "accept"):
            self._is_refusing = word == "refuse"
        elif word == "drop":
            for client in [client for client in self._clients if client.role != "test"]:
                self._close(client)
        elif word == "quit":
            self.is_over = True
        elif word != "account":
            return {"unknown": word}
        return {**self.arm.account(), "heard": dict(self.heard), "clients": [c.role for c in self._clients]}

    def _check_watchdog(self, now: int) -> None:
        limit_s = self.settings.watchdog_s
        if limit_s > 0 and now - self._watchdog_ns > limit_s * SECOND:
            self.arm.counts["watchdog_stops"] += 1
            for client in [client for client in self._clients if client.role == "control"]:
                self._close(client)

    def _report_news(self) -> None:
        """Replies and events to the control client, status changes to both ports."""
        messages = [f"[{code}][{text}]" for code, text in self.arm.news]
        self.arm.news.clear()
        status = self.arm.status()
        has_changed, self._last_status = status != self._last_status, status
        for client in self._clients:
            if client.role == "control":
                for message in messages:
                    client.put(message)
            on_control = client.role == "control" and self.settings.is_monitored_on_control
            if has_changed and (client.role == "monitor" or on_control):
                client.put(f"[2007][{status}]")

    def _send_cycle(self, now: int) -> None:
        if now < self._cycle_due_ns:
            return
        period_ns = int(self.settings.interval_s * SECOND)
        self._cycle_due_ns += period_ns * (1 + (now - self._cycle_due_ns) // period_ns)
        stamp_us = (now - self._start_ns) // 1000  # of its own clock, from its own start
        joints, pose = (_numbers(values) for values in (self.arm.joints_deg(), self.arm.pose))
        lines = [f"[2026][{joints}]", f"[2027][{pose}]"]  # the old form, in every cycle: the library looks for it
        lines += [f"[{code}][{stamp_us},{joints if code % 10 == 0 else pose}]" for code in self.settings.codes]
        for client in self._clients:
            if client.role == "monitor" or (client.role == "control" and self.settings.is_monitored_on_control):
                for line in [*lines, f"[2230][{stamp_us}]"]:
                    client.put(line)

    def _flush(self, client: Client) -> None:
        try:
            while client.unsent:
                client.unsent = client.unsent[client.socket.send(client.unsent) :]
        except BlockingIOError:
            if len(client.unsent) > MAX_BEHIND_BYTES:
                self._close(client)
        except OSError:
            self._close(client)

    def _close(self, client: Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        self._select.unregister(client.socket)
        client.socket.close()
        if client.role == "control":
            self.settings.watchdog_s = 0.0
            self.arm.advance(now_ns())
            self.arm.stop_for_lost_connection()

    def close(self) -> None:
        for client in list(self._clients):
            self._close(client)
        for key in list(self._select.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._select.close()


def run(args: argparse.Namespace) -> int:
    ports = {"control": args.control_port, "monitor": args.monitor_port, "test": args.test_port}
    with StopFlag() as stop:
        standin = Standin(args.bind, ports)
        print(json.dumps({"controller": args.bind, **standin.ports}), flush=True)
        end_ns = None if args.seconds is None else now_ns() + int(args.seconds * SECOND)
        while not stop and not standin.is_over and (end_ns is None or now_ns() < end_ns):
            standin.step()
        account = standin.arm.account()
        standin.close()
    print_report("controller", {**account, "heard": dict(standin.heard)})
    return 0
