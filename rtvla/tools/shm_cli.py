"""`rtvla shm`: what lies in shared memory, decoded, also after everything was killed; the black box; clean-up.

Looks and leaves no trace: `ls`, `show`, `watch`, `verify` and `dump` map read-only and create nothing there.
Exit codes: 0 fine, 1 something is wrong, 2 wrong usage, 3 nothing there, 5 no black box because of a bound.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from rtvla.config_sections import BlackBox
from rtvla.shm import inspect, verify
from rtvla.shm.segment import PREFIX
from rtvla.tools.exits import ABSENT, OK, USAGE, WRONG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    def add(name: str, verb: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=summary)
        action.set_defaults(verb=verb)
        return action

    ls = add("ls", ls_verb, "every segment of every namespace on this machine, leftovers and misfits too")
    ls.add_argument("--json", action="store_true", help="one JSON document")
    ls.add_argument("--file", type=Path, metavar="FILE", help="what a black box holds instead")
    show = add("show", show_verb, "the newest records of a stream, or a health row (health.policy), decoded")
    show.add_argument("stream", metavar="STREAM")
    show.add_argument("--last", type=_count, default=1, metavar="N", help="how many records (1)")
    source = show.add_mutually_exclusive_group()
    _add_namespace(source)
    source.add_argument("--file", type=Path, metavar="FILE", help="out of a black box instead")
    show.add_argument("--json", action="store_true", help="one JSON document; long arrays shortened")
    show.add_argument("--full", action="store_true", help="with --json: every value (bytes as base64)")
    watch = add("watch", watch_verb, "a live table of rates, ages, losses and spacing, until Ctrl-C")
    _add_namespace(watch)
    watch.add_argument("--seconds", type=float, metavar="N", help="end after N s; into a pipe goes the last table only")
    _add_dump(add("dump", dump_verb, "the black box: all that the streams and health rows hold, into one file"))
    load = add("load", load_verb, "a black box back into shared memory, under a new namespace")
    load.add_argument("file", type=Path, metavar="FILE")
    load.add_argument("--namespace", type=_namespace, required=True, metavar="NEW")
    verify = add("verify", verify_verb, "headers and invariants of every segment; a line per finding, with the remedy")
    _add_namespace(verify, "only this one (all)")
    rm = add("rm", rm_verb, "remove segments that nobody needs; says what it kept and why")
    rm.add_argument("names", nargs="*", metavar="NAME", help="names as `rtvla shm ls` prints them: rtvla.NS.STREAM")
    _add_namespace(rm, "all segments of this one")
    rm.add_argument("--force", action="store_true", help="also what a live process still uses")


def _add_dump(dump: argparse.ArgumentParser) -> None:
    bounds = BlackBox()
    target = dump.add_mutually_exclusive_group(required=True)
    target.add_argument("file", type=Path, nargs="?", metavar="FILE")
    target.add_argument("--into", type=Path, metavar="FOLDER", help="automatic: a numbered file, within the bounds")
    dump.add_argument("--because", default="", metavar="TEXT", help="what happened: into the file, and its name")
    dump.add_argument("--keep", type=_whole, default=bounds.keep, metavar="N", help="files in FOLDER (%(default)s)")
    dump.add_argument("--max-mb", type=float, default=bounds.max_mb, metavar="M", help="of all of them (%(default)g)")
    dump.add_argument(
        "--min-free-mb", type=float, default=bounds.min_free_mb, metavar="M", help="left on the disk (%(default)g)"
    )
    _add_namespace(dump)


def _add_namespace(parser: argparse._ActionsContainer, meaning: str = "RTVLA_NAMESPACE, or default") -> None:
    parser.add_argument("--namespace", type=_namespace, metavar="NS", help=meaning)


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[\w-]{1,64}", text):
        raise argparse.ArgumentTypeError(f'"{text}": use 1 to 64 letters, digits, "_" or "-"')
    return text


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'"{text}": must be a whole number')
    return int(text)


def _count(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}": must be a whole number from 1')
    return int(text)


# What draws tables is imported when it is run: a dump at a crash does not wait for it.
def ls_verb(args: argparse.Namespace) -> int:
    from rtvla.tools.shm_tables import ls

    return ls(args)


def watch_verb(args: argparse.Namespace) -> int:
    from rtvla.tools.shm_tables import follow

    return follow(args)


def show_verb(args: argparse.Namespace) -> int:
    from rtvla.tools.shm_records import show

    return show(args)


def dump_verb(args: argparse.Namespace) -> int:
    from rtvla.tools.shm_box import dump

    return dump(args)


def load_verb(args: argparse.Namespace) -> int:
    from rtvla.tools.shm_box import load

    return load(args)


def verify_verb(args: argparse.Namespace) -> int:
    looked, findings = verify.verify(args.namespace)
    for finding in findings:
        print(f"{finding.name}: {finding.problem}; remedy: {finding.remedy}")
    where = f" of namespace {args.namespace}" if args.namespace else ""
    print(f"{looked} files{where}, {len(findings)} findings")
    return ABSENT if not looked else WRONG if findings else OK


def rm_verb(args: argparse.Namespace) -> int:
    if bool(args.names) == bool(args.namespace):
        print("rtvla shm rm: name either segments or --namespace NS (rtvla shm ls shows both)", file=sys.stderr)
        return USAGE
    there = {found.path.name: found for found in inspect.files(args.namespace)}
    used = verify.in_use(there.values())
    kept, absent = 0, [name for name in args.names if name not in there]
    for name in absent:
        print(f"no such segment: {name} (a name begins with {PREFIX}NAMESPACE.)", file=sys.stderr)
    for name in [name for name in args.names if name in there] if args.names else list(there):
        reason = "" if args.force else verify.kept_because(there[name], used)
        if not reason:
            reason = _remove(there[name].path)
        kept += bool(reason)
        print(f"kept {name}: {reason}" if reason else f"removed {name}")
    if kept and not args.force:
        print("stop what runs first (rtvla down), or use --force")
    return WRONG if kept else ABSENT if absent or not there else OK


def _remove(path: Path) -> str:
    """Why it could not be removed, or nothing. Mapped pages live on in whoever still has them, unreachable."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return str(error.strerror)
    return ""
