"""A socket handed over by systemd: taken by the process that it is for, and by no other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from rtvla.errors import ConfigError
from rtvla.procs.activation import inherited_socket

# What systemd does between fork and exec: the socket becomes descriptor 3, and the process is told of it.
_TAKE = """
import os, sys
from rtvla.procs.activation import inherited_socket
os.dup2(int(sys.argv[1]), 3)
sock = inherited_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
sock.settimeout(20)
print(sock.getsockname()[1], sock.recv(100).decode())
"""


def take(sock: socket.socket) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _TAKE, str(sock.fileno())]
    return subprocess.run(command, pass_fds=[sock.fileno()], capture_output=True, text=True, timeout=60, check=False)


def test_what_was_sent_before_the_process_was_there_is_received() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.bind(("127.0.0.1", 0))
        sender.sendto(b"early", sock.getsockname())
        done = take(sock)
        assert done.stdout.split() == [str(sock.getsockname()[1]), "early"], done.stderr


def test_a_socket_of_the_wrong_kind_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        assert "needs ListenDatagram=" in take(sock).stderr


@pytest.mark.parametrize("told", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid())}])
def test_a_socket_that_is_for_another_process_is_not_touched(told: dict[str, str]) -> None:
    assert inherited_socket(told) is None


def test_more_than_one_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 sockets"):
        inherited_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})
