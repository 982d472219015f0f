"""robot_ingest: robot state over ZMQ SUB -> robot ring.

Reads   tcp://network.robot_ip:robot_port, topic robot_state (68 bytes); topic episode_end is counted
Writes  robot
Late    ZMQ queues up to 1000 messages; a robot PC that is away is waited for without end and costs nothing
"""

from __future__ import annotations

import numpy as np
import zmq

from rtvla.clock import now_ns
from rtvla.config import Config
from rtvla.errors import WireError
from rtvla.procs.arrival import RestartGap, SenderTimes, shortest_way_ns, stamp_ns
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.schema import ROBOT_HZ
from rtvla.security import gate
from rtvla.security.curve import Curve
from rtvla.shm.ring import RingWriter
from rtvla.wire import robot as wire


def take(me: Me, parts: list[bytes], ring: RingWriter, times: SenderTimes, gap: RestartGap) -> None:
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
    if times.runs and is_same(ring.record(-1), record):
        me.count("dropped.duplicate")
        me.events.warn("duplicate", "the same state with the same stamp again")
        return
    taken = times.take(stamp_ns(float(record["sampled_s"])), now)
    record["captured_ns"], record["clock_uncertainty_ns"], record["received_ns"] = taken
    gap.first(record)
    ring.commit()
    me.count("states")


def is_same(before: np.void, record: np.void) -> bool:
    """An arm that is still sends the same place again: only with the same stamp it is a state that came again."""
    return bool(record["sampled_s"] == before["sampled_s"]) and all(
        (before[name] == record[name]).all() for name in ("joints_deg", "pose_mm_deg")
    )


def main(cfg: Config) -> None:
    with (
        lifecycle("robot_ingest", cfg) as me,
        zmq.Context() as context,
        context.socket(zmq.SUB) as sock,
        Curve(context, gate.keys_for(cfg, "robot"), me.refused) as curve,
    ):
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVHWM, 1000)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.SUBSCRIBE, b"")  # everything: what we do not know must be counted, not filtered away
        curve.connect(sock, "robot", f"tcp://{cfg.network.robot_ip}:{cfg.network.robot_port}")
        ring = me.writer("robot")
        times = SenderTimes(me, "robot", shortest_way_ns(cfg, "robot"))
        gap = RestartGap(me, ring, "robot", ROBOT_HZ, lambda record: float(record["sampled_s"]))
        me.ready()
        while me.running:
            if sock.poll(100):
                take(me, sock.recv_multipart(), ring, times, gap)
            curve.serve()
            me.beat()
        while sock.poll(0):
            take(me, sock.recv_multipart(), ring, times, gap)
