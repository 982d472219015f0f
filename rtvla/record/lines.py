"""Files of lines (jsonl, csv): blocks of whole lines, and a last line that is always finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rtvla.record.append_file import AppendFile


class LineFile(AppendFile):
    """Lines of text. On opening, an unfinished line at the end goes, and finished ones that are not `is_row`."""

    def __init__(self, path: Path, is_row: Callable[[bytes], bool], header: str = "") -> None:
        super().__init__(path)
        self._header = f"{header}\n".encode() if header else b""
        self.last_line = b""  # the last row that was there on opening
        self._repair(is_row)
        if self._header and not self.size:
            self.append_lines([])

    def append_lines(self, lines: Sequence[str]) -> bool:
        """One block; a line has no newline of its own."""
        block = "".join(f"{line}\n" for line in lines).encode()
        return self.append_block(block if self.size else self._header + block, len(lines))

    def _repair(self, is_row: Callable[[bytes], bool]) -> None:
        good = 0
        ends = self.lines_backward()
        end, unfinished = next(ends)
        for start, line in ends:
            is_header = start == 0 and self._header == line + b"\n"
            if is_header or is_row(line):
                good, self.last_line = end, b"" if is_header else line
                break
            end = start
        if good != self.size or unfinished:
            self.keep(good)
        self.recorded = max(self.count_newlines() - bool(self._header), 0)


class JsonLines(LineFile):
    """One JSON object a line; `index_of` says which record index a row is for."""

    def __init__(self, path: Path, index_of: Callable[[dict[str, Any]], int]) -> None:
        super().__init__(path, is_row=lambda line: parse_object(line) is not None)
        self.last_row = parse_object(self.last_line)
        if self.last_row is not None:
            self.next_index = index_of(self.last_row) + 1


def parse_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object on this line, or None if there is no whole one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
