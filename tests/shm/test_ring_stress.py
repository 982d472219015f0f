"""A writer at full speed in its own process, killed again and again, and a reader that believes nothing unchecked."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from rtvla.errors import ShmError
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader
from rtvla.shm.segment import FOLDER, Layout, Segment, ensure

# every word of a record is its own index: any mixture of two writes shows
WORDS = 512
DTYPE = np.dtype([("index", "<u8"), ("words", "<u8", (WORDS,))])
LAYOUT = Layout(DTYPE, 16, 4)

WRITER = f"""
import sys
import numpy as np
from pathlib import Path
from rtvla.shm.ring import RingWriter
from rtvla.shm.segment import Layout, Segment
dtype = np.dtype([("index", "<u8"), ("words", "<u8", ({WORDS},))])
writer = RingWriter(Segment(Path(sys.argv[1]), Layout(dtype, 16, 4), writable=True))
print("up", flush=True)
while True:
    for count in (1, 4, 2):
        for ahead in range(count):
            writer.slot(ahead)
            writer.record(ahead)["words"] = writer.next_index + ahead
        writer.commit(count)
"""


def whole(window: np.ndarray) -> bool:
    consecutive = (np.diff(window["index"].astype(np.int64)) == 1).all()
    return bool(consecutive and (window["words"] == window["index"][:, None]).all())


def hammer(reader: RingReader, seconds: float) -> tuple[int, int]:
    """(windows checked, records followed) while the writer runs; fails at the first torn one."""
    windows = followed = 0
    cursor, end = reader.head, time.monotonic() + seconds
    while time.monotonic() < end:
        for count in (1, 5, 10):
            try:
                window = reader.latest(count)
            except ShmError as error:  # lapped too often: said, not accepted
                assert "overrun" in str(error)
                continue
            if window is not None:
                assert whole(window)
                windows += 1
        records, _lost, cursor = reader.since(cursor, 8)
        if len(records):
            assert whole(records)
            followed += len(records)
    return windows, followed


@pytest.mark.stress
def test_no_torn_record_is_ever_accepted_while_the_writer_is_killed_at_random(hub: Hub) -> None:
    path = FOLDER / f"rtvla.{hub.namespace}.stress"
    ensure(path, LAYOUT)
    reader = RingReader(Segment(path, LAYOUT, writable=False))
    checked = followed = 0
    for round_number in range(20):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"up\n"
        before = reader.head
        try:
            windows, records = hammer(reader, 0.05 + 0.003 * round_number)
        finally:
            writer.kill()
            writer.communicate()
        assert reader.head > before, "the successor goes on where the dead one published"
        last = reader.latest(10)
        assert last is not None and whole(last)
        checked, followed = checked + windows, followed + records
    assert checked > 1000 and followed > 1000
    assert reader.retries > 0, "the writer never lapped the reader: this test has shown nothing"
