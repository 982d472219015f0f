"""`rtvla keys make DIR`, `rtvla keys show DIR`: the keys of the machines of a lab (security/keys.py)."""

from __future__ import annotations

import argparse
import json
import stat
from pathlib import Path
from typing import Any

from rtvla.errors import ConfigError
from rtvla.security import keys as key_files
from rtvla.tools.exits import OK, WRONG

# machine -> what to do there with its folder
USES = {
    "host": 'in its TOML: [security] keys = "{folder}" and, for the tag, udp_tag = true',
    "robot": "rtvla send robot --keys {folder}",
    "cameras": "rtvla send camera --keys {folder}",
    "sensor": "rtvla send sensor --keys {folder}; for a program of your own the tag is described in wire/udp_tag.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="write new keys for host, robot, cameras and sensor; never overwrites")
    show = actions.add_parser("show", help="fingerprints, and what is wrong (exit 1)")
    for action, verb in ((make, make_verb), (show, show_verb)):
        action.add_argument("folder", type=Path, metavar="DIR")
        action.add_argument("--json", action="store_true", help="one JSON document")
        action.set_defaults(verb=verb)


def make_verb(args: argparse.Namespace) -> int:
    key_files.make(args.folder)
    machines = {name: _machine(args.folder / name) for name in key_files.MACHINES}
    if args.json:
        print(json.dumps({"folder": str(args.folder), "machines": machines}))
        return OK
    print("Copy each folder to its machine (scp -rp) and to no other. Then, with the folder's place there:")
    for name, facts in machines.items():
        print(f"  {name:<8} {facts['folder']}  ({', '.join(facts['files'])})")
        print(f"  {'':<8} {facts['use']}")
    return OK


def show_verb(args: argparse.Namespace) -> int:
    folders = [args.folder / name for name in key_files.MACHINES if (args.folder / name).is_dir()] or [args.folder]
    machines = {folder.resolve().name: _machine(folder) for folder in folders if folder.is_dir()}
    wrong = list(key_files.faults(args.folder))
    if args.json:
        print(json.dumps({"folder": str(args.folder), "machines": machines, "wrong": wrong}))
        return WRONG if wrong else OK
    for name, facts in machines.items():
        for file, about in facts["files"].items():
            print(f"{name:<8} {file:<20} {about['mode']}  {about['fingerprint']}")
    for line in wrong:
        print(f"WRONG: {line}")
    return WRONG if wrong else OK


def _machine(folder: Path) -> dict[str, Any]:
    files = {path.name: _file(path) for path in sorted(folder.glob("*.key*"))}
    use = USES.get(folder.resolve().name, "").format(folder=folder)
    return {"folder": str(folder), "use": use, "files": files}


def _file(path: Path) -> dict[str, str]:
    """Mode, and the fingerprint of the public key (of a pair), or of the UDP key; what is "unusable" is in `faults`."""
    try:
        mark = key_files.fingerprint_of(path)
    except ConfigError:
        mark = "unusable"
    return {"mode": f"{stat.S_IMODE(path.stat().st_mode):04o}", "fingerprint": mark}
