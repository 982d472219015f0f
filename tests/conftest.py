"""Every test gets its own namespace and fails if it leaves a segment behind."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator

import psutil
import pytest

from rtvla.shm.hub import Hub


def _is_harmless(child: psutil.Process) -> bool:
    """Ended already, or multiprocessing's own tracker, which one interpreter starts once and ends itself."""
    try:
        return child.status() == psutil.STATUS_ZOMBIE or "resource_tracker" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """A process that outlives its test would run for hours beside everything else: it is killed, and is a failure.
    Regression: a writer at full speed of a failed stress test took one of two cores for an hour."""
    yield
    left = [child for child in psutil.Process().children(recursive=True) if not _is_harmless(child)]
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=10)
    assert not left, f"left running: {left}"


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace of the test's own; whatever is left in /dev/shm afterwards is a failure, and is removed."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    monkeypatch.setenv("RTVLA_NAMESPACE", name)
    yield name
    left = [path.name for path in Hub(name).segments()]
    Hub(name).purge()
    assert not left, f"left in /dev/shm: {left}"


@pytest.fixture
def hub(namespace: str) -> Iterator[Hub]:
    """A hub whose segments are the test's to make; they are removed at its end."""
    hub = Hub(namespace)
    yield hub
    hub.purge()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives port numbers nobody on loopback uses, for TCP and UDP."""
    taken: set[int] = set()

    def pick() -> int:
        while True:
            with (
                socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            ):
                tcp.bind(("127.0.0.1", 0))
                port = int(tcp.getsockname()[1])
                try:
                    udp.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in taken:
                taken.add(port)
                return port

    return pick
