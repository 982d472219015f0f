"""Run folders: `async_inference_YYYYMMDD_HHMMSS/`, the names of the files in one, and who may write there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from rtvla.errors import RtvlaError

_PREFIX, _TIMINGS = "async_inference_", "performance_timings_"


@dataclass(frozen=True)
class Paths:
    """Where each file of a run lies. `stamp` is YYYYMMDD_HHMMSS."""

    folder: Path
    stamp: str

    @property
    def timings(self) -> Path:
        return self.folder / f"{_TIMINGS}{self.stamp}.jsonl"

    @property
    def summary(self) -> Path:
        return self.folder / f"performance_summary_{self.stamp}.json"

    @property
    def results(self) -> Path:
        return self.folder / f"inference_results_{self.stamp}.json"

    @property
    def commands(self) -> Path:
        return self.folder / f"commands_{self.stamp}.jsonl"

    @property
    def robot(self) -> Path:
        return self.folder / f"robot_state_{self.stamp}.csv"

    @property
    def sensor_raw(self) -> Path:
        return self.folder / f"sensor_data_{self.stamp}.raw"

    @property
    def sensor_npz(self) -> Path:
        return self.folder / f"sensor_data_{self.stamp}.npz"

    @property
    def images(self) -> Path:
        return self.folder / "images"


def new_run_folder(out_dir: Path, wall_s: float) -> tuple[Path, str]:
    """Create the folder of a run that starts at `wall_s` (epoch s); in local time, as the old ones.

    A taken name gives the next second: no folder is ever used twice.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    second = int(wall_s)
    while True:
        stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(second))
        folder = out_dir / f"{_PREFIX}{stamp}"
        try:
            folder.mkdir()
        except FileExistsError:
            second += 1
            continue
        return folder, stamp


def stamp_of(folder: Path) -> str:
    """The stamp in the names of this run's files; the folder itself may have been renamed."""
    stamps = [path.stem.removeprefix(_TIMINGS) for path in folder.glob(f"{_TIMINGS}*.jsonl")]
    if len(stamps) != 1:
        raise RtvlaError(f"{folder}: {len(stamps)} files {_TIMINGS}*.jsonl; a run folder has one, name such a folder")
    return stamps[0]


def lock(folder: Path) -> int:
    """Hold the folder against a second writer until the descriptor is closed or the process ends, however it ends."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A file system without locks (some network ones) gives another OSError: then there is no guard, as before.
        with contextlib.suppress(OSError):
            _try_lock(fd, folder)
    except RtvlaError:
        os.close(fd)
        raise
    return fd


def _try_lock(fd: int, folder: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RtvlaError(f"{folder}: another process is recording into it; wait for its end or stop it") from error
