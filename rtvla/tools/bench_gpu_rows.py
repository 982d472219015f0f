"""What a run of `rtvla bench gpu` has found so far: every row is on disk before the next is measured.

DIR/rows.jsonl holds one JSON object a line; a run that is killed keeps all of them but the last half-written one.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rtvla.errors import RtvlaError

Row = dict[str, Any]
_FILE = "rows.jsonl"


class Rows:
    """The rows of one part of a run, and how much of its time is left. Parts append to one file."""

    def __init__(self, folder: Path, part: str, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / _FILE, "a")  # noqa: SIM115 - open as long as the part
        self._part, self._deadline_s = part, time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        return self._deadline_s - time.monotonic()

    def add(self, kind: str = "", **values: Any) -> None:
        """`kind`: of the row, if it is not that of the part."""
        row = {"part": kind or self._part, "of": self._part, **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        print(f"{row['part']}: {_words(values)}", flush=True)

    def skip(self, what: str, reason: str) -> None:
        self.add(what=what, skipped=reason)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """One row: if it fails, that is a row, and the next is tried.

        torch reports everything that a GPU refuses as RuntimeError.
        """
        try:
            yield
        except (RuntimeError, RtvlaError) as error:
            traceback.print_exc()
            self.add(what=what, failed=f"{type(error).__name__}: {str(error).strip()[:2000]}")

    def close(self) -> None:
        self._file.close()


def begin(folder: Path, parts: Sequence[str]) -> None:
    """Rows of these parts from an earlier run go, those of the others stay: a run may be made in pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [row for row in read(folder) if row["of"] not in parts]
    (folder / _FILE).write_text("".join(json.dumps(row) + "\n" for row in kept))


def read(folder: Path) -> list[Row]:
    """All whole rows; none where there is no file yet."""
    rows: list[Row] = []
    if not (folder / _FILE).exists():
        return rows
    for line in (folder / _FILE).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # a part was killed while it wrote this one
            continue
    return rows


def _words(values: Mapping[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, dict):
            inner = " / ".join(f"{value[key]:.2f}" for key in ("p50_ms", "p99_ms", "p99_9_ms") if key in value)
            parts.append(f"{name} {inner} ms" if inner else f"{name} {value}")
        else:
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)
