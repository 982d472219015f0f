"""The command `rtvla`. Heavy imports stay inside the verbs: an ingest process never loads torch.

Exit codes: 0 done; 1 a process gave up, or something is wrong (status); 2 wrong usage; 3 nothing is up in this
namespace (status, down); 4 a process had to be killed while stopping; 78 wrong settings or checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rtvla import __version__, log
from rtvla.config import ENGINES, PRECISIONS, Config, namespace
from rtvla.errors import CheckpointError, ConfigError, RtvlaError
from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows

EXIT_ABSENT, EXIT_CONFIG = 3, 78

# A flag of `rtvla infer` -> the setting it stands for.
INFER_SETTINGS = {
    "checkpoint": "policy.checkpoint",
    "model_type": "policy.model_type",
    "flow_steps": "policy.flow_steps",
    "engine": "policy.engine",
    "precision": "policy.precision",
    "diffusion_steps": "policy.diffusion_steps",
    "vl_reuse": "vl_encoder.reuse",
    "task_name": "vl_encoder.task_name",
    "save_data": "recorder.save_data",
    "out": "recorder.out_dir",
    "robot_ip": "network.robot_ip",
    "robot_port": "network.robot_port",
    "command_port": "network.command_port",
    "camera_port": "network.camera_port",
    "sensor_port": "network.sensor_port",
    "bind_ip": "network.bind_ip",
    "insecure_lan": "security.insecure_lan",
    "keys": "security.keys",
    "auto_start": "commander.auto_start",
    "start_pose": "commander.start_pose_mm_deg",
}

# The fields of its spec that `rtvla model make-tiny` can be asked for; the first is the default. Which go together is
# the spec's to say.
TINY_CHOICES = {
    "expert": ["flow_matching", "regression", "diffusion"],
    "fusion": ["concat", "cross_attention", "gated", "none"],
    "sensor_encoder": ["plain", "force_aware", "none"],
    "robot_encoder": ["transformer", "none"],
    "vl_sequence": ["per_view", "joint"],
    "flow_solver": ["euler", "rk4"],
    "diffusion_sampler": ["ddim", "ddpm"],
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser(argv[0] if argv else "").parse_args(argv)
    try:
        code = int(args.verb(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read us has seen enough: rtvla shm ls | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would complain
        return 128 + signal.SIGPIPE
    except (ConfigError, CheckpointError) as error:
        print(f"rtvla: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except RtvlaError as error:
        print(f"rtvla: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if args.verb is run_verb:  # in a process it is a crash, and its log wants the traceback
            raise
        print(f"rtvla: {error}", file=sys.stderr)
        return 1


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


def build_parser(verb: str) -> argparse.ArgumentParser:
    """The flags of `send` and `shm` come from modules that cost a start-up time, so only if that is the verb."""
    parser = argparse.ArgumentParser(
        prog="rtvla",
        description="A real-time runtime for vision-language-action robots.",
        epilog="First steps: rtvla model make-tiny DIR; rtvla infer --sim --checkpoint DIR --seconds 30; rtvla status",
    )
    parser.add_argument("--version", action="version", version=f"rtvla {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_infer(verbs)
    _add_pipeline_verbs(verbs)
    _add_send(verbs, verb)
    _add_shm(verbs, verb)
    _add_analyze(verbs, verb)
    _add_explain(verbs, verb)
    _add_resume(verbs, verb)
    _add_bench(verbs, verb)
    _add_profile(verbs, verb)
    _add_model(verbs)
    _add_checkpoint(verbs, verb)
    _add_record(verbs)
    _add_keys(verbs, verb)
    _add_service(verbs, verb)
    _add_doctor(verbs, verb)
    return parser


def _add_infer(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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


def _add_pipeline_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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


def _add_send(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    send = verbs.add_parser("send", help="a program of another machine: sensor, camera, robot, controller, replay")
    if verb != "send":
        return
    from rtvla.senders import camera, mecademic_standin, replay, robot, sensor_sim

    kinds = send.add_subparsers(title="senders", required=True, metavar="KIND")
    modules = {
        "sensor": sensor_sim,
        "camera": camera,
        "robot": robot,
        "controller": mecademic_standin,
        "replay": replay,
    }
    for name, module in modules.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        kind = kinds.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawTextHelpFormatter
        )
        module.add_arguments(kind)
        kind.set_defaults(verb=module.run)


def _add_shm(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    shm = verbs.add_parser("shm", help="look into shared memory: ls, show, watch, dump, load, verify, rm")
    if verb == "shm":
        from rtvla.tools import shm_cli

        shm_cli.add_arguments(shm)


def _add_analyze(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    parser = verbs.add_parser("analyze", help="what a black box says: streams, processes, the last commands")
    if verb == "analyze":
        from rtvla.tools import analyze

        analyze.add_arguments(parser)
        parser.set_defaults(verb=analyze.run)


def _add_explain(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    parser = verbs.add_parser("explain", help="one command from photons to motion: what it was made of, how old, why")
    if verb == "explain":
        from rtvla.tools import explain

        explain.add_arguments(parser)
        parser.set_defaults(verb=explain.run)


def _add_resume(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    parser = verbs.add_parser("resume", help="end a latched hold, after its cause was looked at")
    if verb == "resume":
        from rtvla.tools import resume

        resume.add_arguments(parser)
        parser.set_defaults(verb=resume.run)


def _add_bench(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    bench = verbs.add_parser("bench", help="measure this machine: shm, udp, vl, model, gpu, action, chunks")
    if verb != "bench":
        return
    from rtvla.tools import bench_action, bench_chunks, bench_gpu, bench_model, bench_shm, bench_udp, bench_vl

    kinds = bench.add_subparsers(title="benchmarks", required=True, metavar="WHAT")
    modules = {
        "shm": bench_shm,
        "udp": bench_udp,
        "vl": bench_vl,
        "model": bench_model,
        "gpu": bench_gpu,
        "action": bench_action,
        "chunks": bench_chunks,
    }
    for name, module in modules.items():
        kind = kinds.add_parser(name, description=module.__doc__, formatter_class=argparse.RawTextHelpFormatter)
        module.add_arguments(kind)
        kind.set_defaults(verb=module.run)


def _add_profile(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    parser = verbs.add_parser("profile", help="what a model costs: diffusion and flow steps, VL pictures and views")
    if verb == "profile":
        from rtvla.tools import profile

        profile.add_arguments(parser)


def _add_model(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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


def _add_checkpoint(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    checkpoint = verbs.add_parser("checkpoint", help="checkpoints of the old system: import, show, export")
    if verb == "checkpoint":
        from rtvla.tools import checkpoint_cli

        checkpoint_cli.add_arguments(checkpoint)


def _add_record(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    record = verbs.add_parser("record", help="work on the files of a run")
    actions = record.add_subparsers(title="actions", required=True, metavar="ACTION")
    finish = actions.add_parser("finish", help="complete the files of a run that was killed")
    finish.add_argument("folder", type=Path)
    finish.set_defaults(verb=finish_verb)


def _add_keys(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    keys = verbs.add_parser("keys", help="keys for sockets and datagrams: make, show")
    if verb == "keys":
        from rtvla.tools import keys as keys_tool

        keys_tool.add_arguments(keys)


def _add_doctor(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
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


def _add_service(verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    service = verbs.add_parser("service", help="the pipeline as systemd units: render, install, check, uninstall")
    if verb == "service":
        from rtvla.procs import service_cli

        service_cli.add_arguments(service)


def config_arguments(args: argparse.Namespace) -> list[str]:
    """The --config and --set options that give every process the same config as this command."""
    settings = list(args.set)
    if vars(args).get("sim"):
        args.config = args.config or "sim"
    for flag, setting in INFER_SETTINGS.items():
        if flag in vars(args):
            value = getattr(args, flag)
            value = os.path.abspath(value) if flag in ("checkpoint", "out", "keys") else value
            settings.append(f"{setting}={json.dumps(value, ensure_ascii=False)}")
    options = ["--config", args.config] if args.config else []
    for setting in settings:
        options += ["--set", setting]
    return options + (["-v"] if args.verbose else [])


def settings_of(options: list[str]) -> list[str]:
    return [options[at + 1] for at, option in enumerate(options) if option == "--set"]


def infer_verb(args: argparse.Namespace) -> int:
    return up_verb(args)


def up_verb(args: argparse.Namespace) -> int:
    from rtvla.procs.pipeline import up

    log.setup("supervisor", verbose=args.verbose)
    options = config_arguments(args)
    return up(Config.load(args.config, settings_of(options)), options, args.seconds)


def run_verb(args: argparse.Namespace) -> int:
    from rtvla.procs.lifecycle import run

    log.setup(args.process, verbose=args.verbose)
    run(args.process, Config.load(args.config, settings_of(config_arguments(args))))
    return 0


def down_verb(args: argparse.Namespace) -> int:
    from rtvla.procs.pipeline import supervisor_pid
    from rtvla.procs.supervisor import clear_leftovers

    hub = Hub(namespace())
    pid = supervisor_pid(hub)
    if pid is None and not hub.exists():
        print(f"nothing is up in namespace {hub.namespace}")
        return EXIT_ABSENT
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + args.timeout
        while supervisor_pid(hub) is not None:
            if time.monotonic() > deadline:
                print(f"supervisor {pid} has not stopped within {args.timeout:g} s", file=sys.stderr)
                return 1
            time.sleep(0.1)
        print(f"stopped supervisor {pid}")
    elif not args.purge:
        return _no_supervisor(hub)
    if args.purge:
        print(clear_leftovers(hub) or "nothing was left in shared memory")
    return 0


def _no_supervisor(hub: Hub) -> int:
    """Segments without a supervisor: name who still lives, and what can be done."""
    alive = {name: row["pid"] for name, row in process_rows(hub).items() if row["alive"]}
    if alive:
        print(f"no supervisor, but these still run: {', '.join(f'{n} (kill -9 {pid})' for n, pid in alive.items())}")
    else:
        print("no supervisor and no process, but shared memory still holds their last seconds: rtvla shm dump FILE")
        print("remove it with: rtvla down --purge")
    return 1


def status_verb(args: argparse.Namespace) -> int:
    from rtvla.tools.status import status

    return status(Config.load(args.config), as_json=args.json, watch=args.watch)


def doctor_verb(args: argparse.Namespace) -> int:
    from rtvla.procs.model_setup import require_checkpoint
    from rtvla.procs.table import PROCESSES, check, cores_of
    from rtvla.tools.doctor import run
    from rtvla.tools.doctor_case import Tables

    options = config_arguments(args)
    return run(args, options, settings_of(options), Tables(PROCESSES, cores_of, check, require_checkpoint))


def make_tiny_verb(args: argparse.Namespace) -> int:
    from rtvla.models.make_tiny import make_tiny

    spec = make_tiny(args.folder, args.seed, **{field: getattr(args, field) for field in TINY_CHOICES})
    size = sum(path.stat().st_size for path in Path(args.folder).rglob("*") if path.is_file())
    print(f"{args.folder}: {spec.name}, {spec.expert}, {spec.vl_sequence}, {size / 1e6:.1f} MB")
    return 0


def build_engine_verb(args: argparse.Namespace) -> int:
    from rtvla.rt import set_thread_environment

    threads = args.threads or len(os.sched_getaffinity(0))
    set_thread_environment(threads)  # before torch, which keeps what it was born with
    from rtvla.models.checkpoint import load_policy
    from rtvla.models.engines.engine import EngineChoice

    log.setup("engine")
    choice = EngineChoice(args.engine, args.precision, threads, max_deviation=math.inf)
    print(load_policy(args.folder, choice=choice).engine_report)
    return 0


def show_model_verb(args: argparse.Namespace) -> int:
    from rtvla.models.checkpoint import load_spec

    spec = load_spec(args.folder)
    print(spec.to_json())
    return 0


def finish_verb(args: argparse.Namespace) -> int:
    from rich.progress import Progress

    from rtvla.record.finish import finish_run

    with Progress() as bar:
        task = bar.add_task("sensor samples", total=None)
        finished = finish_run(args.folder, lambda done, total: bar.update(task, completed=done, total=total))
    print(json.dumps({"recorded": finished.recorded, "repaired_bytes": finished.repaired_bytes}))
    return 0
