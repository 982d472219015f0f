"""Real cameras without hardware: folders and videos over real sockets, and a camera that fails under the real loop."""

import argparse
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import simplejpeg
import zmq

from rtvla.clock import MS, SECOND
from rtvla.errors import ConfigError, RtvlaError
from rtvla.senders import camera
from rtvla.senders.camera_pictures import picture_loop
from rtvla.senders.camera_sim import CAMERAS, PicturePush
from rtvla.senders.cameras import grabber as grabber_file
from rtvla.senders.cameras import sender
from rtvla.senders.cameras.grabber import Grabber, RateLimit
from rtvla.senders.cameras.picture import encode, fit
from rtvla.senders.cameras.source import (
    BadPicture,
    CameraFault,
    EndOfPictures,
    Picture,
    software_stamp,
    stamp_of_age,
)
from rtvla.senders.loop import StopFlag
from rtvla.wire import camera as wire

from .sending import ROOT, drain, free_port, wait_for


@pytest.fixture
def pull(context):
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, 0)
    return socket, socket.bind_to_random_port("tcp://127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    """Thirty JPEGs, all different."""
    for k, jpeg in enumerate(picture_loop(0, 160, 96, 75)[:30]):
        (tmp_path / f"{k:03}.jpg").write_bytes(jpeg)
    return tmp_path


def send(*arguments: object, seconds: float = 60) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rtvla", "send", "camera", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)


def options(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    camera.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def adds_up(counts: dict) -> bool:
    parts = ("thinned", "overwritten", "bad", "sent", "dropped.no_receiver")
    return counts["grabbed"] == sum(counts[part] for part in parts)


def test_a_folder_arrives_byte_for_byte_and_in_order(pull, folder):
    socket, port = pull
    (folder / "readme.txt").write_text("not a picture")
    run = send("--source", "folder", "--device", folder, "--view", "View3", "--fps", 40, "--server-port", port)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    counts = report["cameras"][CAMERAS[2]]
    messages = [wire.decode(parts) for parts in drain(socket)]
    assert counts["grabbed"] == 30 and adds_up(counts) and counts["stamps"] == {"software": 30}
    assert len(messages) == counts["sent"] > 0 and report["flushed"]
    files = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
    places = [files.index(bytes(message.jpeg)) for message in messages]
    assert places == sorted(set(places))
    assert places[0] <= counts["overwritten"], "it began before there was a receiver"
    assert {message.view for message in messages} == {"View3"}
    stamps = [message.sampled_s for message in messages]
    assert stamps == sorted(set(stamps)) and all(m.sent_s >= m.sampled_s for m in messages)
    assert abs(time.time() - stamps[-1]) < 60


def test_without_a_source_it_is_the_drawn_one_as_ever():
    run = send("--seconds", 0.3, "--fps", 20, "--views", 2, "--server-port", free_port())
    report = json.loads(run.stdout)
    assert run.returncode == 0 and report["not_taken"] == {"View1": report["ticks"], "View2": report["ticks"]}


def test_two_folders_are_two_views_of_one_sender_and_a_damaged_file_is_counted(pull, folder, tmp_path):
    socket, port = pull
    other = tmp_path / "other"
    other.mkdir()
    for k, jpeg in enumerate(picture_loop(1, 160, 96, 75)[:5]):
        (other / f"{k}.jpg").write_bytes(jpeg if k != 2 else jpeg[:400])
    devices = ("--device", folder, "--device", other, "--view", "View1", "--view", "View5")
    run = send("--source", "folder", *devices, "--fps", 40, "--server-port", port)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)["cameras"]
    assert counts["OAK"]["bad"] == 1 and counts["OAK"]["grabbed"] == 5 and run.stderr.count("2.jpg") == 1
    assert all(adds_up(one) for one in counts.values())
    views = [wire.decode(parts).view for parts in drain(socket)]
    assert views.count("View5") == counts["OAK"]["sent"] and views.count("View1") == counts[CAMERAS[0]]["sent"] > 0


def test_a_folder_that_loops_is_ended_by_time_only(folder):
    arguments = ("--source", "folder", "--device", folder, "--view", "View1", "--fps", 200, "--seconds", 0.5)
    run = send(*arguments, "--loop", "--wait", 0.1, "--server-port", free_port())
    counts = json.loads(run.stdout)["cameras"][CAMERAS[0]]
    assert run.returncode == 0 and counts["grabbed"] > 30 and counts["opened"] == 1
    assert counts["sent"] == 0 and counts["dropped.no_receiver"] > 0 and adds_up(counts)  # nobody listened


def test_a_video_arrives_frame_by_frame_and_no_larger_than_asked(pull, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    socket, port = pull
    file = tmp_path / "film.avi"
    film = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 192))
    assert film.isOpened()
    for k in range(12):
        film.write(np.full((192, 320, 3), 20 * k, np.uint8))
    film.release()
    arguments = ("--source", "video", "--device", file, "--view", "View2", "--fps", 20, "--width", 160)
    run = send(*arguments, "--server-port", port)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)["cameras"][CAMERAS[1]]
    messages = [wire.decode(parts) for parts in drain(socket)]
    assert counts["grabbed"] == 12 and adds_up(counts) and len(messages) == counts["sent"] > 0
    assert {(m.width, m.height) for m in messages} == {(160, 96)}
    shades = [int(simplejpeg.decode_jpeg(bytes(m.jpeg), "GRAY").mean()) for m in messages]
    steps = [round(shade / 20) for shade in shades]
    assert steps == sorted(set(steps)), "a frame twice, or out of order"


def test_an_absent_uvc_camera_is_waited_for_and_said_once():
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    run = send("--source", "uvc", "--device", 63, "--view", "View2", "--seconds", 1.2, "--server-port", free_port())
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)["cameras"][CAMERAS[1]]
    assert counts["faults"]["absent"] >= 2 and counts["opened"] == 0
    assert run.stderr.count("/dev/video63 is not there") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--source", "zed"), "needs --device"),
        (("--source", "folder", "--device", "."), "--view View1"),
        (("--source", "folder", "--device", ".", "--view", "View1"), "no file there ends with .jpg"),
        (("--source", "video", "--device", "no.avi", "--view", "View1"), "no such file"),
        (("--source", "uvc", "--device", "COM3", "--view", "View1"), "give /dev/videoN"),
        (("--source", "zed", "--device", "9", "--eye", "right"), "named ZED_9_right it has no view"),
        (("--source", "zed", "--device", "front", "--view", "View1"), "serial number"),
        (("--source", "zed", "--device", "1", "--device", "2", "--view", "View1"), "one view for each device"),
        (("--source", "oak", "--device", "a", "--device", "b"), "two devices are OAK"),
        (("--source", "oak", "--loss", "0.5"), "--loss is for another source"),
        (("--device", "7"), "--device is for another source"),
    ],
)
def test_what_cannot_work_is_refused_by_name(arguments, says):
    with pytest.raises(ConfigError, match=says):
        camera.run(options(*arguments))


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("pyzed", ("--source", "zed", "--device", "41182735"), "ZED SDK"),
        ("depthai", ("--source", "oak"), "pip install depthai"),
        ("cv2", ("--source", "uvc", "--device", "0", "--view", "View1"), r"\.\[camera\]"),
        ("cv2", ("--source", "video", "--device", __file__, "--view", "View1"), r"\.\[camera\]"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(monkeypatch, module, arguments, says):
    monkeypatch.setitem(sys.modules, module, None)  # import then fails as if it were not there
    with pytest.raises(ConfigError, match=says):
        camera.run(options(*arguments))


class Scripted:
    """A camera that does what its script says: a picture, a fault at opening or grabbing, a picture that cannot be
    had; at the end of the script there are no more pictures. `gate` is waited for before each picture."""

    camera = "OAK"

    def __init__(self, *script: object, gate=lambda: None) -> None:
        self._script, self._gate = list(script), gate
        self.calls: list[str] = []
        self._current: object = None

    def open(self) -> None:
        self.calls.append("open")
        if self._script and self._script[0] == "cannot open":
            raise CameraFault("absent", self._script.pop(0))

    def grab(self, timeout_s):
        self._gate()
        self._current = self._script.pop(0) if self._script else EndOfPictures()
        if isinstance(self._current, Exception):
            raise self._current
        return software_stamp()

    def retrieve(self):
        if self._current == "bad":
            raise BadPicture("no pixels in it")
        return Picture(np.full((16, 16, 3), self._current, np.uint8), "BGR")

    def close(self) -> None:
        self.calls.append("close")


def lost() -> CameraFault:
    return CameraFault("lost", "unplugged")


def grabbing(source, said: list, fps: float = 1e6) -> Grabber:
    return Grabber(source, fps, 1.0, threading.Event(), said.append)


def test_only_the_newest_picture_is_kept_and_the_others_are_counted():
    grabber = grabbing(Scripted(*range(50)), [])
    grabber.start()
    assert grabber.join(30)
    taken = grabber.take()
    assert taken.picture.data[0, 0, 0] == 49 and grabber.take() is None
    assert (grabber.grabbed, grabber.overwritten, grabber.thinned) == (50, 49, 0)


def test_a_camera_that_fails_comes_back_and_is_reported_once_each_way(monkeypatch):
    monkeypatch.setattr(grabber_file, "FIRST_PAUSE_S", 0.01)
    said: list[str] = []
    failing = ["cannot open"] * 3
    source = Scripted(1, 2, lost(), *failing, 3, "bad", 4)
    grabber = grabbing(source, said)
    grabber.start()
    assert grabber.join(30) and grabber.is_over and grabber.crash is None
    assert source.calls == ["open", "close"] * 5  # each session is closed, the ones that could not be opened too
    assert dict(grabber.faults) == {"lost": 1, "absent": 3} and grabber.opened == 2
    assert (grabber.grabbed, grabber.bad, grabber.overwritten) == (5, 1, 3)
    assert [text.partition(": ")[2] or text for text in said] == [
        "unplugged; it is opened again",
        "cannot open; it is opened again",
        "OAK gives pictures again",
        "no pixels in it; more of its kind are only counted",
    ]


def test_what_was_sent_over_a_loss_of_the_camera_arrives_with_its_own_stamps(context, pull, monkeypatch):
    monkeypatch.setattr(grabber_file, "FIRST_PAUSE_S", 0.01)
    socket, port = pull
    sending = zmq.Context()
    push = PicturePush(sending, "127.0.0.1", port, ["OAK"])
    wait_for(push.is_heard, "the connection")
    source = Scripted(10, 60, lost(), "cannot open", 110, 160, lost(), 210, gate=lambda: time.sleep(0.02))
    cameras = sender.RealCameras(options("--source", "oak", "--fps", 1000), [source], push)
    with StopFlag() as stop:
        cameras.run(stop)
    messages = [wire.decode(parts) for parts in drain(socket)]
    push.close()
    sending.destroy(linger=0)
    counts = cameras.counts()["OAK"]
    assert counts["grabbed"] == 5 and adds_up(counts) and counts["faults"] == {"lost": 2, "absent": 1}
    assert len(messages) == counts["sent"] > 0 and not cameras.hanging
    shades = [round(float(simplejpeg.decode_jpeg(bytes(m.jpeg), "GRAY").mean()), -1) for m in messages]
    assert shades == sorted(set(shades)) and shades[-1] == 210
    assert [m.sampled_s for m in messages] == sorted({m.sampled_s for m in messages})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_in_a_source_ends_the_sender_and_is_not_taken_for_a_lost_camera(context):
    push = PicturePush(context, "127.0.0.1", free_port(), ["OAK"])
    cameras = sender.RealCameras(options("--source", "oak"), [Scripted(1, KeyError("serial"))], push)
    with StopFlag() as stop, pytest.raises(RtvlaError, match=r"OAK: KeyError\('serial'\)"):
        cameras.run(stop)
    push.close()


def test_a_driver_that_does_not_come_back_is_named_and_does_not_hold_up_the_end(context, monkeypatch, capsys):
    monkeypatch.setattr(sender, "HANGS_S", 0.05)
    monkeypatch.setattr(sender, "JOIN_S", 0.05)
    release = threading.Event()
    push = PicturePush(context, "127.0.0.1", free_port(), ["OAK"])
    cameras = sender.RealCameras(options("--source", "oak", "--seconds", 0.4), [Scripted(1, gate=release.wait)], push)
    with StopFlag() as stop:
        cameras.run(stop)
    assert cameras.hanging == {"OAK"} and capsys.readouterr().err.count("has not answered") == 1
    release.set()
    assert cameras.grabbers[0].join(30)
    push.close()


def test_a_fast_camera_is_thinned_to_the_rate_on_one_grid_for_all():
    for phase_ns in (0, 7 * MS, 31 * MS):
        limit, due = RateLimit(5, 1000 * SECOND + 30 * MS), []
        for k in range(300):  # 10 s at 30 Hz
            at_ns = 1000 * SECOND + 30 * MS + phase_ns + k * SECOND // 30
            if limit.is_due(at_ns):
                due.append(at_ns)
        assert len(due) in (50, 51)
        assert all(at_ns % (200 * MS) <= SECOND // 30 for at_ns in due[1:]), "not the first after its tick"


def test_a_camera_at_the_asked_rate_loses_nothing_to_jitter():
    rng = np.random.default_rng(3)
    for phase_ms in (0, 45, 49, 51, 100, 151):
        limit = RateLimit(5, 0)
        times_ns = [int((k * 200 + phase_ms + rng.uniform(-20, 20)) * MS) for k in range(1, 400)]
        n_due = sum(limit.is_due(at_ns) for at_ns in times_ns)
        assert n_due >= 398  # one may be early for its tick, before any is late


def test_a_camera_that_was_away_sends_no_burst():
    limit = RateLimit(5, 0)
    assert limit.is_due(10 * MS)
    back_ns = 3 * SECOND + 10 * MS
    due = [limit.is_due(back_ns + k * 20 * MS) for k in range(9)]  # until 3.17 s: one tick and the one before it
    assert due == [True, True] + [False] * 7
    assert limit.is_due(3200 * MS)


def test_an_age_that_cannot_be_true_gives_way_to_a_software_stamp():
    assert [stamp_of_age(age_s, "driver").kind for age_s in (0.02, -0.01)] == ["driver", "driver"]
    assert [stamp_of_age(age_s, "driver").kind for age_s in (11.0, -1.0, float("nan"))] == ["software"] * 3
    assert abs(time.time() - 2.0 - stamp_of_age(2.0, "driver").sampled_s) < 1.0


def test_pictures_become_jpegs_that_the_receiver_takes_or_are_bad():
    colours = np.zeros((40, 60, 4), np.uint8)
    colours[..., 2] = 250  # red in BGRA
    jpeg = encode(Picture(colours, "BGRA"), 640, 360, 90)
    red, green, blue = simplejpeg.decode_jpeg(jpeg, "RGB").reshape(-1, 3).mean(0)
    assert red > 200 and max(green, blue) < 40
    grey = encode(Picture(np.full((40, 60), 99, np.uint8), "GRAY"), 640, 360, 90)
    assert wire.decode(wire.encode("OAK", 1.0, grey)).width == 60
    assert encode(Picture(jpeg, "JPEG"), 16, 16, 1) is jpeg  # a ready one stays as it is
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    with pytest.raises(BadPicture, match="lower --width"):
        encode(Picture(noise, "BGR"), 4000, 4000, 100)
    assert fit(1280, 720, 640, 360) == (640, 360) and fit(640, 480, 640, 360) == (480, 360)
    assert fit(320, 200, 640, 360) == (320, 200)
