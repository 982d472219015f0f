"""The whole pipeline in real processes, on loopback, in a namespace and on ports of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rtvla.models.make_tiny import make_tiny
from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows

LOAD_S = 60  # two cores, other work beside us: how long models may take to load before a test gives up


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny(folder)
    return folder


class Pipeline:
    """One `rtvla infer` and what can be seen of it from outside."""

    def __init__(self, namespace: str, checkpoint: Path, out: Path, ports: dict[str, int]) -> None:
        self.hub, self.out, self.ports = Hub(namespace), out, ports
        self._checkpoint = checkpoint
        self._said = out.with_suffix(".txt")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, out_fd: int | None = None) -> None:
        """`out_fd`: where it writes to instead of the file behind `output`."""
        flags = [f for name, port in self.ports.items() for f in (f"--{name}-port", str(port))]
        paths = ["--checkpoint", str(self._checkpoint), "--out", str(self.out)]
        with open(self._said, "w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rtvla", "infer", *paths, *flags, *options],
                stdout=out_fd or said,
                stderr=out_fd or said,
            )

    @property
    def output(self) -> str:
        return self._said.read_text()

    def wait_end(self, timeout_s: float = 120) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait_end(timeout_s)

    def rows(self) -> dict[str, Any]:
        return process_rows(self.hub)

    def counter(self, process: str, name: str) -> int:
        return int(self.rows().get(process, {}).get("counters", {}).get(name, 0))

    def until(self, what: Callable[[], bool], why: str, timeout_s: float = LOAD_S) -> None:
        """Wait for a condition; if the pipeline ends meanwhile, or it takes too long, show why."""
        deadline = time.monotonic() + timeout_s
        while not what():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                logs = "\n".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in self.out.rglob("*.log"))
                pytest.fail(f"{why} did not happen (rows: {self.rows()})\n{self.output[-3000:]}\n{logs}")
            time.sleep(0.05)

    def is_ready(self, process: str) -> bool:
        row = self.rows().get(process)
        return bool(row and row["alive"] and row["state"] == "ready")

    def moving(self) -> bool:
        """Whether the arm was started and has received steps since."""
        return self.counter("commander", "dpose") >= 5

    def folder(self) -> Path:
        folders = sorted(self.out.glob("async_inference_*"))
        assert len(folders) == 1, folders
        return folders[0]

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in next(self.folder().glob(f"{kind}_*.jsonl")).read_text().splitlines()]

    def summary(self) -> dict[str, Any]:
        return dict(json.loads(next(self.folder().glob("performance_summary_*.json")).read_text()))

    def kill_everything(self) -> None:
        """At the end of a test: nothing of it may live on, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for row in self.rows().values():
            if row["alive"] and row["pid"] != os.getpid():
                psutil.Process(row["pid"]).kill()


@pytest.fixture
def pipeline(namespace: str, checkpoint: Path, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Pipeline]:
    ports = {name: free_port() for name in ("sensor", "camera", "robot", "command")}
    pipeline = Pipeline(namespace, checkpoint, tmp_path / "runs", ports)
    pipeline.out.mkdir()
    yield pipeline
    pipeline.kill_everything()
    if pipeline.process is not None and pipeline.process.returncode not in (0, None):
        pipeline.hub.purge()  # the test has already said what went wrong
