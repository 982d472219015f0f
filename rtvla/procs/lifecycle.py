"""The dull parts of every process: signals, real-time set-up, health row, streams, readiness, watchdog, clean-up.

with lifecycle("policy", cfg) as me:
    ...slow work...
    me.ready()
    for tick in me.ticks(cfg.policy.rate_hz): ...
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rtvla import log, rt
from rtvla.clock import SECOND, Pacer, Tick, now_ns
from rtvla.config import Config, namespace
from rtvla.errors import ConfigError, ShmError
from rtvla.procs.notify import Notifier
from rtvla.procs.table import PROCESSES, Process, check, cores_of
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader, RingWriter
from rtvla.streams import STREAMS

_COLLECT_EVERY_NS = 10 * SECOND
_SAME_REQUEST_NS = SECOND // 4


class StopRequest:
    """SIGTERM and SIGINT set a flag and wake whoever sleeps in `wait`; a second one ends the process at once.

    Not one that comes right after the first: when a parent with several threads is killed, the kernel sends the death
    signal once for each of them, and the recorder still has files to close.
    """

    def __init__(self) -> None:
        self.asked, self._asked_ns = False, 0
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        now = now_ns()
        if self.asked and now - self._asked_ns > _SAME_REQUEST_NS:
            os._exit(128 + number)
        if not self.asked:
            self.asked, self._asked_ns = True, now

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a stop request."""
        select.select([self._read_fd], [], [], max(0.0, seconds))


class Me:
    """The running process, as its own loop sees it."""

    def __init__(self, process: Process, cfg: Config, hub: Hub, stop: StopRequest) -> None:
        self.process, self.hub, self.stop = process, hub, stop
        self.log = logging.getLogger(process.name)
        self.events = log.RateLimited(self.log)
        self.health = hub.health_row(process.name)
        self.count, self.gauge = self.health.count, self.health.gauge
        self._cfg = cfg
        self._notify = Notifier()
        self._notified_ns = self._collected_ns = now_ns()
        self._opened: list[RingReader | RingWriter] = []

    @property
    def running(self) -> bool:
        return not self.stop.asked

    def reader(self, stream: str) -> RingReader:
        reader = self.hub.reader(stream)
        self._opened.append(reader)
        return reader

    def writer(self, stream: str) -> RingWriter:
        if STREAMS[stream].writer != self.process.name:
            raise ShmError(f"{self.process.name} may not write {stream}: its writer is {STREAMS[stream].writer}")
        writer = self.hub.writer(stream)
        self._opened.append(writer)
        return writer

    def refused(self, cause: str, detail: str) -> None:
        """Somebody at one of our sockets was not let in (security/curve.py)."""
        self.count(f"refused.{cause}")
        self.events.warn(f"refused.{cause}", detail)

    def ready(self) -> None:
        """One full round has succeeded: from now on urgent, watched, and without garbage collections."""
        grants = [rt.timer_slack(self._cfg.realtime.timer_slack_ns)]
        if self._cfg.realtime.lock_memory:
            grants.append(rt.lock_memory(on_fault=self.process.torch))
        if self._cfg.realtime.freeze_gc:
            grants.append(rt.freeze_gc())
        if self.process.nice:
            grants.append(rt.nice(self.process.nice))
        if self._cfg.realtime.fifo and self.process.fifo:
            grants.append(rt.fifo(self.process.fifo))
        self.note(grants)
        self.health.state("ready")
        self._notify.send(READY=1)
        self.log.info("ready")

    def note(self, grants: list[rt.Grant]) -> None:
        """Put on record, once, what the kernel granted and refused."""
        self._grants = [*getattr(self, "_grants", []), *grants]
        self.health.note("\n".join(map(str, self._grants)))
        for grant in grants:
            self.log.log(logging.INFO if grant.granted else logging.WARNING, "%s", grant)

    def beat(self) -> None:
        """A round of progress was made. Call once a round of the loop that must not stop."""
        self.health.beat()
        now = now_ns()
        interval = self._notify.interval_ns
        if interval and now - self._notified_ns >= interval:
            self._notified_ns = now
            self._notify.send(WATCHDOG=1)
        if now - self._collected_ns >= _COLLECT_EVERY_NS and not gc.isenabled():
            self._collected_ns = now
            gc.collect()  # only what came after the freeze: a fraction of a millisecond, and memory stays flat

    def ticks(self, rate_hz: float, phase_ns: int = 0) -> Iterator[Tick]:
        """Absolute deadlines at `rate_hz` until a stop is asked for; misses and skipped periods are counted."""
        pacer = Pacer(round(SECOND / rate_hz), phase_ns, sleep=self.stop.wait)
        misses = 0
        while self.running:
            tick = pacer.wait()
            if tick is None or not self.running:
                continue
            if pacer.misses != misses:
                self.count("deadline_miss", pacer.misses - misses)
                misses = pacer.misses
            if tick.skipped:
                self.count("tick_skipped", tick.skipped)
            self.gauge("tick_late_us", tick.late_ns / 1000)
            yield tick
            self.beat()

    def close(self, clean: bool) -> None:
        self.health.state("stopped" if clean else "stopping")
        self._notify.send(STOPPING=1)
        for stream in self._opened:
            stream.close()
        self.health.close()
        self._notify.close()


@contextmanager
def lifecycle(name: str, cfg: Config) -> Iterator[Me]:
    """Set up, run the body, clean up. Pinning happened in `run`, before anything heavy was imported."""
    me = Me(PROCESSES[name], cfg, Hub(namespace()), StopRequest())
    me.log.info("started, config %s, namespace %s", cfg.digest(), me.hub.namespace)
    me.note(_pinned)
    clean = False
    try:
        yield me
        clean = True
    finally:
        me.close(clean)
        me.log.info("stopped%s", "" if clean else " by an error")


_pinned: list[rt.Grant] = []


def run(name: str, cfg: Config) -> None:
    """Become the process `name`. Pinned and limited before its module is imported: torch's thread pool keeps the mask
    and the size it was born with."""
    check(cfg)
    if name not in PROCESSES:
        raise ConfigError(f'no process "{name}"; there are: {", ".join(PROCESSES)}')
    cores = cores_of(PROCESSES[name], cfg)
    rt.set_thread_environment(len(cores))
    _pinned[:] = [rt.pin(cores)]
    importlib.import_module(PROCESSES[name].module).main(cfg)
