"""The sources that need a vendor's library, each against a stand-in that has the documented calls and no others.

No camera was there: what is tested is which calls are made, in which order, and what becomes of their answers.

pyzed      https://www.stereolabs.com/docs/api/python/classpyzed_1_1sl_1_1Camera.html and its stubs (sl.pyi of SDK 5)
           stamps: https://www.stereolabs.com/docs/sensors/time-synchronization
depthai 3  https://docs.luxonis.com/software-v3/depthai/examples/camera/camera_output; signatures of depthai 3.12
depthai 2  https://docs.luxonis.com/software/depthai-components/nodes/xlink_out; signatures of depthai 2.33
OpenCV     https://docs.opencv.org/4.9.0/d4/d15/group__videoio__flags__base.html; the time that CAP_PROP_POS_MSEC is
           with Video4Linux: modules/videoio/src/cap_v4l.cpp; its clock: V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC
"""

import enum
import sys
import time
from datetime import timedelta
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from rtvla.clock import SECOND
from rtvla.senders.cameras import uvc
from rtvla.senders.cameras.oak import OakSource
from rtvla.senders.cameras.source import BadPicture, CameraFault
from rtvla.senders.cameras.zed import ZedSource


def install(monkeypatch, name: str, **attributes) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    return module


# --- ZED


class ErrorCode(enum.Enum):
    """The order of the stubs: remarks, then SUCCESS, then failures."""

    CONFIGURATION_FALLBACK = enum.auto()
    SENSORS_DATA_REQUIRED = enum.auto()
    CORRUPTED_FRAME = enum.auto()
    CAMERA_REBOOTING = enum.auto()
    SUCCESS = enum.auto()
    FAILURE = enum.auto()
    CAMERA_NOT_DETECTED = enum.auto()


class InitParameters:
    __slots__ = ("camera_fps", "camera_resolution", "depth_mode", "sdk_verbose", "serial")

    def set_from_serial_number(self, serial_number: int) -> None:
        self.serial = serial_number


class RuntimeParameters:
    __slots__ = ("enable_depth",)


class Mat:
    def get_data(self):
        return self.pixels


class Zed:
    """sl.Camera: `plan` holds the answers of open, grab and retrieve_image."""

    def __init__(self, bench) -> None:
        self._bench, self._is_opened = bench, False
        bench.zed = self

    def open(self, py_init):
        self.init = py_init
        status = self._bench.answers.pop(0)
        self._is_opened = status.value <= ErrorCode.SUCCESS.value
        return status

    def is_opened(self) -> bool:
        return self._is_opened

    def get_camera_information(self):
        size = SimpleNamespace(width=1280, height=720)
        return SimpleNamespace(camera_configuration=SimpleNamespace(resolution=size))

    def grab(self, py_runtime):
        assert not py_runtime.enable_depth
        return self._bench.answers.pop(0)

    def retrieve_image(self, py_mat, view, mem_type, resolution):
        self.view, self.size = view, resolution
        py_mat.pixels = self._bench.pixels
        return self._bench.answers.pop(0)

    def get_timestamp(self, time_reference):
        assert time_reference == "image"
        return SimpleNamespace(get_nanoseconds=lambda: self._bench.stamp_ns)

    def close(self) -> None:
        self._is_opened = False
        self._bench.closed += 1


@pytest.fixture
def zed(monkeypatch):
    """What the camera will answer, and what it was asked."""
    bench = SimpleNamespace(answers=[], stamp_ns=0, pixels=np.zeros((360, 640, 4), np.uint8), closed=0)
    sl = install(
        monkeypatch,
        "pyzed.sl",
        Camera=lambda: Zed(bench),
        InitParameters=InitParameters,
        RuntimeParameters=RuntimeParameters,
        Mat=Mat,
        Resolution=lambda width, height: (width, height),
        RESOLUTION=SimpleNamespace(AUTO="auto"),
        DEPTH_MODE=SimpleNamespace(NONE="none"),
        VIEW=SimpleNamespace(LEFT="left", RIGHT="right"),
        MEM=SimpleNamespace(CPU="cpu"),
        TIME_REFERENCE=SimpleNamespace(IMAGE="image"),
        ERROR_CODE=ErrorCode,
    )
    install(monkeypatch, "pyzed", sl=sl)
    return bench


def test_zed_opens_its_camera_without_depth_and_gives_the_eye_with_the_stamp_of_the_image(zed):
    source = ZedSource("ZED_41182735_left", "41182735", "left", 640, 400, fps=5)
    zed.answers = [ErrorCode.SUCCESS] * 3
    source.open()
    assert (zed.zed.init.serial, zed.zed.init.depth_mode, zed.zed.init.camera_fps) == (41182735, "none", 30)
    zed.stamp_ns = time.time_ns() - 40_000_000
    stamp = source.grab(1.0)
    assert stamp.kind == "driver" and abs(stamp.sampled_s - zed.stamp_ns / 1e9) < 1e-3
    picture = source.retrieve()
    assert (zed.zed.view, zed.zed.size, picture.colorspace) == ("left", (640, 360), "BGRA")
    zed.pixels[:] = 7  # the SDK writes its next picture to the same memory
    assert not picture.data.any()
    source.close()
    source.close()
    assert zed.closed == 1


def test_zed_that_is_not_there_or_goes_is_a_fault_and_a_remark_is_not(zed):
    source = ZedSource("ZED_41182735_left", "41182735", "right", 640, 360, fps=40)
    zed.answers = [ErrorCode.CAMERA_NOT_DETECTED]
    with pytest.raises(CameraFault, match="CAMERA_NOT_DETECTED"):
        source.open()
    source.close()
    zed.answers = [ErrorCode.CONFIGURATION_FALLBACK, ErrorCode.SENSORS_DATA_REQUIRED, ErrorCode.FAILURE]
    source.open()
    assert zed.zed.init.camera_fps == 60
    zed.stamp_ns = 1  # a clock that was never set
    assert source.grab(1.0).kind == "software"
    with pytest.raises(BadPicture):
        source.retrieve()
    for status in (ErrorCode.CORRUPTED_FRAME, ErrorCode.CAMERA_REBOOTING, ErrorCode.FAILURE):
        zed.answers = [status]
        with pytest.raises(CameraFault, match=status.name):
            source.grab(1.0)


# --- OAK


class Frame:
    def __init__(self, age_s: float) -> None:
        self._at = timedelta(seconds=time.monotonic() - age_s)

    def getTimestamp(self) -> timedelta:
        return self._at

    def getFrame(self):
        return np.full((360, 640, 3), 5, np.uint8)


class QueueException(Exception):
    """Of version 3, and no RuntimeError."""


class Queue:
    def __init__(self, answers) -> None:
        self._answers = answers

    def tryGet(self):
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


class Node:
    """Any node: writes down what is called on it."""

    def __init__(self, calls: list, kind: str) -> None:
        self._calls, self._kind = calls, kind
        self.input = SimpleNamespace(
            setBlocking=lambda on: calls.append(("setBlocking", on)),
            setQueueSize=lambda size: calls.append(("setQueueSize", size)),
        )
        self.preview = SimpleNamespace(link=lambda to: calls.append(("link", to is not None)))

    def __getattr__(self, name: str):
        def call(*args, **kwargs):
            self._calls.append((name, *args, *kwargs.items()))
            return self

        return call


CLOCK = SimpleNamespace(now=lambda: timedelta(seconds=time.monotonic()))
COMMON = {
    "Clock": CLOCK,
    "CameraBoardSocket": SimpleNamespace(CAM_A="a"),
    "DeviceInfo": lambda name: ("info", name),
    "ImgFrame": SimpleNamespace(Type=SimpleNamespace(BGR888i="bgr")),
}


def depthai_3(monkeypatch, answers: list, calls: list) -> None:
    class Device:
        def __init__(self, info=None) -> None:
            calls.append(("Device", info))

        def close(self) -> None:
            calls.append(("close",))

    class Output:
        def createOutputQueue(self, maxSize=16, blocking=False):
            calls.append(("createOutputQueue", maxSize, blocking))
            return Queue(answers)

    class Camera:
        def build(self, boardSocket):
            calls.append(("build", boardSocket))
            return self

        def requestOutput(self, size, type=None, resizeMode=None, fps=None):
            calls.append(("requestOutput", size, type, fps))
            return Output()

    class Pipeline:
        def __init__(self, defaultDevice) -> None:
            assert isinstance(defaultDevice, Device)

        def create(self, node):
            return node()

        def start(self) -> None:
            calls.append(("start",))

        def stop(self) -> None:
            calls.append(("stop",))
            raise RuntimeError("the device is gone")

    node = SimpleNamespace(Camera=Camera)
    queue = SimpleNamespace(QueueException=QueueException)
    install(monkeypatch, "depthai", Device=Device, Pipeline=Pipeline, node=node, MessageQueue=queue, **COMMON)


def depthai_2(monkeypatch, answers: list, calls: list) -> None:
    class Pipeline:
        def create(self, kind):
            return Node(calls, kind)

    class Device:
        def __init__(self, pipeline, devInfo=None) -> None:
            assert isinstance(pipeline, Pipeline)
            calls.append(("Device", devInfo))

        def getOutputQueue(self, name, maxSize, blocking=True):
            calls.append(("getOutputQueue", name, maxSize, blocking))
            return Queue(answers)

        def close(self) -> None:
            calls.append(("close",))

    node = SimpleNamespace(ColorCamera="colour", XLinkOut="out")
    order = SimpleNamespace(ColorOrder=SimpleNamespace(BGR="bgr"))
    install(monkeypatch, "depthai", Device=Device, Pipeline=Pipeline, node=node, ColorCameraProperties=order, **COMMON)


EXPECTED_3 = [
    ("Device", ("info", "1944301011169A4800")),
    ("build", "a"),
    ("requestOutput", (640, 360), "bgr", 30.0),
    ("createOutputQueue", 1, False),
    ("start",),
]
EXPECTED_2 = [
    ("setBoardSocket", "a"),
    ("setPreviewSize", 640, 360),
    ("setInterleaved", True),
    ("setColorOrder", "bgr"),
    ("setFps", 30.0),
    ("setStreamName", "pictures"),
    ("setBlocking", False),
    ("setQueueSize", 1),
    ("link", True),
    ("Device", ("info", "1944301011169A4800")),
    ("getOutputQueue", "pictures", 1, False),
]


@pytest.mark.parametrize(
    ("version", "expected", "gone"),
    [(depthai_3, EXPECTED_3, QueueException("closed")), (depthai_2, EXPECTED_2, RuntimeError("X_LINK_ERROR"))],
    ids=["depthai 3", "depthai 2"],
)
def test_oak_keeps_one_picture_and_gives_it_with_the_stamp_of_the_camera(monkeypatch, version, expected, gone):
    calls: list = []
    answers = [None, None, Frame(0.03), gone]
    version(monkeypatch, answers, calls)
    source = OakSource("OAK", "1944301011169A4800", 640, 360, fps=5)
    source.open()
    assert calls == expected
    stamp = source.grab(5.0)
    assert stamp.kind == "hardware" and 0.03 <= time.time() - stamp.sampled_s < 10
    picture = source.retrieve()
    assert picture.data.shape == (360, 640, 3) and picture.colorspace == "BGR"
    with pytest.raises(CameraFault) as lost:
        source.grab(5.0)
    assert lost.value.cause == "lost"
    with pytest.raises(CameraFault) as silent:
        source.grab(0.01)
    assert silent.value.cause == "timeout"
    source.close()
    assert calls[-1] == ("close",)


def test_oak_that_cannot_be_opened_is_a_fault(monkeypatch):
    def refuse(*_):
        raise RuntimeError("No available devices")

    depthai_3(monkeypatch, [], [])
    monkeypatch.setattr(sys.modules["depthai"], "Device", refuse)
    source = OakSource("OAK", "", 640, 360, fps=5)
    with pytest.raises(CameraFault, match="No available devices"):
        source.open()
    source.close()


def test_the_real_library_of_version_3_answers_as_the_stand_in_does():
    """Its own queue, frame and clock, without a device."""
    dai = pytest.importorskip("depthai", reason="depthai is not installed")
    if not hasattr(dai, "MessageQueue"):
        pytest.skip("depthai 2 has no queue that can be made without a device")
    source = OakSource("OAK", "", 4, 2, fps=5)
    frame = dai.ImgFrame()
    frame.setType(dai.ImgFrame.Type.BGR888i)
    frame.setWidth(4)
    frame.setHeight(2)
    frame.setData(np.arange(24, dtype=np.uint8))
    frame.setTimestamp(dai.Clock.now() - timedelta(seconds=0.03))
    source._queue = dai.MessageQueue(maxSize=1, blocking=False)
    source._queue.send(frame)
    stamp = source.grab(1.0)
    assert stamp.kind == "hardware" and 0.03 <= time.time() - stamp.sampled_s < 10
    np.testing.assert_array_equal(source.retrieve().data.ravel(), np.arange(24))
    with pytest.raises(CameraFault, match="no picture within"):
        source.grab(0.01)
    source._queue.close()
    with pytest.raises(CameraFault) as lost:
        source.grab(1.0)
    assert lost.value.cause == "lost"


# --- UVC


class Capture:
    def __init__(self, bench, index: int, backend: str) -> None:
        self._bench = bench
        bench.calls.append((index, backend))

    def isOpened(self) -> bool:
        return self._bench.opens

    def set(self, what: str, value: float) -> bool:
        self._bench.calls.append((what, value))
        return False  # a driver that obeys nothing

    def grab(self) -> bool:
        return self._bench.grabs

    def get(self, what: str) -> float:
        assert what == "pos_msec"
        return self._bench.pos_ms()

    def retrieve(self):
        return self._bench.decodes, np.zeros((480, 640, 3), np.uint8)

    def release(self) -> None:
        self._bench.calls.append("release")


@pytest.fixture
def camera(monkeypatch):
    bench = SimpleNamespace(calls=[], opens=True, grabs=True, decodes=True, exists=True, pos_ms=lambda: 0.0)
    names = {"FRAME_WIDTH": "width", "FRAME_HEIGHT": "height", "BUFFERSIZE": "buffer", "POS_MSEC": "pos_msec"}
    install(
        monkeypatch,
        "cv2",
        CAP_V4L2="v4l2",
        VideoCapture=lambda index, backend: Capture(bench, index, backend),
        **{f"CAP_PROP_{name}": short for name, short in names.items()},
    )
    monkeypatch.setattr(uvc.os.path, "realpath", lambda path: "/dev/video4" if "by-id" in path else path)
    monkeypatch.setattr(uvc.os.path, "exists", lambda path: bench.exists)
    return bench


def test_uvc_is_opened_by_number_with_one_buffer_and_takes_the_stamp_of_the_driver(camera, monkeypatch):
    source = uvc.UvcSource("OAK", "/dev/v4l/by-id/usb-cam", 640, 360, 2.0)
    source.open()
    assert camera.calls == [(4, "v4l2"), ("width", 640), ("height", 360), ("buffer", 1)]
    camera.pos_ms = lambda: (time.monotonic() - 0.05) * 1e3
    stamp = source.grab(2.0)
    assert stamp.kind == "driver" and 0.05 <= time.time() - stamp.sampled_s + 1e-4 < 10
    camera.pos_ms = lambda: time.time() * 1e3  # a driver with the wall clock
    assert source.grab(2.0).kind == "software"
    camera.pos_ms = lambda: 0.0  # a backend that does not say
    monkeypatch.setattr(uvc, "now_ns", lambda: 4 * SECOND)  # just booted, so that 0 would be a time of now
    assert source.grab(2.0).kind == "software"
    assert source.retrieve().data.shape == (480, 640, 3)
    camera.decodes = False
    with pytest.raises(BadPicture):
        source.retrieve()
    source.close()
    assert camera.calls[-1] == "release"


def test_uvc_unplugged_in_use_or_silent_is_a_fault_with_its_cause(camera):
    source = uvc.UvcSource("OAK", "4", 640, 360, 2.0)
    causes = []
    camera.exists = False
    for what in ("open", "open", "grab"):
        with pytest.raises(CameraFault) as fault:
            source.open() if what == "open" else source.grab(2.0)
        causes.append(fault.value.cause)
        camera.exists, camera.opens = True, len(causes) > 1
        if len(causes) == 2:
            source.open()
            camera.grabs = False
    assert causes == ["absent", "not_opened", "lost"]
