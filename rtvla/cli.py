"""The command `rtvla`. Heavy imports stay inside the verbs: an ingest process never loads torch.

Exit codes: 0 done; 1 a process gave up, or something is wrong (status); 2 wrong usage; 3 nothing is up in this
namespace (status, down); 4 a process had to be killed while stopping; 78 wrong settings or checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from rtvla import __version__, log
from rtvla.cli_flags import Verbs, add_doctor, add_infer, add_model, add_pipeline_verbs, add_record
from rtvla.cli_verbs import run_verb
from rtvla.errors import CheckpointError, ConfigError, RtvlaError

EXIT_CONFIG = 78

# Verbs that are modules of their own, and what --help says of them. Imported only if that is the verb.
_MODULES: Mapping[str, tuple[str, str]] = {
    "shm": ("rtvla.tools.shm_cli", "look into shared memory: ls, show, watch, dump, load, verify, rm"),
    "analyze": ("rtvla.tools.analyze", "what a black box says: streams, processes, the last commands"),
    "explain": ("rtvla.tools.explain", "one command from photons to motion: what it was made of, how old, why"),
    "resume": ("rtvla.tools.resume", "end a latched hold, after its cause was looked at"),
    "profile": ("rtvla.tools.profile", "what a model costs: diffusion and flow steps, VL pictures and views"),
    "checkpoint": ("rtvla.tools.checkpoint_cli", "checkpoints of the old system: import, show, export"),
    "keys": ("rtvla.tools.keys", "keys for sockets and datagrams: make, show"),
    "service": ("rtvla.procs.service_cli", "the pipeline as systemd units: render, install, check, uninstall"),
}
# Verbs whose kinds are modules: their docstring is the help.
_KINDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "send": (
        "a program of another machine: sensor, camera, robot, controller, replay",
        {
            "sensor": "rtvla.senders.sensor_sim",
            "camera": "rtvla.senders.camera",
            "robot": "rtvla.senders.robot",
            "controller": "rtvla.senders.mecademic_standin",
            "replay": "rtvla.senders.replay",
        },
    ),
    "bench": (
        "measure this machine: shm, udp, vl, model, gpu, action, chunks",
        {name: f"rtvla.tools.bench_{name}" for name in ("shm", "udp", "vl", "model", "gpu", "action", "chunks")},
    ),
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
        return _failed(error, EXIT_CONFIG)
    except RtvlaError as error:
        return _failed(error, 1)
    except OSError as error:
        if args.verb is run_verb:  # in a process it is a crash, and its log wants the traceback
            raise
        return _failed(error, 1)


def _failed(error: Exception, code: int) -> int:
    log.flush()
    print(f"rtvla: {error}", file=sys.stderr)
    return code


def build_parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rtvla",
        description="A real-time runtime for vision-language-action robots.",
        epilog="First steps: rtvla model make-tiny DIR; rtvla infer --sim --checkpoint DIR --seconds 30; rtvla status",
    )
    parser.add_argument("--version", action="version", version=f"rtvla {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    add_infer(verbs)
    add_pipeline_verbs(verbs)
    for name in _KINDS:
        _add_kinds(verbs, name, asked_for=verb == name)
    for name in _MODULES:
        _add_module(verbs, name, asked_for=verb == name)
    add_model(verbs)
    add_record(verbs)
    add_doctor(verbs, verb)
    return parser


def _add_module(verbs: Verbs, name: str, *, asked_for: bool) -> None:
    path, summary = _MODULES[name]
    parser = verbs.add_parser(name, help=summary)
    if asked_for:
        module = importlib.import_module(path)
        if hasattr(module, "run"):
            parser.set_defaults(verb=module.run)
        module.add_arguments(parser)


def _add_kinds(verbs: Verbs, name: str, *, asked_for: bool) -> None:
    summary, modules = _KINDS[name]
    parser = verbs.add_parser(name, help=summary)
    if not asked_for:
        return
    kinds = parser.add_subparsers(title="kinds", required=True, metavar="KIND")
    for kind_name, path in modules.items():
        module = importlib.import_module(path)
        kind = kinds.add_parser(
            kind_name,
            help=(module.__doc__ or "").partition("\n")[0],
            description=module.__doc__,
            formatter_class=argparse.RawTextHelpFormatter,
        )
        module.add_arguments(kind)
        kind.set_defaults(verb=module.run)
