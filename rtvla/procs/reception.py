"""reception: opens the sockets of the three ingests for some seconds and says what comes, as one JSON document.

Reads   UDP network.sensor_port; tcp://listen_ip:network.camera_port; tcp://network.robot_ip:robot_port
Writes  nothing but its answer on standard output; no shared memory
Late    it measures; what the kernel drops because of it is counted as lost

The child process of `rtvla doctor --test-data-reception`, while the pipeline does not run: it has the ingests' ports,
and what senders send meanwhile goes nowhere else. Same wire formats, keys and refusals as the ingests.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import zmq

from rtvla import schema
from rtvla.clock import SECOND, WallOffset, now_ns
from rtvla.config import Config
from rtvla.control.tally import Tally
from rtvla.errors import RtvlaError, WireError
from rtvla.security import gate
from rtvla.security.curve import Curve
from rtvla.streams import FRAME_STREAMS
from rtvla.wire import camera, robot, sensor
from rtvla.wire.udp_tag import TRAILER_BYTES, TagCheck

_SO_TIMESTAMPNS, _SO_RXQ_OVFL, _SO_RCVBUFFORCE = 35, 40, 33  # not in Python's socket module on Linux
_ANCILLARY_BYTES = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(4)
_STAMP, _DROPS = struct.Struct("@ll"), struct.Struct("@I")
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_MOST_AT_ONCE = 64  # messages of one socket before the others have their turn
_POLL_MS = 50


class SensorSide:
    """The UDP socket, with the arrival by the kernel's stamp."""

    def __init__(self, cfg: Config, tallies: dict[str, Tally], wall: WallOffset) -> None:
        self._tally, self._wall = tallies["sensor"], wall
        self._sources, key = frozenset(cfg.security.udp_sources), gate.udp_key(cfg)
        self._check = TagCheck(key) if key else None
        self._dropped, self._last = 0, b""
        gate.sensor_port(cfg, cfg.network.listen_ip(), lambda _text: None)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.close = self.socket.close
        wanted = cfg.sensor_ingest.receive_buffer_bytes
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
        for option in (_SO_TIMESTAMPNS, _SO_RXQ_OVFL):
            self.socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self.socket.setblocking(False)
        self.socket.bind((cfg.network.listen_ip(), cfg.network.sensor_port))

    def take(self) -> bool:
        """One datagram; False if there is none."""
        try:
            data, ancillary, _flags, address = self.socket.recvmsg(65536, _ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        faults, wall_ns = self._tally.faults, 0
        for _level, kind, value in ancillary:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _STAMP.unpack_from(value)
                wall_ns = seconds * SECOND + nanoseconds
            elif kind == _SO_RXQ_OVFL:
                dropped = _DROPS.unpack_from(value)[0]
                faults["lost_by_kernel"] += dropped - self._dropped
                self._dropped = dropped
        cause = "source" if self._sources and address[0] not in self._sources else ""
        if not cause and self._check:
            cause = self._check.fault([data], len(data))
            data = data[:-TRAILER_BYTES]
        if cause:
            faults[cause] += 1
            return True
        self._count(data, wall_ns)
        return True

    def _count(self, data: bytes, wall_ns: int) -> None:
        try:
            records = sensor.decode(data)
        except WireError as error:
            self._tally.faults[error.cause] += 1
            return
        if data == self._last:
            self._tally.faults["duplicate"] += 1
            return
        self._last = data
        received_ns = self._wall.to_monotonic_ns(wall_ns) if wall_ns else now_ns()
        wall_ns = wall_ns or received_ns + self._wall.offset_ns()
        self._tally.add(float(records["sampled_s"][-1]), received_ns, wall_ns, len(data), len(records))


class ZmqSide:
    """One ZMQ socket; `count(parts)` puts a message into the tallies and may raise WireError."""

    def __init__(self, sock: zmq.Socket[bytes], curve: Curve, faults: Counter[str], count: Callable[..., None]) -> None:
        self.socket, self._curve, self._faults, self._count = sock, curve, faults, count

    def take(self) -> bool:
        self._curve.serve()
        if not self.socket.poll(0):
            return False
        try:
            self._count(self.socket.recv_multipart())
        except WireError as error:
            self._faults[error.cause] += 1
        return True

    def close(self) -> None:
        self._curve.close()
        self.socket.close(linger=0)


def cameras(cfg: Config, context: zmq.Context[Any], tallies: dict[str, Tally], wall: WallOffset) -> ZmqSide:
    faults = tallies["cameras"].faults

    def count(parts: list[bytes]) -> None:
        received_ns, message = now_ns(), camera.decode(parts)
        tally = tallies[f"frame.{message.view}"]
        tally.about = f"{message.camera} {message.width}x{message.height}"
        tally.add(message.sampled_s, received_ns, received_ns + wall.offset_ns(), len(message.jpeg))

    sock = context.socket(zmq.PULL)
    sock.setsockopt(zmq.RCVHWM, 100)
    sock.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
    curve = Curve(context, gate.keys_for(cfg, "cameras"), lambda cause, _: faults.update([f"refused_{cause}"]))
    curve.listen(sock, "cameras")
    side = ZmqSide(sock, curve, faults, count)
    try:
        sock.bind(f"tcp://{cfg.network.listen_ip()}:{cfg.network.camera_port}")
    except zmq.ZMQError:
        side.close()
        raise
    return side


def robot_states(cfg: Config, context: zmq.Context[Any], tallies: dict[str, Tally], wall: WallOffset) -> ZmqSide:
    tally, record = tallies["robot"], np.zeros((), schema.ROBOT)

    def count(parts: list[bytes]) -> None:
        received_ns = now_ns()
        if robot.decode(parts, record) == robot.Topic.STATE:
            wall_ns = received_ns + wall.offset_ns()
            tally.add(float(record["sampled_s"]), received_ns, wall_ns, sum(map(len, parts)))

    sock = context.socket(zmq.SUB)
    sock.setsockopt(zmq.RCVHWM, 1000)
    sock.setsockopt(zmq.SUBSCRIBE, b"")
    curve = Curve(context, gate.keys_for(cfg, "robot"), lambda cause, _: tally.faults.update([f"refused_{cause}"]))
    curve.connect(sock, "robot", f"tcp://{cfg.network.robot_ip}:{cfg.network.robot_port}")
    return ZmqSide(sock, curve, tally.faults, count)


def receive(cfg: Config, seconds: float) -> dict[str, Any]:
    """{"streams": {name: figures of Tally}, "errors": {sender: why its socket could not be opened}}. The stream
    "cameras" has what belongs to no view."""
    wall, errors = WallOffset(), {}
    tallies = {"sensor": Tally(8, False), "robot": Tally(20, True), "cameras": Tally(5, True)}
    tallies |= {name: Tally(5, True) for name in FRAME_STREAMS}
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        sides: list[SensorSide | ZmqSide] = []
        for name, open_side in (
            ("sensor", lambda: SensorSide(cfg, tallies, wall)),
            ("cameras", lambda: cameras(cfg, context, tallies, wall)),
            ("robot", lambda: robot_states(cfg, context, tallies, wall)),
        ):
            try:
                sides.append(open_side())
                stack.callback(sides[-1].close)
            except (RtvlaError, OSError, zmq.ZMQError) as error:
                errors[name] = getattr(error, "strerror", None) or str(error)
        poller = zmq.Poller()
        for side in sides:
            poller.register(side.socket, zmq.POLLIN)
        ends_ns = now_ns() + int(seconds * SECOND)
        while now_ns() < ends_ns:
            poller.poll(_POLL_MS)
            for side in sides:
                for _ in range(_MOST_AT_ONCE):
                    if not side.take():
                        break
    return {"streams": {name: tally.figures(ends_ns) for name, tally in tallies.items()}, "errors": errors}


if __name__ == "__main__":
    config, settings, seconds = json.loads(sys.argv[1])
    print(json.dumps(receive(Config.load(config, settings), seconds)))
