"""Real datagrams over loopback into a real ring."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import FakeMe

from rtvla.clock import SECOND, now_ns
from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.procs.sensor_ingest import Receiver, open_socket
from rtvla.schema import SENSOR_WIRE
from rtvla.shm.hub import Hub
from rtvla.wire.sensor import encode_batch, encode_single


@dataclass
class Rig:
    me: FakeMe
    receiver: Receiver
    sock: socket.socket
    sender: socket.socket
    hub: Hub

    def send(self, datagram: bytes) -> None:
        self.sender.send(datagram)

    def take(self) -> None:
        assert self.receiver.receive()


@pytest.fixture
def rig(hub: Hub, free_port: Callable[[], int]) -> Iterator[Rig]:
    cfg = Config.load(None, [f"network.sensor_port={free_port()}"])
    me = FakeMe(hub)
    with open_socket(me, cfg) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # type: ignore[arg-type]
        sender.connect(("127.0.0.1", cfg.network.sensor_port))
        yield Rig(me, Receiver(me, sock, hub.writer("sensor")), sock, sender, hub)  # type: ignore[arg-type]


def samples(count: int, first: int = 0) -> np.ndarray:
    records = np.zeros(count, SENSOR_WIRE)
    records["sampled_s"] = records["sent_s"] = 1.7e9 + first + np.arange(count)
    records["force"] = first + np.arange(count)
    records["aline"] = np.arange(1025) + records["force"][:, None]
    return records


def test_batches_arrive_whole_and_in_order_across_the_wrap_of_the_ring(rig: Rig) -> None:
    reader, first, cursor = rig.hub.reader("sensor"), 0, 0
    for size in [15, 1, 7, 15, 2] * 40:  # 1600 samples through 1024 slots
        rig.send(encode_batch(samples(size, first)))
        rig.take()
        records, lost, cursor = reader.since(cursor, 100)
        assert lost == 0 and records["index"].tolist() == list(range(first, first + size))
        assert (records["wire"] == samples(size, first)).all()
        first += size
    assert rig.me.counted == {"datagrams": 200, "samples": 1600}


def test_the_headerless_form_is_taken_too(rig: Rig) -> None:
    for at in range(3):
        rig.send(encode_single(samples(1, at)[0]))
        rig.take()
    window = rig.hub.reader("sensor").latest(3)
    assert window is not None and (window["wire"] == samples(3)).all()


def test_a_bad_sample_is_dropped_by_cause_and_its_neighbours_are_kept(rig: Rig) -> None:
    batch = samples(5)
    batch["force"][1] = np.nan
    batch["sampled_s"][3] = -1
    rig.send(encode_batch(batch))
    rig.take()
    window = rig.hub.reader("sensor").latest(3)
    assert window is not None and window["wire"]["force"].tolist() == [0, 2, 4]
    assert window["index"].tolist() == [0, 1, 2]
    assert rig.me.counted == {"datagrams": 1, "samples": 3, "dropped.not_finite": 1, "dropped.bad_stamp": 1}


def test_the_same_datagram_twice_is_counted_and_dropped(rig: Rig) -> None:
    for datagram in (encode_batch(samples(2)), encode_batch(samples(2)), encode_batch(samples(2, 2))):
        rig.send(datagram)
        rig.take()
    assert rig.me.counted == {"datagrams": 3, "samples": 4, "dropped.duplicate": 1}


@pytest.mark.parametrize(
    ("datagram", "cause"),
    [
        (b"", "too_short"),
        (b"x" * 4119, "too_short"),
        (b"\x01\0\0\0" + b"x" * 4121, "bad_length"),
        (b"\x00\0\0\0" + bytes(4120), "bad_count"),
        (b"\x10\0\0\0" + bytes(4120), "bad_count"),
        (bytes(61_805), "too_long"),
        (bytes(65_000), "too_long"),
    ],
)
def test_malformed_datagrams_are_counted_by_cause_and_publish_nothing(rig: Rig, datagram: bytes, cause: str) -> None:
    rig.send(datagram)
    rig.take()
    assert rig.me.counted == {"datagrams": 1, f"dropped.{cause}": 1}
    assert rig.hub.reader("sensor").head == 0


def test_arrival_is_the_kernels_stamp_on_our_clock(rig: Rig) -> None:
    before = now_ns()
    rig.send(encode_batch(samples(1)))
    sent = now_ns()
    while now_ns() - sent < SECOND // 20:
        pass  # the process is busy; the datagram waits in the kernel
    rig.take()
    record = rig.hub.reader("sensor").newest()
    assert record is not None
    assert before - 100_000 <= record["received_ns"] <= sent + 100_000


def test_what_the_kernel_drops_is_counted_to_the_sample(rig: Rig) -> None:
    rig.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sent = 200
    for at in range(sent):
        rig.send(encode_batch(samples(1, at)))
    rig.sock.setblocking(False)
    while rig.receiver.receive():
        pass
    rig.send(encode_batch(samples(1, sent)))  # drops are reported with the next datagram that comes through
    while rig.receiver.receive():
        pass
    counted = rig.me.counted
    assert counted["lost.kernel.sensor"] > 0
    assert counted["samples"] + counted["lost.kernel.sensor"] == sent + 1


def at_rate(count: int, first: int = 0) -> np.ndarray:
    """Samples of a sender that stamps them at 650 Hz."""
    records = samples(count, first)
    records["sampled_s"] = 1.7e9 + (first + np.arange(count)) / 650
    return records


def test_the_samples_of_a_batch_are_as_much_older_as_their_stamps_say(rig: Rig) -> None:
    rig.send(encode_batch(at_rate(15)))
    rig.take()
    window = rig.hub.reader("sensor").latest(15)
    assert window is not None and (window["captured_ns"] <= window["received_ns"]).all()
    assert np.diff(window["captured_ns"]) == pytest.approx(SECOND / 650, abs=1000), "stamps keep a quarter of a us"
    assert window["captured_ns"][-1] == window["received_ns"][-1] and (window["clock_uncertainty_ns"] == -1).all()


def test_capture_is_by_the_senders_clock_once_it_is_known(rig: Rig) -> None:
    now = now_ns()
    for taken in range(now - 10 * SECOND, now, SECOND // 100):  # it has run for ten seconds, with a clock of its own
        rig.receiver._times.take(taken - 5 * SECOND, taken)
    waited = samples(2)
    waited["sampled_s"] = (now - 5 * SECOND) / SECOND - np.array([0.042, 0.040])  # 40 ms in a queue of the sender
    rig.send(encode_batch(waited))
    rig.take()
    window = rig.hub.reader("sensor").latest(2)
    assert window is not None and (window["clock_uncertainty_ns"] >= 0).all()
    assert now - window["captured_ns"] == pytest.approx([42e6, 40e6], abs=1000)
    assert (window["received_ns"] >= now).all()


def test_stamps_that_do_not_advance_in_a_batch_are_counted_and_spread_by_periods(rig: Rig) -> None:
    batch = at_rate(5)
    batch["sampled_s"][1] = batch["sampled_s"][2]
    batch["sampled_s"][3] = batch["sampled_s"][4] + 1
    rig.send(encode_batch(batch))
    rig.take()
    window = rig.hub.reader("sensor").latest(5)
    assert window is not None and (np.diff(window["captured_ns"]) > SECOND // 651).all()
    assert rig.me.counted["repeated_stamp.sensor"] == 1 and rig.me.counted["out_of_order.sensor"] == 1


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (3, 3), (2, 4)])
def test_a_stuck_sensor_grows_old_from_the_first_of_the_same_contents(rig: Rig, sizes: tuple[int, ...]) -> None:
    stuck = at_rate(6)
    stuck["force"][2:5], stuck["aline"][2:5] = stuck["force"][2], stuck["aline"][2]
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        rig.send(encode_batch(stuck[end - size : end]))
        rig.take()
    window = rig.hub.reader("sensor").latest(6)
    assert window is not None and rig.me.counted["frozen.sensor"] == 2
    captured = window["captured_ns"]
    assert captured[2] == captured[3] == captured[4] < captured[5] and captured[1] != captured[2]


def test_the_same_force_with_another_a_line_is_no_stuck_sensor(rig: Rig) -> None:
    batch = at_rate(5)
    batch["force"] = 1.5
    rig.send(encode_batch(batch))
    rig.take()
    assert "frozen.sensor" not in rig.me.counted


def test_silence_is_no_error(rig: Rig) -> None:
    assert not rig.receiver.receive()
    assert rig.me.counted == {}


def test_a_taken_port_is_a_config_error_that_names_the_setting(rig: Rig) -> None:
    port = rig.sock.getsockname()[1]
    with pytest.raises(ConfigError, match=f"network.sensor_port = {port}: cannot listen"):
        open_socket(rig.me, Config.load(None, [f"network.sensor_port={port}"]))  # type: ignore[arg-type]
