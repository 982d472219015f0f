import signal
import time

import numpy as np
import pytest
import simplejpeg
import zmq

from rtvla.errors import WireError
from rtvla.schema import VIEWS
from rtvla.senders.camera_pictures import picture_loop
from rtvla.senders.camera_sim import CAMERAS
from rtvla.wire import camera as wire

from .sending import Sender, drain, free_port, wait_for

SMALL = ("--width", 160, "--height", 96)


@pytest.fixture
def pull(context):
    """A bare receiver and its port."""
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.RCVTIMEO, 30_000)
    return socket, socket.bind_to_random_port("tcp://127.0.0.1")


def test_the_names_are_those_of_the_views():
    assert tuple(wire.view_of(name) for name in CAMERAS) == VIEWS


def test_every_image_counted_arrives_and_passes_the_wire(pull):
    socket, port = pull
    with Sender("camera", "--server-port", port, "--fps", 20, "--seconds", 0.5) as sender:
        report = sender.report()
    messages = [wire.decode(parts) for parts in drain(socket)]
    got = {view: sum(m.view == view for m in messages) for view in VIEWS}
    assert report["images_sent"] == got and report["flushed"]
    assert report["images_sent_total"] + report["not_taken_total"] == 5 * report["ticks"]
    assert report["images_sent_total"] > 0
    assert {(m.width, m.height) for m in messages} == {(640, 360)}
    assert all(m.sent_s >= m.sampled_s > 1.6e9 for m in messages)
    assert {m.camera for m in messages} == set(CAMERAS)


def test_without_a_receiver_nothing_is_taken():
    with Sender("camera", "--server-port", free_port(), "--fps", 20, "--views", 2, "--seconds", 0.3, *SMALL) as sender:
        report = sender.report()
    assert report["images_sent"] == {"View1": 0, "View2": 0}
    assert report["not_taken"] == {"View1": report["ticks"], "View2": report["ticks"]}
    assert report["ticks"] + report["skipped"] == 6


def test_a_receiver_that_does_not_read_fills_the_pipe_not_the_memory(context):
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, 1)
    socket.setsockopt(zmq.RCVBUF, 4096)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    with Sender("camera", "--server-port", port, "--fps", 400, "--quality", 100) as sender:
        wait_for(lambda: socket.poll(0), "the first image")
        time.sleep(0.6)
        report = sender.stop()
    assert report["not_taken_total"] > 0
    assert report["images_sent_total"] + report["not_taken_total"] == 5 * report["ticks"]
    assert not report["flushed"]  # and it says that what it counted is not all out


def test_sigterm_ends_it_with_everything_out(pull):
    socket, port = pull
    with Sender("camera", "--server-port", port, "--fps", 50, *SMALL) as sender:
        messages = [socket.recv_multipart() for _ in range(30)]
        report = sender.stop(signal.SIGTERM)
    messages += drain(socket)
    assert report["flushed"] and report["images_sent_total"] == len(messages)


def test_faults_add_up_and_every_cut_is_seen(pull):
    socket, port = pull
    faults = ("--loss", 0.1, "--duplicate", 0.1, "--corrupt", 0.2, "--delay-ms", 30, "--delay-probability", 0.2)
    with Sender("camera", "--server-port", port, "--fps", 50, "--seconds", 1, *faults, *SMALL) as sender:
        report = sender.report()
    messages = drain(socket)
    assert report["images_sent_total"] == len(messages)
    made = 5 * report["ticks"] - report["lost"] + report["duplicated"]
    assert made == report["images_sent_total"] + report["not_taken_total"]
    causes = []
    for parts in messages:
        try:
            wire.decode(parts)
        except WireError as error:
            causes.append(error.cause)
    assert len(causes) == report["cut_sent"] > 0
    assert set(causes) == {"bad_json", "size_differs"}


def test_freeze_repeats_the_image_under_new_stamps(pull):
    socket, port = pull
    arguments = ("--fps", 50, "--views", 1, "--seconds", 0.6, "--freeze-after", 0.2, "--stop-after", 0.4, *SMALL)
    with Sender("camera", "--server-port", port, *arguments) as sender:
        report = sender.report()
    messages = [wire.decode(parts) for parts in drain(socket)]
    assert report["images_sent_total"] == len(messages)
    assert report["ticks"] == len(messages) + report["not_taken_total"] + report["withheld"]
    frozen = messages[-report["frozen"] :]
    assert len({m.jpeg for m in frozen}) == 1 and len({m.sampled_s for m in frozen}) == len(frozen) > 3
    moving = messages[: -report["frozen"]]
    assert len({m.jpeg for m in moving}) == len(moving)


def test_pictures_move_differ_by_view_and_are_not_black():
    loops = [picture_loop(view, 160, 96, 75) for view in range(5)]
    assert len({jpeg for loop in loops for jpeg in loop}) == sum(map(len, loops))
    means = [np.mean(simplejpeg.decode_jpeg(loop[0], "RGB")) for loop in loops]
    assert min(means) > 40
