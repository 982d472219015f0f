"""The black box: everything a namespace holds, in one file, and back into shared memory under another name.

A zip of one .npy a stream (records without padding; `numpy.load` opens it, nothing is pickled) and `manifest.json`.
All is read before anything is written, so that the streams end at the same moment. Times stay as they were: monotonic
nanoseconds of the boot of the dump; what is loaded says so in its header, and the tools count ages from the dump.
"""

from __future__ import annotations

import io
import json
import os
import platform
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rtvla import __version__
from rtvla.clock import now_ns, realtime_minus_monotonic_ns
from rtvla.errors import ShmError
from rtvla.shm.atomics import Counter
from rtvla.shm.inspect import HEALTH, NO_TYPE, Mapped, dtype_of, files, mapped
from rtvla.shm.ring import Records
from rtvla.shm.segment import (
    FOLDER,
    HEADER_BYTES,
    LAYOUT_VERSION,
    OFFSETS,
    PREFIX,
    TEXT_AT,
    Layout,
    Segment,
    ensure,
    path_of,
)

FORMAT, VERSION = "rtvla-blackbox", 1
MANIFEST = "manifest.json"
_STREAM_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def dump(namespace: str, file: Path) -> dict[str, Any]:
    """Write the namespace to `file`, which must not exist, and return the manifest. Live writers are not disturbed."""
    if file.exists():
        raise ShmError(f"{file} exists: a black box is never overwritten, name another file")
    good, rest = mapped(files(namespace))
    skipped = {one.path.name: one.fault for one in rest}
    if not good:
        raise ShmError(f"namespace {namespace} has no segment that can be read: {skipped or 'rtvla shm ls'}")
    streams: dict[str, Any] = {}
    records: dict[str, Records] = {}
    for one in sorted(good, key=lambda one: one.layout.size):  # the largest last: small ones cover the shortest time
        try:
            records[one.found.stream] = stored = _whole(one)
            streams[one.found.stream] = _described(one, stored)
        except ShmError as error:
            skipped[one.found.path.name] = str(error)
        one.close()
    manifest = _origin(namespace) | {"streams": streams, "skipped": skipped}
    _write(file, manifest, records)
    return manifest


def _whole(one: Mapped) -> Records:
    """All stored records without a gap: where the writer lapped us, what lay before is gone from the ring too."""
    parts: list[Records] = []
    expected = -1
    for position, piece in one.pieces():
        if position != expected:
            parts.clear()
        parts.append(piece)
        expected = position + len(piece)
    return np.concatenate(parts) if parts else np.empty(0, one.layout.dtype)


def _described(one: Mapped, stored: Records) -> dict[str, Any]:
    layout, header = one.layout, one.layout.header()
    return {
        "records": len(stored),
        "count": one.count,
        "read_ns": now_ns(),
        "schema_hash": f"{header['schema_hash']:016x}",
        "capacity": layout.capacity,
        "burst": layout.burst,
        "stride": layout.stride,
        "time_field": one.time_field,
        "type": json.loads(layout.text()),
        "writer": one.writer(),
        "claim": one.claim(),
    }


def _origin(namespace: str) -> dict[str, Any]:
    monotonic_ns = now_ns()
    return {
        "format": FORMAT,
        "version": VERSION,
        "rtvla": __version__,
        "layout_version": LAYOUT_VERSION,
        "namespace": namespace,
        "host": platform.node(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "monotonic_ns": monotonic_ns,
        "wall_s": (monotonic_ns + realtime_minus_monotonic_ns()) / 1e9,
    }


def _write(file: Path, manifest: dict[str, Any], records: dict[str, Records]) -> None:
    """Complete under a private name, then renamed: a file with the name of a black box is one."""
    private = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(private, "xb") as out:
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as box:
                for stream, stored in records.items():
                    with box.open(f"{stream}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, stored, allow_pickle=False)
                box.writestr(MANIFEST, json.dumps(manifest, indent=1))
            out.flush()
            os.fsync(out.fileno())
        os.rename(private, file)
    finally:
        private.unlink(missing_ok=True)


class Dump:
    """An opened black box. Everything in it is checked before it is believed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._box = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise self._refused(str(error)) from None
        try:
            self.manifest: dict[str, Any] = json.loads(self._box.read(MANIFEST))
            if (self.manifest["format"], self.manifest["version"]) != (FORMAT, VERSION):
                raise self._refused(f"is format {self.manifest['format']} {self.manifest['version']}")
            self.streams: dict[str, dict[str, Any]] = dict(self.manifest["streams"])
        except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            self._box.close()
            raise self._refused(f"has no manifest that can be read ({error!r})") from None

    def __enter__(self) -> Dump:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._box.close()

    def layout(self, stream: str) -> Layout:
        about = self.streams[stream]
        try:
            layout = Layout(dtype_of(about["type"]["descr"]), int(about["capacity"]), int(about["burst"]))
        except NO_TYPE as error:
            raise self._refused(f"does not describe the records of {stream} ({error!r})") from None
        if f"{layout.header()['schema_hash']:016x}" != about.get("schema_hash"):
            raise self._refused(f"has another record type for {stream} than its hash says")
        return layout

    def records(self, stream: str) -> Records:
        layout = self.layout(stream)
        try:
            stored: Records = np.lib.format.read_array(io.BytesIO(self._box.read(f"{stream}.npy")), allow_pickle=False)
        except (KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise self._refused(f"has no whole records of {stream} ({error})") from None
        if stored.dtype != layout.dtype or stored.ndim != 1 or len(stored) > layout.capacity:
            raise self._refused(f"holds other records for {stream} than its manifest says")
        return stored

    def _refused(self, detail: str) -> ShmError:
        return ShmError(f"{self.file} {detail}: it is no black box of this version (rtvla shm dump makes one)")


def load(file: Path, namespace: str) -> list[Path]:
    """Make the segments of a new namespace from a black box. Its writers are dead, whoever has their numbers now."""
    if any(FOLDER.glob(f"{PREFIX}{namespace}.*")):
        raise ShmError(f"namespace {namespace} exists: load into a new one, or rtvla shm rm --namespace {namespace}")
    made: list[Path] = []
    with Dump(file) as box:
        source = {key: box.manifest.get(key) for key in ("namespace", "boot_id", "monotonic_ns", "wall_s")}
        try:
            for stream in box.streams:
                if not stream or not _STREAM_CHARACTERS.issuperset(stream):
                    raise ShmError(f"{file} names a stream {stream!r}, which cannot be a file of ours")
                path, layout = path_of(namespace, stream), box.layout(stream)
                stored = box.records(stream)
                ensure(path, layout)
                made.append(path)
                _fill(path, layout, stored, box.streams[stream], source)
        except Exception:
            for path in made:
                path.unlink(missing_ok=True)
            raise
    return made


def _fill(path: Path, layout: Layout, stored: Records, about: dict[str, Any], source: dict[str, Any]) -> None:
    segment = Segment(path, layout, writable=True)
    segment.claim()  # nobody else writes meanwhile
    text = json.dumps(json.loads(layout.text()) | {"loaded": source | {"records": len(stored)}}).encode()
    if TEXT_AT + len(text) >= HEADER_BYTES:
        raise ShmError(f"{path.name}: no room in its header to say where it came from")
    segment.view[TEXT_AT : TEXT_AT + len(text)] = text
    is_health = path.name.removeprefix(PREFIX).partition(".")[2].startswith(HEALTH)
    places = np.zeros(len(stored), np.int64) if is_health else stored["index"].astype(np.int64) % layout.capacity
    segment.array()[places, : layout.dtype.itemsize] = stored.view(np.uint8).reshape(len(stored), layout.dtype.itemsize)
    claim = about["claim"]
    segment["writer_start_ticks"] = 0  # the number is kept to be read; without ticks nobody takes it for a live process
    segment["writer_pid"], segment["epoch"] = int(claim["writer_pid"]), int(claim["epoch"])
    segment["epoch_first_index"] = int(claim["epoch_first_index"])
    if len(stored) and not is_health:
        Counter(segment.words, OFFSETS["head"]).store(int(stored["index"][-1]) + 1)  # release: the records are in place
    segment.close()
