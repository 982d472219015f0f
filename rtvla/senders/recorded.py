"""What once arrived, in the order of its arrival: the reading side of a replay, apart from any sending."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from rtvla.dump_file import Dump, Records
from rtvla.errors import DumpError
from rtvla.streams import FRAME_STREAMS, STREAMS

# What came over a wire; all else in a dump was made here.
STREAMS_OF = {"sensor": ("sensor",), "camera": FRAME_STREAMS, "robot": ("robot",)}
Arrival = tuple[int, str, np.void]  # received (ns), stream, record


class Recording:
    """All records of the `kinds` (keys of STREAMS_OF) in a black box; iterating gives them by time of arrival.

    Within a stream the order is that of arrival even where the stamps are not: those of ZMQ messages are estimates."""

    def __init__(self, file: Path, kinds: Collection[str]) -> None:
        with Dump(file) as box:
            wanted = [stream for kind in STREAMS_OF if kind in kinds for stream in STREAMS_OF[kind]]
            self._records = {stream: _records(box, stream) for stream in wanted if stream in box.streams}
        self.records = {stream: len(records) for stream, records in self._records.items()}

    def __iter__(self) -> Iterator[Arrival]:
        return heapq.merge(*(_in_order(*one) for one in self._records.items()), key=lambda arrival: arrival[0])


def _records(box: Dump, stream: str) -> Records:
    records = box.records(stream)
    if records.dtype != STREAMS[stream].dtype:
        raise DumpError(f"{box.file}: its records of {stream} are of another version: replay it with that version")
    return records


def _in_order(stream: str, records: Records) -> Iterator[Arrival]:
    times_ns = np.maximum.accumulate(records["received_ns"])
    for time_ns, record in zip(times_ns.tolist(), records, strict=True):
        yield time_ns, stream, record
