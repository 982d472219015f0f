"""Real ZMQ sockets over loopback: who holds the right keys comes in, all others are counted and get nothing through."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from rtvla.errors import ConfigError
from rtvla.security import keys as key_files
from rtvla.security.curve import Curve
from rtvla.security.keys import Keys

LONG_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "lab"
    key_files.make(folder)
    return folder


@pytest.fixture(scope="module")
def other_lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "lab"
    key_files.make(folder)
    return folder


class Side:
    """One program: a context, a socket, its doorkeeper, what it was told of refusals."""

    def __init__(self, kind: int, keys: Keys | None) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.refused: Counter[str] = Counter()
        self.curve = Curve(self.context, keys, self._on_refused)
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)

    def _on_refused(self, cause: str, _detail: str) -> None:
        self.refused[cause] += 1

    def close(self) -> None:
        self.curve.close()
        self.context.destroy(linger=0)


Make = Callable[[Keys | None, Keys | None], tuple[Side, Side]]


@pytest.fixture
def make(free_port: Callable[[], int]) -> Iterator[Make]:
    """A robot side that binds its command port, and a commander that connects to it."""
    sides: list[Side] = []

    def connect(robot_keys: Keys | None, host_keys: Keys | None) -> tuple[Side, Side]:
        robot, host = Side(zmq.PULL, robot_keys), Side(zmq.PUSH, host_keys)
        sides.extend((robot, host))
        port = free_port()
        robot.curve.listen(robot.socket, "host")
        robot.socket.bind(f"tcp://127.0.0.1:{port}")
        host.curve.connect(host.socket, "robot", f"tcp://127.0.0.1:{port}")
        return robot, host

    yield connect
    for side in sides:
        side.close()


def run_until(condition: Callable[[], bool], *sides: Side, seconds: float = LONG_S) -> bool:
    """Both loops, until something has happened."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        for side in sides:
            side.curve.serve()
        time.sleep(0.002)
    return True


def sends(side: Side) -> bool:
    try:
        side.socket.send(b"command", zmq.DONTWAIT)
    except zmq.Again:
        return False
    return True


def test_with_the_right_keys_messages_pass_and_nobody_is_refused(make: Make, folder: Path) -> None:
    robot, host = make(key_files.read(folder, "robot"), key_files.read(folder, "host"))
    assert run_until(lambda: sends(host), robot, host)
    assert robot.socket.poll(10_000) and robot.socket.recv() == b"command"
    assert not robot.refused and not host.refused


def _keys_of(who: str, folder: Path, other_lab: Path) -> Keys | None:
    """What a stranger may hold who knows everything that is not secret."""
    own, host = key_files.read(other_lab, "host"), key_files.read(folder, "host")
    return {
        "nothing": None,
        "the public keys of this lab": Keys("host", own.public, own.secret, host.peers),
        "the keys of another lab": own,
        "the keys of the cameras": Keys("host", *_pair(folder, "cameras"), host.peers),
    }[who]


def _pair(folder: Path, machine: str) -> tuple[bytes, bytes]:
    keys = key_files.read(folder, machine)
    return keys.public, keys.secret


@pytest.mark.parametrize(
    ("who", "cause"),
    [
        ("nothing", "protocol"),
        ("the public keys of this lab", "auth"),
        ("the keys of another lab", "protocol"),
        ("the keys of the cameras", "auth"),
    ],
)
def test_a_stranger_gets_nothing_through_and_is_counted(
    make: Make, folder: Path, other_lab: Path, who: str, cause: str
) -> None:
    robot, stranger = make(key_files.read(folder, "robot"), _keys_of(who, folder, other_lab))
    happened = run_until(lambda: sends(stranger) or robot.refused[cause] >= 2, robot, stranger)
    assert happened and robot.refused[cause] >= 2 and not sends(stranger)
    assert not robot.socket.poll(50)
    assert set(robot.refused) <= {cause, "handshake"}


def test_a_client_with_keys_sends_nothing_to_a_server_without(make: Make, folder: Path) -> None:
    robot, host = make(None, key_files.read(folder, "host"))
    assert run_until(lambda: sends(host) or robot.refused["protocol"] >= 2, robot, host)
    assert robot.refused["protocol"] >= 2 and not robot.socket.poll(50)


def test_who_was_refused_does_not_keep_the_right_one_out(make: Make, folder: Path, other_lab: Path) -> None:
    robot, stranger = make(key_files.read(folder, "robot"), _keys_of("the public keys of this lab", folder, other_lab))
    assert run_until(lambda: robot.refused["auth"] >= 2, robot, stranger)
    host = Side(zmq.PUSH, key_files.read(folder, "host"))
    try:
        host.curve.connect(host.socket, "robot", robot.socket.last_endpoint.decode())
        assert run_until(lambda: sends(host), robot, stranger, host)
        assert robot.socket.poll(10_000) and robot.socket.recv() == b"command"
    finally:
        host.close()


def test_a_robot_side_that_is_started_again_with_its_keys_is_found(make: Make, folder: Path) -> None:
    """Regression: libzmq never connects again after it has seen a side without keys."""
    keyless, host = make(None, key_files.read(folder, "host"))
    seen = host.refused
    assert run_until(lambda: seen["protocol"] >= 2, keyless, host)
    endpoint = keyless.socket.last_endpoint.decode()
    keyless.close()
    robot = Side(zmq.PULL, key_files.read(folder, "robot"))
    try:
        robot.curve.listen(robot.socket, "host")
        robot.socket.bind(endpoint)
        assert run_until(lambda: sends(host), robot, host)
        assert robot.socket.poll(10_000) and robot.socket.recv() == b"command"
    finally:
        robot.close()


def test_while_the_loop_does_not_serve_nobody_comes_in(make: Make, folder: Path) -> None:
    robot, host = make(key_files.read(folder, "robot"), key_files.read(folder, "host"))
    assert not run_until(lambda: sends(host), host, seconds=0.3)  # robot.curve.serve is not called
    assert run_until(lambda: sends(host), robot, host)


def test_a_machine_that_was_not_given_the_other_key_says_which_file_is_missing(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "host", tmp_path / "host")
    (tmp_path / "host" / "robot.key").unlink()
    keys = key_files.read(tmp_path, "host")
    with pytest.raises(ConfigError, match="robot.key is missing beside host.key_secret"):
        keys.peer("robot")
