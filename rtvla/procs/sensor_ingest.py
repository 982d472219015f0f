"""sensor_ingest: UDP datagrams -> sensor ring, received by the kernel straight into the slots.

Reads   UDP network.sensor_port (batches of 1..15 samples, or the headerless one-sample form)
Writes  sensor
Late    the kernel queues up to the receive buffer; what it drops after that is counted (lost.kernel.sensor)
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from rtvla.clock import WallOffset, now_ns
from rtvla.config import Config
from rtvla.errors import ConfigError, WireError
from rtvla.procs.arrival import RestartGap
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.schema import SENSOR_HZ
from rtvla.shm.ring import RingWriter
from rtvla.wire import sensor as wire

SO_TIMESTAMPNS, SO_RXQ_OVFL, SO_RCVBUFFORCE = 35, 40, 33  # not in Python's socket module on Linux
_ANCILLARY_BYTES = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(4)
_TRUNCATED = int(socket.MSG_TRUNC)  # as an enum it costs 1 us a datagram
_STAMP, _DROPS, _RECEIVED = struct.Struct("@ll"), struct.Struct("@I"), struct.Struct("<q")
_RECEIVED_AT = 8
_WIRE_AT = 16  # a slot is index u64, received_ns i64, then the record as it came


def open_socket(me: Me, cfg: Config) -> socket.socket:
    """Bound UDP socket with kernel receive stamps and drop counts, and a 100 ms timeout that lets a stop be seen."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wanted = cfg.sensor_ingest.receive_buffer_bytes
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, wanted)  # past rmem_max; needs CAP_NET_ADMIN
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel reports twice the size
    if granted < wanted:
        me.log.warning(
            "receive buffer %d of %d bytes: raise it with sysctl net.core.rmem_max=%d", granted, wanted, wanted
        )
    me.gauge("receive_buffer_bytes", granted)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 100_000))
    address = (cfg.network.listen_ip(), cfg.network.sensor_port)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"network.sensor_port = {address[1]}: cannot listen on {address[0]}: {error.strerror}; who has it: ss -ulpn"
        ) from error
    return sock


class Receiver:
    """Receives one datagram at a time into the next free slots and publishes what is whole and new."""

    def __init__(self, me: Me, sock: socket.socket, ring: RingWriter) -> None:
        self._me, self._sock, self._ring = me, sock, ring
        self._head = bytearray(wire.HEADER_BYTES)
        beyond = bytearray(1)  # one byte more than a full batch: told apart from one that fits exactly
        # for each place in the ring where a datagram may begin: the buffers that it is received into
        bodies = [slot[_WIRE_AT:] for slot in ring.slots] * 2
        self._buffers: list[list[Any]] = [
            [self._head, *bodies[at : at + ring.burst], beyond] for at in range(ring.capacity)
        ]
        self._alines = ring.records["wire"]["aline"]
        self._wall = WallOffset()
        self._kernel_dropped = 0
        self._last = b""  # the first record of the last datagram, to know a duplicate by
        self._gap = RestartGap(me, ring, "sensor", SENSOR_HZ, lambda record: float(record["wire"]["sampled_s"]))

    def receive(self) -> bool:
        """Take one datagram. False if none came within the timeout."""
        buffers = self._buffers[self._ring.begin()]
        try:
            size, ancillary, flags, _ = self._sock.recvmsg_into(buffers, _ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        received_ns = self._kernel_stamps(ancillary)
        self._me.count("datagrams")
        try:
            count, headerless = wire.count_records(size, wire.count_field(self._head), bool(flags & _TRUNCATED))
        except WireError as error:
            self._drop(error.cause, f"{size} bytes")
            return True
        if headerless:
            wire.restore_headerless(self._head, buffers[1])
        first = bytes(buffers[1])
        if first == self._last:
            self._drop("duplicate", "the same datagram again")
            return True
        self._last = first
        self._publish(count, received_ns)
        return True

    def _publish(self, count: int, received_ns: int) -> None:
        ring, good = self._ring, 0
        for ahead in range(count):
            at = (ring.next_index + ahead) % ring.capacity
            fault = wire.sample_fault(ring.slots[at], _WIRE_AT, self._alines[at])
            if fault:
                self._drop(fault, "one sample of a batch")
                continue
            slot = ring.slots[(ring.next_index + good) % ring.capacity]
            if good != ahead:
                slot[:] = ring.slots[at]
            _RECEIVED.pack_into(slot, _RECEIVED_AT, received_ns)  # not published yet: no need of one store
            self._gap.first(ring.record(good))
            good += 1
        ring.commit(good)
        self._me.count("samples", good)

    def _kernel_stamps(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """Arrival in monotonic ns by the kernel's stamp (CLOCK_REALTIME), and the drops it reports with this one."""
        received_ns = now_ns()
        for _level, kind, data in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _STAMP.unpack_from(data)
                stamp = self._wall.to_monotonic_ns(seconds * 1_000_000_000 + nanoseconds)
                received_ns = min(received_ns, stamp)  # never from the future, even while the wall clock steps
            elif kind == SO_RXQ_OVFL:
                dropped = _DROPS.unpack_from(data)[0]
                if dropped != self._kernel_dropped:
                    self._me.count("lost.kernel.sensor", (dropped - self._kernel_dropped) % 2**32)
                    self._kernel_dropped = dropped
        return received_ns

    def _drop(self, cause: str, detail: str) -> None:
        self._me.count(f"dropped.{cause}")
        self._me.events.warn(cause, detail)


def main(cfg: Config) -> None:
    with lifecycle("sensor_ingest", cfg) as me, open_socket(me, cfg) as sock:
        receiver = Receiver(me, sock, me.writer("sensor"))
        me.ready()
        while me.running:
            receiver.receive()
            me.beat()
        sock.setblocking(False)  # what the kernel already holds was sent while we were up
        while receiver.receive():
            pass
