"""One supervised process: how it is started, what it says over the notify socket, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rtvla import rt
from rtvla.clock import SECOND, now_ns
from rtvla.procs.table import BACKOFF_MAX_S, BACKOFF_S, CRASHES, CRASHES_WITHIN_S, Process

# waiting -> starting -> ready -> stopping -> stopped; a crash leads over backoff to starting again, or to failed
RUNNING = ("starting", "ready", "stopping")


def _ns(seconds: float) -> int:
    return int(seconds * SECOND)


@dataclass
class Child:
    process: Process
    command: list[str]  # after the interpreter: -m rtvla ...
    log_path: Path
    state: str = "waiting"
    pid: int = 0
    pidfd: int = -1
    started_ns: int = 0
    alive_ns: int = 0  # last READY or WATCHDOG
    kill_at_ns: int = 0  # SIGKILL if it is still there then; 0: not asked to end
    aborted: bool = False  # hung, and ended by us for it
    next_start_ns: int = 0
    restarts: int = 0
    last_end: str = ""
    _backoff_s: float = BACKOFF_S
    _starts_ns: list[int] = field(default_factory=list)
    _popen: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.process.name

    def start(self, notify_path: str) -> None:
        """Spawn with its own session (so Ctrl-C reaches only the supervisor) and a tie to our life."""
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": notify_path,
            "WATCHDOG_USEC": str(int(self.process.watchdog_s * 1e6)),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",  # the watchdog's SIGABRT leaves the stack of a hang in the log
        }
        environment.pop("WATCHDOG_PID", None)
        parent = os.getpid()
        with_us = signal.SIGTERM if self.process.outlives_supervisor else signal.SIGKILL
        with self._open_log() as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "rtvla", *self.command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=None if self.process.console else log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: rt.die_with_parent(parent, with_us),  # noqa: PLW1509  we have one thread
            )
        self.pid = self._popen.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.started_ns = self.alive_ns = now_ns()
        self.kill_at_ns, self.aborted = 0, False
        self.state = "starting" if self.process.notifies else "ready"
        self._starts_ns.append(self.started_ns)

    def _open_log(self) -> BinaryIO:
        """Its log, or nothing at all: a disk that is full or gone must not keep a process from being restarted."""
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            return open(self.log_path, "ab")
        except OSError:
            return open(os.devnull, "ab")

    def hear(self, message: str) -> bool:
        """One notify datagram. True if it became ready by it."""
        keys = dict(line.partition("=")[::2] for line in message.splitlines())
        if keys.get("READY") == "1" or keys.get("WATCHDOG") == "1":
            self.alive_ns = now_ns()
        if keys.get("READY") == "1" and self.state == "starting":
            self.state = "ready"
            return True
        return False

    def overdue(self) -> str:
        """Why it counts as dead although it runs, or ""."""
        now = now_ns()
        if self.state == "starting" and now - self.started_ns > _ns(self.process.ready_s):
            return f"not ready after {self.process.ready_s:g} s"
        if self.state == "ready" and self.process.notifies and now - self.alive_ns > _ns(self.process.watchdog_s):
            return f"hung: no round for {(now - self.alive_ns) / SECOND:.1f} s"
        return ""

    def terminate(self) -> None:
        self.state = "stopping"
        self.kill_at_ns = now_ns() + _ns(self.process.stop_s)
        self.signal(signal.SIGTERM)

    def abort(self) -> None:
        """End a hung process: SIGABRT prints its stack, SIGKILL a second later does not ask."""
        self.state, self.aborted = "stopping", True
        self.kill_at_ns = now_ns() + SECOND
        self.signal(signal.SIGABRT)

    def kill(self) -> None:
        self.kill_at_ns = 0
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has just ended by itself; its pidfd will say so

    def signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> int:
        """Collect a process whose pidfd has become readable; what it left in its session is killed. Exit code."""
        assert self._popen is not None
        code = self._popen.wait()
        os.close(self.pidfd)
        self.pidfd = -1
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.pid = 0  # nothing was left
        self.pid = 0
        self.last_end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return code

    def schedule_restart(self) -> float | None:
        """Seconds until the next start, or None: it has crashed too often and stays down."""
        now = now_ns()
        self._starts_ns = [t for t in self._starts_ns if now - t < _ns(CRASHES_WITHIN_S)]
        if len(self._starts_ns) >= CRASHES:
            self.state = "failed"
            return None
        if now - self.started_ns > _ns(CRASHES_WITHIN_S):
            self._backoff_s = BACKOFF_S
        delay = self._backoff_s
        self._backoff_s = min(2 * delay, BACKOFF_MAX_S)
        self.next_start_ns, self.state = now + _ns(delay), "backoff"
        self.restarts += 1
        return delay

    def last_words(self, lines: int = 4) -> list[str]:
        """The end of its log, to show with an unexpected end."""
        try:
            with open(self.log_path, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                return log.read().decode(errors="replace").splitlines()[-lines:]
        except OSError as error:
            return [f"(no log: {error.strerror})"]
