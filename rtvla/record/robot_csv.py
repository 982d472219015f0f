"""Robot states as csv. Its columns are the user's, so no row carries its record index: see `_already_there`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rtvla.record.lines import LineFile
from rtvla.record.rows import CSV_HEADER, robot_line

_COLUMNS = CSV_HEADER.count(",") + 1


class RobotCsv(LineFile):
    """`next_index` is 0 until the first call: where to go on after a restart is the caller's knowledge."""

    def __init__(self, path: Path, mono_to_wall_s: Callable[[int], float]) -> None:
        super().__init__(path, is_row=lambda line: parse_row(line) is not None, header=CSV_HEADER)
        self._to_wall_s = mono_to_wall_s
        self._last_row = parse_row(self.last_line)

    def append_states(self, states: np.ndarray) -> bool:
        recv_s = [self._to_wall_s(int(ns)) for ns in states["received_ns"]]
        first = self._already_there(states, recv_s)
        lines = [robot_line(state, recv) for state, recv in zip(states[first:], recv_s[first:], strict=True)]
        return self.append_lines(lines) if lines else True

    def _already_there(self, states: np.ndarray, recv_s: list[float]) -> int:
        """How many of the first states after a restart are in the file: up to the one with the last row's stamps.

        If a sender's clock stands still, the nearest arrival decides.
        """
        row, self._last_row = self._last_row, None
        if row is None:
            return 0
        same = np.flatnonzero((states["sampled_s"] == row[1]) & (states["sent_s"] == row[2]))
        return min(same.tolist(), key=lambda at: abs(recv_s[at] - row[0])) + 1 if len(same) else 0


def parse_row(line: bytes) -> list[float] | None:
    try:
        values = [float(text) for text in line.split(b",")]
    except ValueError:
        return None
    return values if len(values) == _COLUMNS else None
