import signal
import socket
import time

import numpy as np
import pytest

from rtvla.errors import WireError
from rtvla.senders.sensor_signal import Signal, aline_table
from rtvla.wire import sensor as wire

from .sending import Sender, UdpReceiver, free_port, wait_for


def stamps_of(datagrams: list[bytes]) -> np.ndarray:
    return np.concatenate([wire.decode(d)["sampled_s"] for d in datagrams])


def assert_evenly_stamped(stamps: np.ndarray, rate: float) -> None:
    """Each a whole number of periods after the first, in order."""
    k = (stamps - stamps[0]) * rate
    np.testing.assert_allclose(k, k.round(), atol=0.01)
    assert (np.diff(k.round()) >= 1).all()


@pytest.mark.parametrize("batch", [1, 4, 15])
def test_every_sample_sent_arrives_and_is_stamped_at_the_rate(batch):
    with UdpReceiver() as receiver:
        with Sender("sensor", "--port", receiver.port, "--batch", batch, "--seconds", 0.5) as sender:
            report = sender.report()
        datagrams = receiver.finish()
    stamps = stamps_of(datagrams)
    assert report["samples_sent"] == report["samples_made"] == 325
    assert report["datagrams_sent"] == len(datagrams) + receiver.drops == -(-325 // batch)
    assert len(stamps) == 325 or receiver.drops
    assert report["refused"] == report["skipped"] == 0
    assert_evenly_stamped(stamps, 650)


def test_headerless_is_one_bare_record_each():
    with UdpReceiver() as receiver:
        with Sender("sensor", "--port", receiver.port, "--headerless", "--rate", 200, "--seconds", 0.3) as sender:
            report = sender.report()
        datagrams = receiver.finish()
    assert report["samples_sent"] == len(datagrams) + receiver.drops == 60
    assert {len(d) for d in datagrams} == {wire.RECORD_BYTES}


def test_refused_datagrams_are_not_counted_as_sent():
    port = free_port(socket.SOCK_DGRAM)
    with Sender("sensor", "--port", port, "--batch", 5, "--seconds", 0.2) as sender:
        report = sender.report()
    assert (report["samples_sent"], report["datagrams_sent"]) == (0, 0)
    assert (report["refused"], report["refused_samples"]) == (26, 130)


def test_counts_are_exact_when_the_receiver_comes_late():
    port = free_port(socket.SOCK_DGRAM)
    with Sender("sensor", "--port", port) as sender:
        time.sleep(0.5)  # the sender starts and is refused for a while
        with UdpReceiver(port) as receiver:
            wait_for(lambda: len(receiver.datagrams) >= 100, "samples")
            report = sender.stop()
            datagrams = receiver.finish()
    assert report["samples_sent"] == len(datagrams) + receiver.drops
    assert report["samples_made"] == report["samples_sent"] + report["refused_samples"]


def test_faults_add_up_and_every_cut_is_seen():
    faults = ("--loss", 0.1, "--duplicate", 0.1, "--corrupt", 0.1, "--flip", 0.05, "--delay-ms", 20,
              "--delay-probability", 0.3, "--seed", 4)  # fmt: skip
    with UdpReceiver() as receiver:
        with Sender("sensor", "--port", receiver.port, "--batch", 2, "--seconds", 1, *faults) as sender:
            report = sender.report()
        datagrams = receiver.finish()
    assert report["datagrams_sent"] == len(datagrams) + receiver.drops
    assert report["datagrams_sent"] == 325 - report["lost"] + report["duplicated"]
    wrong_length = 0
    for datagram in datagrams:
        try:
            wire.decode(datagram)
        except WireError as error:
            wrong_length += error.cause in ("too_short", "bad_length")
    assert report["cut_sent"] >= report["corrupted"] > 0
    # a flipped bit in the count makes the length wrong too
    assert report["cut_sent"] - receiver.drops <= wrong_length <= report["cut_sent"] + report["flip_sent"]
    stamps = stamps_of([d for d in datagrams if len(d) == 4 + 2 * wire.RECORD_BYTES and d[0] == 2])
    assert (np.diff(stamps) < 0).any()  # the delayed ones were overtaken


def test_freeze_repeats_the_content_under_new_stamps_and_stop_is_silent():
    with UdpReceiver() as receiver:
        arguments = ("--seconds", 0.9, "--freeze-after", 0.3, "--stop-after", 0.6)
        with Sender("sensor", "--port", receiver.port, *arguments) as sender:
            report = sender.report()
        datagrams = receiver.finish()
    records = np.concatenate([wire.decode(d) for d in datagrams])
    assert report["samples_sent"] == len(records) + receiver.drops
    assert report["samples_made"] == 585 == report["samples_sent"] + report["withheld"]
    assert 0 < report["frozen"] < report["samples_sent"] and report["withheld"] > 0
    frozen = records[len(records) + receiver.drops - report["frozen"] :]
    assert (frozen["aline"] == frozen["aline"][0]).all() and (frozen["force"] == frozen["force"][0]).all()
    assert (np.diff(frozen["sampled_s"]) > 0).all()
    moving = records[: len(records) - report["frozen"]]
    assert not (moving["aline"][1:] == moving["aline"][:-1]).all(axis=1).any()


def test_after_a_stall_the_missed_samples_follow():
    with UdpReceiver() as receiver:
        with Sender("sensor", "--port", receiver.port, "--seconds", 1) as sender:
            wait_for(lambda: len(receiver.datagrams) > 50, "samples")
            sender.send_signal(signal.SIGSTOP)
            time.sleep(0.3)
            sender.send_signal(signal.SIGCONT)
            report = sender.report()
        datagrams = receiver.finish()
    assert (report["samples_sent"], report["skipped"]) == (650, 0)
    assert len(datagrams) + receiver.drops == 650
    assert_evenly_stamped(stamps_of(datagrams), 650)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_its_line(number):
    with UdpReceiver() as receiver:
        arguments = ("--delay-ms", 3000, "--delay-probability", 0.3)
        with Sender("sensor", "--port", receiver.port, *arguments) as sender:
            wait_for(lambda: len(receiver.datagrams) > 100, "samples")
            report = sender.stop(number)
        datagrams = receiver.finish()
    assert report["samples_made"] == report["samples_sent"] == len(datagrams) + receiver.drops
    assert report["delayed"] > 0  # and what still waited went out at the end


@pytest.mark.parametrize(("kind", "option"), [("sensor", "--target"), ("camera", "--server-ip"), ("robot", "--bind")])
def test_an_address_that_cannot_be_used_is_said_plainly(kind, option):
    with Sender(kind, option, "999.1.1.1", "--seconds", 1) as sender:
        _, err = sender.process.communicate(timeout=60)
    assert sender.process.returncode != 0 and "ConfigError" in err and "999.1.1.1" in err


def test_signal_looks_like_the_sensor():
    alines, synthetic = aline_table(), Signal()
    assert alines.min() >= -28 and 200 < alines.max() <= 288
    assert 35 < alines.mean() < 65 and 30 < alines.std() < 60
    assert np.isfinite(alines).all() and np.isfinite([synthetic.force(k) for k in range(6000)]).all()
    peaks = alines.argmax(1)
    assert peaks.max() - peaks.min() > 200  # the surface moves
