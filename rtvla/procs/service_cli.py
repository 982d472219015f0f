"""`rtvla service`: the pipeline as systemd units.

Exit codes: 0 fine, 1 the host differs from what its config wants (check), 3 nothing is installed, 78 wrong settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rtvla import log
from rtvla.config import Config
from rtvla.procs import service, service_run
from rtvla.procs.unit_parts import RUN_FILE
from rtvla.procs.units import EXTRAS, Site, render

_OK, _DIFFERS, _ABSENT = 0, 1, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    parsers = {}
    for name, verb, summary in (
        ("render", render_verb, "print the units of a config, or write them to a folder"),
        ("install", install_verb, "write units, user and config into a host; again: only what differs"),
        ("check", check_verb, "how the installed differs from what the config wants, with the remedy"),
        ("uninstall", uninstall_verb, "stop and remove the units; config, runs and models stay"),
        ("begin", begin_verb, "run folder and segments (what rtvla-shm.service runs at its start)"),
        ("end", end_verb, "remove the segments (what it runs at its stop)"),
    ):
        parsers[name] = actions.add_parser(name, help=summary, description=summary)
        parsers[name].set_defaults(verb=verb)
    for name in ("render", "install", "check", "uninstall"):
        parsers[name].add_argument("--python", default=f"{sys.prefix}/bin/python", help="of the units (%(default)s)")
    for name in ("install", "check", "uninstall"):
        parsers[name].add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="another root folder")
    for name in ("render", "install"):
        parsers[name].add_argument(
            "--with", dest="extras", nargs="*", choices=EXTRAS, help="optional units, all of them"
        )
    parsers["install"].add_argument("--config", metavar="FILE", help="(what is installed: /etc/rtvla/rtvla.toml)")
    parsers["render"].add_argument("--out", type=Path, metavar="DIR", help="here, by their names, instead of printing")
    parsers["render"].add_argument("--cores", type=_cores, metavar="A-B", help="those of the host (of this one)")
    for name in ("render", "begin"):
        parsers[name].add_argument("--config", metavar="FILE", help="a TOML file, or default, sim, lab")
        parsers[name].add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="one setting")
    parsers["begin"].add_argument("--dry-run", action="store_true", help="only refuse what could not start")
    parsers["begin"].add_argument("--run-file", type=Path, default=Path(RUN_FILE), help="(%(default)s)")


def _cores(text: str) -> tuple[int, ...]:
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f'"{text}": must look like 0-7')
    return tuple(range(int(low), int(high) + 1))


def render_verb(args: argparse.Namespace) -> int:
    cores = args.cores or tuple(sorted(os.sched_getaffinity(0)))
    site = Site(args.python, cores, frozenset(args.extras or ()))
    files = render(Config.load(args.config, args.set), site)
    for name, text in files.items():
        if args.out is None:
            print(f"# /{name}\n{text}")
        else:
            path = args.out / checked_in_name(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return _OK


def checked_in_name(name: str) -> str:
    """In a folder of their own, units have their names; user and folders are sysusers.conf and tmpfiles.conf."""
    folder, _, last = name.rpartition("/")
    return (
        f"{Path(folder).name.removesuffix('.d')}.conf" if last == "rtvla.conf" else name.partition("systemd/system/")[2]
    )


def install_verb(args: argparse.Namespace) -> int:
    host = service.Host(args.root, args.python)
    extras = host.extras() if args.extras is None else frozenset(args.extras)
    done = service.install(host, service.config_of(args.config, host), extras)
    print("\n".join(done) or "all is as it should be")
    if host.is_this:
        if fault := host.start_fault():
            print(f"! as it is, it will not start: {fault}")
        print("start it now and at each boot: systemctl enable --now rtvla.target")
        print("if it runs, changes count from: systemctl restart rtvla.target")
    return _OK


def check_verb(args: argparse.Namespace) -> int:
    host = service.Host(args.root, args.python)
    if not host.is_installed():
        print(f"nothing is installed below {host.root}; remedy: rtvla service install --config FILE")
        return _ABSENT
    found = service.findings(host, host.wanted(service.config_of(None, host), host.extras()))
    print("\n".join(found) or f"installed as {host.config} wants it")
    for drop_in in host.by_hand():
        print(f"note: {drop_in} is not ours; it changes what the unit does")
    return _DIFFERS if found else _OK


def uninstall_verb(args: argparse.Namespace) -> int:
    host = service.Host(args.root, args.python)
    if not host.is_installed():
        print(f"nothing is installed below {host.root}")
        return _ABSENT
    print("\n".join(service.uninstall(host)))
    print(f"left: {host.config}, {host.at('var/lib/rtvla')}, the user rtvla")
    return _OK


def begin_verb(args: argparse.Namespace) -> int:
    log.setup("service")
    cfg = Config.load(args.config, args.set)
    if args.dry_run:
        service_run.refuse(cfg)
    else:
        service_run.begin(cfg, args.run_file)
    return _OK


def end_verb(_args: argparse.Namespace) -> int:
    log.setup("service")
    service_run.end()
    return _OK
