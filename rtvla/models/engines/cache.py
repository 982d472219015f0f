"""Where built engines are kept: beside the checkpoint, in CHECKPOINT/engine, so that a restart does not build again.

A folder is named after everything that its files depend on, appears whole or not at all, and is used only if every file
is as it was written. Machine code is never taken from a checkpoint, which may come from anywhere: it is kept in the
user's own cache ($XDG_CACHE_HOME/rtvla/engine), in a folder for each checkpoint. Where nothing can be kept, the engine
is built at each start, which is said in the log. Removing these folders is always safe.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FORMAT = 1  # raise it when a rewrite makes something else of the same model
_MANIFEST = "manifest.json"
_ABANDONED_S = 3600.0  # an unfinished folder as old as this has lost its builder
_log = logging.getLogger(__name__)


class Place(NamedTuple):
    folder: Path
    mode: int  # if it has to be made


class Kept(NamedTuple):
    folder: Path
    build_s: float  # 0.0: it was there
    place: str  # "": it goes away after use


def fingerprint(facts: Mapping[str, str]) -> str:
    """Of these facts together with the CPU and this format: 16 hex digits."""
    everything = {**facts, "format": str(FORMAT), "machine": platform.machine(), "cpu": _cpu_flags()}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def _cpu_flags() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):  # x86, ARM
            return " ".join(sorted(line.partition(":")[2].split()))
    return platform.processor()


def places(checkpoint: Path, holds_code: bool) -> list[Place]:
    """Where engines of a checkpoint may be kept, the best place first. None is another checkpoint's: see _sweep."""
    owner = hashlib.sha256(os.fsencode(checkpoint.resolve())).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "rtvla" / "engine"
    private = [Place(cache / owner, 0o700)] if cache.is_absolute() else []  # a service may have no home
    return private if holds_code else [Place(checkpoint / "engine", 0o777), *private]


@contextmanager
def keep(where: Sequence[Place], name: str, holds_code: bool, build: Callable[[Path], None]) -> Iterator[Kept]:
    """A folder called `name` with what `build` has written, found or made in the first place of `where` that works."""
    usable = [place for place in where if not holds_code or _is_private(place.folder)]
    found = next((place.folder / name for place in usable if _is_whole(place.folder / name)), None)
    if found is not None:
        yield Kept(found, 0.0, str(found))
        return
    folder = next((place.folder for place in usable if _can_write(place)), None)
    with tempfile.TemporaryDirectory(prefix=".building.", dir=folder) as workplace:
        work, started = Path(workplace) / name, time.monotonic()
        work.mkdir()
        build(work)
        build_s = time.monotonic() - started
        if folder is None:
            yield Kept(work, build_s, "")
            return
        _seal(work)
        _publish(work, folder / name)
    _sweep(folder, name)
    yield Kept(folder / name, build_s, str(folder / name))


def _is_private(folder: Path) -> bool:
    """Nobody else could have put code there."""
    there = [one.stat() for one in _chain(folder) if one.exists()]
    return all(facts.st_uid == os.geteuid() and not facts.st_mode & 0o022 for facts in there)


def _chain(folder: Path) -> tuple[Path, Path, Path]:
    """What of a place may have to be made: rtvla/engine/CHECKPOINT."""
    return folder.parent.parent, folder.parent, folder


def _can_write(place: Place) -> bool:
    try:
        for folder in _chain(place.folder):
            folder.mkdir(mode=place.mode, parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("engines cannot be kept in %s: %s", place.folder, error.strerror)
        return False
    if not os.access(place.folder, os.W_OK):
        _log.warning("engines cannot be kept in %s: it is read-only", place.folder)
        return False
    return True


def _seal(folder: Path) -> None:
    """Write down the checksum of each file: one that is spoiled later, or half there after a power cut, is found."""
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps(sums, indent=1))


def _is_whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / _MANIFEST).read_text())
        there = {path.name for path in folder.iterdir()} - {_MANIFEST}
        whole = (
            isinstance(sums, dict)
            and set(sums) == there
            and all(_sha256(folder / name) == wanted for name, wanted in sums.items())
        )
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError) as error:
        _log.warning("engine %s cannot be read (%s): it is built again", folder, error)
        return False
    if not whole:
        _log.warning("engine %s is not what was written: it is built again", folder)
    return whole


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(work: Path, target: Path) -> None:
    """By one rename. Another process may have been faster: its files are as good; a spoiled folder is moved away."""
    if not _is_whole(target):
        try:
            if target.exists():
                target.rename(work.with_name("spoiled"))
            work.rename(target)
        except OSError:
            if not _is_whole(target):
                raise


def _sweep(place: Path, name: str) -> None:
    """Remove what an older version made of the checkpoint that `place` belongs to, and what a killed builder left."""
    kind, _, _ = name.rpartition("-")
    for path in place.iterdir():
        abandoned = path.name.startswith(".building.") and time.time() - path.stat().st_mtime > _ABANDONED_S
        outdated = path.name.rpartition("-")[0] == kind and path.name != name
        if abandoned or outdated:
            shutil.rmtree(path, ignore_errors=True)
