"""Processes in two milliseconds: forked from one that has imported everything, instead of 150 for a new Python.

So each job runs in a process of its own (stress_jobs.py), which has no threads and can also be one with fences.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np

from rtvla import rt
from rtvla.clock import SECOND, now_ns

BLOCKED_S = 5.0  # a claim or a read that has not ended after so long counts as blocked


def fork(job: Callable[..., object], *arguments: Any) -> int:
    """Run `job` in a child that dies with its parent; its pid. An exception there is printed and exit code 1."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        rt.die_with_parent(parent, signal.SIGKILL)
        job(*arguments)
    except Exception:
        logging.exception("in a child")
        os._exit(1)
    os._exit(0)


def shared(row: np.dtype[np.void], count: int) -> np.ndarray:
    """Rows that this process and those it forks from now on see alike."""
    return np.frombuffer(mmap.mmap(-1, row.itemsize * count), row)


def within_limit(condition: Callable[[], bool], nap: Callable[[], object]) -> bool:
    """Whether the condition came true before whoever we wait for counts as blocked."""
    ends_ns = now_ns() + int(BLOCKED_S * SECOND)
    while not condition():
        if now_ns() > ends_ns:
            return False
        nap()
    return True


def goes_on(done: int, wanted: int, seen: int, at_least: int) -> bool:
    """Whether a job needs another round: until it has done what was wanted and met what it was made for (a kill in the
    middle of a record, a stop inside a copy) so often; but not for ever."""
    return done < wanted or (seen < at_least and done < 20 * wanted)


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
