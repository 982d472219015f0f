"""sensor_ingest: UDP datagrams -> sensor ring, received by the kernel straight into the slots.

Reads   UDP network.sensor_port (batches of 1..15 samples, or the headerless one-sample form)
Writes  sensor
Late    the kernel queues up to the receive buffer; what it drops after that is counted (lost.kernel.sensor)
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Any

from rtvla.clock import SECOND, WallOffset, now_ns
from rtvla.config import Config
from rtvla.errors import ConfigError, WireError
from rtvla.procs.activation import inherited_socket
from rtvla.procs.arrival import Frozen, RestartGap, SenderTimes, shortest_way_ns
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.schema import SENSOR_HZ
from rtvla.security import gate
from rtvla.shm.ring import RingWriter
from rtvla.wire import sensor as wire
from rtvla.wire.udp_tag import TRAILER_BYTES, TagCheck

SO_TIMESTAMPNS, SO_RXQ_OVFL, SO_RCVBUFFORCE = 35, 40, 33  # not in Python's socket module on Linux
_ANCILLARY_BYTES = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(4)
_TRUNCATED = int(socket.MSG_TRUNC)  # as an enum it costs 1 us a datagram
_STAMP, _DROPS = struct.Struct("@ll"), struct.Struct("@I")
_NUMBER = "tag_number_us"  # of the last good tag, for the process that takes over from this one
# A slot is index u64, then these, then the record as it came: sampled_s, sent_s, and the content, force first.
_TIMES, _TIMES_AT = struct.Struct("<qqq"), 8  # received_ns, captured_ns, clock_uncertainty_ns
_WIRE_AT = _TIMES_AT + _TIMES.size
_CAPTURED_AT, _CONTENT_AT = _TIMES_AT + 8, _WIRE_AT + 16
_FRONT = struct.Struct("<d8xI")  # sampled_s, and the bits of the force
_PERIOD_NS = SECOND // SENSOR_HZ


def open_socket(me: Me, cfg: Config, inherited: socket.socket | None = None) -> socket.socket:
    """Bound UDP socket with kernel receive stamps and drop counts, and a 100 ms timeout that lets a stop be seen."""
    gate.sensor_port(cfg, cfg.network.listen_ip(), me.log.warning)
    sock = inherited or _bound_socket(cfg)
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel reports twice the size
    if granted < (wanted := cfg.sensor_ingest.receive_buffer_bytes):
        me.log.warning(
            "receive buffer %d of %d bytes: raise it with sysctl net.core.rmem_max=%d", granted, wanted, wanted
        )
    me.gauge("receive_buffer_bytes", granted)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 100_000))
    return sock


def _bound_socket(cfg: Config) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wanted = cfg.sensor_ingest.receive_buffer_bytes
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, wanted)  # past rmem_max; needs CAP_NET_ADMIN
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    address = (cfg.network.listen_ip(), cfg.network.sensor_port)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"network.sensor_port = {address[1]}: cannot listen on {address[0]}: {error.strerror}; who has it: ss -ulpn"
        ) from error
    return sock


class Door:
    """Which datagrams come in: from `sources` (any, if there are none) and with the right tag (if there is a check)."""

    def __init__(self, sources: Iterable[str] = (), check: TagCheck | None = None) -> None:
        self._sources, self.check = frozenset(sources), check
        self.trailer_bytes = TRAILER_BYTES if check else 0

    def refusal(self, source: str, parts: list[Any], n_bytes: int) -> str:
        """source, no_tag, bad_tag, replayed, or "" for a datagram of `n_bytes` scattered over `parts`."""
        if self._sources and source not in self._sources:
            return "source"
        return self.check.fault(parts, n_bytes) if self.check else ""


class Receiver:
    """Receives one datagram at a time into the next free slots and publishes what is whole and new."""

    def __init__(
        self,
        me: Me,
        sock: socket.socket,
        ring: RingWriter,
        door: Door | None = None,
        way_ns: int = 0,
        already_dropped: int = 0,
    ) -> None:
        self._door = door or Door()
        self._me, self._sock, self._ring = me, sock, ring
        self._head = bytearray(wire.HEADER_BYTES)
        beyond = bytearray(self._door.trailer_bytes + 1)  # a byte more than a full batch: known from one that fits
        # for each place in the ring where a datagram may begin: the buffers that it is received into
        bodies = [slot[_WIRE_AT:] for slot in ring.slots] * 2
        self._buffers: list[list[Any]] = [
            [self._head, *bodies[at : at + ring.burst], beyond] for at in range(ring.capacity)
        ]
        self._alines = ring.records["wire"]["aline"]
        self._wall = WallOffset()
        self._kernel_dropped = already_dropped
        self._last = b""  # the first record of the last datagram, to know a duplicate by
        self._times, self._frozen = SenderTimes(me, "sensor", way_ns), Frozen(me, "sensor")
        self._force = _FRONT.unpack_from(ring.slots[(ring.next_index - 1) % ring.capacity], _WIRE_AT)[1]
        self._gap = RestartGap(me, ring, "sensor", SENSOR_HZ, lambda record: float(record["wire"]["sampled_s"]))

    def receive(self) -> bool:
        """Take one datagram. False if none came within the timeout."""
        buffers = self._buffers[self._ring.begin()]
        try:
            size, ancillary, flags, address = self._sock.recvmsg_into(buffers, _ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        received_ns = self._kernel_stamps(ancillary)
        self._me.count("datagrams")
        if refusal := self._door.refusal(address[0], buffers, size):
            self._drop(refusal, f"from {address[0]}")
            return True
        if self._door.check:
            self._me.gauge(_NUMBER, self._door.check.last // 1000)
            size -= TRAILER_BYTES
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
            if self._gap.is_open:
                self._gap.first(ring.record(good))
            good += 1
        if good:
            self._date(good, received_ns)
        ring.commit(good)
        self._me.count("samples", good)

    def _date(self, count: int, received_ns: int) -> None:
        """Write the times into the next `count` slots, which are not published yet.

        The newest sample had the shortest way: it is the one that the clock is known by. The others are as much older
        as their stamps say, or by whole periods where those do not advance.
        """
        slots, mask, first = self._ring.slots, self._ring.capacity - 1, self._ring.next_index
        slot = slots[(first + count - 1) & mask]
        later_s, newest_force = _FRONT.unpack_from(slot, _WIRE_AT)
        captured_ns, uncertainty_ns, _ = self._times.take(int(later_s * SECOND), received_ns)
        _TIMES.pack_into(slot, _TIMES_AT, received_ns, captured_ns, uncertainty_ns)
        later_force, doubt = newest_force, self._frozen.is_frozen
        for index in range(first + count - 2, first - 1, -1):
            slot = slots[index & mask]
            sampled_s, force = _FRONT.unpack_from(slot, _WIRE_AT)
            if sampled_s >= later_s:
                self._times.backwards(sampled_s > later_s)
                captured_ns -= _PERIOD_NS
            else:
                captured_ns -= int((later_s - sampled_s) * SECOND)
            _TIMES.pack_into(slot, _TIMES_AT, received_ns, captured_ns, uncertainty_ns)
            doubt = doubt or force == later_force
            later_s, later_force = sampled_s, force
        if doubt or later_force == self._force:  # nearly always the force alone says that a content is new
            self._mark_frozen(first, count)
        self._force = newest_force

    def _mark_frozen(self, first: int, count: int) -> None:
        """A sample with the content of the one before it keeps the capture time of that one."""
        slots, mask = self._ring.slots, self._ring.capacity - 1
        for index in range(first, first + count):
            before, slot = slots[(index - 1) & mask], slots[index & mask]
            if self._frozen.see(index > 0 and bytes(before[_CONTENT_AT:]) == bytes(slot[_CONTENT_AT:])):
                slot[_CAPTURED_AT:_WIRE_AT] = before[_CAPTURED_AT:_WIRE_AT]

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


def open_door(me: Me, cfg: Config) -> Door:
    """The configured one; it goes on where a process that was killed in this run has stopped."""
    key = gate.udp_key(cfg)
    seen_us = int(me.health.gauge_value(_NUMBER) or -1) if key else 0
    return Door(cfg.security.udp_sources, TagCheck(key, (seen_us + 1) * 1000) if key else None)


def main(cfg: Config) -> None:
    inherited = inherited_socket()
    with lifecycle("sensor_ingest", cfg) as me, open_socket(me, cfg, inherited) as sock:
        # a socket that outlives us goes on counting where our predecessor stood, who has counted that
        dropped = me.health.counter("lost.kernel.sensor") if inherited else 0
        way_ns = shortest_way_ns(cfg, "sensor")
        receiver = Receiver(me, sock, me.writer("sensor"), open_door(me, cfg), way_ns, dropped)
        me.ready()
        while me.running:
            receiver.receive()
            me.beat()
        sock.setblocking(False)  # what the kernel already holds was sent while we were up
        while receiver.receive():
            pass
