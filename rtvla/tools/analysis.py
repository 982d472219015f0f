"""What a black box says, as plain numbers and words for JSON: the figures behind `rtvla analyze`.

Ages count back from the moment at which a stream was read for the dump. A gap is a distance between two records above
which the stream counts as stale (streams.py): nobody acted on it then. `lost` is what the processes have counted as
lost of a stream since the start of their run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rtvla.clock import MS, SECOND
from rtvla.dump_file import Dump, Records
from rtvla.schema import ACTION_NAMES
from rtvla.shm import decode
from rtvla.shm.inspect import HEALTH
from rtvla.shm.watch import spacing_ms
from rtvla.streams import STREAMS, stale_ns
from rtvla.tools.values import plain

LAST_COMMANDS = 5
_AGES = ("sensor_age_ns", "robot_age_ns", "vl_age_ns", "chunk_age_ns")


def analysis(box: Dump) -> dict[str, Any]:
    """Everything, ready for JSON: the origin, `streams`, `processes`, `commands`, `chunk`."""
    rows = {name.removeprefix(HEALTH): _process(box, name) for name in sorted(box.streams) if name.startswith(HEALTH)}
    origin = {key: box.manifest.get(key) for key in ("namespace", "host", "because", "wall_s", "skipped")}
    return {
        "file": str(box.file),
        **origin,
        "streams": {name: _stream(box, name, rows) for name in STREAMS if name in box.streams},
        "processes": rows,
        "commands": _commands(box),
        "chunk": _chunk(box),
    }


def _stream(box: Dump, stream: str, rows: Mapping[str, Any]) -> dict[str, Any]:
    records, field = box.records(stream), box.time_field(stream)
    times_ns = records[field] if field else np.empty(0, np.int64)
    known = bool(len(times_ns))
    span_ns = int(times_ns[-1] - times_ns[0]) if known else 0
    lost = [n for row in rows.values() for name, n in row["counters"].items() if _is_lost(name, stream)]
    return {
        "records": len(records),
        "published": box.streams[stream]["count"],
        "span_s": span_ns / SECOND,
        "hz": (len(records) - 1) * SECOND / span_ns if span_ns > 0 else None,
        "nominal_hz": STREAMS[stream].nominal_hz,
        **spacing_ms(times_ns),
        "gaps": int((np.diff(times_ns) > stale_ns(stream, {})).sum()),
        "lost": sum(lost),
        "age_ms": (box.read_ns(stream) - int(times_ns[-1])) / MS if known else None,
        "writer": box.streams[stream]["writer"],
    }


def _is_lost(counter: str, stream: str) -> bool:
    return counter.startswith("lost.") and counter.endswith(f".{stream}")  # lost.<cause>.<stream>


def _process(box: Dump, name: str) -> dict[str, Any]:
    """`writer` says whether it lived: alive, dead, closed (it ended as it should, or let go), none (never started)."""
    row = decode.decoded(name, box.records(name)[0])
    beat_ns, started_ns = row["heartbeat_ns"], row["started_ns"]
    return {
        "writer": box.streams[name]["writer"],
        "state": row["state"],
        "pid": box.streams[name]["claim"].get("writer_pid"),
        "heartbeat_age_ms": (box.read_ns(name) - beat_ns) / MS if beat_ns else None,
        "up_s": (beat_ns - started_ns) / SECOND if started_ns else None,
        "counters": {counter: n for counter, n in row["counters"].items() if n},
    }


def _last(box: Dump, stream: str, count: int) -> Records:
    return box.records(stream)[-count:] if stream in box.streams else np.empty(0, STREAMS[stream].dtype)


def _commands(box: Dump) -> list[dict[str, Any]]:
    """The last decisions, newest last."""
    found = []
    for record in _last(box, "command", LAST_COMMANDS):
        row = decode.decoded("command", record)
        found.append(
            {
                "before_dump_ms": (box.read_ns("command") - row["decided_ns"]) / MS,
                **{name: row[name] for name in ("index", "kind", "reason", "step", "chunk_index")},
                "clamped": bool(row["clamped"]),
                "sent_mm_deg": row["sent_mm_deg"].tolist(),
                "requested_mm_deg": plain(row["requested_mm_deg"], 6),
                "ages_ms": {name.removesuffix("_age_ns"): row[name] / MS for name in _AGES if row[name] >= 0},
            }
        )
    return found


def _chunk(box: Dump) -> dict[str, Any] | None:
    """The last action chunk: what it was made from, how long that took, its steps."""
    last = _last(box, "action_chunk", 1)
    if not len(last):
        return None
    row = decode.decoded("action_chunk", last[0])
    return {
        "index": row["index"],
        "before_dump_ms": (box.read_ns("action_chunk") - row["observed_ns"]) / MS,
        "total_ms": row["total_ns"] / MS,
        "horizon": row["horizon"],
        "vl_reuse": row["vl_reuse"],
        "ages_ms": {name.removesuffix("_age_ns"): row[name] / MS for name in _AGES if name in row},
        "action_names": list(ACTION_NAMES),
        "actions": plain(row["actions"], row["actions"].size),
    }
