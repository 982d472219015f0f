"""The black box: everything a namespace holds into one file, and back into shared memory under another name.

The file itself is dump_file.py. All is read before anything is written, so that the streams end at the same moment.
Times stay as they were: monotonic nanoseconds of the boot of the dump; what is loaded says so in its header, and the
tools count ages from the dump.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from rtvla import __version__, dump_file
from rtvla.clock import now_ns, realtime_minus_monotonic_ns
from rtvla.dump_file import Dump
from rtvla.errors import DumpError, ShmError
from rtvla.shm.atomics import Counter
from rtvla.shm.inspect import HEALTH, Mapped, files, mapped
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


def dump(namespace: str, file: Path, because: str = "") -> dict[str, Any]:
    """Write the namespace to `file`, which must not exist, and return the manifest. Live writers are not disturbed."""
    if file.exists():
        raise ShmError(f"{file} exists: a black box is never overwritten, name another file")
    manifest, records = take(namespace, because)
    dump_file.write(file, manifest, records)
    return manifest


def take(namespace: str, because: str = "") -> tuple[dict[str, Any], dict[str, Records]]:
    """(manifest, records of each stream) as they are now. Copies only, so it takes milliseconds: the writers go on."""
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
    return _origin(namespace) | {"because": because, "streams": streams, "skipped": skipped}, records


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
        "rtvla": __version__,
        "layout_version": LAYOUT_VERSION,
        "namespace": namespace,
        "host": platform.node(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "monotonic_ns": monotonic_ns,
        "wall_s": (monotonic_ns + realtime_minus_monotonic_ns()) / 1e9,
    }


def load(file: Path, namespace: str) -> list[Path]:
    """Make the segments of a new namespace from a black box. Its writers are dead, whoever has their numbers now."""
    if any(FOLDER.glob(f"{PREFIX}{namespace}.*")):
        raise ShmError(f"namespace {namespace} exists: load into a new one, or rtvla shm rm --namespace {namespace}")
    made: list[Path] = []
    with Dump(file) as box:
        source = {key: box.manifest[key] for key in ("namespace", "boot_id", "monotonic_ns", "wall_s")}
        try:
            for stream, about in box.streams.items():
                path, stored = path_of(namespace, stream), box.records(stream)
                layout = _layout(box, stream)
                ensure(path, layout)
                made.append(path)
                _fill(path, layout, stored, about, source)
        except Exception:
            for path in made:
                path.unlink(missing_ok=True)
            raise
    return made


def _layout(box: Dump, stream: str) -> Layout:
    about = box.streams[stream]
    try:
        return Layout(box.dtype(stream), about["capacity"], about["burst"])
    except ValueError as error:
        raise DumpError(f"{box.file}: {stream} cannot have been a segment: {error}") from None


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
