"""A JSON list on disk that is a whole document after every append.

    [\\n<element>,\\n<element>\\n]

Each append overwrites the closing `\\n]` by `,\\n<elements>\\n]` in one write. An element is one line, so that the last
whole one is found from the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rtvla.record.append_file import AppendFile

_OPEN, _BETWEEN, _CLOSE = b"[\n", b",\n", b"\n]"


class JsonList(AppendFile):
    """`size` is the end of the last element; 0 means an empty list."""

    def __init__(self, path: Path, index_of: Callable[[dict[str, Any]], int]) -> None:
        super().__init__(path)
        end, last = self._last_element()
        if last is not None:
            self.next_index = index_of(last) + 1
        tail = self.tail_after(end)
        if self.size != end + len(tail) or self.read(len(tail), end) != tail:
            self.keep(end)
        else:
            self.size = end
        self.recorded = self.count_newlines() - 1 if last is not None else 0

    def tail_after(self, size: int) -> bytes:
        return _CLOSE if size else _OPEN + b"]"

    def append_elements(self, elements: Sequence[str]) -> bool:
        """One block; an element is JSON text of an object, on one line."""
        head = _BETWEEN if self.size else _OPEN
        return self.append_block(head + _BETWEEN.decode().join(elements).encode(), len(elements))

    def _last_element(self) -> tuple[int, dict[str, Any] | None]:
        """Where the last whole element ends, and that element. What follows it on its line is no matter."""
        decoder = json.JSONDecoder()
        for start, line in self.lines_backward():
            try:  # one character a byte, so that `length` counts bytes
                element, length = decoder.raw_decode(line.decode("latin-1"))
            except ValueError:
                continue
            if isinstance(element, dict):
                return start + length, element
        return 0, None
