"""`rtvla profile diffusion|flow|vl`: how long a model takes by sampling steps, by picture size and by number of views.

Measures a checkpoint, or a model of the same kind with random weights (--preset: time depends on shapes, not on
values). Prints a table; --output-dir also keeps it as JSON and as a picture. Quality is not measured here: fewer steps
and smaller pictures are faster and worse, by how much the evaluation of a trained model says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtvla.errors import ConfigError
from rtvla.tools import plots
from rtvla.tools.bench_machine import Bystanders, describe
from rtvla.tools.latency import where

_PERIOD_MS = 100.0  # of the policy: 10 Hz
_EXPERTS = {"diffusion": "diffusion", "flow": "flow_matching"}


def size(text: str) -> tuple[int, int]:
    """ "640x360" -> (width, height)."""
    numbers = text.split("x")
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: must be WIDTHxHEIGHT in pixels, such as 640x360")
    return int(numbers[0]), int(numbers[1])


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 on")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="what", required=True, metavar="WHAT")
    for kind, expert in _EXPERTS.items():
        steps = kinds.add_parser(kind, help=f"the {kind} expert by sampling steps")
        steps.add_argument("--steps", type=count, nargs="+", default=[5, 10, 20, 50, 100], metavar="N")
        steps.add_argument("--engine", default="auto", help="of the policy (%(default)s)")
        steps.add_argument("--precision", default="float32", help="of that engine (%(default)s)")
        _add_common(steps, iterations=50)
        steps.set_defaults(verb=run_steps, expert=expert)
    vl = kinds.add_parser("vl", help="the VL encoder by picture size and number of views")
    sizes = ["1280x720", "960x540", "640x360", "480x270"]
    vl.add_argument(
        "--resolutions",
        type=size,
        nargs="+",
        default=[size(text) for text in sizes],
        metavar="WxH",
        help=f"({', '.join(sizes)}; and the checkpoint's own)",
    )
    vl.add_argument("--views", type=count, nargs="+", default=[1, 2, 3, 5], metavar="N")
    vl.add_argument("--vl-sequence", choices=["per_view", "joint"], help="of the encode (as the checkpoint says)")
    vl.add_argument("--vl-engine", default="auto", help="of the encoder (%(default)s)")
    vl.add_argument("--task-name", default="eye", metavar="TEXT", help="task in the prompt (%(default)s)")
    _add_common(vl, iterations=20)
    vl.set_defaults(verb=run_vl)


def _add_common(parser: argparse.ArgumentParser, iterations: int) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="the model to measure")
    source.add_argument(
        "--preset", choices=["full", "small", "tiny"], help="random weights of this size instead (full on a GPU)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0 (%(default)s)")
    parser.add_argument("--iterations", type=count, default=iterations, metavar="N", help="a row (%(default)s)")
    parser.add_argument("--period-ms", type=float, default=_PERIOD_MS, help="of the policy (%(default)g)")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="also write NAME.json and NAME.png there")
    parser.add_argument("--json", action="store_true", help="only the JSON document")


def run_steps(args: argparse.Namespace) -> int:
    from rtvla.tools import profile_steps

    return _report(args, profile_steps, f"profile_{args.expert}")


def run_vl(args: argparse.Namespace) -> int:
    from rtvla.tools import profile_vl

    return _report(args, profile_vl, "profile_vl")


def _report(args: argparse.Namespace, part: Any, name: str) -> int:
    if args.period_ms <= 0:
        raise ConfigError(f"--period-ms {args.period_ms:g}: must be above 0")
    if args.output_dir is not None:
        plots.require_matplotlib()
    bystanders = Bystanders()
    found = part.measure(args)
    document = {
        "benchmark": name,
        "machine": describe("torch", "transformers"),
        "run": bystanders.look(),
        "period_ms": args.period_ms,
        **found,
    }
    if args.json:
        print(json.dumps(document))
    else:
        print(where(document["machine"], document["run"]))
        part.show(document)
    if args.output_dir is not None:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        written: Sequence[Path] = [args.output_dir / f"{name}.json", part.plot(document, args.output_dir)]
        written[0].write_text(json.dumps(document, indent=2) + "\n")
        if not args.json:
            print(f"\nwritten: {', '.join(map(str, written))}")
    return 0
