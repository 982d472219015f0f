"""The flags of the verbs that run, stop and look at the pipeline, of `model`, `record` and `doctor`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TypeAlias

from rtvla.cli_verbs import (
    TINY_CHOICES,
    build_engine_verb,
    doctor_verb,
    down_verb,
    finish_verb,
    infer_verb,
    make_tiny_verb,
    run_verb,
    show_model_verb,
    status_verb,
    up_verb,
)
from rtvla.config_sections import ENGINES, PRECISIONS

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # the library has no public name for it


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: must be a finite number")
    return value


def positive(text: str) -> float:
    value = finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def add_infer(verbs: Verbs) -> None:
    infer = verbs.add_parser(
        "infer",
        help="run the pipeline with the flags of the old receiver",
        description="Receive sensor, camera and robot data, predict action chunks at 10 Hz, command the robot, and "
        "write the run's files to DIR/async_inference_YYYYmmdd_HHMMSS. Ctrl-C stops in order: the commander first.",
        argument_default=argparse.SUPPRESS,
    )
    model = infer.add_argument_group("model")
    model.add_argument("--checkpoint", metavar="DIR", help="checkpoint folder (rtvla model make-tiny DIR makes one)")
    model.add_argument(
        "--model-type", choices=["flow_matching", "regression", "diffusion"], help="refuse any other checkpoint"
    )
    model.add_argument(
        "--flow-steps", type=int, metavar="N", help="ODE steps of flow matching (as the checkpoint says)"
    )
    model.add_argument(
        "--diffusion-steps", type=int, metavar="N", help="sampling steps of diffusion (as the checkpoint says)"
    )
    model.add_argument("--engine", metavar="NAME", help="auto, eager, compiled, openvino, cuda_graph (auto)")
    model.add_argument("--precision", metavar="NAME", help="float32, or bfloat16, int8 where checked close (float32)")
    model.add_argument("--vl-reuse", type=int, metavar="N", help="target number of chunks per VL feature (4)")
    model.add_argument("--task-name", metavar="TEXT", help='task in the prompt (eye): "Perform {task} insertion task"')
    robot = infer.add_argument_group("robot")
    robot.add_argument(
        "--auto-start", action="store_true", help="send `start` once everything is ready; it MOVES the arm"
    )
    robot.add_argument("--start-pose", nargs=6, type=finite, metavar="V", help="x y z mm, a b c deg (191 1 309 1 91 1)")
    robot.add_argument("--robot-ip", metavar="IP", help="robot PC: state publisher and command receiver (127.0.0.1)")
    robot.add_argument("--robot-port", type=int, metavar="PORT", help="robot state, ZMQ SUB (5556)")
    robot.add_argument("--command-port", type=int, metavar="PORT", help="robot commands, ZMQ PUSH (5000)")
    data = infer.add_argument_group("data")
    data.add_argument("--bind-ip", metavar="IP", help="address to listen on (auto: the one that faces the robot)")
    data.add_argument("--camera-port", type=int, metavar="PORT", help="camera frames, ZMQ PULL (5555)")
    data.add_argument("--sensor-port", type=int, metavar="PORT", help="sensor datagrams, UDP (9999)")
    data.add_argument("--save-data", action="store_true", help="also keep images, sensor samples and robot states")
    data.add_argument("--out", metavar="DIR", help="where the run folder is made (.)")
    run = infer.add_argument_group("run")
    run.add_argument("--seconds", type=positive, metavar="N", default=None, help="stop N s after the first chunk")
    run.add_argument("--sim", action="store_true", default=False, help="start simulated sensor, cameras and robot too")
    _add_config_flags(run)
    infer.set_defaults(verb=infer_verb)


def _add_config_flags(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--config", metavar="FILE", default=None, help="a TOML file, or default, sim, lab")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="override one setting; repeatable"
    )
    parser.add_argument("-v", "--verbose", action="store_true", default=False, help="debug messages in the logs")
    parser.add_argument("--keys", metavar="DIR", default=argparse.SUPPRESS, help="folder of rtvla keys make (none)")
    parser.add_argument(
        "--insecure-lan",
        action="store_true",
        default=argparse.SUPPRESS,
        help="commands without keys, and sensor data from anywhere, beyond this machine: anybody there moves the robot",
    )


def add_pipeline_verbs(verbs: Verbs) -> None:
    up = verbs.add_parser("up", help="run the supervised pipeline of a config")
    _add_config_flags(up)
    up.add_argument("--seconds", type=positive, metavar="N", default=None, help="stop N s after the first chunk")
    up.set_defaults(verb=up_verb)
    run = verbs.add_parser("run", help="run one process in this terminal (or under systemd)")
    run.add_argument("process", help="recorder, monitor, sensor_ingest, robot_ingest, camera_ingest, vl_encoder, ...")
    _add_config_flags(run)
    run.set_defaults(verb=run_verb)
    down = verbs.add_parser("down", help="stop the pipeline of this namespace")
    down.add_argument("--purge", action="store_true", help="also remove its shared memory, if nobody uses it")
    down.add_argument("--timeout", type=float, default=330.0, metavar="S", help="how long to wait for an ordered stop")
    down.set_defaults(verb=down_verb)
    status = verbs.add_parser("status", help="what runs, how old every number is, what is wrong (exit 0, 1 or 3)")
    status.add_argument("--json", action="store_true", help="one JSON document")
    status.add_argument("--watch", action="store_true", help="a live table, until Ctrl-C")
    status.add_argument("--config", default=None, metavar="FILE", help="for its stale limits")
    status.set_defaults(verb=status_verb)


def add_model(verbs: Verbs) -> None:
    model = verbs.add_parser("model", help="make and show checkpoints")
    actions = model.add_subparsers(title="actions", required=True, metavar="ACTION")
    tiny = actions.add_parser("make-tiny", help="make a small complete checkpoint that runs offline on a CPU")
    tiny.add_argument("folder", type=Path)
    tiny.add_argument("--seed", type=int, default=0)
    for field, choices in TINY_CHOICES.items():
        tiny.add_argument(f"--{field.replace('_', '-')}", choices=choices, default=choices[0], help=f"({choices[0]})")
    tiny.set_defaults(verb=make_tiny_verb)
    engine = actions.add_parser("engine", help="build an engine ahead of time, and say how far it is off")
    engine.add_argument("folder", type=Path)
    engine.add_argument("--engine", choices=ENGINES, default="auto")
    engine.add_argument("--precision", choices=PRECISIONS, default="float32")
    engine.add_argument("--threads", type=int, default=0, metavar="N", help="(one a core)")
    engine.set_defaults(verb=build_engine_verb)
    show = actions.add_parser("show", help="print what a checkpoint says about itself")
    show.add_argument("folder", type=Path)
    show.set_defaults(verb=show_model_verb)


def add_record(verbs: Verbs) -> None:
    record = verbs.add_parser("record", help="work on the files of a run")
    actions = record.add_subparsers(title="actions", required=True, metavar="ACTION")
    finish = actions.add_parser("finish", help="complete the files of a run that was killed")
    finish.add_argument("folder", type=Path)
    finish.set_defaults(verb=finish_verb)


def add_doctor(verbs: Verbs, verb: str) -> None:
    parser = verbs.add_parser("doctor", help="is this host fit for the pipeline, and if not, what mends it")
    if verb != "doctor":
        return
    from rtvla.tools import doctor

    parser.description, parser.formatter_class = doctor.__doc__, argparse.RawTextHelpFormatter
    doctor.add_arguments(parser)
    _add_config_flags(parser)
    parser.add_argument("--checkpoint", metavar="DIR", default=argparse.SUPPRESS, help="checkpoint folder")
    network: dict[str, type] = {"robot-ip": str, "bind-ip": str}
    network |= dict.fromkeys(("robot-port", "command-port", "camera-port", "sensor-port"), int)
    for flag, kind in network.items():
        setting = f"network.{flag.replace('-', '_')}"
        parser.add_argument(f"--{flag}", type=kind, default=argparse.SUPPRESS, metavar="X", help=setting)
    parser.set_defaults(verb=doctor_verb)
