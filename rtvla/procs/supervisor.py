"""Starts the processes of the table in order of readiness, watches their heartbeat, brings them back, stops them.

It speaks systemd's protocol (NOTIFY_SOCKET, WATCHDOG_USEC), so a process has one code path for both. One thread, one
poll loop: ends come by pidfd, notifications by a datagram socket that the kernel signs with the sender's pid.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import struct
import tempfile
from collections.abc import Callable, Mapping

from rtvla.clock import SECOND, now_ns
from rtvla.errors import ShmError
from rtvla.procs.child import RUNNING, Child
from rtvla.procs.dumper import Dumper
from rtvla.procs.table import EXIT_CONFIG
from rtvla.shm.hub import Hub

# Exit codes; 78 if the settings of a process are wrong.
EXIT_OK, EXIT_GAVE_UP, EXIT_KILLED = 0, 1, 4
NAME = "supervisor"


def refuse_if_used(hub: Hub) -> None:
    """ShmError while anybody writes in the namespace."""
    live = hub.claimed()
    if live:
        names = ", ".join(path.name for path in live[:3])
        raise ShmError(f"namespace {hub.namespace} is in use ({names}): rtvla down, or set RTVLA_NAMESPACE")


def clear_leftovers(hub: Hub) -> str:
    """Remove what a run left that ended without cleaning up. Refuses while anybody of it still writes."""
    refuse_if_used(hub)
    count = hub.purge()
    return f"removed {count} segments that an unfinished run left in /dev/shm" if count else ""


class Supervisor:
    """`children` in the order of their start. `until` is asked in each round whether the work is done. `dumper` takes
    a black box when a process ends unexpectedly."""

    def __init__(self, hub: Hub, children: list[Child], until: Callable[[], bool], dumper: Dumper) -> None:
        self._hub, self._until, self._dumper = hub, until, dumper
        self.children: Mapping[str, Child] = {child.name: child for child in children}
        self._log = logging.getLogger(NAME)
        self.health = hub.health_row(NAME)
        self._stopping, self._signals, self.exit_code = False, 0, EXIT_OK
        self._selector = selectors.DefaultSelector()
        self._folder = tempfile.TemporaryDirectory(prefix="rtvla-")
        self._notify_path = os.path.join(self._folder.name, "notify")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notify.bind(self._notify_path)
        self._selector.register(self._notify, selectors.EVENT_READ, None)
        self._signal_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        self._selector.register(self._signal_fd, selectors.EVENT_READ, None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def run(self) -> int:
        """Until the work is done, a signal comes, or a process has given up. Returns the exit code."""
        self.health.state("ready")
        last_round_ns = now_ns()
        while not (self._stopping and not self._running() and not self._dumper.running):
            last_round_ns = self._forgive_own_pause(last_round_ns)
            if not self._stopping and self._until():
                self.stop("done")
            if self._stopping:
                self._stop_next()
            else:
                self._start_next()
                self._watch()
            for key, _ in self._selector.select(0.05):
                if key.data is not None:
                    self._hear_all()  # what it said before it ended
                    self._on_end(key.data)
                elif key.fileobj is self._notify:
                    self._hear_all()
                else:
                    self._on_signals()
            self._count_black_boxes()
            self.health.beat()
        self._count_black_boxes()
        self.health.state("stopped")
        self._notify.close()
        self._selector.close()
        self._folder.cleanup()
        return self.exit_code

    def stop(self, why: str) -> None:
        if not self._stopping:
            self._stopping = True
            self.health.state("stopping")
            self._log.info("stopping: %s", why)

    def all_ready(self) -> bool:
        return all(child.state == "ready" for child in self.children.values())

    def _running(self) -> list[Child]:
        return [child for child in self.children.values() if child.state in RUNNING]

    def _forgive_own_pause(self, last_round_ns: int) -> int:
        """If we ourselves did not run (a paused machine), nobody else is to blame for silence in that time."""
        now = now_ns()
        if now - last_round_ns > SECOND // 2:
            for child in self.children.values():
                child.alive_ns += now - last_round_ns
        return now

    def _start_next(self) -> None:
        now = now_ns()
        for child in self.children.values():
            needed = [self.children[name] for name in child.process.needs if name in self.children]
            due = child.state == "backoff" and now >= child.next_start_ns
            if due or (child.state == "waiting" and all(other.state == "ready" for other in needed)):
                child.start(self._notify_path)
                self._selector.register(child.pidfd, selectors.EVENT_READ, child)
                self._log.info("%s started, pid %d", child.name, child.pid)

    def _watch(self) -> None:
        for child in self._running():
            why = child.overdue()
            if why:
                self._log.error("%s %s: ending it", child.name, why)
                self._dumper.take(f"{child.name} {why}")  # as it hangs, not as it is a second later
                self.health.count(f"hung.{child.name}")
                child.abort()
            elif child.kill_at_ns and now_ns() > child.kill_at_ns:
                child.kill()

    def _stop_next(self) -> None:
        """A process is told to stop once nobody that needs it runs any more: the commander first, the recorder last."""
        now = now_ns()
        for child in self._running():
            needed_by = [other for other in self._running() if child.name in other.process.needs]
            if child.state != "stopping" and not needed_by:
                child.terminate()
            elif child.kill_at_ns and now > child.kill_at_ns:
                self._log.error("%s did not stop in %g s: killed", child.name, child.process.stop_s)
                self.exit_code = self.exit_code or EXIT_KILLED
                child.kill()

    def _on_end(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        code = child.reap()
        if self._is_unexpected(child, code):
            self._dumper.take(f"{child.name} {child.last_end}")  # before anything of it comes back
        if self._stopping:
            child.state = "stopped"
            if code:
                self._log.warning("%s ended with %s", child.name, child.last_end)
            if code > 0:  # it could not finish its work, such as a recorder on a full disk
                self.exit_code = self.exit_code or EXIT_GAVE_UP
                self._show_last_words(child)
            return
        self.health.count(f"restart.{child.name}", 0)
        self._log.error("%s ended: %s", child.name, child.last_end)
        if code > 0:
            self._show_last_words(child)
        delay = None if code == EXIT_CONFIG else child.schedule_restart()
        if delay is None:
            self._give_up(child, code)
            return
        self.health.count(f"restart.{child.name}")
        self._log.info("%s starts again in %.1f s", child.name, delay)

    def _is_unexpected(self, child: Child, code: int) -> bool:
        """Whether its end is worth a black box. Not what we did ourselves, nor wrong settings: its log says which."""
        if code in (0, EXIT_CONFIG) or child.aborted or self._signals >= 3:
            return False
        return not (self._stopping and code == -signal.SIGTERM)  # told to stop before it could listen

    def _count_black_boxes(self) -> None:
        for news in self._dumper.news():
            self.health.count(f"blackbox.{news}")

    def _give_up(self, child: Child, code: int) -> None:
        child.state = "failed"
        why = "its settings are wrong" if code == EXIT_CONFIG else "it crashed too often"
        said = f"{child.name} stays down, {why}; its log: {child.log_path}"
        if child.process.critical:
            self.exit_code = EXIT_CONFIG if code == EXIT_CONFIG else EXIT_GAVE_UP
            self.stop(said)
        else:
            self._log.error("%s; the others go on", said)

    def _show_last_words(self, child: Child) -> None:
        for line in child.last_words():
            self._log.error("  | %s", line)

    def _hear_all(self) -> None:
        by_pid = {child.pid: child for child in self._running()}
        while True:
            try:
                data, ancillary, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return
            pids = [struct.unpack("3i", cmsg[2][:12])[0] for cmsg in ancillary if cmsg[1] == socket.SCM_CREDENTIALS]
            child = by_pid.get(pids[0]) if pids else None  # only the process itself may speak for it
            if child is not None and child.hear(data.decode(errors="replace")):
                self._log.info("%s ready after %.1f s", child.name, (child.alive_ns - child.started_ns) / 1e9)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def _on_signals(self) -> None:
        os.read(self._signal_fd, 64)
        self.stop("asked to by a signal")  # first of all: from here on nothing is started again
        if self._signals >= 3 and self.exit_code != EXIT_KILLED:  # Ctrl-C three times: at once
            self._log.warning("killed at once; complete the files of this run with: rtvla record finish RUN_FOLDER")
            self.exit_code = EXIT_KILLED
            self._dumper.kill()
            for child in self._running():
                child.kill()
