"""A real systemd as the first process of namespaces of its own, over a throw-away overlay of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import rtvla
from rtvla import rt

_INIT = Path(__file__).with_name("systemd_init.sh")
_TOOLS = (
    "unshare",
    "nsenter",
    "systemctl",
    "systemd-sysusers",
    "systemd-tmpfiles",
    "journalctl",
    "pivot_root",
    "ip",
    "chrt",
)
_CAP_SYS_RESOURCE = 24
PYTHON, _LIBRARIES = "/opt/rtvla/venv/bin/python", "/opt/rtvla/python/lib"


def may_raise_limits() -> bool:
    """Whether this machine lets anybody have more than the limits it gave us; some virtual ones do not."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_SYS_RESOURCE & 1)


def why_not() -> str:
    """Why no systemd can be booted here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    if not Path("/lib/systemd/systemd").exists():
        return "no /lib/systemd/systemd: apt-get install systemd"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"no {', '.join(missing)}: apt-get install util-linux iproute2 systemd"
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        return "this kernel has no overlayfs"
    if _cgroup2() is None:
        return "no cgroup2 file system is mounted"
    return ""


def _cgroup2() -> Path | None:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)


def _python_is_hidden() -> bool:
    """Whether this python lives in a home folder, where a hardened unit sees nothing."""
    return Path(sys.base_prefix).is_relative_to("/home") or Path(sys.base_prefix).is_relative_to(
        Path("~root").expanduser()
    )


class Host:
    """The booted host, from outside."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self._log = pid, log

    def path(self, inside: str) -> Path:
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def ask(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-n", "-C", "--", "env", "-i"]
        variables = [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            *([f"LD_LIBRARY_PATH={_LIBRARIES}"] if _python_is_hidden() else []),
        ]
        return subprocess.run(
            [*enter, *variables, *command], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def do(self, *command: str, timeout_s: float = 60) -> str:
        """Run it to success; what it printed."""
        done = self.ask(*command, timeout_s=timeout_s)
        assert done.returncode == 0, (
            f"{command} -> {done.returncode}\n{done.stdout}{done.stderr}\n{self.journal()[-6000:]}"
        )
        return done.stdout

    def rtvla(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.ask(PYTHON, "-P", "-m", "rtvla", *words)

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit, in the order asked for."""
        lines = self.do("systemctl", "show", unit, *(f"--property={name}" for name in names)).splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return [found[name] for name in names]

    def state(self, unit: str) -> str:
        return self.show(unit, "ActiveState")[0]

    def main_pid(self, unit: str) -> int:
        return int(self.show(unit, "MainPID")[0])

    def journal(self) -> str:
        return self.ask("journalctl", "--no-pager", "-q", "-o", "short-monotonic").stdout

    def until(self, what: Callable[[], bool], why: str, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline:
                pytest.fail(f"{why} did not happen\n{self.journal()[-8000:]}\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)


@contextmanager
def booted(work: Path, model: Path) -> Iterator[Host]:
    """Boots, and takes everything down with one kill. Skips where the kernel refuses a mount or a namespace."""
    cgroup2 = _cgroup2()
    assert cgroup2 is not None
    for name in ("layer", "root"):
        (work / name).mkdir()
    group, log = cgroup2 / f"rtvla-test-{os.getpid()}", work / "boot.log"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup in {cgroup2}: {error.strerror}")
    package = Path(rtvla.__file__).parent
    init = ["bash", str(_INIT), str(work), sys.prefix, str(package), sys.base_prefix, str(model)]
    init.append("move" if _python_is_hidden() else "keep")
    us = os.getpid()

    def in_its_group() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        rt.die_with_parent(us, signal.SIGKILL)  # a test that is killed leaves nothing running

    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [*apart, "--propagation", "private", *init],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=in_its_group,  # noqa: PLW1509  one thread
        )
    try:
        yield _wait_for_boot(process, log)
    finally:
        process.kill()  # --kill-child: the systemd and all below it with it
        process.wait()
        _remove(group)


def _wait_for_boot(process: subprocess.Popen[bytes], log: Path) -> Host:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            text = log.read_text(errors="replace")
            if "becoming systemd" not in text:
                pytest.skip(f"this machine does not let a test mount and make namespaces: {text.strip()[-300:]}")
            pytest.fail(f"systemd ended\n{text[-3000:]}")
        children = psutil.Process(process.pid).children()
        if children and "becoming systemd" in log.read_text(errors="replace"):
            host = Host(children[0].pid, log)
            running = host.ask("systemctl", "is-system-running").stdout.strip()
            if running in ("running", "degraded"):
                return host
        time.sleep(0.1)
    pytest.fail(f"systemd did not come up in a minute\n{log.read_text(errors='replace')[-3000:]}")


def _remove(group: Path) -> None:
    """Its processes are dying; a cgroup can be removed once they are gone."""
    for _ in range(100):
        folders = sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda p: -len(p.parts))
        try:
            for folder in [*folders, group]:
                folder.rmdir()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"left behind: {group}")


def what_this_machine_lacks() -> str:
    """A drop-in that makes up for what a real host has and a test machine has not."""
    lines = ["TimeoutStartSec=120"]  # other work beside us may hold up a start
    if not may_raise_limits():  # LimitRTPRIO=, LimitNICE= and LimitMEMLOCK= cannot be granted, so the right itself
        lines += ["AmbientCapabilities=CAP_SYS_NICE CAP_IPC_LOCK", "CapabilityBoundingSet=CAP_SYS_NICE CAP_IPC_LOCK"]
    if _python_is_hidden():  # its python was moved, and is linked to its own old place
        lines.append(f"Environment=LD_LIBRARY_PATH={_LIBRARIES}")
    return "\n".join(["[Service]", *lines, ""])
