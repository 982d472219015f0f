"""Values as people and as JSON are shown them."""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console

_PEOPLE_VALUES = 12  # longer arrays become shape, min, mean, max
_PIPE_COLUMNS = 160  # of a table that goes into a file
WRITER_COLOUR = {"alive": "green", "dead": "red", "closed": "yellow", "none": "yellow"}


def console() -> Console:
    """In a pipe as wide as the tables need, so that no column is cut."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def utc(wall_s: float) -> str:
    try:
        return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    except (OverflowError, OSError, ValueError):
        return "no time of a clock"


def record_lines(fields: Mapping[str, Any], time_field: str | None, now_ns: int) -> list[str]:
    """A decoded record, a line a field, with the age of its time field."""
    width = max(len(name) for name in fields)
    lines = []
    for name, value in fields.items():
        note = f"  ({ms((now_ns - value) / 1e6)} ms old)" if name == time_field else ""
        if name.endswith("_s") and isinstance(value, float) and value > 1e9:  # a wall clock, not a duration
            note = f"  ({utc(value)})"
        lines.append(f"  {name:<{width}}  {for_people(value)}{note}")
    return lines


def for_people(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if value.size <= _PEOPLE_VALUES:
            return " ".join(f"{item:g}" if value.dtype.kind == "f" else str(item) for item in value.ravel())
        return " ".join(f"{key} {for_people(item)}" for key, item in _summary(value).items())
    if isinstance(value, dict):
        return ", ".join(f"{key} {for_people(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return "x".join(str(item) for item in value)
    return f"{value:.9g}" if isinstance(value, float) and abs(value) < 1e9 else str(value)


def _summary(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Shape, min, mean, max of what is finite; how much is not, since at night that is the question."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    summary: dict[str, Any] = {"shape": list(array.shape)}
    if finite.size:
        summary |= {
            "min": finite.min().item(),
            "mean": float(finite.mean(dtype=np.float64)),
            "max": finite.max().item(),
        }
    return summary | ({"not_finite": int(array.size - finite.size)} if finite.size < array.size else {})


def plain(value: Any, most: int) -> Any:
    """For JSON, which knows neither arrays nor NaN: those become the words NaN, Infinity, -Infinity. Arrays of more
    than `most` values become shape, min, mean, max; bytes become base64."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size <= most:
        return base64.b64encode(value.tobytes()).decode()
    if isinstance(value, np.ndarray):
        return plain(_summary(value) if value.size > most else value.tolist(), most)
    if isinstance(value, dict):
        return {key: plain(item, most) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, most) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
