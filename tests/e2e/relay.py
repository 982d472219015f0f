"""A network between the senders and the pipeline that can be made bad while both run: real sockets on loopback.

Each link takes what comes, asks its fault what becomes of it, and passes it on when that is due. What the commander
sent is kept with the time at which it came, so a test can say what was commanded.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from rtvla.clock import MS, SECOND, now_ns

Parts = list[bytes]
# (parts, now) -> (due, parts) of each message that goes on instead
Fault = Callable[[Parts, int], list[tuple[int, Parts]]]
LINKS = ("sensor", "camera", "robot", "command")
_STAMPS = struct.Struct("<dd")  # sampled, sent: how a sensor sample and a robot state begin
_STAMPS_AT = {"sensor": (0, 4), "robot": (1, 0)}  # part, byte


def good(parts: Parts, now: int) -> list[tuple[int, Parts]]:
    return [(now, parts)]


def silent(parts: Parts, now: int) -> list[tuple[int, Parts]]:
    return []


def twice(parts: Parts, now: int) -> list[tuple[int, Parts]]:
    return [(now, parts), (now, parts)]


def late(seconds: float) -> Fault:
    return lambda parts, now: [(now + int(seconds * SECOND), parts)]


def swapped() -> Fault:
    """Each second message overtakes the one before it."""
    held: list[Parts] = []

    def fault(parts: Parts, now: int) -> list[tuple[int, Parts]]:
        if not held:
            held.append(parts)
            return []
        return [(now, parts), (now, held.pop())]

    return fault


def stamped(link: str, change: Callable[[float, int], float]) -> Fault:
    """The sender's clock is another one: `change(stamp in s, now in ns)` -> stamp in s."""
    return lambda parts, now: [(now, _restamped(link, parts, lambda s: change(s, now)))]


def frozen(link: str) -> Fault:
    """The first content again and again, under the stamps of what comes. Of a camera link each view by itself."""
    first: dict[str, Parts] = {}

    def fault(parts: Parts, now: int) -> list[tuple[int, Parts]]:
        name = json.loads(parts[0])["camera"] if link == "camera" else link
        kept = first.setdefault(name, parts)
        if link == "camera":
            return [(now, [parts[0].replace(b'"size": %d' % len(parts[1]), b'"size": %d' % len(kept[1])), kept[1]])]
        part, at = _STAMPS_AT[link]
        body = parts[part][: at + 16] + kept[part][at + 16 :]
        return [(now, [*parts[:part], body, *parts[part + 1 :]])]

    return fault


def pushed(force: float) -> Fault:
    """Each sample of a sensor datagram of one says `force`."""
    return lambda parts, now: [(now, [parts[0][:20] + struct.pack("<f", force) + parts[0][24:]])]


def _restamped(link: str, parts: Parts, change: Callable[[float], float]) -> Parts:
    if link == "camera":
        meta = json.loads(parts[0])
        meta |= {key: change(meta[key]) for key in ("timestamp", "send_time") if key in meta}
        return [json.dumps(meta).encode(), parts[1]]
    part, at = _STAMPS_AT[link]
    stamps = _STAMPS.pack(*map(change, _STAMPS.unpack_from(parts[part], at)))
    body = parts[part][:at] + stamps + parts[part][at + 16 :]
    return [*parts[:part], body, *parts[part + 1 :]]


class Relay:
    """`near` are the ports of the pipeline, `far` those of the senders; both by link. A thread of its own."""

    def __init__(self, near: dict[str, int], far: dict[str, int]) -> None:
        self.faults: dict[str, Fault] = dict.fromkeys(LINKS, good)
        self.commands: list[tuple[int, dict[str, Any]]] = []  # (arrival, command) as the commander sent them
        self._context: zmq.Context[Any] = zmq.Context()
        self._udp_in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp_in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._udp_in.bind(("127.0.0.1", far["sensor"]))
        self._udp_in.setblocking(False)
        self._udp_out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sensor_to = ("127.0.0.1", near["sensor"])
        self._near, self._far = near, far
        self._in, self._out = self._connected()
        self._waiting: list[tuple[int, int, str, Parts]] = []
        self._order = itertools.count()
        self._ends = self._is_cut = False
        self.was_cut = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _connected(self) -> tuple[dict[str, zmq.Socket[bytes]], dict[str, zmq.Socket[bytes]]]:
        near, far = self._near, self._far
        into = {
            "camera": self._socket(zmq.PULL, "bind", far["camera"]),
            "robot": self._socket(zmq.SUB, "connect", far["robot"]),
            "command": self._socket(zmq.PULL, "bind", near["command"]),
        }
        into["robot"].setsockopt(zmq.SUBSCRIBE, b"")
        out = {
            "camera": self._socket(zmq.PUSH, "connect", near["camera"]),
            "robot": self._socket(zmq.PUB, "bind", near["robot"]),
            "command": self._socket(zmq.PUSH, "connect", far["command"]),
        }
        return into, out

    def _socket(self, kind: int, how: str, port: int) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = self._context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        getattr(made, how)(f"tcp://127.0.0.1:{port}")
        return made

    def cut(self, seconds: float) -> tuple[int, int]:
        """The cable is out: datagrams vanish, connections are gone. Begin and end in ns."""
        self.faults["sensor"], self._is_cut = silent, True
        began_ns = now_ns()
        self.was_cut.wait(10)
        time.sleep(seconds)
        ended_ns = now_ns()
        self.faults["sensor"], self._is_cut = good, False
        return began_ns, ended_ns

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        self._context.destroy(linger=0)
        self._udp_in.close()
        self._udp_out.close()

    def _run(self) -> None:
        poller = self._poller()
        while not self._ends:
            if self._is_cut:
                self._stay_cut()
                poller = self._poller()
            due_ns = self._waiting[0][0] if self._waiting else now_ns() + 50 * MS
            poller.poll(max(0, (due_ns - now_ns()) // MS))
            self._take_datagrams()
            for link, made in self._in.items():
                while made.poll(0):
                    self._pass(link, made.recv_multipart())
            self._send_due()

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        for made in (*self._in.values(), self._udp_in):
            poller.register(made, zmq.POLLIN)
        return poller

    def _stay_cut(self) -> None:
        for made in (*self._in.values(), *self._out.values()):
            made.close()
        self._waiting.clear()
        self.was_cut.set()
        while self._is_cut and not self._ends:
            self._take_datagrams()
            time.sleep(0.005)
        self.was_cut.clear()
        self._in, self._out = self._connected()

    def _take_datagrams(self) -> None:
        while True:
            try:
                self._pass("sensor", [self._udp_in.recv(65536)])
            except BlockingIOError:
                return

    def _pass(self, link: str, parts: Parts) -> None:
        now = now_ns()
        if link == "command":
            self.commands.append((now, json.loads(parts[0])))
        for due_ns, message in self.faults[link](parts, now):
            heapq.heappush(self._waiting, (due_ns, next(self._order), link, message))
        self._send_due()

    def _send_due(self) -> None:
        while self._waiting and self._waiting[0][0] <= now_ns():
            _, _, link, parts = heapq.heappop(self._waiting)
            if link == "sensor":
                self._udp_out.sendto(parts[0], self._sensor_to)
                continue
            with contextlib.suppress(zmq.Again):  # nobody is connected, as with any network
                self._out[link].send_multipart(parts, zmq.DONTWAIT)
