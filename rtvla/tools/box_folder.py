"""A folder of automatic black boxes, bounded: so many files, so many bytes, so much left free on the disk.

Kept are the FIRST ones and the NEWEST: the first show what went wrong, when most that follows is its consequence; the
newest shows the state that somebody finds who comes now. So when the bound is reached, a new one replaces the newest.
A name is NUMBER_DATE_TIME_CAUSE.zip; a number that is missing was replaced.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rtvla import dump_file
from rtvla.config_sections import BlackBox
from rtvla.errors import RtvlaError

_NAME = re.compile(r"(\d{4,})_.+\.zip")
_CAUSE_CHARACTERS = 80


class BoundReached(RtvlaError):
    """No black box was written, on purpose: the message says which bound forbids it."""


def add(folder: Path, bounds: BlackBox, manifest: Mapping[str, Any], records: Mapping[str, dump_file.Records]) -> Path:
    """Write one more and keep the bounds. Waits while another process writes into the folder.

    For a moment there is one file more than the bounds say: the old one goes once the new one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for left in folder.glob(".*.zip.*.tmp"):  # by a writer that was killed: whoever lives holds the lock
            left.unlink()
        _require_space(folder, bounds, sum(stored.nbytes for stored in records.values()))
        file = folder / _name(_last_number(folder) + 1, manifest["because"], manifest["wall_s"])
        dump_file.write(file, manifest, records)
        _bound(folder, bounds)
        if not file.exists():
            raise BoundReached(
                f"max_mb {bounds.max_mb:g} and keep {bounds.keep} leave no room for one more beside the first"
            )
        return file


def boxes(folder: Path) -> list[Path]:
    """The black boxes in a folder, oldest first."""
    return sorted((path for path in folder.glob("*.zip") if _NAME.fullmatch(path.name)), key=_number)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # the kernel frees it when its holder dies
        yield
    finally:
        os.close(fd)


def _require_space(folder: Path, bounds: BlackBox, most_bytes: int) -> None:
    """Even if nothing can be compressed, so much must be left that the disk is not full because of us."""
    disk = os.statvfs(folder)
    left_mb = (disk.f_bavail * disk.f_frsize - most_bytes) / 1e6
    if left_mb < bounds.min_free_mb:
        raise BoundReached(
            f"{folder} would have {max(left_mb, 0.0):.0f} MB left after one of up to {most_bytes / 1e6:.0f} MB; "
            f"min_free_mb is {bounds.min_free_mb:g}"
        )


def _bound(folder: Path, bounds: BlackBox) -> None:
    there = boxes(folder)
    sizes = {path: path.stat().st_size for path in there}
    while there and (len(there) > bounds.keep or sum(sizes[path] for path in there) > bounds.max_mb * 1e6):
        there.pop(-2 if len(there) > 2 else -1).unlink()


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def _last_number(folder: Path) -> int:
    return max(map(_number, boxes(folder)), default=0)


def _name(number: int, because: str, wall_s: float) -> str:
    cause = re.sub(r"[^\w.+-]+", "_", because, flags=re.ASCII).strip("_")[:_CAUSE_CHARACTERS] or "no_cause_given"
    return f"{number:04d}_{time.strftime('%Y%m%d_%H%M%S', time.localtime(wall_s))}_{cause}.zip"
