"""Runs a sender as its own process, as its command line will, and reads the line it ends with."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import zmq

ROOT = Path(__file__).parents[2]
PROGRAM = """
import argparse, importlib, sys
sender = importlib.import_module(f"rtvla.senders.{sys.argv[1]}")
parser = argparse.ArgumentParser()
sender.add_arguments(parser)
sys.exit(sender.run(parser.parse_args(sys.argv[2:])))
"""


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.002)


class Sender:
    def __init__(self, kind: str, *arguments: object) -> None:
        module = kind if kind == "replay" else f"{kind}_sim"
        command = [sys.executable, "-c", PROGRAM, module, *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def report(self) -> dict:
        """Wait for the end: one JSON line on stdout, one for people on stderr, exit status 0."""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        assert out.count("\n") == 1 and err.count("\n") == 1, (out, err)
        return json.loads(out)

    def stop(self, number: int = signal.SIGTERM) -> dict:
        self.send_signal(number)
        return self.report()


class UdpReceiver:
    """Collects datagrams in a thread, so that a small kernel buffer does not decide the test."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self._socket.bind(("127.0.0.1", port))
        self._socket.settimeout(0.05)
        self.port = self._socket.getsockname()[1]
        self.datagrams: list[bytes] = []
        self.drops = 0  # what the kernel took and then had no room for: on a busy machine that is nobody's fault
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while True:
            try:
                self.datagrams.append(self._socket.recv(1 << 17))
            except TimeoutError:
                if self._ending.is_set():
                    return

    def _kernel_drops(self) -> int:
        rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        return next(int(row[12]) for row in rows if row[1].endswith(f":{self.port:04X}"))

    def __enter__(self) -> "UdpReceiver":
        return self

    def __exit__(self, *_) -> None:
        self.finish()

    def finish(self) -> list[bytes]:
        """Everything that arrived; the socket is drained first."""
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            self.drops = self._kernel_drops()
            self._socket.close()
        return self.datagrams


def drain(socket: zmq.Socket, quiet_ms: int = 300) -> list[list[bytes]]:
    """All messages until nothing more comes."""
    messages = []
    while socket.poll(quiet_ms):
        messages.append(socket.recv_multipart())
    return messages
