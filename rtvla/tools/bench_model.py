"""`rtvla bench model`: what each stage of a model costs, from the pictures to the chunk, without any reuse.

Encodes the pictures of an episode (--dataset-dir) or drawn ones, after a proof that they really are in the feature;
then runs the action model on it. Writes comparison.csv, comparison.png and one JSON document a model into --output-dir.
--compare-views, --compare-sensors and --compare-parallel do the same in a folder of their own each. The running
pipeline does not wait like this: there the encoder is a process beside the policy (`rtvla profile vl` says how often a
feature is used again).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtvla.errors import ConfigError
from rtvla.tools import plots
from rtvla.tools.bench_machine import Bystanders, describe

if TYPE_CHECKING:
    from rtvla.tools.bench_model_variants import Variants

_FLAGS = {
    "regression": "checkpoint_regression",
    "flow_matching": "checkpoint_flow",
    "diffusion": "checkpoint_diffusion",
}
_COMPARISONS = ("views", "sensors", "parallel")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for expert, flag in _FLAGS.items():
        option = "--" + flag.replace("_", "-")
        parser.add_argument(option, type=Path, metavar="DIR", help=f"a checkpoint folder with a {expert} expert")
    parser.add_argument("--dataset-dir", type=Path, metavar="DIR", help="an episode, for its pictures (drawn ones)")
    parser.add_argument("--num-iterations", type=int, default=10, metavar="N", help="after 3 to warm up (%(default)s)")
    parser.add_argument("--num-views", type=int, metavar="N", help="the first N views of the model (all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0 (%(default)s)")
    parser.add_argument("--engine", default="auto", help="of the policy (%(default)s)")
    parser.add_argument("--precision", default="float32", help="of that engine (%(default)s)")
    parser.add_argument("--vl-engine", default="auto", help="of the encoder (%(default)s)")
    parser.add_argument("--task-name", default="eye", metavar="TEXT", help="task in the prompt (%(default)s)")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmark_results"), help="(./%(default)s)")
    parser.add_argument("--compare-views", action="store_true", help="one view, two, ... up to --num-views")
    parser.add_argument("--compare-sensors", action="store_true", help="with the sensor and without")
    parser.add_argument("--compare-parallel", action="store_true", help="each view in its own sequence and all in one")
    parser.add_argument("--disable-sensor", action="store_true", help="a model made without the sensor")
    parser.add_argument("--disable-robot-states", action="store_true", help="a model made without the robot state")


def run(args: argparse.Namespace) -> int:
    given = {expert: getattr(args, flag) for expert, flag in _FLAGS.items() if getattr(args, flag) is not None}
    if not given:
        raise ConfigError("no model given: --checkpoint-regression, --checkpoint-flow or --checkpoint-diffusion DIR")
    if args.num_iterations < 1:
        raise ConfigError(f"--num-iterations {args.num_iterations}: must be at least 1")
    plots.require_matplotlib()
    from rtvla.tools.bench_model_variants import Variants

    bystanders = Bystanders()
    models = []
    for expert, folder in given.items():
        models.append(Variants(folder, args))
        if models[-1].expert != expert:
            option = "--" + _FLAGS[expert].replace("_", "-")
            raise ConfigError(f"{option} {folder}: its expert is {models[-1].expert}, not {expert}")
    return _report(args, models, bystanders)


def _report(args: argparse.Namespace, models: list[Variants], bystanders: Bystanders) -> int:
    from rtvla.tools import bench_model_files as files

    plain = [found for model in models for found in model.as_it_is()]
    asked = [kind for kind in _COMPARISONS if getattr(args, f"compare_{kind}")]
    compared = {kind: [found for model in models for found in model.compare(kind)] for kind in asked}
    frame: dict[str, Any] = {
        "benchmark": "model",
        "machine": describe("torch", "transformers"),
        "run": bystanders.look(),
        "device": models[0].device,
        "pictures": str(args.dataset_dir) if args.dataset_dir else "drawn",
    }
    written = files.write_models(args.output_dir, plain, frame)
    written += files.write_comparison(args.output_dir, plain, f"Pictures to chunk on {frame['device']}, without reuse")
    files.show_frame(frame)
    files.show("without reuse: every chunk waits for its own VL feature", plain)
    for kind, results in compared.items():
        written += files.write_comparison(args.output_dir / f"{kind}_comparison", results, f"by {kind}")
        files.show(f"\ncomparison by {kind}", results)
    print("\nwritten:", *written, sep="\n  ")
    return 0
