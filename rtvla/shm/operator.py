"""What an operator asks of the commander: a ring of its own beside the streams, since no process of ours writes it.

Whoever asks claims it for as long as that takes; the kernel's lock lets in one at a time. The commander looks at its
head once a tick and waits for nobody.
"""

from __future__ import annotations

import numpy as np

from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader, RingWriter
from rtvla.shm.segment import Layout, Segment, ensure, path_of

STREAM = "operator"
VALID_NS = 5_000_000_000  # an older request is ignored: whoever asked has been told that nothing happened
REQUEST = np.dtype(
    [
        ("index", "<u8"),
        ("received_ns", "<i8"),  # when it was asked
        ("wall_s", "<f8"),
        ("latched_ns", "<i8"),  # COMMAND.latched_ns of the latch that shall end, and no other
        ("pid", "<u8"),
        ("who", "S64"),
    ]
)
LAYOUT = Layout(REQUEST, 16)


def requests(hub: Hub) -> RingReader:
    """For the commander."""
    return RingReader(_open(hub, writable=False))


def asking(hub: Hub) -> RingWriter:
    """For the operator's tool. ShmError that names the process if somebody else is asking."""
    return RingWriter(_open(hub, writable=True))


def _open(hub: Hub, *, writable: bool) -> Segment:
    path = path_of(hub.namespace, STREAM)
    ensure(path, LAYOUT)
    return Segment(path, LAYOUT, writable=writable)
