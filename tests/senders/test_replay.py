import signal
import struct

import numpy as np
import pytest
import simplejpeg
import zmq

from rtvla import schema
from rtvla.clock import MS, now_ns
from rtvla.dump_file import Dump
from rtvla.errors import DumpError
from rtvla.senders.recorded import Recording
from rtvla.shm import blackbox
from rtvla.shm.segment import Layout, ensure, path_of
from rtvla.wire import camera as camera_wire
from rtvla.wire import robot as robot_wire
from rtvla.wire import sensor as sensor_wire

from .sending import Sender, UdpReceiver, drain, free_port

STEP_NS = 20 * MS
BATCHES = (1, 15, 5, 1, 3)


class Sent:
    """The bytes that once came in, and the black box of the records that they became."""

    def __init__(self, hub, file):
        rng, start_ns = np.random.default_rng(1), now_ns()
        self.datagrams, self.states, self.images, self.file = [], [], [], file
        sensor, robot = hub.writer("sensor"), hub.writer("robot")
        frames = {view: hub.writer(f"frame.{view}") for view in schema.VIEWS[:2]}
        for at in range(25):
            count = BATCHES[at % len(BATCHES)]
            records = np.zeros(count, schema.SENSOR_WIRE)
            records["sampled_s"], records["sent_s"] = 1.7e9 + at + rng.random(count), 1.7e9 + at
            records["force"], records["aline"] = rng.random(count), rng.random((count, schema.ALINE_BINS))
            self.datagrams.append(sensor_wire.encode_batch(records))
            for record in records:
                slot = sensor.record()
                slot["received_ns"], slot["wire"] = start_ns + at * STEP_NS, record
                sensor.commit()
            values = rng.random(12).astype("<f4")
            payload = struct.pack("<ddf12f", 1.7e9 + at / 100, 1.7e9 + at / 100 + 0.001, 0.25, *values)
            self.states.append(payload)
            state = np.zeros((), schema.ROBOT)
            robot_wire.decode([robot_wire.STATE_TOPIC, payload], state)
            state["received_ns"] = start_ns + at * STEP_NS + 5 * MS
            robot.put(state)
            if at % 5 == 0:
                self._image(rng, frames, at, start_ns)
        for writer in (sensor, robot, *frames.values()):
            writer.close()
        hub.writer("command").close()
        blackbox.dump(hub.namespace, file)

    def _image(self, rng, frames, at, start_ns):
        for view, name, sent_s in (
            ("View1", "ZED_41182735_left", 1.7e9 + at + 0.125),
            ("View2", "ZED_49429257_LEFT", None),
        ):
            pixels = rng.integers(0, 256, (16 + at, 24, 3), np.uint8)
            jpeg = simplejpeg.encode_jpeg(pixels, 90 - at, colorspace="RGB")
            parts = camera_wire.encode(name, 1.7e9 + at + 1 / 3, jpeg, sent_s)
            self.images.append(parts)
            message, record = camera_wire.decode(parts), frames[view].record()
            record["received_ns"] = start_ns + at * STEP_NS + 7 * MS
            record["sampled_s"], record["sent_s"], record["camera"] = message.sampled_s, message.sent_s, name.encode()
            record["n_bytes"] = len(jpeg)
            record["jpeg"][: len(jpeg)] = np.frombuffer(jpeg, np.uint8)
            record["jpeg"][len(jpeg) : len(jpeg) + 50] = 0xAA  # what a longer picture left in the slot before
            frames[view].commit()


@pytest.fixture
def sent(hub, tmp_path):
    return Sent(hub, tmp_path / "box")


@pytest.fixture
def lab(context):
    """Plain receivers of all three wires, and the flags that lead to them."""
    pull, sub, state_port = context.socket(zmq.PULL), context.socket(zmq.SUB), free_port()
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    sub.setsockopt(zmq.RECONNECT_IVL, 20)
    sub.connect(f"tcp://127.0.0.1:{state_port}")
    with UdpReceiver() as udp:
        yield udp, pull, sub, ("--port", udp.port, "--server-port", port, "--state-port", state_port)


def test_every_byte_comes_back_on_its_wire(sent, lab):
    udp, pull, sub, flags = lab
    with Sender("replay", sent.file, "--speed", 2, *flags) as sender:
        report = sender.report()
    assert drain(pull) == sent.images
    assert drain(sub) == [[robot_wire.STATE_TOPIC, payload] for payload in sent.states]
    datagrams = udp.finish()
    assert udp.drops == 0 and datagrams == sent.datagrams
    assert report["samples_sent"] == sum(BATCHES) * 5 and report["datagrams_sent"] == 25
    assert (report["states_sent"], report["images_sent_total"]) == (25, 10)
    assert report["images_sent"]["View1"] == 5 and report["flushed"] and report["states_unheard"] == 0
    assert report["records"] == sum(BATCHES) * 5 + 25 + 10


def test_the_spacing_is_the_original_one_by_the_speed(sent, lab):
    udp, _pull, _sub, flags = lab
    for speed in (1, 4):
        with Sender("replay", sent.file, "--only", "sensor", "--speed", speed, *flags) as sender:
            report = sender.report()
        assert report["span_s"] == pytest.approx(24 * STEP_NS / 1e9)
        assert report["took_s"] >= report["span_s"] / speed, "it is never ahead of time"
        assert "states_sent" not in report and "images_sent" not in report
    assert len(udp.finish()) == 50


def test_arrivals_come_in_the_order_of_time_whatever_the_stream(sent):
    arrivals = list(Recording(sent.file, ("sensor", "camera", "robot")))
    times = [time_ns for time_ns, _, _ in arrivals]
    assert times == sorted(times) and len({stream for _, stream, _ in arrivals}) == 4
    for stream in ("sensor", "robot", "frame.View1"):
        indices = [int(record["index"]) for _, name, record in arrivals if name == stream]
        assert indices == list(range(len(indices)))


def test_a_stamp_that_went_back_does_not_change_the_order_within_a_stream(hub, tmp_path):
    robot, state = hub.writer("robot"), np.zeros((), schema.ROBOT)
    for received_ns in (1000, 3000, 2000, 4000):
        state["received_ns"] = received_ns
        robot.put(state)
    robot.close()
    blackbox.dump(hub.namespace, tmp_path / "box")
    arrivals = list(Recording(tmp_path / "box", ("robot",)))
    assert [(time_ns, int(record["index"])) for time_ns, _, record in arrivals] == [
        (1000, 0),
        (3000, 1),
        (3000, 2),
        (4000, 3),
    ]


def test_without_receivers_it_goes_on_after_the_wait_and_says_so(sent):
    flags = ("--server-port", free_port(), "--state-port", free_port(), "--port", free_port())
    with Sender("replay", sent.file, "--wait", 0.2, "--speed", 5, *flags) as sender:
        report = sender.report()
    assert (report["states_sent"], report["states_unheard"]) == (0, 25)
    assert (report["images_sent_total"], report["not_taken_total"]) == (0, 10)
    assert (report["samples_sent"], report["refused"]) == (0, 25)


def test_it_ends_by_a_signal_with_its_counts(sent, lab):
    _udp, _pull, sub, flags = lab
    with Sender("replay", sent.file, "--only", "robot", "--speed", 0.01, *flags) as sender:
        assert sub.poll(30_000)
        report = sender.stop(signal.SIGTERM)
    assert 1 <= report["states_sent"] < 25 and report["records"] == 25


@pytest.mark.parametrize(("speed", "count"), [(1, 8), (2, 15)])  # due at 0, 20, ... or 0, 10, ... 140 ms
def test_seconds_ends_it(sent, lab, speed, count):
    _udp, _pull, sub, flags = lab
    with Sender("replay", sent.file, "--only", "robot", "--seconds", 0.145, "--speed", speed, *flags) as sender:
        report = sender.report()
    assert report["states_sent"] == len(drain(sub)) == count


def test_records_of_another_version_are_refused(hub, tmp_path):
    dtype = np.dtype([("index", "<u8"), ("received_ns", "<i8"), ("angle", "<f8")])
    ensure(path_of(hub.namespace, "robot"), Layout(dtype, 64))
    blackbox.dump(hub.namespace, tmp_path / "box")
    with Dump(tmp_path / "box") as box:
        assert box.dtype("robot") == dtype
    with pytest.raises(DumpError, match="another version"):
        Recording(tmp_path / "box", ("robot",))
