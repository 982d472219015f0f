"""`rtvla bench gpu`: the full-size models with random weights on one GPU; no network, no checkpoint, no shared memory.

Parts, in this order: `encode` (the plain transformers call and ours; views, sizes, sequence; FLOPs, share of the peak
of matrix products), `action` (each expert by each engine), `shared` (the action model beside the encoder: two
processes, MPS, two streams), `deployed` (the encoder by its own engine; on a GPU that builds for minutes a shape). Each
part is a process of its own: one that fails or hangs takes nothing with it. Every row is printed and kept in
DIR/rows.jsonl at once; at the end report.txt, results.json and pictures are made of them (--render makes them of what
a killed run has left). --parts measures some of them and keeps what DIR has of the others, so a run can be made in
pieces; pieces in several folders become one by writing their rows.jsonl one behind the other. --device cpu --preset
tiny runs every part without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rtvla.errors import ConfigError
from rtvla.rt import die_with_parent
from rtvla.tools.bench_machine import describe

PARTS = {"encode": 0.35, "action": 0.1, "shared": 0.25, "deployed": 0.3}  # share of the minutes
_GRACE_S = 60.0  # to end the last row, before a part is killed
_PATIENCE_S = 5.0
_NEEDED = {"torch": "torch", "transformers": "transformers", "safetensors": "safetensors", "PIL": "pillow"}
_NEEDED |= {"numpy": "numpy", "rich": "rich", "tokenizers": "tokenizers"}
_SIZES = [(1280, 720), (960, 540), (640, 360), (480, 270)]
# preset -> (encodes a row, shapes of the part deployed, ticks a row, seconds a setting, picture sizes)
_EFFORT = {"full": (10, 2, 1000, 12.0, _SIZES), "small": (5, 2, 50, 3.0, _SIZES), "tiny": (1, 1, 3, 0.1, [(192, 108)])}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="(benchmarks/results/DATE-gpu)")
    parser.add_argument("--minutes", type=float, default=8.0, help="no row is begun after these (%(default)g)")
    parser.add_argument("--device", default="cuda", help="(%(default)s)")
    parser.add_argument("--preset", choices=list(_EFFORT), default="full", help="size of the models (%(default)s)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="(all)")
    parser.add_argument("--render", action="store_true", help="only make the report of what DIR/rows.jsonl holds")
    # for the process of one part
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"{sys.executable} lacks {', '.join(missing)}: install them, or name another RTVLA_PYTHON")
    folder = args.out or Path("benchmarks/results") / f"{datetime.now(UTC):%Y%m%d}-gpu"
    if args.part:
        die_with_parent(os.getppid(), signal.SIGTERM)  # a run that is killed leaves nothing working on the GPU
        run_part(args.part, args, folder)
        return 0
    if not args.render:
        _measure(args, folder)
    from rtvla.tools import bench_gpu_report

    written = bench_gpu_report.write(folder)
    print((folder / "report.txt").read_text())
    print("written:", *written, sep="\n  ")
    return 0


def _measure(args: argparse.Namespace, folder: Path) -> None:
    from rtvla.tools.bench_gpu_rows import Rows, begin
    from rtvla.tools.model_source import resolve_device

    resolve_device(args.device)
    begin(folder, args.parts)
    head = Rows(folder, "machine", 0)
    head.add(machine=describe("torch", "transformers") | {"gpu": _gpu(), "preset": args.preset})
    head.close()
    options = ["--device", args.device, "--preset", args.preset, "--out", str(folder)]
    end_s = time.monotonic() + 60 * args.minutes
    for at, part in enumerate(args.parts):
        share = PARTS[part] / sum(PARTS[later] for later in args.parts[at:])  # of what is left
        limit_s = max(0.0, end_s - time.monotonic()) * share
        command = [sys.executable, "-m", "rtvla.tools.bench_gpu", *options, "--part", part, "--seconds", str(limit_s)]
        why = _run_part_process(command, limit_s + _GRACE_S)
        if why:
            rows = Rows(folder, part, 0)
            rows.add(what="the rest of this part", failed=why)
            rows.close()


def _run_part_process(command: list[str], limit_s: float) -> str:
    """Why it failed, or nothing. One that does not end is asked to, then killed with all that it has started."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"did not end within {limit_s:.0f} s and was killed"
    finally:
        if process.poll() is None:  # also at Ctrl-C, and at a SIGTERM
            _end(process)
    return f"ended with code {code}; its error is above" if code else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """It has _PATIENCE_S to put away what it started (a control daemon of MPS outlives its process group)."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):  # nothing is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_part(part: str, args: argparse.Namespace, folder: Path) -> None:
    from rtvla.tools import bench_gpu_action, bench_gpu_encode, bench_gpu_shared
    from rtvla.tools.bench_gpu_rows import Rows

    encodes, deployed, ticks, seconds, sizes = _EFFORT[args.preset]
    rows = Rows(folder, part, args.seconds)
    where = (rows, args.preset, args.device)
    try:
        if part == "encode":
            bench_gpu_encode.run(*where, encodes, sizes)
        elif part == "action":
            bench_gpu_action.run(*where, ticks)
        elif part == "shared":
            bench_gpu_shared.run(*where, seconds)
        else:
            bench_gpu_encode.run_deployed(*where, encodes, sizes, deployed)
    finally:
        rows.close()


def _gpu() -> str:
    """Name, memory, driver and power limit, as nvidia-smi says them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi: {error}"


def main() -> int:
    """Without the command `rtvla`, whose own imports a machine for benchmarks need not have."""
    parser = argparse.ArgumentParser(
        prog="python -m rtvla.tools.bench_gpu",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_arguments(parser)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of every `finally`
    try:
        return run(parser.parse_args())
    except ConfigError as error:
        print(f"rtvla bench gpu: {error}", file=sys.stderr)
        return 78


if __name__ == "__main__":
    sys.exit(main())
