"""Two who make, claim or remove the same segment at once, and what a killed one leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from rtvla.errors import ShmError
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingWriter
from rtvla.shm.segment import Layout, Segment, ensure, path_of, writer_holds

LAYOUT = Layout(np.dtype([("index", "<u8"), ("value", "<i8")]), 8)


def test_what_a_dead_namesake_left_half_made_is_in_nobodys_way(hub: Hub) -> None:
    """Regression: the private name was made of the pid alone. In a container the next process has the same one, so a
    kill at the wrong moment kept the stream from ever being made again."""
    path = path_of(hub.namespace, "made")
    path.with_name(f"{path.name}.{os.getpid()}.tmp").touch()
    ensure(path, LAYOUT)
    assert path.exists()


def test_threads_of_one_process_may_make_the_same_segment(hub: Hub) -> None:
    """Regression: the second thread met the private file of the first, and raised."""
    errors: list[BaseException] = []

    def make(path: Path, barrier: threading.Barrier) -> None:
        barrier.wait()
        try:
            ensure(path, LAYOUT)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the finding
            errors.append(error)

    for number in range(20):
        path, barrier = path_of(hub.namespace, f"raced{number}"), threading.Barrier(4)
        threads = [threading.Thread(target=make, args=(path, barrier)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(hub.segments()) == 20, "a private file was left"


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_writer_does_not_claim_a_segment_that_was_removed_meanwhile(hub: Hub, made_anew: bool) -> None:
    """Regression: it did, and published for hours what nobody could see, beside the writer of the new segment."""
    path = path_of(hub.namespace, "removed")
    ensure(path, LAYOUT)
    segment = Segment(path, LAYOUT, writable=True)
    path.unlink()
    if made_anew:
        ensure(path, LAYOUT)
    with pytest.raises(ShmError, match="was removed while it was being opened"):
        RingWriter(segment)
    assert segment["epoch"] == 0
    ensure(path, LAYOUT)
    RingWriter(Segment(path, LAYOUT, writable=True)).close()


def test_a_file_that_is_gone_has_no_writer(hub: Hub) -> None:
    """Regression: a segment that was removed between the list and the look ended the one who looked."""
    assert not writer_holds(path_of(hub.namespace, "gone"))
