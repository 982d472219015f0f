"""`rtvla send camera`: drawn images of up to five views over ZMQ PUSH, with the metadata of the old camera senders.

Rate       all views on each tick of --fps, as the old software trigger does; a late tick is skipped, never made up for
Counted    `images_sent` is what a connected receiver's pipe took; `not_taken` is what found no receiver or a full pipe
           (IMMEDIATE: nothing is queued without a connection). If the receiver dies, what was in its pipe is lost
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from typing import Any

import zmq

from rtvla.clock import SECOND, Pacer, now_ns, wall_s
from rtvla.errors import ConfigError
from rtvla.schema import VIEWS
from rtvla.security import keys as key_files
from rtvla.security.curve import Curve
from rtvla.senders.camera_pictures import LOOP_PICTURES, picture_loop
from rtvla.senders.faults import FaultInjector, Outbox, Outgoing, add_fault_arguments
from rtvla.senders.loop import StopFlag, Waiter
from rtvla.senders.options import add_keys, add_seconds, port, positive
from rtvla.senders.report import LINGER_MS, RateMeter, Refusals, close_flushed, print_report
from rtvla.wire import camera as wire
from rtvla.wire.jpeg import MAX_SIDE

# Names that the old senders use for the views, in the order of schema.VIEWS (origin a.4).
CAMERAS = ("ZED_41182735_left", "ZED_49429257_left", "ZED_44377151_left", "ZED_49045152_left", "OAK")


def _side(text: str) -> int:
    value = int(text)
    if not 16 <= value <= MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text}: must be from 16 to {MAX_SIDE} pixels")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server-ip", default="127.0.0.1", help="address of the receiver (%(default)s)")
    parser.add_argument("--server-port", type=port, default=5555)
    parser.add_argument("--fps", type=positive, default=5.0, help="images a second and view (%(default)g)")
    parser.add_argument("--width", type=_side, default=640)
    parser.add_argument("--height", type=_side, default=360)
    parser.add_argument("--quality", type=int, choices=range(1, 101), default=75, metavar="1..100")
    parser.add_argument("--views", type=int, choices=range(1, len(VIEWS) + 1), default=len(VIEWS))
    add_keys(parser, "cameras")
    add_seconds(parser)
    add_fault_arguments(parser)


class PicturePush:
    """A PUSH socket with the options of the old sender (origin a.1) that counts what a receiver's pipe took."""

    def __init__(
        self, context: zmq.Context[Any], ip: str, port_number: int, views: Sequence[str], keys: str | None = None
    ) -> None:
        held = key_files.read(keys, "cameras") if keys else None
        self.refusals = Refusals("camera")
        self._curve = Curve(context, held, self.refusals)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.PUSH)
        self.socket.setsockopt(zmq.LINGER, LINGER_MS)  # before connect: counts also for a connection that is refused
        self.socket.setsockopt(zmq.SNDHWM, 5)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.SNDTIMEO, 5)
        self.socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        try:
            socket.getaddrinfo(ip, port_number)  # ZMQ resolves later and says nothing when it cannot
            self._curve.connect(self.socket, "host", f"tcp://{ip}:{port_number}")
        except (OSError, zmq.ZMQError) as error:
            context.destroy(linger=0)
            raise ConfigError(f"camera --server-ip {ip}: {error}; give the receiver's address") from None
        self.images_sent, self.not_taken = dict.fromkeys(views, 0), dict.fromkeys(views, 0)
        self.damaged_sent = {"cut": 0, "flip": 0}

    def send(self, message: Outgoing) -> None:
        self._curve.serve()
        try:
            self.socket.send_multipart(message.parts)
        except zmq.Again:
            self.not_taken[message.label] += 1
            return
        self.images_sent[message.label] += 1
        if message.damage:
            self.damaged_sent[message.damage] += 1

    def is_heard(self) -> bool:
        """Whether a receiver is connected and has room."""
        self._curve.serve()
        return bool(self.socket.poll(0, zmq.POLLOUT))

    def counts(self) -> dict[str, Any]:
        return {
            "images_sent": self.images_sent,
            "images_sent_total": sum(self.images_sent.values()),
            "not_taken": self.not_taken,
            "not_taken_total": sum(self.not_taken.values()),
            "refused": dict(self.refusals.counts),
        }

    def close(self) -> None:
        """Before the socket is closed."""
        self._curve.close()


class CameraSender:
    """Takes the next picture of each view in time and hands it to the outbox."""

    def __init__(self, args: argparse.Namespace, push: PicturePush) -> None:
        self._args = args
        self._loops = [picture_loop(view, args.width, args.height, args.quality) for view in range(args.views)]
        self.faults = FaultInjector(args, damageable=(0, 1))
        self.outbox = Outbox(self.faults, push.send)
        self.meter = RateMeter()
        self.skipped = 0

    def run(self, stop: StopFlag) -> None:
        waiter = Waiter(stop, self.outbox)
        total = None if self._args.seconds is None else max(1, round(self._args.seconds * self._args.fps))
        pacer = Pacer(int(SECOND / self._args.fps), sleep=waiter.seconds)
        self.faults.begin(now_ns())
        step = 0
        while (total is None or self.meter.n + self.skipped < total) and not stop:
            tick = pacer.wait()
            if tick is None:
                continue  # woken early: the loop's condition sees the stop flag
            self.skipped += tick.skipped
            self.meter.add(tick.start_ns)
            step += not self.faults.is_frozen(tick.start_ns)
            for view in range(self._args.views):
                self._put(view, self._loops[view][step % LOOP_PICTURES])
        self.outbox.flush()

    def _put(self, view: int, jpeg: bytes) -> None:
        sampled_s = wall_s()
        parts = wire.encode(CAMERAS[view], sampled_s, jpeg, sent_s=wall_s())
        self.outbox.put(Outgoing(parts, label=VIEWS[view]), now_ns())


def run(args: argparse.Namespace) -> int:
    with StopFlag() as stop:
        context: zmq.Context[Any] = zmq.Context()
        push = PicturePush(context, args.server_ip, args.server_port, VIEWS[: args.views], args.keys)
        sender = CameraSender(args, push)
        sender.run(stop)
        push.close()
        flushed = close_flushed(context, [push.socket], after_signal=bool(stop))
    counts = {
        **push.counts(),
        "achieved_hz": sender.meter.hz(),
        "ticks": sender.meter.n,
        "skipped": sender.skipped,
        "flushed": flushed,
    }
    damaged = {f"{kind}_sent": n for kind, n in push.damaged_sent.items()}
    print_report("camera", {**counts, **damaged, **sender.faults.counts})
    return 0
