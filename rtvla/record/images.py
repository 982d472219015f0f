"""Camera frames as files, byte for byte as they came: `images/<view>/<camera>_<sampled_s:.3f>.jpg`.

The camera's name comes from another machine: only letters, digits, `-`, `_` and inner dots of it reach the disk, so it
can name no other folder. A file is never overwritten: other content under a taken name gets `_<index>`.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np

from rtvla.record.append_file import replace_file
from rtvla.schema import VIEWS

_TEMP = ".incoming.tmp"  # one a view: what a kill leaves is overwritten by the next frame
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|^\.+")


class ViewFolder:
    """The frames of one view. Saving the same frame twice leaves one file, so nothing is double after a restart.

    No OSError comes out: a frame that cannot be written is counted in `write_failed`, the reason is in `error`.
    """

    def __init__(self, images: Path, view: str) -> None:
        if view not in VIEWS:
            raise ValueError(f"view = {view!r}: must be one of {', '.join(VIEWS)}")
        self._folder = images / view
        self._folder.mkdir(parents=True, exist_ok=True)
        self.recorded = sum(entry.name.endswith(".jpg") for entry in os.scandir(self._folder))
        self.write_failed = 0
        self.error = ""

    def save(self, frame: np.void) -> bool:
        """True if a file was written; False if it was there already, or could not be written (counted)."""
        jpeg = frame["jpeg"][: int(frame["n_bytes"])].tobytes()
        stem = f"{safe_name(bytes(frame['camera']))}_{float(frame['sampled_s']):.3f}"
        try:
            path = self._free_path(stem, int(frame["index"]), jpeg)
            if path is None:
                return False
            replace_file(path, jpeg, self._folder / _TEMP)
        except OSError as error:
            self.write_failed += 1
            self.error = f"{self._folder.name}: {error.strerror}"
            return False
        self.recorded += 1
        self.error = ""
        return True

    def close(self) -> None:
        (self._folder / _TEMP).unlink(missing_ok=True)

    def _free_path(self, stem: str, index: int, jpeg: bytes) -> Path | None:
        """A name that is not taken, or None where this very frame is already there under one of its names."""
        indexed = f"{stem}_{index}"
        for name in itertools.chain((stem, indexed), (f"{indexed}_{again}" for again in itertools.count(2))):
            path = self._folder / f"{name}.jpg"
            try:
                if path.read_bytes() == jpeg:
                    return None
            except FileNotFoundError:
                return path
        raise AssertionError("itertools.count ended")


def safe_name(camera: bytes) -> str:
    """A camera's name as part of a file name: no separator, no leading dot, not empty."""
    return _UNSAFE.sub("_", camera.decode("ascii", "replace")) or "camera"
