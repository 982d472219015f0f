"""Cameras that are files: a folder of JPEGs, sent as they are, and a video through OpenCV.

Rate       one picture at each tick of --fps; a video's own rate is not kept. Stamps are those of the tick: software
End        after the last picture, or never with --loop
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rtvla.clock import SECOND, Pacer
from rtvla.errors import ConfigError, WireError
from rtvla.senders.cameras.source import BadPicture, CameraFault, EndOfPictures, Picture, Stamp, software_stamp
from rtvla.wire import jpeg

SUFFIXES = (".jpg", ".jpeg")


class FolderSource:
    """The JPEGs of a folder in the order of their names. A file that is no whole JPEG is a BadPicture."""

    def __init__(self, camera: str, folder: str, fps: float, loop: bool) -> None:
        self.camera, self._folder, self._loop = camera, Path(folder), loop
        self._pacer = Pacer(int(SECOND / fps))
        self._files: list[Path] = []
        self._next = 0
        if not _jpegs(self._folder):
            raise ConfigError(f"--source folder --device {folder}: no file there ends with {' or '.join(SUFFIXES)}")

    def open(self) -> None:
        self._files = _jpegs(self._folder)
        if not self._files:
            raise CameraFault("absent", f"{self._folder} holds no JPEGs any more")

    def grab(self, timeout_s: float) -> Stamp:
        if self._next >= len(self._files):
            if not self._loop:
                raise EndOfPictures
            self._next = 0
        self._pacer.wait()
        self._next += 1
        return software_stamp()

    def retrieve(self) -> Picture:
        file = self._files[self._next - 1]
        try:
            data = file.read_bytes()
            jpeg.check(data)
        except (OSError, WireError) as error:
            raise BadPicture(f"{file}: {error}") from None
        return Picture(data, "JPEG")

    def close(self) -> None:
        self._files = []


def _jpegs(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)


class VideoSource:
    """The frames of a video file, each once, at --fps."""

    def __init__(self, camera: str, file: str, fps: float, loop: bool) -> None:
        self.camera, self._file, self._loop = camera, file, loop
        self._cv2 = opencv("video")
        self._pacer = Pacer(int(SECOND / fps))
        self._capture: Any = None
        self._has_frames = False
        if not Path(file).is_file():
            raise ConfigError(f"--source video --device {file}: no such file")

    def open(self) -> None:
        self._capture = self._cv2.VideoCapture(self._file, self._cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise CameraFault("unreadable", f"{self._file}: OpenCV cannot read it as a video")
        self._has_frames = False

    def grab(self, timeout_s: float) -> Stamp:
        if not self._capture.grab():
            if not (self._loop and self._has_frames):
                raise EndOfPictures
            self.close()
            self.open()
            return self.grab(timeout_s)
        self._has_frames = True
        self._pacer.wait()
        return software_stamp()

    def retrieve(self) -> Picture:
        taken, pixels = self._capture.retrieve()
        if not taken:
            raise BadPicture(f"{self._file}: a frame cannot be decoded")
        return Picture(pixels, "BGR")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def opencv(source: str) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"--source {source} needs OpenCV ({error}): in the clone, pip install -e '.[camera]'"
        ) from None
    return cv2
