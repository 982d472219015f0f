"""`rtvla send camera`: pictures of up to five views over ZMQ PUSH: drawn ones, or of cameras, folders, videos."""

from __future__ import annotations

import argparse

from rtvla.errors import ConfigError
from rtvla.senders import camera_sim
from rtvla.senders.cameras import sender
from rtvla.senders.faults import add_fault_arguments

SIM = "sim"
__doc__ = "\n".join([__doc__, f"--source {SIM}: {camera_sim.__doc__}", f"others: {sender.__doc__}"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", choices=[SIM, *sender.SOURCES], default=SIM, help="(%(default)s)")
    camera_sim.add_arguments(parser)
    sender.add_arguments(parser)


def _foreign(source: str) -> set[str]:
    """What the flags of the other kind of source are called."""
    parser = argparse.ArgumentParser()
    if source == SIM:
        sender.add_arguments(parser)
        return {action.dest for action in parser._actions}
    add_fault_arguments(parser)
    return {"views", *(action.dest for action in parser._actions)}


def run(args: argparse.Namespace) -> int:
    """Refuses a flag that the source does not have: it would do nothing, and somebody relies on it."""
    everything = argparse.ArgumentParser()
    add_arguments(everything)
    foreign = _foreign(args.source)
    given = [name for name in vars(everything.parse_args([])) if getattr(args, name) != everything.get_default(name)]
    if wrong := [f"--{name.replace('_', '-')}" for name in given if name in foreign]:
        raise ConfigError(f"camera --source {args.source}: {', '.join(wrong)} is for another source; leave it out")
    return camera_sim.run(args) if args.source == SIM else sender.run(args)
