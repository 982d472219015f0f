"""`rtvla resume`: an operator ends a latched hold of the commander, after the cause has been looked at.

It says what was latched, why and since when, asks the commander to end that latch (no other, should it be another by
then), and waits until the commander's own record says that it has. Motion then resumes as after any hold: when all
inputs are good and a new chunk is there; a cause that is still there latches again.

Exit codes: 0 resumed; 1 the commander has not confirmed it, or latched again at once; 3 nothing is latched, or no
commander runs; 5 somebody else is doing this at the moment.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import socket
import sys
import time
from typing import Any

import numpy as np

from rtvla.clock import MS, now_ns, wall_s
from rtvla.config import namespace
from rtvla.errors import ShmError
from rtvla.schema import COMMAND_KINDS, GUARD_CHECKS, HOLD_REASONS
from rtvla.shm import operator
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader
from rtvla.tools.exits import ABSENT, OK, REFUSED, WRONG

_LOOK_S = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=2.0, metavar="S", help="wait so long for the commander (2)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    code, said = resume(Hub(namespace()), args.timeout)
    if args.json:
        print(json.dumps(said))
    else:
        print(said["text"], file=sys.stdout if code == OK else sys.stderr)
    return code


def resume(hub: Hub, timeout_s: float) -> tuple[int, dict[str, Any]]:
    """(exit code, what happened)."""
    commands = hub.existing_reader("command")
    newest = commands.newest() if commands else None
    if commands is None or newest is None or not commands.writer_alive():
        return ABSENT, _said("absent", f"no commander runs in namespace {hub.namespace}")
    if not newest["latched"]:
        return ABSENT, _said("nothing latched", f"nothing is latched; last decision: {_in_short(newest)}")
    latched_ns, index = int(newest["latched_ns"]), int(newest["index"])
    why: dict[str, Any] = {
        "latched": HOLD_REASONS[int(newest["latched"])],
        "for_ms": (now_ns() - latched_ns) / MS,
        "last_violations": _violations(commands),
    }
    try:
        writer = operator.asking(hub)
    except ShmError as error:
        return REFUSED, _said("refused", f"somebody else is resuming at this moment: {error}", **why)
    try:
        _ask(writer, latched_ns)
        confirmed = _confirmation(commands, index, latched_ns, timeout_s)
    finally:
        writer.close()
    told = f"latched by {why['latched']} for {why['for_ms'] / 1e3:.1f} s"
    if confirmed is None:
        return WRONG, _said("not confirmed", f"{told}: the commander has not confirmed within {timeout_s:g} s", **why)
    if confirmed["latched"]:
        again = HOLD_REASONS[int(confirmed["latched"])]
        return WRONG, _said("latched again", f"{told}: ended, and latched again by {again}", **why)
    return OK, _said("resumed", f"{told}: resumed; now: {_in_short(confirmed)}", **why)


def _said(result: str, text: str, **more: Any) -> dict[str, Any]:
    return {"result": result, **more, "text": text}


def _in_short(command: np.void) -> str:
    kind, reason = COMMAND_KINDS[int(command["kind"])], HOLD_REASONS[int(command["reason"])]
    return kind if reason == "none" else f"{kind}, {reason}"


def _violations(commands: RingReader) -> dict[str, int]:
    """What the guard found in the commands that are still in the ring, and how often."""
    window = commands.latest(min(commands.head, 512))
    bits = window["violations"] if window is not None else np.zeros(0, np.uint32)
    counts = {name: int((bits >> bit & 1).sum()) for bit, name in enumerate(GUARD_CHECKS)}
    return {name: count for name, count in counts.items() if count}


def _ask(writer: Any, latched_ns: int) -> None:
    request = np.zeros((), operator.REQUEST)
    request["received_ns"], request["wall_s"], request["latched_ns"] = now_ns(), wall_s(), latched_ns
    request["pid"], request["who"] = os.getpid(), _who().encode()[:64]
    writer.put(request)


def _who() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()} (pid {os.getpid()})"


def _confirmation(commands: RingReader, index: int, latched_ns: int, timeout_s: float) -> np.void | None:
    """The first newer record without that latch, or None."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        newest = commands.newest()
        if newest is not None and int(newest["index"]) > index and int(newest["latched_ns"]) != latched_ns:
            return newest
        time.sleep(_LOOK_S)
    return None
