"""`rtvla shm dump` and `load`: the black box, by hand, by the supervisor at a crash, and by systemd's ExecStopPost=."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping

from rtvla import rt
from rtvla.config import namespace
from rtvla.config_sections import BlackBox
from rtvla.shm import blackbox, inspect
from rtvla.tools import box_folder
from rtvla.tools.exits import ABSENT, OK, REFUSED, WRONG

_GIVES_UP_S = 60  # the kernel then ends an automatic dump, which leaves nothing: nobody waits for it for ever
# As the recorder for the copy, which races with the writers, then as the monitor. Not 19: beside one busy process the
# compression of 40 MB of noise then took over a minute.
_READING_NICE, _WRITING_NICE = 5, 10
_EXIT_CONFIG = "78"


def dump(args: argparse.Namespace) -> int:
    where = args.namespace or namespace()
    bounds = BlackBox(args.keep, args.max_mb, args.min_free_mb)
    if args.into and (why := unwanted(os.environ, bounds)):
        print(why)
        return OK
    if not inspect.files(where):
        print(f"nothing to dump in namespace {where}; rtvla shm ls shows every namespace", file=sys.stderr)
        return ABSENT
    return _into(args, where, bounds) if args.into else _to_file(args, where)


def _to_file(args: argparse.Namespace, where: str) -> int:
    manifest = blackbox.dump(where, args.file, args.because)
    held = ", ".join(f"{name} {about['records']}" for name, about in sorted(manifest["streams"].items()))
    print(f"{args.file}: {args.file.stat().st_size / 1e6:.1f} MB, records: {held}")
    return _say_what_is_missing(manifest["skipped"])


def _into(args: argparse.Namespace, where: str, bounds: BlackBox) -> int:
    """Beside whatever runs and crashes there: copied at once, then written with what time others leave."""
    signal.alarm(_GIVES_UP_S)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # a unit's real-time priority is not for this
    rt.nice(_READING_NICE)
    manifest, records = blackbox.take(where, because(args.because, os.environ))
    rt.nice(_WRITING_NICE)
    try:
        file = box_folder.add(args.into, bounds, manifest, records)
    except box_folder.BoundReached as error:
        print(f"no black box: {error}")
        return REFUSED
    print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
    _say_what_is_missing(manifest["skipped"])
    return OK


def _say_what_is_missing(skipped: Mapping[str, str]) -> int:
    for name, reason in skipped.items():
        print(f"! left out {name}: {reason}")
    return WRONG if skipped else OK


def unwanted(environment: Mapping[str, str], bounds: BlackBox) -> str:
    """Why an automatic dump is not wanted, or nothing. SERVICE_RESULT, EXIT_CODE and EXIT_STATUS are what systemd
    tells ExecStopPost= (systemd.exec(5)); the supervisor sets none of them."""
    if bounds.is_off:
        return "no black box: keep or max_mb is 0"
    if environment.get("SERVICE_RESULT") == "success":
        return "no black box: the service ended as it should"
    if (environment.get("EXIT_CODE"), environment.get("EXIT_STATUS")) == ("exited", _EXIT_CONFIG):
        return "no black box: its settings are wrong, its log says which"
    return ""


def because(given: str, environment: Mapping[str, str]) -> str:
    """`given`, and what systemd says: "rtvla-policy, signal killed SEGV"."""
    told = " ".join(environment.get(name, "") for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS")).split()
    return ", ".join(filter(None, (given, " ".join(told))))


def load(args: argparse.Namespace) -> int:
    made = blackbox.load(args.file, args.namespace)
    print(
        f"made {len(made)} segments in namespace {args.namespace}; when done: rtvla shm rm --namespace {args.namespace}"
    )
    return OK
