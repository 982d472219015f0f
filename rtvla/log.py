"""Logging: one set-up a process, to stderr, sparse. Numbers go to shared memory, events go here."""

from __future__ import annotations

import logging
import sys
from collections import Counter


def setup(name: str, *, verbose: bool = False) -> logging.Logger:
    """Configure the root logger once; every line carries the process name. Returns the logger of that name."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s {name} %(levelname)s %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("PIL").setLevel(logging.WARNING)
    return logging.getLogger(name)


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
