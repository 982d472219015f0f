"""A socket that systemd has opened for us (socket activation, sd_listen_fds(3)): rtvla-sensor_ingest.socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from rtvla.errors import ConfigError

_FIRST_FD = 3


def inherited_socket(environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The one bound UDP socket that was handed to this process, or None. ConfigError for anything else."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None  # not for us, but for who started us
    if environ.get("LISTEN_FDS") != "1":
        raise ConfigError(f"systemd hands over {environ.get('LISTEN_FDS')} sockets: one Listen line is needed")
    sock = socket.socket(fileno=_FIRST_FD)
    sock.set_inheritable(False)
    if sock.family != socket.AF_INET or sock.type != socket.SOCK_DGRAM:
        raise ConfigError(f"systemd hands over {sock}: needs ListenDatagram= with an IPv4 address")
    return sock
