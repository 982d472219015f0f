"""performance_summary: statistics over the timings and what the recorder knows beside them, as one atomic file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtvla.record.append_file import AppendFile, replace_file
from rtvla.record.json_text import to_json
from rtvla.record.summary import Summary


class SummaryFile:
    """Rewritten as a whole. After a restart in a long run the old file stays until all timings have been read again."""

    def __init__(self, path: Path, timings: AppendFile) -> None:
        self._path, self._summary = path, Summary(timings)
        self._waiting: Callable[[], dict[str, Any]] | None = None
        self.write_failed, self.error = 0, ""

    def rewrite(self, beside: Callable[[], dict[str, Any]]) -> None:
        """Renew the file, or note that it is wanted. `beside` gives what stands beside the statistics."""
        self._waiting = beside
        if self._summary.catch_up():
            self._write(beside)

    def close(self) -> None:
        """Do what still waits, however long the run was."""
        if self._waiting is not None:
            while not self._summary.catch_up():
                continue
            self._write(self._waiting)

    def _write(self, beside: Callable[[], dict[str, Any]]) -> None:
        self._waiting = None
        text = to_json(self._summary.document() | beside(), indent=2)
        try:
            replace_file(self._path, text.encode(), self._path.with_name(f".{self._path.name}.tmp"))
            self.error = ""
        except OSError as error:
            self.write_failed += 1
            self.error = f"{self._path.name}: {error.strerror}"


def read_summary(path: Path) -> dict[str, Any]:
    """The summary that was written last; empty where there is none, or no whole one."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
