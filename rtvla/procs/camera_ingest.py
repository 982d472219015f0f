"""camera_ingest: JPEG frames over ZMQ PULL -> one ring a view.

Reads   tcp://listen_ip:network.camera_port, multipart [JSON, JPEG]
Writes  frame.<view>: the bytes as they came, after a whole decode has proved that they are a picture
Late    every queued message is taken at once; the newest of a view is what the encoder reads
"""

from __future__ import annotations

import zmq

from rtvla import schema
from rtvla.clock import now_ns
from rtvla.config import Config
from rtvla.errors import ConfigError, WireError
from rtvla.procs.arrival import Frozen, SenderTimes, shortest_way_ns, stamp_ns
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.security import gate
from rtvla.security.curve import Curve
from rtvla.wire import camera as wire

_JPEG_AT = schema.FRAME.fields["jpeg"][1] if schema.FRAME.fields else 0
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # above this ZMQ itself drops the connection


class View:
    """The ring of one view, and what is known of its camera."""

    def __init__(self, me: Me, cfg: Config, name: str) -> None:
        stream = f"frame.{name}"
        self.ring, self.frozen = me.writer(stream), Frozen(me, stream)
        self.times = SenderTimes(me, stream, shortest_way_ns(cfg, stream))

    def is_same(self, jpeg: bytes | memoryview) -> bool:
        """Whether these are the bytes of the frame before. The noise of a camera that works makes each frame new."""
        ring = self.ring
        if not ring.next_index or ring.record(-1)["n_bytes"] != len(jpeg):
            return False
        before = ring.slots[(ring.next_index - 1) % ring.capacity]
        return bytes(before[_JPEG_AT : _JPEG_AT + len(jpeg)]) == jpeg


def take(me: Me, parts: list[bytes], views: dict[str, View]) -> None:
    now = now_ns()
    try:
        message = wire.decode(parts)
    except WireError as error:
        me.count(f"dropped.{error.cause}")
        me.events.warn(error.cause, error)
        return
    view = views[message.view]
    ring = view.ring
    slot, record, before = ring.slot(), ring.record(), ring.record(-1)
    size = len(message.jpeg)
    is_same = view.is_same(message.jpeg)
    if is_same and view.times.runs and message.sampled_s == before["sampled_s"]:
        me.count("dropped.duplicate")
        me.events.warn("duplicate", f"{message.camera}: the same picture with the same stamp again")
        return
    captured_ns, uncertainty_ns, record["received_ns"] = view.times.take(stamp_ns(message.sampled_s), now)
    if view.frozen.see(is_same):
        captured_ns, uncertainty_ns = before["captured_ns"], before["clock_uncertainty_ns"]
    record["captured_ns"], record["clock_uncertainty_ns"] = captured_ns, uncertainty_ns
    record["sampled_s"], record["sent_s"] = message.sampled_s, message.sent_s
    record["camera"] = message.camera.encode()[:48]
    record["width"], record["height"], record["n_bytes"] = message.width, message.height, size
    slot[_JPEG_AT : _JPEG_AT + size] = message.jpeg
    ring.commit()
    me.count(f"frames.{message.view}")


def main(cfg: Config) -> None:
    with (
        lifecycle("camera_ingest", cfg) as me,
        zmq.Context() as context,
        context.socket(zmq.PULL) as sock,
        Curve(context, gate.keys_for(cfg, "cameras"), me.refused) as curve,
    ):
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVHWM, 100)  # four seconds of five cameras: older frames are of no use to anyone
        sock.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        curve.listen(sock, "cameras")
        address, port = cfg.network.listen_ip(), cfg.network.camera_port
        try:
            sock.bind(f"tcp://{address}:{port}")
        except zmq.ZMQError as error:
            raise ConfigError(
                f"network.camera_port = {port}: cannot listen on {address}: {error.strerror}; who has it: ss -tlpn"
            ) from error
        views = {name: View(me, cfg, name) for name in schema.VIEWS}
        me.ready()
        while me.running:
            if sock.poll(100):
                take(me, sock.recv_multipart(), views)
            curve.serve()
            me.beat()
        while sock.poll(0):
            take(me, sock.recv_multipart(), views)
