"""robot_ingest: robot state over ZMQ SUB -> robot ring.

Reads   tcp://network.robot_ip:robot_port, topic robot_state (68 bytes); topic episode_end is counted
Writes  robot
Late    ZMQ queues up to 1000 messages; a robot PC that is away is waited for without end and costs nothing
"""

from __future__ import annotations

import zmq

from rtvla.clock import now_ns
from rtvla.config import Config
from rtvla.errors import WireError
from rtvla.procs.arrival import QueueDelay, RestartGap
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.schema import ROBOT_HZ
from rtvla.shm.ring import RingWriter
from rtvla.wire import robot as wire


def take(me: Me, parts: list[bytes], ring: RingWriter, queue: QueueDelay, gap: RestartGap) -> None:
    """One message into the next slot, or into the counters."""
    now = now_ns()
    ring.slot()
    record = ring.record()
    try:
        topic = wire.decode(parts, record)
    except WireError as error:
        me.count(f"dropped.{error.cause}")
        me.events.warn(error.cause, error)
        return
    if topic != wire.Topic.STATE:
        me.count("episode_end")
        return
    record["received_ns"] = now - queue.delay_ns(float(record["sampled_s"]), now)
    gap.first(record)
    ring.commit()
    me.count("states")


def main(cfg: Config) -> None:
    with lifecycle("robot_ingest", cfg) as me, zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVHWM, 1000)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.SUBSCRIBE, b"")  # everything: what we do not know must be counted, not filtered away
        sock.connect(f"tcp://{cfg.network.robot_ip}:{cfg.network.robot_port}")
        ring, queue = me.writer("robot"), QueueDelay(me, "robot")
        gap = RestartGap(me, ring, "robot", ROBOT_HZ, lambda record: float(record["sampled_s"]))
        me.ready()
        while me.running:
            if sock.poll(100):
                take(me, sock.recv_multipart(), ring, queue, gap)
            me.beat()
        while sock.poll(0):
            take(me, sock.recv_multipart(), ring, queue, gap)
