"""The colour camera of an OAK through Luxonis' depthai, version 3 or 2. Never run on the hardware: see the README.

Calls      3: https://docs.luxonis.com/software-v3/depthai/examples/camera/camera_output (Camera.requestOutput,
           createOutputQueue); 2: https://docs.luxonis.com/software/depthai-components/nodes/xlink_out (ColorCamera
           preview, XLinkOut). Every name and signature was read from depthai 3.12 and 2.33 themselves
Queues     one picture on the host and, with version 2, one on the device; both give the older up for the newer
Stamps     ImgFrame.getTimestamp(): the camera's own clock, converted by the SDK to the host's dai.Clock: hardware
Timeout    exact: the queue is asked each POLL_S, which costs no accuracy, as the stamp is the camera's
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np

from rtvla.clock import SECOND, now_ns
from rtvla.errors import ConfigError
from rtvla.senders.cameras.source import BadPicture, CameraFault, Picture, Stamp, stamp_of_age

POLL_S = 0.002
SLOWEST_FPS = 30.0  # a faster camera has a fresher picture when one is due
STREAM = "pictures"


def library() -> Any:
    try:
        import depthai
    except ImportError as error:
        raise ConfigError(f"--source oak needs Luxonis' library ({error}): pip install depthai") from None
    return depthai


class OakSource:
    """`device`: its id, IP address or USB port name; "" for the first that is found."""

    def __init__(self, camera: str, device: str, width: int, height: int, fps: float) -> None:
        self.camera, self._name, self._size = camera, device, (width, height)
        self._fps = max(fps, SLOWEST_FPS)
        self._dai = library()
        queue = getattr(self._dai, "MessageQueue", None)  # version 3 has an exception of its own for a closed queue
        self._errors = (RuntimeError, queue.QueueException) if queue else (RuntimeError,)
        self._device: Any = None
        self._pipeline: Any = None
        self._queue: Any = None
        self._frame: Any = None

    def open(self) -> None:
        try:
            if hasattr(self._dai.Pipeline, "start"):
                self._open_3()
            else:
                self._open_2()
        except self._errors as error:
            raise CameraFault("not_opened", f"OAK {self._name or '(first found)'}: {error}") from None

    def _open_3(self) -> None:
        dai = self._dai
        self._device = dai.Device(dai.DeviceInfo(self._name)) if self._name else dai.Device()
        self._pipeline = dai.Pipeline(self._device)
        camera = self._pipeline.create(dai.node.Camera).build(dai.CameraBoardSocket.CAM_A)
        output = camera.requestOutput(self._size, type=dai.ImgFrame.Type.BGR888i, fps=self._fps)
        self._queue = output.createOutputQueue(maxSize=1, blocking=False)
        self._pipeline.start()

    def _open_2(self) -> None:
        dai = self._dai
        pipeline = dai.Pipeline()
        camera = pipeline.create(dai.node.ColorCamera)
        camera.setBoardSocket(dai.CameraBoardSocket.CAM_A)
        camera.setPreviewSize(*self._size)
        camera.setInterleaved(True)
        camera.setColorOrder(dai.ColorCameraProperties.ColorOrder.BGR)
        camera.setFps(self._fps)
        out = pipeline.create(dai.node.XLinkOut)
        out.setStreamName(STREAM)
        out.input.setBlocking(False)
        out.input.setQueueSize(1)
        camera.preview.link(out.input)
        self._device = dai.Device(pipeline, dai.DeviceInfo(self._name)) if self._name else dai.Device(pipeline)
        self._queue = self._device.getOutputQueue(STREAM, maxSize=1, blocking=False)

    def grab(self, timeout_s: float) -> Stamp:
        give_up_ns = now_ns() + int(timeout_s * SECOND)
        try:
            while (frame := self._queue.tryGet()) is None:
                if now_ns() > give_up_ns:
                    raise CameraFault(
                        "timeout", f"OAK {self._name or '(first found)'}: no picture within {timeout_s:g} s"
                    )
                time.sleep(POLL_S)
        except self._errors as error:  # the connection is gone
            raise CameraFault("lost", f"OAK {self._name or '(first found)'}: {error}") from None
        self._frame = frame
        return stamp_of_age((self._dai.Clock.now() - frame.getTimestamp()).total_seconds(), "hardware")

    def retrieve(self) -> Picture:
        try:
            return Picture(np.array(self._frame.getFrame()), "BGR")
        except RuntimeError as error:
            raise BadPicture(f"OAK {self._name or '(first found)'}: {error}") from None

    def close(self) -> None:
        self._queue = self._frame = None
        with suppress(*self._errors):  # it is given up because it no longer answers
            if self._pipeline is not None:
                self._pipeline.stop()
        with suppress(*self._errors):
            if self._device is not None:
                self._device.close()
        self._pipeline = self._device = None
