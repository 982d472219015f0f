"""Rows of performance_timings -> the numbers of performance_summary, in constant memory.

The rows are read back from the file, so that a restarted recorder comes to the same numbers by the same way. It reads
in slices: hours of rows at once (0.6 s an hour) would let the sensor ring run over before its first drain.
"""

from __future__ import annotations

import math
from typing import Any

from rtvla.record.append_file import AppendFile
from rtvla.record.lines import parse_object
from rtvla.record.rows import Row
from rtvla.stats import Histogram

_TIMES = {
    "vl_encoding": "vl_update_time",
    "sensor_encoding": "sensor_encoding_time",
    "robot_encoding": "robot_encoding_time",
    "action_prediction": "action_prediction_time",
    "total_inference": "total_time",
}
_AGES = {"sensor": "sensor_age_ms", "robot": "robot_age_ms", "vl": "vl_age_ms"}
_MEAN_STD = ("mean_ms", "std_ms")
_ALL = (*_MEAN_STD, "min_ms", "max_ms", "p50_ms", "p95_ms", "p99_ms")
_SHOWN = {
    "vl_encoding": ("count", *_ALL),
    "sensor_encoding": _MEAN_STD,
    "robot_encoding": _MEAN_STD,
    "action_prediction": _ALL,
    "total_inference": (*_MEAN_STD, "min_ms", "max_ms"),
}


_SLICE_BYTES = 2 << 20  # 60 ms


class Summary:
    """Statistics over the rows of a file of timings, as far as it has been read."""

    def __init__(self, timings: AppendFile) -> None:
        self._timings, self._read_to = timings, 0
        self._total = 0
        self._first_s = self._last_s = math.nan
        self._times = {name: Histogram() for name in _TIMES}
        self._ages = {name: Histogram() for name in _AGES}

    def catch_up(self) -> bool:
        """Read one slice further. True if that was the end of the file."""
        left = self._timings.size - self._read_to
        block = self._timings.read(min(left, _SLICE_BYTES), self._read_to)
        block = block[: block.rfind(b"\n") + 1]
        for line in block.splitlines():
            if (row := parse_object(line)) is not None:
                self._add(row)
        self._read_to += len(block)
        return not block or self._read_to == self._timings.size

    def _add(self, row: Row) -> None:
        self._total += 1
        stamp = row.get("timestamp")
        if stamp is not None:
            self._first_s = stamp if math.isnan(self._first_s) else self._first_s
            self._last_s = stamp
        for name, key in _TIMES.items():
            # 0 stands for "no new feature here", which is no duration
            if name != "vl_encoding" or row.get(key):
                _add_ms(self._times[name], row.get(key))
        for name, key in _AGES.items():
            _add_ms(self._ages[name], row.get(key))

    def document(self) -> dict[str, Any]:
        """The statistics; NaN where there was nothing to count. `average_fps` is intervals, not rows, by the time."""
        elapsed_s = 0.0 if math.isnan(self._first_s) else self._last_s - self._first_s
        document: dict[str, Any] = {
            "total_actions": self._total,
            "elapsed_time_sec": elapsed_s,
            "average_fps": (self._total - 1) / elapsed_s if elapsed_s > 0 else 0.0,
        }
        for name, keys in _SHOWN.items():
            document[name] = _pick(self._times[name], keys)
        document["ages"] = {name: _pick(ages, ("p50_ms", "p99_ms", "max_ms")) for name, ages in self._ages.items()}
        return document


def _add_ms(histogram: Histogram, ms: float | None) -> None:
    if ms is not None:
        histogram.add(round(ms * 1e6))


def _pick(histogram: Histogram, keys: tuple[str, ...]) -> dict[str, float]:
    described = histogram.describe_ms()
    return {key: described[key] for key in keys}
