"""The black box file: all that a namespace held, in a file that needs neither shared memory nor rtvla to be read.

A zip of one .npy a stream (records without padding; `numpy.load` opens it, nothing is pickled) and `manifest.json`; the
zip keeps a CRC of each. Times are monotonic nanoseconds of the boot it was made in; the manifest says when that was by
the wall clock, and when each stream was read. `shm/blackbox.py` fills it; tools and senders, also of other machines,
read it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from rtvla.errors import DumpError

FORMAT, VERSION = "rtvla-blackbox", 1
MANIFEST = "manifest.json"
Records = np.ndarray[Any, np.dtype[np.void]]
NO_TYPE = (KeyError, IndexError, TypeError, ValueError, OverflowError, SyntaxError)  # how a broken record type shows

_STREAM_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)
_OF_THE_BOX = {"namespace": str, "host": str, "boot_id": str, "monotonic_ns": int, "wall_s": float, "streams": dict}
_OF_A_STREAM = {
    "records": int,
    "count": int,
    "capacity": int,
    "burst": int,
    "read_ns": int,
    "schema_hash": str,
    "type": dict,
    "writer": str,
    "claim": dict,
}
_NAMELESS_REFUSED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


def dtype_of(descr: Any) -> np.dtype[np.void]:
    """A record type from its JSON, where tuples have become lists. One of NO_TYPE if it is none."""
    dtype = np.dtype(np.lib.format.descr_to_dtype(_tuples(descr)))
    if dtype.hasobject or dtype.names is None:
        raise ValueError(f"{dtype} is no record of plain numbers")
    return dtype


def _tuples(descr: Any) -> Any:
    if not isinstance(descr, list):
        return descr
    return [(field[0], _tuples(field[1]), *(tuple(shape) for shape in field[2:])) for field in descr]


def write(file: Path, manifest: Mapping[str, Any], records: Mapping[str, Records]) -> None:
    """Only a whole black box ever has the name `file`, which must not be taken yet. Killed midway, nothing stays."""
    with _new_file(file) as out:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as box:
            for stream, stored in records.items():
                with box.open(f"{stream}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, stored, allow_pickle=False)
            box.writestr(MANIFEST, json.dumps({"format": FORMAT, "version": VERSION, **manifest}, indent=1))
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _new_file(file: Path) -> Iterator[BinaryIO]:
    """Open without a name, which is given at the end: what has no name is gone with its process."""
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = os.open(file.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno not in _NAMELESS_REFUSED:
                raise
            with _privately_named(file) as out:
                yield out
            return
        with os.fdopen(fd, "wb") as out:
            yield out
            # with a folder given it is linkat, which follows the link in /proc to the file itself
            os.link(f"/proc/self/fd/{out.fileno()}", file.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


@contextmanager
def _privately_named(file: Path) -> Iterator[BinaryIO]:
    """For file systems that know no nameless files (NFS, FAT): a kill leaves the private name behind."""
    private = private_name(file)
    try:
        with open(private, "xb") as out:
            yield out
        os.rename(private, file)
    finally:
        private.unlink(missing_ok=True)


def private_name(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.tmp")


class Dump:
    """An opened black box. Everything in it is checked before it is believed; DumpError says what is wrong with it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._box = zipfile.ZipFile(file)
        except (ValueError, *_BROKEN_ZIP) as error:
            raise self._refused(getattr(error, "strerror", None) or str(error)) from None
        try:
            self.manifest: dict[str, Any] = json.loads(self._box.read(MANIFEST))
            if (self.manifest["format"], self.manifest["version"]) != (FORMAT, VERSION):
                raise self._refused(f"is format {self.manifest['format']} {self.manifest['version']}")
            _require(self.manifest, _OF_THE_BOX)
            self.streams: dict[str, dict[str, Any]] = self.manifest["streams"]
            for stream, about in self.streams.items():
                if not stream or not _STREAM_CHARACTERS.issuperset(stream):
                    raise self._refused(f"names a stream {stream!r}, which cannot be a file of ours")
                _require(about, _OF_A_STREAM)
                if about["capacity"] < 1:
                    raise self._refused(f"gives {stream} a capacity of {about['capacity']}")
        except (KeyError, TypeError, ValueError, RecursionError, *_BROKEN_ZIP) as error:
            self._box.close()
            raise self._refused(f"has no manifest that can be read ({error!r})") from None
        except DumpError:
            self._box.close()
            raise

    def __enter__(self) -> Dump:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._box.close()

    def read_ns(self, stream: str) -> int:
        """When this stream was read, by the clock of the times in it: what its ages count from."""
        return int(self.streams[stream]["read_ns"])

    def dtype(self, stream: str) -> np.dtype[np.void]:
        about = self.streams[stream]
        try:
            dtype = dtype_of(about["type"]["descr"])
            text = json.dumps(about["type"]).encode()
        except NO_TYPE as error:
            raise self._refused(f"does not describe the records of {stream} ({error!r})") from None
        # the same hash of the same text as in the header of the segment that it came from
        if hashlib.blake2b(text, digest_size=8).digest()[::-1].hex() != about["schema_hash"]:
            raise self._refused(f"has another record type for {stream} than its hash says")
        return dtype

    def time_field(self, stream: str) -> str | None:
        """The field that says when a record of this stream came into being (ns); None where nobody knows."""
        field, dtype = self.streams[stream].get("time_field"), self.dtype(stream)
        return field if field in (dtype.names or ()) and dtype[field] == np.dtype("<i8") else None

    def records(self, stream: str) -> Records:
        """What was stored of a stream, oldest first: (n,) records. KeyError if the stream is not in it."""
        about, dtype = self.streams[stream], self.dtype(stream)
        try:
            data = io.BytesIO(self._box.read(f"{stream}.npy"))
            stored: Records = np.lib.format.read_array(data, allow_pickle=False)
        except (KeyError, ValueError, MemoryError, *_BROKEN_ZIP) as error:
            raise self._refused(f"has no whole records of {stream} ({error})") from None
        if stored.dtype != dtype or stored.shape != (about["records"],) or len(stored) > about["capacity"]:
            raise self._refused(f"holds other records for {stream} than its manifest says")
        return stored

    def _refused(self, detail: str) -> DumpError:
        return DumpError(f"{self.file}: {detail}: no black box of this version (rtvla shm dump makes one)")


def _require(found: Mapping[str, Any], wanted: Mapping[str, type]) -> None:
    for name, kind in wanted.items():
        if not isinstance(found[name], kind) or isinstance(found[name], bool):
            raise TypeError(f"{name} = {found[name]!r}")
