"""The sd_notify protocol: READY, WATCHDOG and STATUS datagrams to whoever started us (systemd or our supervisor).

The socket never blocks: a manager that does not read takes a few hundred datagrams, then a blocking sender would hang.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Without NOTIFY_SOCKET (a process started by hand) every call does nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._socket.connect("\0" + address[1:] if address[0] == "@" else address)
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        for_us = usec.isdigit() and (not pid or pid == str(os.getpid()))
        self.interval_ns = int(usec) * 1000 // 4 if for_us else 0  # 0: nobody watches

    def send(self, **fields: object) -> bool:
        """False if nobody listens or the manager's queue is full; the next round tries again."""
        if self._socket is None:
            return False
        text = "\n".join(f"{key}={value}" for key, value in fields.items())
        try:
            self._socket.send(text.encode())
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
