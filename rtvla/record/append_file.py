"""A file that only grows, one whole block a write, and that is whole again after any kind of end.

A kill in the middle of a write leaves a prefix of the block (the kernel stops between two pages), a full disk too. Both
are cut off: the first when the file is opened again, the second before the next block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


class AppendFile:
    """One writer. `size` is where the next block goes, `next_index` the first record index that is still wanted.

    No append raises OSError: a block that cannot be written is dropped, its records are counted in `write_failed`, the
    reason is in `error`, and the next append tries again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.size = os.fstat(self._fd).st_size
        self.next_index = 0
        self.recorded = 0  # records in the file
        self.repeated = 0  # records that came again and were left out
        self.write_failed = 0  # records lost since it was opened
        self.repaired_bytes = 0  # cut off when it was opened
        self.error = ""  # of the last append, empty if it went well
        self._dirty = False  # bytes after `size` that do not belong there

    def tail_after(self, size: int) -> bytes:
        """What must follow `size` bytes of content for the file to be whole. The next block overwrites it."""
        return b""

    def append_block(self, block: bytes, records: int) -> bool:
        """Write one block of `records` records behind the content. False: dropped and counted."""
        if self._dirty and not self._undo():
            self.write_failed += records
            return False
        self._dirty = True
        try:
            write_all(self._fd, block + self.tail_after(self.size + len(block)), self.size)
        except OSError as error:
            self.error = f"{self.path.name}: {error.strerror}"
            self.write_failed += records
            self._undo()
            return False
        self._dirty, self.error = False, ""
        self.size += len(block)
        self.recorded += records
        return True

    def keep(self, size: int) -> None:
        """Cut the file back to `size` bytes of content. For repair, before the first append."""
        whole = size + len(self.tail_after(size))
        self.repaired_bytes = max(self.size - whole, 0)
        self.size, self._dirty = size, True
        self._undo()

    def _undo(self) -> bool:
        """Bring back the state before a failed block. The tail goes over bytes that exist, so it needs no space."""
        tail = self.tail_after(self.size)
        try:
            write_all(self._fd, tail, self.size)
            os.ftruncate(self._fd, self.size + len(tail))
        except OSError as error:
            self.error = f"{self.path.name}: {error.strerror}"
            return False
        self._dirty = False
        return True

    def lines_backward(self) -> Iterator[tuple[int, bytes]]:
        """(offset, line) from the last line to the first, without newlines.

        The first one is what follows the last newline: empty in a file that ends with one.
        """
        start, chunk, buffer = self.size, 1 << 16, b""
        while start:
            chunk, start, stop = chunk * 2, max(start - chunk, 0), start
            buffer = os.pread(self._fd, stop - start, start) + buffer
            while (cut := buffer.rfind(b"\n")) >= 0:
                yield start + cut + 1, buffer[cut + 1 :]
                buffer = buffer[:cut]
        yield 0, buffer

    def count_newlines(self) -> int:
        total, at = 0, 0
        while part := os.pread(self._fd, 1 << 20, at):
            total, at = total + part.count(b"\n"), at + len(part)
        return total

    def read(self, n: int, at: int) -> bytes:
        return os.pread(self._fd, n, at)

    def sync(self) -> None:
        """Have the disk hold what was written: against a power cut; a kill needs no such thing."""
        if self._fd < 0:
            return
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self.error = f"{self.path.name}: {error.strerror}"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_all(fd: int, data: bytes, at: int) -> None:
    """One pwrite. Only where the kernel takes less (a disk that fills up) is the rest tried, for the error it gives."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def replace_file(path: Path, data: bytes, temp: Path) -> None:
    """Write `data` to `temp` and rename it: a reader of `path` sees the old content or all of the new, never a part."""
    with open(temp, "wb", buffering=0) as file:
        write_all(file.fileno(), data, 0)
    os.replace(temp, path)
