"""`rtvla send sensor`: synthetic force and A-lines over UDP, in the batches of the old sender or headerless.

Rate       sample k is stamped t0 + k / rate and leaves when its batch is complete: the rate holds exactly over time
Late       after a stall the missed samples follow at up to 6 times the rate; what is over 2 s old is skipped (counted),
           as a device with a finite buffer would
Counted    `samples_sent` is what the receiver's kernel took. With nobody on the port the kernel answers ECONNREFUSED:
           on loopback at once and for each datagram, so `refused` is exact there; over a network late and about once
           a second, so it is only a sign. A full receive buffer drops at the receiver (`drops` in /proc/net/udp
           there); no sender can see that
"""

from __future__ import annotations

import argparse
import socket
import time

import numpy as np

from rtvla.clock import SECOND, now_ns, wall_s
from rtvla.errors import ConfigError
from rtvla.schema import SENSOR_HZ, SENSOR_WIRE
from rtvla.security import keys as key_files
from rtvla.senders.faults import FaultInjector, Outbox, Outgoing, add_fault_arguments
from rtvla.senders.loop import StopFlag, Waiter
from rtvla.senders.options import add_keys, add_seconds, port, positive
from rtvla.senders.report import RateMeter, print_report
from rtvla.senders.sensor_signal import Signal
from rtvla.wire import sensor as wire
from rtvla.wire.udp_tag import Tagger

CATCH_UP = 6.0  # at 650 Hz one sample each 0.26 ms: a receiver that keeps up at all keeps up with this
MAX_BACKLOG_S = 2.0
LAST_ERROR_S = 0.02  # so long is a late ECONNREFUSED waited for at the end


def _batch(text: str) -> int:
    value = int(text)
    if not 1 <= value <= wire.MAX_RECORDS:
        raise argparse.ArgumentTypeError(f"{text}: a datagram holds 1 to {wire.MAX_RECORDS} samples")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=positive, default=float(SENSOR_HZ), help="samples a second (%(default)g)")
    parser.add_argument("--target", default="127.0.0.1", help="address of the receiver (%(default)s)")
    parser.add_argument("--port", type=port, default=9999)
    parser.add_argument("--batch", type=_batch, default=1, help="samples in a datagram, 1 to 15 (%(default)s)")
    parser.add_argument(
        "--headerless", action="store_true", help="the later form: one bare record in a datagram, whatever --batch says"
    )
    add_keys(parser, "sensor")
    add_seconds(parser)
    add_fault_arguments(parser)


def tagger(keys: str | None) -> Tagger | None:
    """Puts the tag of wire/udp_tag.py on datagrams, if there are keys."""
    return Tagger(key_files.read_udp(keys, "sensor")) if keys else None


class Link:
    """A connected UDP socket that counts what the other kernel took."""

    def __init__(self, target: str, port_number: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.connect((target, port_number))
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"sensor --target {target}: {error}; give the receiver's address") from None
        self._last: Outgoing | None = None
        self.counts = {"samples_sent": 0, "datagrams_sent": 0, "refused": 0, "refused_samples": 0}
        self.damaged_sent = {"cut": 0, "flip": 0}

    def send(self, message: Outgoing) -> None:
        for _ in range(2):  # the first try may only learn that the datagram before was refused
            try:
                self._socket.send(message.parts[0])
                break
            except ConnectionRefusedError:
                self._take_back()
            except OSError:  # no route, interface down: it did not leave
                self._count_refused(message)
                return
        else:
            self._count_refused(message)
            return
        self._last = message
        self._count_sent(message, 1)
        self.collect_refusal()

    def collect_refusal(self) -> None:
        """Take the last datagram back if the kernel has meanwhile heard that it was refused."""
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._take_back()

    def _count_sent(self, message: Outgoing, sign: int) -> None:
        self.counts["datagrams_sent"] += sign
        self.counts["samples_sent"] += sign * message.records
        if message.damage:
            self.damaged_sent[message.damage] += sign

    def _count_refused(self, message: Outgoing) -> None:
        self.counts["refused"] += 1
        self.counts["refused_samples"] += message.records

    def _take_back(self) -> None:
        if self._last is not None:
            self._count_sent(self._last, -1)
            self._count_refused(self._last)
            self._last = None

    def close(self) -> None:
        time.sleep(LAST_ERROR_S)
        self.collect_refusal()
        self._socket.close()


class SensorSender:
    """Makes the samples in time and hands them to the outbox."""

    def __init__(self, args: argparse.Namespace, link: Link) -> None:
        self._rate, self._batch, self._headerless = args.rate, 1 if args.headerless else args.batch, args.headerless
        self._total = None if args.seconds is None else max(1, round(args.seconds * args.rate))
        self._tagger = tagger(args.keys)
        self.faults = FaultInjector(args)
        self.outbox = Outbox(self.faults, link.send)
        self.meter = RateMeter()
        self.skipped = 0
        self._signal = Signal(args.seed)
        self._records = np.zeros(self._batch, SENSOR_WIRE)
        self._frozen_at: int | None = None

    def run(self, stop: StopFlag) -> None:
        waiter = Waiter(stop, self.outbox)
        period_ns = SECOND / self._rate
        start_ns, start_s = now_ns(), wall_s()
        self.faults.begin(start_ns)
        k, free_ns = 0, start_ns  # next sample; no datagram before this time
        while self._total is None or k < self._total:
            n = self._batch if self._total is None else min(self._batch, self._total - k)
            if not waiter.until(max(start_ns + int((k + n - 1) * period_ns), free_ns)):
                break
            now = now_ns()
            late = int((now - start_ns) / period_ns - MAX_BACKLOG_S * self._rate) - k
            if late > 0:
                self.skipped += late
                k += late
                continue
            self.outbox.put(self._datagram(k, n, start_s, now), now)
            self.meter.add(now, n)
            k, free_ns = k + n, now + int(n * period_ns / CATCH_UP)
        self.outbox.flush()

    def _datagram(self, k: int, n: int, start_s: float, now: int) -> Outgoing:
        if self._frozen_at is None and self.faults.is_frozen(now):
            self._frozen_at = k
        records, sent_s = self._records[:n], wall_s()
        for i in range(n):
            content = k + i if self._frozen_at is None else self._frozen_at
            records[i] = (start_s + (k + i) / self._rate, sent_s, self._signal.force(content), 0)
            records["aline"][i] = self._signal.aline(content)
        data = wire.encode_single(records) if self._headerless else wire.encode_batch(records)
        return Outgoing([self._tagger.tagged(data) if self._tagger else data], records=n)


def run(args: argparse.Namespace) -> int:
    with StopFlag() as stop:
        link = Link(args.target, args.port)
        sender = SensorSender(args, link)
        sender.run(stop)
        link.close()
    damaged = {f"{kind}_sent": n for kind, n in link.damaged_sent.items()}
    rate = {"achieved_hz": sender.meter.hz(), "samples_made": sender.meter.n, "skipped": sender.skipped}
    print_report("sensor", {**link.counts, **rate, **damaged, **sender.faults.counts})
    return 0
