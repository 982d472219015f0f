"""Records as plain values with their names: what people and JSON are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rtvla import schema
from rtvla.shm import health

# A field that is only used up to the number in another field; positions that stand for words.
USED_PART = {"jpeg": "n_bytes", "feature": "dim", "actions": "horizon"}
WORDS = {
    ("command", "kind"): schema.COMMAND_KINDS,
    ("command", "reason"): schema.HOLD_REASONS,
    ("command", "cause"): schema.HOLD_REASONS,
    ("command", "latched"): schema.HOLD_REASONS,
    ("command", "action"): schema.DEGRADE_ACTIONS,
    ("health", "state"): health.STATES,
}


def decoded(stream: str, record: np.void) -> dict[str, Any]:
    """A record by field: plain values, arrays cut to their used part, words for positions, `wire.force` for what is
    nested. Of a health row the names and values together."""
    fields = dict(_fields(record))
    for name, limit in USED_PART.items():
        if name in fields and limit in fields:
            fields[name] = fields[name][: fields[limit]]
    for values, names in (("counters", "counter_names"), ("gauges", "gauge_names")):
        if values in fields and names in fields:
            keys = [bytes(key).decode(errors="replace") for key in fields.pop(names)]
            fields[values] = {key: value.item() for key, value in zip(keys, fields[values], strict=False) if key}
    for (of, name), words in WORDS.items():
        if stream.partition(".")[0] == of and name in fields:
            at = fields[name]
            fields[name] = words[at] if at < len(words) else f"{at} (unknown)"
    return fields


def _fields(record: np.void, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in record.dtype.names or ():
        value = record[name]
        if isinstance(value, np.void):
            yield from _fields(value, f"{prefix}{name}.")
        elif isinstance(value, bytes):
            yield prefix + name, value.decode(errors="replace")
        else:
            yield prefix + name, value if isinstance(value, np.ndarray) else value.item()
