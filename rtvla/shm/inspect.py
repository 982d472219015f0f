"""Any segment of any namespace, seen from outside: found by name, mapped read-only, decoded by its own description.

Reads what the streams' own readers would be given, no more. Creates nothing; the only lock is the shared probe of
`writer_holds`. A segment of another schema is decoded by the record type in its header, so also an old one can be read.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtvla.clock import MS, SECOND, now_ns
from rtvla.dump_file import NO_TYPE, dtype_of
from rtvla.errors import ShmError
from rtvla.shm import health
from rtvla.shm.hub import layout_of
from rtvla.shm.ring import Records, RingReader, packed
from rtvla.shm.segment import (
    FOLDER,
    HEADER_BYTES,
    LAYOUT_VERSION,
    MAGIC,
    OFFSETS,
    PREFIX,
    TEXT_AT,
    Layout,
    Segment,
    process_start_ticks,
    writer_holds,
)
from rtvla.streams import STREAMS

HEALTH = health.stream_of("")  # what the streams of health rows begin with
_SLOWEST_TRIES = 8


@dataclass(frozen=True)
class Found:
    """A file under our prefix. With a layout it can be mapped; without one, `fault` says what it is instead."""

    path: Path
    kind: str  # "segment"; "leftover": half-made; "misfit": not of this version; "foreign": no segment, or not ours
    size_bytes: int = 0
    inode: int = 0
    layout: Layout | None = None
    fault: str = ""
    loaded: dict[str, Any] | None = None  # where it came from, if `rtvla shm load` made it

    @property
    def namespace(self) -> str:
        return self.path.name.removeprefix(PREFIX).partition(".")[0]

    @property
    def stream(self) -> str:
        return self.path.name.removeprefix(PREFIX).partition(".")[2]

    @property
    def now_ns(self) -> int:
        """The clock its times are compared with: that of the dump, for what was loaded from one."""
        return int(self.loaded["monotonic_ns"]) if self.loaded else now_ns()


def files(namespace: str | None = None) -> list[Found]:
    """All files of a namespace, or of every namespace on the machine."""
    paths = sorted(FOLDER.glob(f"{PREFIX}{namespace}.*" if namespace else f"{PREFIX}*"))
    return [found for path in paths if (found := examine(path))]


def examine(path: Path) -> Found | None:
    """What a file is. None if it has gone meanwhile. Opens nothing that could block or be a trap."""
    try:
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode):
            return Found(path, "foreign", fault="is not a regular file")
        if path.suffix == ".tmp":
            return Found(path, "leftover", info.st_size, info.st_ino, fault=half_made(path))
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Found(path, "foreign", info.st_size, info.st_ino, fault=f"of user {info.st_uid}: {error.strerror}")
    with os.fdopen(fd, "rb") as file:
        header = file.read(HEADER_BYTES)
    try:
        layout = layout_in(header, info.st_size)
    except ShmError as error:
        return Found(path, "misfit", info.st_size, info.st_ino, fault=str(error))
    return Found(path, "segment", info.st_size, info.st_ino, layout, loaded=_text(header).get("loaded"))


def layout_in(header: bytes, size_bytes: int) -> Layout:
    """The layout that a segment's header describes. ShmError if it describes none, or not this file."""
    if len(header) < HEADER_BYTES:
        raise ShmError(f"has {size_bytes} bytes, less than a header")
    words = np.frombuffer(header, "<u8")
    value = {name: int(words[at >> 3]) for name, at in OFFSETS.items()}
    if value["magic"] != MAGIC:
        raise ShmError(f"has magic {value['magic']:#x}, a segment has {MAGIC:#x}")
    if value["layout_version"] != LAYOUT_VERSION:
        raise ShmError(f"has layout version {value['layout_version']}, this rtvla reads {LAYOUT_VERSION}")
    try:
        layout = Layout(dtype_of(_text(header)["descr"]), value["capacity"], value["burst"])
    except NO_TYPE as error:
        raise ShmError(f"does not say what its records are ({error!r})") from None
    for name, wanted in layout.header().items():
        if value[name] != wanted:
            raise ShmError(f"has {name} {value[name]:#x}, its record type asks for {wanted:#x}")
    if size_bytes != layout.size:
        raise ShmError(f"has {size_bytes} bytes, its header says {layout.size}")
    return layout


def _text(header: bytes) -> dict[str, Any]:
    """The JSON in a header, or nothing where there is none."""
    try:
        text = json.loads(header[TEXT_AT:].partition(b"\0")[0])
    except (ValueError, RecursionError):
        return {}
    return text if isinstance(text, dict) else {}


def half_made(path: Path) -> str:
    """rtvla.NAMESPACE.STREAM.PID.tmp: who was making it."""
    pid = path.name.split(".")[-2]
    if pid.isdecimal() and process_start_ticks(int(pid)):
        return f"is being made by process {pid}"
    return f"was being made by process {pid}, which is gone"


def time_field(stream: str, dtype: np.dtype[np.void]) -> str | None:
    """The field that says when a record of this stream came into being here; None where nobody knows."""
    known = STREAMS.get(stream)
    field = known.time_field if known else "heartbeat_ns" if stream.startswith(HEALTH) else ""
    return field if field in (dtype.names or ()) else None


def other_version(found: Found) -> str:
    """Why a well-formed segment is not one of this version's table, or nothing."""
    if found.layout is None:
        return found.fault
    known = STREAMS.get(found.stream)
    wanted = layout_of(known) if known else health.LAYOUT if found.stream.startswith(HEALTH) else None
    if wanted is None:
        return ""  # a stream of somebody else's: its own description is all that it has to fit
    differing = [name for name, value in wanted.header().items() if found.layout.header()[name] != value]
    return f"has another {', '.join(differing)} than this version" if differing else ""


class Mapped:
    """A segment mapped read-only. `health` rows are one record that is always there; all else is a ring."""

    def __init__(self, found: Found) -> None:
        if found.layout is None:
            raise ShmError(f"{found.path.name} {found.fault}")
        self.found, self.layout = found, found.layout
        self._segment = Segment(found.path, self.layout, writable=False)
        self.reader = RingReader(self._segment)
        self.is_health = found.stream.startswith(HEALTH)
        self.time_field = time_field(found.stream, self.layout.dtype)

    @property
    def count(self) -> int:
        """Records published so far; of a health row, its rounds."""
        return int(self._row()["beats"][0]) if self.is_health else self.reader.head

    @property
    def holds(self) -> int:
        """As many of the newest records as a reader can be given whole."""
        stored = self.found.loaded["records"] if self.found.loaded else self.layout.capacity - self.layout.burst
        return 1 if self.is_health else min(self.reader.head, stored)

    def claim(self) -> dict[str, int]:
        names = ("writer_pid", "writer_start_ticks", "epoch", "epoch_first_index")
        return {name: self._segment[name] for name in names}

    def writer(self) -> str:
        """alive: holds the lock; closed: its process runs, without the lock; dead; none: never had one."""
        claim = self.claim()
        if is_held(self.found.path):
            return "alive"
        if not claim["epoch"]:
            return "none"
        return "closed" if lives(claim["writer_pid"], claim["writer_start_ticks"]) else "dead"

    def last(self, count: int) -> Records:
        """The newest `count` records without padding, oldest first; fewer where there are fewer."""
        if self.is_health:
            return self._row()
        window = self.reader.latest(max(1, min(count, self.holds))) if count > 0 else None
        # copied once more: of a single record `packed` gives a view of the reader's buffer
        return np.empty(0, self.layout.dtype) if window is None else packed(window, self.layout.dtype)

    def newest_ns(self) -> int | None:
        try:
            newest = self.last(1)
        except ShmError:  # lapped again and again: it has a newest record, only none that we can be given
            return None
        return int(newest[self.time_field][0]) or None if self.time_field and len(newest) else None  # 0: never

    def pieces(self) -> Iterator[tuple[int, Records]]:
        """(position, records) of all that is stored, oldest first. Copies are small, so that a fast writer does not lap
        them; where it does, the next piece begins later than the last one ended."""
        if self.is_health:
            yield 0, self._row()
            return
        end, at_most, tries = self.reader.head, max(1, self.layout.capacity // 8), 0
        cursor = end - self.holds
        while cursor < end:
            records, _lost, cursor = self.reader.since(cursor, at_most)
            tries = 0 if len(records) else tries + 1
            if tries == _SLOWEST_TRIES:
                raise ShmError(f"{self.found.path.name}: its writer laps every copy; this process gets no CPU time")
            if len(records):
                yield cursor - len(records), packed(records, self.layout.dtype)

    def close(self) -> None:
        self.reader.close()

    def _row(self) -> Records:
        return self._segment.array()[:1, : self.layout.dtype.itemsize].copy().view(self.layout.dtype)[:, 0]


def is_held(path: Path) -> bool:
    try:
        return writer_holds(path)
    except FileNotFoundError:
        return False


def lives(pid: int, start_ticks: int) -> bool:
    """Whether that very process runs. One that was killed and not yet waited for (a zombie) does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return start_ticks > 0 and int(fields[19]) == start_ticks and fields[0] not in (b"Z", b"X")


def mapped(found: Iterable[Found]) -> tuple[list[Mapped], list[Found]]:
    """(those that could be mapped, the rest with the reason)."""
    good, rest = [], []
    for one in found:
        try:
            good.append(Mapped(one))
        except ShmError as error:  # also one that went or changed after it was found
            rest.append(one if one.fault else Found(one.path, "misfit", one.size_bytes, fault=str(error)))
    return good, rest


def listing(namespace: str | None = None, seconds: float = 0.5) -> list[dict[str, Any]]:
    """A row for each file, with rates from two looks."""
    good, rest = mapped(files(namespace))
    before = [(one.count, now_ns()) for one in good]
    time.sleep(seconds if good else 0)
    rows = [_file_row(one) | {"fault": one.fault} for one in rest]
    for one, (count, at_ns) in zip(good, before, strict=True):
        now, span_ns, newest_ns, claim = one.count, now_ns() - at_ns, one.newest_ns(), one.claim()
        rows.append(
            _file_row(one.found)
            | {
                "fault": other_version(one.found),
                "writer": one.writer(),
                "pid": claim["writer_pid"],
                "epoch": claim["epoch"],
                "records": now,
                "fill": None if one.is_health else min(now, one.layout.capacity) / one.layout.capacity,
                "age_ms": None if newest_ns is None else (one.found.now_ns - newest_ns) / MS,
                "hz": (now - count) * SECOND / span_ns,
            }
        )
        one.close()
    return sorted(rows, key=lambda row: str(row["name"]))


def _file_row(found: Found) -> dict[str, Any]:
    row = {"name": found.path.name, "namespace": found.namespace, "stream": found.stream, "kind": found.kind}
    return row | {"bytes": found.size_bytes, "loaded": found.loaded}
