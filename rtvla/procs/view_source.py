"""One camera view as the encoder sees it: is there a frame worth encoding, and the newest one, decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

from rtvla.clock import now_ns
from rtvla.procs.lifecycle import Me

_SHRINK = 8  # of the pictures that are compared: blocks of 8x8 pixels, which average the camera's noise away
_LOOK_EVERY = 20  # skipped frames of a view: one is encoded all the same, to see what skipping costs

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    rgb: Rgb  # (H, W, 3)
    received_ns: int
    captured_ns: int
    uncertainty_ns: int
    index: int
    begun_ns: int
    small: npt.NDArray[np.int16] | None  # in grey, where frames are compared


class ViewSource:
    """Each view is taken from at most once in `interval_ns`."""

    def __init__(self, me: Me, name: str, interval_ns: int, skip_below: float) -> None:
        self._me, self.name, self._reader = me, name, me.reader(f"frame.{name}")
        self._interval_ns, self._skip_below = interval_ns, skip_below
        self._head = 0  # frames seen when it was last taken from
        self.begun_ns = -interval_ns
        self._small: npt.NDArray[np.int16] | None = None
        self._skipped = 0

    @property
    def has_new(self) -> bool:
        return self._reader.head > self._head

    def is_due(self, now: int) -> bool:
        return self.has_new and now - self.begun_ns >= self._interval_ns - self._interval_ns // 20

    def wait(self, seconds: float) -> None:
        """Until there is a frame that was not taken yet, but no longer."""
        self._reader.wait(self._head, seconds)

    def size(self) -> tuple[int, int] | None:
        """(rows, columns) of the newest frame, if there is one."""
        record = self._reader.newest()
        return None if record is None else (int(record["height"]), int(record["width"]))

    def take(self) -> Frame | None:
        """The newest frame, or None if it is no picture after all, which is counted."""
        record = self._reader.newest()
        if record is None:
            raise RuntimeError("a frame was announced and is not there")  # head > 0 was seen: cannot happen
        self._head, self.begun_ns = int(record["index"]) + 1, now_ns()
        jpeg = record["jpeg"][: int(record["n_bytes"])].tobytes()
        try:
            rgb = simplejpeg.decode_jpeg(jpeg, "RGB")
        except ValueError as error:  # camera_ingest has decoded it at an eighth of the size; the colours are new
            self._me.count("dropped.bad_jpeg")
            self._me.events.warn("bad_jpeg", error)
            return None
        small = None
        if self._skip_below:
            small = simplejpeg.decode_jpeg(jpeg, "GRAY", min_factor=_SHRINK, min_height=1, min_width=1).astype(np.int16)
        received, captured, uncertainty, index = (
            int(record[name]) for name in ("received_ns", "captured_ns", "clock_uncertainty_ns", "index")
        )
        return Frame(rgb, received, captured, uncertainty, index, self.begun_ns, small)

    def is_unchanged(self, frame: Frame) -> bool:
        """Against the one that was encoded last, so that slow changes add up. By the block that has changed most: a
        needle is small, so a mean over the picture would not see it."""
        last, small = self._small, frame.small
        if last is None or small is None or last.shape != small.shape:
            return False
        return bool(np.abs(small - last).max() < self._skip_below)

    def encoded(self, frame: Frame) -> None:
        self._small = frame.small

    def must_look(self) -> bool:
        """Count a frame that is about to be skipped; whether its turn has come to be encoded nevertheless."""
        self._skipped += 1
        return self._skipped % _LOOK_EVERY == 0
