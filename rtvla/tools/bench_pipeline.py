"""The whole pipeline on simulated senders: what it costs, how late it is, how old the data is at the command.

    python -m rtvla.tools.bench_pipeline --checkpoint DIR --seconds 30 [--kill]

Runs `rtvla infer --sim` in a namespace of its own, measures the CPU of each process over the run by the kernel's
accounting, and reads the rest from the run's files. --kill then kills each process once with SIGKILL and times its
return. Prints a table; the last line is one JSON document. Quote medians and name the machine: other load shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows

_GIVE_UP_S = 120.0
PIPELINE = (
    "recorder",
    "monitor",
    "sensor_ingest",
    "robot_ingest",
    "camera_ingest",
    "vl_encoder",
    "policy",
    "commander",
)


def wait(condition: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _GIVE_UP_S
    while not condition():
        if run.poll() is not None or time.monotonic() > deadline:
            run.kill()
            sys.exit(f"the pipeline ended or did not get going:\n{run.communicate()[0][-3000:]}")
        time.sleep(0.01)


def cpu_shares(hub: Hub, seconds: float) -> dict[str, float]:
    """Percent of one core that each process used over the next `seconds`."""
    before, began = process_rows(hub), time.monotonic()
    time.sleep(seconds)
    after, took = process_rows(hub), time.monotonic() - began
    return {name: 100 * (after[name]["cpu_seconds"] - before[name]["cpu_seconds"]) / took for name in PIPELINE}


def return_times(hub: Hub, run: subprocess.Popen[str]) -> dict[str, float]:
    """Seconds from SIGKILL of a process until its successor is ready, one process after the other."""
    times: dict[str, float] = {}
    for name in PIPELINE:
        row = process_rows(hub)[name]
        killed = time.monotonic()
        os.kill(row["pid"], signal.SIGKILL)

        def back(name: str = name, generation: int = row["generation"]) -> bool:
            now = process_rows(hub)[name]
            return bool(now["generation"] > generation and now["state"] == "ready" and now["alive"])

        wait(back, run)
        times[name] = time.monotonic() - killed
        time.sleep(1.0)
    return times


def spread(values: Any) -> dict[str, float]:
    found = np.asarray(values, np.float64)
    return {"p50": float(np.median(found)), "p99": float(np.percentile(found, 99)), "max": float(found.max())}


def from_files(folder: Path) -> dict[str, Any]:
    """Counts, ages and times from the files of the run."""
    timings = [json.loads(line) for line in next(folder.glob("performance_timings_*")).read_text().splitlines()]
    commands = [json.loads(line) for line in next(folder.glob("commands_*")).read_text().splitlines()]
    summary = json.loads(next(folder.glob("performance_summary_*")).read_text())
    sent = [command for command in commands if command["kind"] == "dpose"]
    policy = summary["counters"]["policy"]
    periods = np.diff([line["timestamp"] for line in timings]) * 1000
    return {
        "chunks": len(timings),
        "chunks_skipped": policy.get("tick_skipped", 0),
        "deadline_misses": policy.get("deadline_miss", 0),
        "commands_sent": len(sent),
        "lost": summary["lost"],
        "period_ms": spread(periods),
        "tick_to_chunk_ms": spread([line["total_time"] for line in timings]),
        **{
            f"{part}_age_at_command_ms": spread([command[f"{part}_age_ms"] for command in sent])
            for part in ("sensor", "robot", "vl")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--kill", action="store_true")
    args = parser.parse_args()
    os.environ["RTVLA_NAMESPACE"] = f"bench-{os.getpid()}"
    hub = Hub(os.environ["RTVLA_NAMESPACE"])
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "rtvla", "infer", "--sim", "--checkpoint", args.checkpoint, "--out", out]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait(lambda: process_rows(hub).get("commander", {}).get("counters", {}).get("dpose", 0) > 5, run)
        cpu = cpu_shares(hub, args.seconds)
        returns = return_times(hub, run) if args.kill else {}
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=_GIVE_UP_S)
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
            f"Python {platform.python_version()}",
            "seconds": args.seconds,
            "cpu_percent_of_a_core": cpu,
            "back_after_kill_s": returns,
            **from_files(next(Path(out).iterdir())),
        }
    show(report)
    print(json.dumps(report))


def show(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if isinstance(value, dict):
            print(
                f"{name}: "
                + ", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
            )
        else:
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
