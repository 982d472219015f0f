"""What the verbs of `rtvla` do that are not a module of their own. Heavy imports stay inside."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from rtvla import log
from rtvla.config import Config, namespace
from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows

EXIT_ABSENT = 3

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
