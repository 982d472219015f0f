"""`rtvla send robot`: the robot PC. Without --arm a simulated arm, with `--arm mecademic` a real Meca500."""

from __future__ import annotations

import argparse

from rtvla.errors import ConfigError
from rtvla.senders import robot_mecademic, robot_sim

ARMS = {"sim": robot_sim, "mecademic": robot_mecademic}
SHARED = ("arm", "bind", "state_port", "command_port", "hz", "seconds", "keys", "insecure_lan")
__doc__ = "\n".join([__doc__, *(f"--arm {name}: {module.__doc__}" for name, module in ARMS.items())])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arm", choices=list(ARMS), default="sim", help="(%(default)s)")
    robot_sim.add_arguments(parser)
    robot_mecademic.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Refuses a flag of the other arm: it would do nothing, and somebody relies on it."""
    parser = argparse.ArgumentParser()
    ARMS[args.arm].add_arguments(parser)
    known = {*SHARED, *(action.dest for action in parser._actions)}
    everything = argparse.ArgumentParser()
    add_arguments(everything)
    given = [name for name in vars(everything.parse_args([])) if getattr(args, name) != everything.get_default(name)]
    if foreign := [f"--{name.replace('_', '-')}" for name in given if name not in known]:
        raise ConfigError(f"robot --arm {args.arm}: {', '.join(foreign)} is for the other arm; leave it out")
    return ARMS[args.arm].run(args)
