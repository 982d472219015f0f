"""What every camera is to the sender: opened, grabbed from, closed; and whose clock its time stamps are from.

A grab only moves to the next picture and stamps it; `retrieve` fetches its pixels. So pictures that the rate thins out
are never decoded or copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtvla.clock import wall_s
from rtvla.errors import RtvlaError

Pixels = npt.NDArray[np.uint8]
OLDEST_STAMP_S = 10.0  # an older stamp is of another clock, or of none
EARLIEST_STAMP_S = -0.05  # clocks that the SDK converts between agree no better


class CameraFault(RtvlaError):
    """The camera is not there, or gives nothing. `cause` is counted; the remedy is to open it again."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class BadPicture(RtvlaError):
    """This one picture cannot be had; the next may be good."""


class EndOfPictures(RtvlaError):
    """A folder or a video is over. A camera never is."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a picture was taken.

    `sampled_s`: epoch seconds of this machine's wall clock. `kind`: "hardware" (the camera's own clock, converted by
    its SDK), "driver" (set when the data arrived in the kernel or SDK) or "software" (read here after the grab).
    """

    sampled_s: float
    kind: str


@dataclass(frozen=True, slots=True)
class Picture:
    """(height, width[, channels]) uint8 in the order that `colorspace` names (BGR, BGRA, GRAY), or a whole JPEG."""

    data: Pixels | bytes
    colorspace: str = ""


class Source(Protocol):
    """One camera. Made in the main thread, where a missing SDK is a ConfigError; then used by one thread only."""

    camera: str  # its name on the wire

    def open(self) -> None:
        """Raises CameraFault. May be called again after `close`."""

    def grab(self, timeout_s: float) -> Stamp:
        """Wait for the next picture. Raises CameraFault, EndOfPictures."""

    def retrieve(self) -> Picture:
        """The picture of the last grab, in memory of its own. Raises CameraFault, BadPicture."""

    def close(self) -> None:
        """Also right when it is not open. Never raises."""


def software_stamp() -> Stamp:
    return Stamp(wall_s(), "software")


def stamp_of_age(age_s: float, kind: str) -> Stamp:
    """For a clock that said how old the picture is; what cannot be true gives way to a software stamp."""
    if not EARLIEST_STAMP_S <= age_s <= OLDEST_STAMP_S:
        return software_stamp()
    return Stamp(wall_s() - max(age_s, 0.0), kind)
