"""Opens the streams of the table in one namespace, for reading or for writing; lists and removes what is left over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rtvla.errors import ShmError
from rtvla.shm import health
from rtvla.shm.ring import RingReader, RingWriter
from rtvla.shm.segment import FOLDER, PREFIX, Layout, Segment, ensure, path_of, writer_holds
from rtvla.streams import STREAMS, Stream


def layout_of(stream: Stream) -> Layout:
    return Layout(stream.dtype, stream.depth, stream.burst, stream.wakes)


@dataclass(frozen=True)
class Hub:
    """A namespace. Whoever comes first creates a segment; nobody waits for anybody to open one."""

    namespace: str

    def writer(self, stream: str) -> RingWriter:
        return RingWriter(self._open(stream, layout_of(STREAMS[stream]), writable=True))

    def reader(self, stream: str) -> RingReader:
        return RingReader(self._open(stream, layout_of(STREAMS[stream]), writable=False))

    def existing_reader(self, stream: str) -> RingReader | None:
        """For tools that only look: None where the stream was never made."""
        path = path_of(self.namespace, stream)
        return RingReader(Segment(path, layout_of(STREAMS[stream]), writable=False)) if path.exists() else None

    def create(self, processes: Iterable[str]) -> None:
        """All streams of the table and the rows of `processes` at once: a lack of space shows before anything is
        started, and a process that dies before it could say a word is seen as absent."""
        layouts = {name: layout_of(stream) for name, stream in STREAMS.items()}
        layouts |= {health.stream_of(name): health.LAYOUT for name in processes}
        made = []
        try:
            for name, layout in layouts.items():
                path = path_of(self.namespace, name)
                if ensure(path, layout):
                    made.append(path)
        except ShmError:
            for path in made:  # all or none: what little space there is stays free
                path.unlink(missing_ok=True)
            raise

    def health_row(self, process: str) -> health.HealthRow:
        return health.HealthRow(self._open(health.stream_of(process), health.LAYOUT, writable=True))

    def health_segment(self, process: str) -> Segment | None:
        """For reading somebody's row; None if that process never ran here."""
        path = path_of(self.namespace, health.stream_of(process))
        return Segment(path, health.LAYOUT, writable=False) if path.exists() else None

    def exists(self) -> bool:
        return bool(self.segments())

    def segments(self) -> list[Path]:
        return sorted(FOLDER.glob(f"{PREFIX}{self.namespace}.*"))

    def claimed(self) -> list[Path]:
        """Segments that a live process is writing."""
        return [path for path in self.segments() if not path.name.endswith(".tmp") and writer_holds(path)]

    def purge(self) -> int:
        """Remove all segments of the namespace. Mapped pages live on in whoever still has them, unreachable."""
        found = self.segments()
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def _open(self, stream: str, layout: Layout, *, writable: bool) -> Segment:
        path = path_of(self.namespace, stream)
        ensure(path, layout)
        return Segment(path, layout, writable=writable)
