"""`rtvla send replay FILE`: the sensor data of a black box back onto the wires, with the original spacing and stamps.

Sent       sensor datagrams over UDP, camera images over ZMQ PUSH, robot states over ZMQ PUB, byte for byte as they were
           received. Samples that came at the same instant go out as one datagram; which of the two sensor forms it was
           is not on record, so all go out as batches
Not sent   commands: nothing that moves a robot is ever replayed. But a pipeline that is fed moves whatever robot it
           is connected to: give it none (a --command-port where nobody listens) or a simulated one
Begin      once a camera receiver and a robot subscriber are there, or after --wait; UDP cannot know
Late       what is due goes out at once; nothing is left out. Counts are those of the other senders
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from rtvla.clock import MS, SECOND, now_ns
from rtvla.schema import VIEWS
from rtvla.security import keys as key_files
from rtvla.security.curve import Curve
from rtvla.senders.camera_sim import PicturePush
from rtvla.senders.faults import Outgoing
from rtvla.senders.loop import StopFlag, Waiter
from rtvla.senders.options import add_seconds, not_negative, port, positive
from rtvla.senders.recorded import STREAMS_OF, Arrival, Recording
from rtvla.senders.report import Refusals, close_flushed, print_report
from rtvla.senders.robot_sim import StatePublisher
from rtvla.senders.sensor_sim import Link, tagger
from rtvla.wire import camera, robot, sensor
from rtvla.wire.udp_tag import Tagger

_LOOK_NS = 20 * MS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a black box (rtvla shm dump)")
    parser.add_argument("--only", choices=STREAMS_OF, action="append", help="just this one; may be given twice")
    parser.add_argument("--target", default="127.0.0.1", help="address of the sensor receiver (%(default)s)")
    parser.add_argument("--port", type=port, default=9999, help="its UDP port (%(default)s)")
    parser.add_argument("--server-ip", default="127.0.0.1", help="address of the camera receiver (%(default)s)")
    parser.add_argument("--server-port", type=port, default=5555, help="its ZMQ PULL port (%(default)s)")
    parser.add_argument("--bind", default="127.0.0.1", help="address to publish robot states on (%(default)s)")
    parser.add_argument("--state-port", type=port, default=5556, help="ZMQ PUB port (%(default)s)")
    parser.add_argument("--speed", type=positive, default=1.0, help="2 is twice as fast (%(default)g)")
    parser.add_argument("--wait", type=not_negative, default=5.0, metavar="S", help="for receivers (%(default)g)")
    parser.add_argument(
        "--keys", metavar="DIR", help="folder of rtvla keys make, with the parts of all machines (none)"
    )
    add_seconds(parser)


@dataclass(frozen=True)
class Wire:
    """One of the three ways out: how records become messages, and where they go."""

    messages: Callable[[str, list[np.void]], Iterable[Outgoing]]
    send: Callable[[Outgoing], None]
    is_heard: Callable[[], bool]
    counts: Callable[[], dict[str, Any]]


def datagrams(tags: Tagger | None, _stream: str, records: list[np.void]) -> Iterator[Outgoing]:
    """Samples of one arrival; more than fit a datagram are as many as are needed."""
    for at in range(0, len(records), sensor.MAX_RECORDS):
        part = np.array(records[at : at + sensor.MAX_RECORDS])["wire"]
        data = sensor.encode_batch(part)
        yield Outgoing([tags.tagged(data) if tags else data], records=len(part))


def states(_stream: str, records: list[np.void]) -> Iterator[Outgoing]:
    for record in records:
        yield Outgoing(robot.encode_record(record))


def images(stream: str, records: list[np.void]) -> Iterator[Outgoing]:
    for record in records:
        jpeg = record["jpeg"][: record["n_bytes"]].tobytes()
        sent_s = float(record["sent_s"]) or None  # 0: that sender did not say
        name = record["camera"].decode("ascii")
        yield Outgoing(camera.encode(name, float(record["sampled_s"]), jpeg, sent_s), label=stream.partition(".")[2])


def _wire_of(stream: str) -> str:
    return stream.partition(".")[0]


class Wires:
    """Opens what the recording needs: a Wire for "sensor", "frame" and "robot". UDP cannot know whether it is heard."""

    def __init__(self, args: argparse.Namespace, streams: Iterable[str]) -> None:
        needed = {_wire_of(stream) for stream in streams}
        self._context: zmq.Context[Any] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._link: Link | None = None
        self._push: PicturePush | None = None
        held = key_files.read(args.keys, "robot") if args.keys and "robot" in needed else None
        self._curve = Curve(self._context, held, Refusals("replay"))
        self.let_in = self._curve.serve
        self.of: dict[str, Wire] = {}
        if "robot" in needed:
            publisher = StatePublisher(self._context, args.bind, args.state_port, self._curve)
            self._sockets.append(publisher.socket)
            self.of["robot"] = Wire(states, publisher.send, publisher.is_heard, lambda: publisher.counts)
        if "frame" in needed:
            self._push = push = PicturePush(self._context, args.server_ip, args.server_port, VIEWS, args.keys)
            self._sockets.append(push.socket)
            self.of["frame"] = Wire(images, push.send, push.is_heard, push.counts)
        if "sensor" in needed:
            self._link = link = Link(args.target, args.port)
            self.of["sensor"] = Wire(
                partial(datagrams, tagger(args.keys)), link.send, lambda: True, lambda: link.counts
            )

    def are_heard(self) -> bool:
        self.let_in()
        return all(wire.is_heard() for wire in self.of.values())

    def close(self, after_signal: bool) -> bool:
        """Whether all has left for the kernel."""
        if self._link is not None:
            self._link.close()
        if self._push is not None:
            self._push.close()
        self._curve.close()
        return close_flushed(self._context, self._sockets, after_signal)


class Replay:
    """Sends each arrival at its distance from the first, divided by the speed."""

    def __init__(self, wires: Wires, speed: float, seconds: float | None) -> None:
        self._wires, self._speed, self._seconds = wires, speed, seconds
        self.span_ns = self.took_ns = self.late_ns = 0

    def run(self, recorded: Iterable[Arrival], stop: StopFlag, wait_s: float) -> None:
        waiter = Waiter(stop)
        give_up_ns = now_ns() + int(wait_s * SECOND)
        while not self._wires.are_heard() and now_ns() < give_up_ns and not stop:
            waiter.until(now_ns() + _LOOK_NS)
        start_ns, first_ns = now_ns(), -1
        for (time_ns, stream), group in groupby(recorded, key=lambda one: one[:2]):
            first_ns = time_ns if first_ns < 0 else first_ns
            due_ns = start_ns + int((time_ns - first_ns) / self._speed)
            if self._seconds is not None and due_ns - start_ns > self._seconds * SECOND:
                break
            if not waiter.until(due_ns):
                break
            self.span_ns, self.late_ns = time_ns - first_ns, max(self.late_ns, now_ns() - due_ns)
            self._send(stream, [record for _, _, record in group])
            self.took_ns = now_ns() - start_ns

    def _send(self, stream: str, records: list[np.void]) -> None:
        self._wires.let_in()
        wire = self._wires.of[_wire_of(stream)]
        for message in wire.messages(stream, records):
            wire.send(message)


def run(args: argparse.Namespace) -> int:
    recording = Recording(args.file, args.only or list(STREAMS_OF))
    with StopFlag() as stop:
        wires = Wires(args, [stream for stream, count in recording.records.items() if count])
        replay = Replay(wires, args.speed, args.seconds)
        replay.run(recording, stop, args.wait)
        flushed = wires.close(after_signal=bool(stop))
    counts = {name: count for wire in wires.of.values() for name, count in wire.counts().items()}
    times = {
        "span_s": round(replay.span_ns / SECOND, 3),
        "took_s": round(replay.took_ns / SECOND, 3),
        "largest_lateness_ms": round(replay.late_ns / MS, 3),
    }
    print_report("replay", {**counts, **times, "records": sum(recording.records.values()), "flushed": flushed})
    return 0
