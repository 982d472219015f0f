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
from rtvla.procs.arrival import QueueDelay
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.shm.ring import RingWriter
from rtvla.wire import camera as wire

_JPEG_AT = schema.FRAME.fields["jpeg"][1] if schema.FRAME.fields else 0
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # above this ZMQ itself drops the connection


def take(me: Me, parts: list[bytes], rings: dict[str, RingWriter], queues: dict[str, QueueDelay]) -> None:
    now = now_ns()
    try:
        message = wire.decode(parts)
    except WireError as error:
        me.count(f"dropped.{error.cause}")
        me.events.warn(error.cause, error)
        return
    ring = rings[message.view]
    slot, record = ring.slot(), ring.record()
    size = len(message.jpeg)
    record["received_ns"] = now - queues[message.view].delay_ns(message.sampled_s, now)
    record["sampled_s"], record["sent_s"] = message.sampled_s, message.sent_s
    record["camera"] = message.camera.encode()[:48]
    record["width"], record["height"], record["n_bytes"] = message.width, message.height, size
    slot[_JPEG_AT : _JPEG_AT + size] = message.jpeg
    ring.commit()
    me.count(f"frames.{message.view}")


def main(cfg: Config) -> None:
    with lifecycle("camera_ingest", cfg) as me, zmq.Context() as context, context.socket(zmq.PULL) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVHWM, 100)  # four seconds of five cameras: older frames are of no use to anyone
        sock.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        address, port = cfg.network.listen_ip(), cfg.network.camera_port
        try:
            sock.bind(f"tcp://{address}:{port}")
        except zmq.ZMQError as error:
            raise ConfigError(
                f"network.camera_port = {port}: cannot listen on {address}: {error.strerror}; who has it: ss -tlpn"
            ) from error
        rings = {view: me.writer(f"frame.{view}") for view in schema.VIEWS}
        queues = {view: QueueDelay(me, f"frame.{view}") for view in schema.VIEWS}
        me.ready()
        while me.running:
            if sock.poll(100):
                take(me, sock.recv_multipart(), rings, queues)
            me.beat()
        while sock.poll(0):
            take(me, sock.recv_multipart(), rings, queues)
