"""One eye of a ZED camera through Stereolabs' SDK (pyzed, SDK 4 or later). Never run on the hardware: see the README.

Calls      https://www.stereolabs.com/docs/api/python/classpyzed_1_1sl_1_1Camera.html: open, grab, retrieve_image,
           get_timestamp. No depth is computed
Stamps     TIME_REFERENCE.IMAGE: set by the host when the picture arrived, in epoch nanoseconds
           (https://www.stereolabs.com/docs/sensors/time-synchronization): driver
Timeout    grab() has none of its own; a call that does not come back is reported, only a restart helps then
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rtvla.clock import wall_s
from rtvla.errors import ConfigError
from rtvla.senders.cameras.picture import fit
from rtvla.senders.cameras.source import BadPicture, CameraFault, Picture, Stamp, stamp_of_age

EYES = ("left", "right")
# Codes of grab() below SUCCESS: there is a picture, and a remark about something else.
REMARKS = (
    "SENSOR_CONFIGURATION_CHANGED",
    "POTENTIAL_CALIBRATION_ISSUE",
    "CONFIGURATION_FALLBACK",
    "SENSORS_DATA_REQUIRED",
)
SLOW_FPS, FAST_FPS = 30, 60  # what HD720, HD1080 and HD1200 have in common with other modes


def library() -> Any:
    try:
        from pyzed import sl
    except ImportError as error:
        raise ConfigError(
            f"--source zed needs Stereolabs' ZED SDK with its Python module pyzed ({error}): install the SDK, then run "
            "the get_python_api.py in its folder with this Python"
        ) from None
    return sl


class ZedSource:
    """`serial`: the number on the camera."""

    def __init__(self, camera: str, serial: str, eye: str, width: int, height: int, fps: float) -> None:
        if not serial.isdigit():
            raise ConfigError(f"--source zed --device {serial}: give the camera's serial number")
        self.camera, self._serial, self._size = camera, int(serial), (width, height)
        self._camera_fps = SLOW_FPS if fps <= SLOW_FPS else FAST_FPS
        self._sl = library()
        self._view = self._sl.VIEW.LEFT if eye == "left" else self._sl.VIEW.RIGHT
        self._zed: Any = None
        self._mat: Any = None
        self._runtime: Any = None
        self._resolution: Any = None

    def open(self) -> None:
        sl = self._sl
        init = sl.InitParameters()
        init.camera_resolution = sl.RESOLUTION.AUTO
        init.camera_fps = self._camera_fps
        init.depth_mode = sl.DEPTH_MODE.NONE
        init.sdk_verbose = 0
        init.set_from_serial_number(self._serial)
        self._zed = sl.Camera()
        status = self._zed.open(init)
        if not self._zed.is_opened():
            raise CameraFault("not_opened", f"ZED {self._serial} cannot be opened: {status}")
        full = self._zed.get_camera_information().camera_configuration.resolution
        self._resolution = sl.Resolution(*fit(full.width, full.height, *self._size))
        self._runtime = sl.RuntimeParameters()
        self._runtime.enable_depth = False
        self._mat = sl.Mat()

    def grab(self, timeout_s: float) -> Stamp:
        status = self._zed.grab(self._runtime)
        if status != self._sl.ERROR_CODE.SUCCESS and status.name not in REMARKS:
            raise CameraFault("lost", f"ZED {self._serial}: {status}")
        taken_s = self._zed.get_timestamp(self._sl.TIME_REFERENCE.IMAGE).get_nanoseconds() / 1e9
        return stamp_of_age(wall_s() - taken_s, "driver")

    def retrieve(self) -> Picture:
        status = self._zed.retrieve_image(self._mat, self._view, self._sl.MEM.CPU, self._resolution)
        if status != self._sl.ERROR_CODE.SUCCESS:
            raise BadPicture(f"ZED {self._serial}: {status}")
        return Picture(np.array(self._mat.get_data()), "BGRA")  # a copy: the SDK writes the next one to the same place

    def close(self) -> None:
        if self._zed is not None:
            self._zed.close()
            self._zed = None
