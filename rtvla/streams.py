"""THE table of streams: who writes what, how deep, how often, and when it counts as stale.

A `ring` keeps the last `depth` records. A `latest` cell is the same ring with depth 4 of which only the newest record
is read (with depth 2 it would be the classic double buffer; 4 leaves a reader three publications of time for its copy).
`burst` is the number of slots its writer may be filling at once; readers keep that far away from the oldest slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtvla import schema


@dataclass(frozen=True)
class Stream:
    name: str
    writer: str  # the one process that writes it
    dtype: np.dtype[np.void]
    kind: str  # "ring" or "latest"
    depth: int  # a power of two
    nominal_hz: float
    stale_ms: float  # age above which nobody may act on it; config [stale_ms] overrides
    burst: int = 1
    wakes: bool = False  # its writer wakes readers that sleep on it

    @property
    def time_field(self) -> str:
        """The field that says when a record came into being here."""
        for field in ("received_ns", "published_ns", "decided_ns"):
            if field in (self.dtype.names or ()):
                return field
        raise KeyError(f"{self.name}: no time field")


_TABLE = (
    # 1.6 s of samples; a batch of 15 samples may be on its way into the slots
    Stream("sensor", "sensor_ingest", schema.SENSOR, "ring", 1024, schema.SENSOR_HZ, 150, burst=15),
    Stream("robot", "robot_ingest", schema.ROBOT, "ring", 1024, schema.ROBOT_HZ, 150),
    *(Stream(f"frame.{view}", "camera_ingest", schema.FRAME, "ring", 16, 5, 1000, wakes=True) for view in schema.VIEWS),
    Stream("vl_feature", "vl_encoder", schema.VL_FEATURE, "latest", 16, 2.5, 1500),
    Stream("action_chunk", "policy", schema.CHUNK, "ring", 64, 10, 250),
    Stream("command", "commander", schema.COMMAND, "ring", 1024, 10, 250),  # 10 s of 100 Hz
)

STREAMS: Mapping[str, Stream] = {stream.name: stream for stream in _TABLE}
FRAME_STREAMS = tuple(f"frame.{view}" for view in schema.VIEWS)


def stale_ns(name: str, overrides_ms: Mapping[str, float]) -> int:
    """Age in ns above which stream `name` is stale, with the site's overrides from config `[stale_ms]`."""
    return int(overrides_ms.get(name, STREAMS[name].stale_ms) * 1e6)
