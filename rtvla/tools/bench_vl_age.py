"""How old the pictures are that the policy acts on, in the running pipeline: encoded rolling, and as whole sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rtvla.errors import RtvlaError
from rtvla.tools.bench_machine import progress
from rtvla.tools.bench_udp import free_port

CAMERA_HZ = 5  # of the lab
_WARM_UP_CHUNKS = 20  # two seconds, in which the first sets are encoded
_GIVE_UP_S = 120.0
Row = dict[str, Any]


def ages(preset: str, runs: int, seconds: float) -> list[Row]:
    """One row a pair of runs and kind of sequence: mean age in ms over all views and chunks, rolling and batch."""
    from rtvla.models.make_tiny import make_tiny

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for sequence in ("per_view", "joint"):
            checkpoint = Path(folder) / sequence
            make_tiny(checkpoint, vl_size=preset, vl_sequence=sequence, image_height=360, image_width=640)
            for number in range(runs):
                seen = {}
                kinds = (("rolling", "true"), ("batch", "false"))
                for kind, rolling in kinds[:: -1 if number % 2 else 1]:  # each of the two is first as often as second
                    progress(f"pipeline, {sequence}, {kind}, run {number + 1} of {runs}")
                    seen[kind] = _run(checkpoint, rolling, seconds)
                ratio = seen["rolling"]["age_ms"] / seen["batch"]["age_ms"]
                engine = seen["rolling"]["engine"]
                rows.append({"sequence": sequence, "engine": engine, "camera_hz": CAMERA_HZ, "ratio": ratio, **seen})
    return rows


def _run(checkpoint: Path, rolling: str, seconds: float) -> Row:
    """As fast as the encoder can: a new set of features is wanted for every chunk.

    Rolling wins by the time of an encode, so what it wins depends on that: T for a set and t for one of V views make
    ages of about 1.5 T and 0.5 T + t, beside the wait for the cameras' next frames, which both have.
    """
    ports = (f"network.{name}_port={free_port()}" for name in ("sensor", "camera", "robot", "command"))
    settings = [*ports, f"vl_encoder.rolling={rolling}", "vl_encoder.reuse=1", "stale_ms.vl_feature=10000"]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "rtvla", "infer", "--sim", "--checkpoint", str(checkpoint), "--out", out]
        command += ["--seconds", str(seconds)]
        for setting in settings:
            command += ["--set", setting]
        environment = os.environ | {"RTVLA_NAMESPACE": f"bench-{os.getpid()}"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds + _GIVE_UP_S, check=False
        )
        if done.returncode:
            raise RtvlaError(f"the pipeline ended with {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        return _read(next(Path(out).iterdir()))


def _read(folder: Path) -> Row:
    lines = [json.loads(line) for line in next(folder.glob("performance_timings_*")).read_text().splitlines()]
    lines = lines[_WARM_UP_CHUNKS:]
    if len(lines) < _WARM_UP_CHUNKS:
        raise RtvlaError(f"only {len(lines)} chunks were made after the first {_WARM_UP_CHUNKS}: give more --seconds")
    by_view = np.array([list(line["view_age_ms"].values()) for line in lines])
    set_ms = [line["vl_update_time"] for line in lines if line["vl_update_time"]]  # on the first chunk of each, else 0
    span_s = lines[-1]["timestamp"] - lines[0]["timestamp"]
    said = (folder / "logs" / "vl_encoder.log").read_text()
    return {
        "age_ms": float(by_view.mean()),
        "oldest_ms": float(by_view.max(axis=1).mean()),
        "chunks": len(lines),
        "updates_per_s": (lines[-1]["vl_update_number"] - lines[0]["vl_update_number"]) / span_s,
        "set_ms": float(np.median(set_ms)) if set_ms else None,
        "engine": said.partition(" by ")[2].partition(",")[0],
    }
