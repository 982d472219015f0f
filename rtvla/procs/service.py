"""Puts the rendered units and the config into a host, says how an installed host differs, takes them out again.

Everything is below `root`: "/" is this host, whose systemd is told; any other folder is only written to.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import rtvla
from rtvla.config import CONFIG_FOLDER, Config
from rtvla.errors import ConfigError, RtvlaError
from rtvla.procs import table
from rtvla.procs.model_setup import require_checkpoint
from rtvla.procs.unit_parts import STATE, USER
from rtvla.procs.units import CONFIG_FILE, EXTRAS, MARK, SYSUSERS, TMPFILES, UNITS, Site, check_readable, render

_FIRST_UNIT = f"{UNITS}/rtvla.target"
_EXTRA_UNITS = {"mps": f"{UNITS}/rtvla-mps.service", "udp-socket": f"{UNITS}/rtvla-sensor_ingest.socket"}


class Host:
    """The host below `root`; `python` is the interpreter its units run."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.python = root, python
        self.is_this = root.resolve() == Path("/")
        self.config = self.at(CONFIG_FILE)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def is_installed(self) -> bool:
        return self.at(_FIRST_UNIT).exists()

    def extras(self) -> frozenset[str]:
        return frozenset(name for name in EXTRAS if self.at(_EXTRA_UNITS[name]).exists())

    def wanted(self, config: Path, extras: frozenset[str]) -> dict[str, str]:
        """What should be there for this config: path -> text. ConfigError for what cannot work here."""
        cfg = Config.load(config)
        site = Site(self.python, tuple(sorted(os.sched_getaffinity(0))), extras)
        if self.is_this:
            table.check(cfg)
            require_checkpoint(cfg)
            for what, path in (("this installation", sys.prefix), ("its python", sys.base_prefix)):
                check_readable(what, path)
            check_readable("the package rtvla", str(Path(rtvla.__file__).parent))
            check_readable("policy.checkpoint", cfg.policy.checkpoint, STATE)
        return render(cfg, site) | {CONFIG_FILE.lstrip("/"): config.read_text()}

    def start_fault(self) -> str:
        """Why the installed would not start, by what its own user finds here: keys, network, checkpoint."""
        command = [self.python, "-P", "-m", "rtvla", "service", "begin", "--dry-run", "--config", str(self.config)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd="/", user=USER, group=USER, extra_groups=[]
            )
        except (LookupError, PermissionError):
            return ""  # no such user yet, or we are nobody who could be that one
        except OSError as error:
            return f"{self.python}: {error.strerror}"
        return done.stderr.strip().splitlines()[-1].removeprefix("rtvla: ") if done.returncode else ""

    def stale(self, wanted: Iterable[str]) -> list[str]:
        """Files that an earlier installation made and this one would not."""
        units = self.at(UNITS)
        # a link is not ours: `systemctl enable` made it
        found = [path for path in units.rglob("rtvla*") if path.is_file() and not path.is_symlink()]
        found += [path for folder in units.glob("rtvla*.d") for path in folder.glob("*.conf")]
        names = {str(path.relative_to(self.root)) for path in found if path.read_text().startswith(MARK)}
        return sorted(names - set(wanted))

    def by_hand(self) -> list[str]:
        """Drop-ins that somebody added: no fault, but whoever looks for one wants to know of them."""
        found = self.at(UNITS).glob("rtvla*.d/*.conf")
        return sorted(str(path) for path in found if not path.read_text().startswith(MARK))


def config_of(name: str | None, host: Host) -> Path:
    """The file to install: the one named (or a shipped one: lab, sim), else the one that is installed."""
    if name is None:
        if not host.config.exists():
            raise ConfigError(f"{host.config}: not there yet; give --config FILE (a start: --config lab, then edit it)")
        return host.config
    path, shipped = Path(name), CONFIG_FOLDER / f"{name}.toml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    raise ConfigError(f"config {name}: no such file")


def install(host: Host, config: Path, extras: frozenset[str]) -> list[str]:
    """Write what differs, remove what is stale, tell systemd. Returns what was done; nothing: all was as it should."""
    wanted = host.wanted(config, extras)
    done = []
    try:
        for name, text in wanted.items():
            done += _write(host.at(name), text)
        done += _remove(host, host.stale(wanted))
    except PermissionError as error:
        raise RtvlaError(f"{error.filename}: {error.strerror}; run it as root (sudo)") from error
    if host.is_this:
        _tell("systemd-sysusers", f"/{SYSUSERS}")
        _tell("systemd-tmpfiles", "--create", f"/{TMPFILES}")
        _tell("systemctl", "daemon-reload")
    return done


def uninstall(host: Host) -> list[str]:
    """Stop and remove what was installed; the config, the runs and the models stay."""
    if host.is_this and host.is_installed():
        _tell("systemctl", "disable", "--now", "rtvla.target")
        _tell("systemctl", "stop", "rtvla-shm.service")  # the last to go: so nobody runs any more
    try:
        names = [*host.stale(()), SYSUSERS, TMPFILES]
        done = _remove(host, [name for name in names if host.at(name).exists()])
    except PermissionError as error:
        raise RtvlaError(f"{error.filename}: {error.strerror}; run it as root (sudo)") from error
    if host.is_this:
        _tell("systemctl", "daemon-reload")
    return done


def findings(host: Host, wanted: Mapping[str, str]) -> list[str]:
    """How the installed differs from the wanted, one line each, with the remedy."""
    again = "rtvla service install"
    found = []
    for name, text in wanted.items():
        there = host.at(name)
        if not there.exists():
            found.append(f"{there}: missing; remedy: {again}")
        elif there.read_text() != text:
            found.append(f"{there}: {_difference(there.read_text(), text)}; remedy: {again}")
    found += [f"{host.at(name)}: left by an earlier installation; remedy: {again}" for name in host.stale(wanted)]
    if host.is_this and (fault := host.start_fault()):
        found.append(f"it would not start: {fault}")
    return found + (_of_systemd() if host.is_this else [])


def _difference(there: str, wanted: str) -> str:
    """The first line that differs, both ways."""
    old, new = there.splitlines(), wanted.splitlines()
    gone, added = [line for line in old if line not in new], [line for line in new if line not in old]
    if not gone and not added:
        return "has the lines of what is wanted in another order"
    has, needs = (gone or ["nothing"])[0], (added or ["nothing"])[0]
    same = next((at for at, (a, b) in enumerate(zip(has, needs, strict=False)) if a != b), 0)
    begin = max(0, same - 30)
    return f"has `{_part(has, begin)}`, wanted is `{_part(needs, begin)}` ({len(gone)} lines more, {len(added)} less)"


def _part(line: str, begin: int) -> str:
    """Of a long line, where it begins to differ."""
    if len(line) <= 80:
        return line
    return ("..." if begin else "") + line[begin : begin + 80] + ("..." if begin + 80 < len(line) else "")


def _of_systemd() -> list[str]:
    """What only the running host can say."""
    found = []
    try:
        pwd.getpwnam(USER)
    except KeyError:
        found.append(f"user {USER} does not exist; remedy: systemd-sysusers /{SYSUSERS}")
    shown = _ask(
        "systemctl", "show", "--property=NeedDaemonReload", "--value", "rtvla.target", "rtvla-commander.service"
    )
    if shown.returncode:
        found.append(
            f"systemd does not answer ({shown.stderr.strip()}); remedy: run this on a host that systemd started"
        )
    elif "yes" in shown.stdout:
        found.append("systemd has not read the units since they changed; remedy: systemctl daemon-reload")
    return found


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _tell(*command: str) -> None:
    try:
        done = _ask(*command)
    except FileNotFoundError:
        raise RtvlaError(f"{command[0]} is not here: this host has no systemd; use rtvla up, or --root DIR") from None
    if done.returncode:
        raise RtvlaError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def _write(path: Path, text: str) -> list[str]:
    """Whole or not at all; a config that is replaced is kept beside it."""
    if path.exists() and path.read_text() == text:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.name == Path(CONFIG_FILE).name:
        shutil.copy2(path, path.with_suffix(".toml.before"))
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
    return [f"wrote {path}"]


def _remove(host: Host, names: Iterable[str]) -> list[str]:
    done = []
    for name in names:
        path = host.at(name)
        path.unlink()
        done.append(f"removed {path}")
        if path.parent.suffix == ".d" and not any(path.parent.iterdir()):
            path.parent.rmdir()
    return done
