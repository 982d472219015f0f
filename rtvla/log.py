"""Logging: one set-up a process, to stderr, sparse. Numbers go to shared memory, events go here.

Whoever reads the lines (a pipe, a terminal, the journal) may stop reading: no loop waits for it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import Counter

_MOST_WAITING = 1000  # lines
_LAST_LINES_S = 1.0  # so long are they waited for at the end of a process
_STDERR = 2
_STACK_BYTES = 256 * 1024  # the usual 8 MB would all be locked into memory


class Unstalled(logging.Handler):
    """Lines wait for a thread of their own. What does not fit any more is lost, counted, and said later.

    Past sys.stderr: its lock, held by a thread that cannot write, would abort the interpreter at its end."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd, self._lost = fd, 0
        self._lines: queue.Queue[str] = queue.Queue(_MOST_WAITING)
        self._written = threading.Condition()
        before = threading.stack_size(_STACK_BYTES)
        threading.Thread(target=self._write, daemon=True, name="log").start()
        threading.stack_size(before)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Wait until all is written, but not for ever."""
        with self._written:
            self._written.wait_for(lambda: not self._lines.unfinished_tasks, _LAST_LINES_S)

    def _write(self) -> None:
        while True:
            text = self._lines.get()
            self.acquire()  # as whoever calls emit()
            lost, self._lost = self._lost, 0
            self.release()
            if lost:
                text = f"{lost} lines of the log were lost: nobody read them\n{text}"
            try:
                unwritten = memoryview(f"{text}\n".encode(errors="replace"))
                while unwritten:
                    unwritten = unwritten[os.write(self._fd, unwritten) :]
            except OSError:  # the reader has gone, and nobody is left to be told
                continue
            finally:
                with self._written:
                    self._lines.task_done()
                    self._written.notify_all()


def setup(name: str, *, verbose: bool = False) -> logging.Logger:
    """Configure the root logger once; every line carries the process name. Returns the logger of that name."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s {name} %(levelname)s %(message)s",
        handlers=[Unstalled(_STDERR)],
        force=True,
    )
    logging.getLogger("PIL").setLevel(logging.WARNING)
    return logging.getLogger(name)


def flush() -> None:
    """Before something else is written, such as the last word of a command."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class RateLimited:
    """Logs the first and every thousandth event of a cause, so that a flood of bad input cannot fill a disk."""

    def __init__(self, logger: logging.Logger, every: int = 1000) -> None:
        self._logger, self._every = logger, every
        self._seen: Counter[str] = Counter()

    def warn(self, cause: str, detail: object = "") -> None:
        seen = self._seen[cause]
        self._seen[cause] = seen + 1
        if seen % self._every == 0:
            self._logger.warning("%s (number %d): %s", cause, seen + 1, detail)
