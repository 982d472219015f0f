"""Takes a black box when a process dies, beside the supervision: a program of its own, one at a time."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

from rtvla import rt
from rtvla.config_sections import BlackBox

_NEWS = {0: "written", 5: "refused"}  # exit codes of `rtvla shm dump --into` (tools/exits.py); all else is a failure


class Dumper:
    """`take` returns at once; `news` tells later what became of it. One thread only, as the supervisor's."""

    def __init__(self, bounds: BlackBox, folder: Path, log_path: Path, cores: tuple[int, ...]) -> None:
        self._bounds, self._folder, self._log_path, self._cores = bounds, folder, log_path, cores
        self._log = logging.getLogger("supervisor")
        self._popen: subprocess.Popen[bytes] | None = None
        self._because, self._said_from = "", 0
        self._news: list[str] = []
        self._refused_before = False

    @property
    def running(self) -> bool:
        self._look()
        return self._popen is not None

    def take(self, because: str) -> None:
        """Start now: the rings hold 1.5 s of the fastest stream, and whoever comes back overwrites his own."""
        if self._bounds.is_off:
            return
        if self.running:
            self._log.warning("no black box of %r: the one of %r is still being written", because, self._because)
            self._news.append("busy")
            return
        bounds = [f"--{name.replace('_', '-')}={value}" for name, value in vars(self._bounds).items()]
        command = ["shm", "dump", "--into", str(self._folder), "--because", because, *bounds]
        try:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log_path, "ab") as log:
                self._said_from = log.tell()
                self._popen = subprocess.Popen(
                    [sys.executable, "-m", "rtvla", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is the supervisor's; killed with it, the evidence would be lost
                    preexec_fn=lambda: rt.pin(self._cores),  # noqa: PLW1509  the supervisor has one thread
                )
        except OSError as error:  # no disk for a log, no process to be had: nobody is to be held up by it
            self._log.error("no black box of %r: %s", because, error)
            self._news.append("failed")
        self._because = because

    def news(self) -> list[str]:
        """What became of those asked for, since the last call: written, busy, refused (a bound), failed."""
        self._look()
        news, self._news = self._news, []
        return news

    def wait(self) -> None:
        """Until there is none under way; the program ends itself after a minute."""
        while self.running:
            time.sleep(0.02)

    def kill(self) -> None:
        if self._popen is not None:
            self._popen.kill()

    def _look(self) -> None:
        code = None if self._popen is None else self._popen.poll()
        if code is None:
            return
        self._popen = None
        news = _NEWS.get(code, "failed")
        self._news.append(news)
        if news == "written":
            self._log.info("black box of %r: %s", self._because, self._said())
        elif news == "failed":
            self._log.error("no black box of %r (exit code %d): %s", self._because, code, self._said())
        elif not self._refused_before:
            self._refused_before = True
            self._log.warning("%s; this is said once", self._said())

    def _said(self) -> str:
        """What it printed, in one line."""
        try:
            with open(self._log_path, "rb") as log:
                log.seek(self._said_from)
                return "; ".join(log.read(4096).decode(errors="replace").splitlines()) or "it said nothing"
        except OSError as error:
            return f"its log {self._log_path}: {error.strerror}"
