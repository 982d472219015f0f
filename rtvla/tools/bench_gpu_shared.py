"""The policy's tick while the encoder works on the same device: alone, two processes, two under MPS, one with two
streams. Each in fresh processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from rtvla.errors import RtvlaError
from rtvla.tools.bench_gpu_rows import Rows

_EXPERTS = ("regression", "flow_matching")
_LIMIT_S = 240.0  # of a process, from its start; a hang of a driver must not stop what follows


class Child:
    """One bench_gpu_child: started, ready when it says so, ended by its result, killed if it takes too long."""

    def __init__(self, role: str, options: list[str], environment: Mapping[str, str], limit_s: float) -> None:
        command = [sys.executable, "-m", "rtvla.tools.bench_gpu_child", role, *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self._limit = threading.Timer(limit_s, self._process.kill)
        self._limit.start()

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # anything else is a library's greeting
            if line.strip() == "ready":
                return
        raise RtvlaError(f"the process of the benchmark ended before it was ready, code {self._process.wait()}")

    def result(self) -> dict[str, Any]:
        """Of a child that is done, or of an encoder, which this ends."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise RtvlaError(f"the process of the benchmark failed with code {self._process.returncode}")
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found

    def end(self) -> None:
        """If it is still there: after an error, or because another one failed."""
        self._limit.cancel()
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def run(rows: Rows, preset: str, device: str, seconds: float) -> None:
    """`seconds`: of ticks, for each expert in each setting."""
    options = ["--preset", preset, "--device", device, "--seconds", str(seconds), "--experts", *_EXPERTS]
    measure(rows, "alone", "action", options, {}, beside=False)
    measure(rows, "two processes", "action", options, {}, beside=True)
    with mps(device) as (environment, why_not):
        if why_not:
            rows.skip("two processes under MPS", why_not)
        else:
            measure(rows, "two processes under MPS", "action", options, environment, beside=True)
    one = "one process, two streams" if device != "cpu" else "one process, two threads (streams need CUDA)"
    measure(rows, one, "both", options, {}, beside=False)


def measure(
    rows: Rows, setting: str, role: str, options: list[str], environment: Mapping[str, str], *, beside: bool
) -> None:
    """`beside`: an encoder in a process of its own, too."""
    if rows.left_s <= 0:
        rows.skip(setting, "no time left")
        return
    children: list[Child] = []
    try:
        with rows.attempt(setting):
            for one in ["encoder"] * beside + [role]:
                children.append(Child(one, options, environment, _LIMIT_S))
                children[-1].wait_ready()
            found = [child.result() for child in reversed(children)]
            encoder = found[-1].pop("encoder", None)
            for expert, tick in found[0].items():
                rows.add(setting=setting, expert=expert, tick_ms=tick, encoder_ms=encoder)
    finally:
        for child in children:
            child.end()


@contextlib.contextmanager
def mps(device: str) -> Iterator[tuple[dict[str, str], str]]:
    """(environment of the clients, why not). A control daemon of our own, in a folder of its own, ended at the end.

    NVIDIA, "Multi-Process Service", section 5: pipe and log folders name the daemon; no setting of the GPU is changed.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if device == "cpu" or control is None:
        yield {}, "needs CUDA" if device == "cpu" else "nvidia-cuda-mps-control is not installed"
        return
    with tempfile.TemporaryDirectory(prefix="rtvla-mps-") as folder:
        environment = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        everything = {**os.environ, **environment}
        started = subprocess.run([control, "-d"], env=everything, capture_output=True, text=True, check=False)
        if started.returncode:
            yield {}, f"the control daemon does not start: {(started.stderr or started.stdout).strip()}"
            return
        try:
            yield environment, ""
        finally:
            subprocess.run([control], input="quit\n", env=everything, text=True, check=False, timeout=60)
