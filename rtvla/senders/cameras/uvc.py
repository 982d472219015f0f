"""A UVC camera (USB webcam, capture card) through OpenCV and Video4Linux.

Stamps     the driver's: for uvcvideo the start of the exposure on the host's monotonic clock, which OpenCV passes on as
           CAP_PROP_POS_MSEC. Where that is not a time of now (other drivers, other backends), software, after the grab
Queues     one driver buffer, as far as the driver obeys; the grabbing thread empties it at the camera's own rate
Timeout    OpenCV waits in whole seconds (OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT), the same for all cameras of the process
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

from rtvla.clock import SECOND, now_ns
from rtvla.errors import ConfigError
from rtvla.senders.cameras.files import opencv
from rtvla.senders.cameras.source import BadPicture, CameraFault, Picture, Stamp, software_stamp, stamp_of_age


class UvcSource:
    """`device`: /dev/videoN, a link to it (/dev/v4l/by-id/...), or N."""

    def __init__(self, camera: str, device: str, width: int, height: int, timeout_s: float) -> None:
        self.camera, self._size = camera, (width, height)
        self._device = f"/dev/video{device}" if device.isdigit() else device
        if not self._device.startswith("/dev/"):
            raise ConfigError(f"--source uvc --device {device}: give /dev/videoN, a link to it, or N")
        # OpenCV keeps what it reads at its first wait, so this comes before
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(timeout_s)))
        self._cv2 = opencv("uvc")
        self._capture: Any = None

    def open(self) -> None:
        cv2 = self._cv2
        node = re.fullmatch(r"/dev/video(\d+)", os.path.realpath(self._device))
        if node is None or not os.path.exists(node[0]):  # asked for first: OpenCV prints a warning for each attempt
            raise CameraFault("absent", f"{self._device} is not there")
        self._capture = cv2.VideoCapture(int(node[1]), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise CameraFault("not_opened", f"{self._device} cannot be opened as a camera: is it in use?")
        for what, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, self._size[0]),
            (cv2.CAP_PROP_FRAME_HEIGHT, self._size[1]),
            (cv2.CAP_PROP_BUFFERSIZE, 1),
        ):
            self._capture.set(what, value)  # a wish: what comes larger is scaled down later

    def grab(self, timeout_s: float) -> Stamp:
        start_ns = now_ns()
        if not self._capture.grab():
            waited_s = (now_ns() - start_ns) / SECOND
            cause = "timeout" if waited_s >= min(timeout_s, 1.0) else "lost"
            raise CameraFault(cause, f"{self._device}: no picture within {waited_s:.1f} s")
        taken_s = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1e3
        return stamp_of_age(now_ns() / SECOND - taken_s, "driver") if taken_s > 0 else software_stamp()

    def retrieve(self) -> Picture:
        taken, pixels = self._capture.retrieve()
        if not taken:
            raise BadPicture(f"{self._device}: a picture cannot be decoded")
        return Picture(pixels, "BGR")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None
