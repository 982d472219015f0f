"""sd_notify over a real socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rtvla.procs.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    return manager


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_fields_arrive_as_lines(manager: socket.socket) -> None:
    with manager:
        notifier = Notifier(environment(manager))
        assert notifier.send(READY=1, STATUS="all is well")
        assert manager.recv(100) == b"READY=1\nSTATUS=all is well"
        notifier.close()


def test_a_manager_that_does_not_read_never_blocks_us(manager: socket.socket) -> None:
    with manager:
        notifier = Notifier(environment(manager))
        sent = 0
        while notifier.send(WATCHDOG=1):
            sent += 1
        assert sent > 0 and not notifier.send(WATCHDOG=1)
        notifier.close()


def test_the_interval_is_a_quarter_of_the_watchdog_and_only_ours(manager: socket.socket) -> None:
    with manager:
        mine = Notifier(environment(manager, WATCHDOG_USEC="2000000", WATCHDOG_PID=str(os.getpid())))
        parents = Notifier(environment(manager, WATCHDOG_USEC="2000000", WATCHDOG_PID="1"))
        assert (mine.interval_ns, parents.interval_ns) == (500_000_000, 0)
        mine.close()
        parents.close()


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier({})
    assert not notifier.send(READY=1) and notifier.interval_ns == 0
