"""Checks of Python, the libraries, and the services of the system around the pipeline."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, output_of, unreadable

# Distribution -> its module, and whether importing it here costs little. torch and transformers take seconds: they are
# imported by the child process that loads the model.
LIBRARIES = {
    "numpy": ("numpy", True),
    "pyzmq": ("zmq", True),
    "posix_ipc": ("posix_ipc", True),
    "psutil": ("psutil", True),
    "simplejpeg": ("simplejpeg", True),
    "rich": ("rich", True),
    "safetensors": ("safetensors", True),
    "pillow": ("PIL", True),
    "torch": ("torch", False),
    "transformers": ("transformers", False),
}
_LEAST_SYSTEMD = 249
_LEAST_FREE_MB = 2000


def python(_case: Case) -> Found:
    is_right = sys.version_info >= (3, 11) and sys.implementation.name == "cpython"
    return Found(PASS if is_right else FAIL, f"{platform.python_implementation()} {platform.python_version()}")


def _is_wanted(distribution: str, version: str) -> str:
    """What rtvla's own metadata asks for and this version is not; empty if it is fine or nobody can say."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in importlib.metadata.requires("rtvla") or []]
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return ""
    rules = [one.specifier for one in wanted if one.name.lower() == distribution and one.marker is None]
    return str(rules[0]) if rules and not rules[0].contains(version, prereleases=True) else ""


def _library(distribution: str) -> Callable[[Case], Found]:
    module, is_light = LIBRARIES[distribution]

    def look(_case: Case) -> Found:
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        try:
            if is_light:
                importlib.import_module(module)
            elif importlib.util.find_spec(module) is None:
                return Found(FAIL, "is not installed")
        except ImportError as error:
            return Found(FAIL, f"{version or 'is not installed'}: {error}")
        if rule := _is_wanted(distribution, version):
            return Found(FAIL, f"{version}, needs {rule}")
        return Found(PASS, version if is_light else f"{version} (installed; imported only with the model)")

    return look


def libatomic(_case: Case) -> Found:
    if platform.machine() in ("x86_64", "AMD64"):
        return Found(SKIP, "x86-64 needs none")
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError as error:
        return Found(FAIL, str(error))
    return Found(PASS, "libatomic.so.1")


def thread_variables(case: Case) -> Found:
    """For programs of your own: processes of the pipeline get theirs from the supervisor."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    if not text.isdigit():
        return Found(PASS, "OMP_NUM_THREADS is not set")
    count = int(text)
    is_more = count > len(case.allowed)
    return Found(WARN if is_more else PASS, f"OMP_NUM_THREADS={count} on {len(case.allowed)} cores", count, "threads")


def systemd(case: Case) -> Found:
    text = output_of("systemctl", "--version")
    number = re.search(r"systemd (\d+)", text or "")
    if number is None:
        return Found(SKIP, "no systemd")
    if case.read("/proc/1/comm") != "systemd":
        return Found(SKIP, f"systemd {number[1]} is installed, but process 1 is {case.read('/proc/1/comm')}")
    return Found(PASS if int(number[1]) >= _LEAST_SYSTEMD else WARN, f"systemd {number[1]}", int(number[1]))


def journal_rate(case: Case) -> Found:
    files = ["/etc/systemd/journald.conf", *case.paths("/etc/systemd/journald.conf.d/*.conf")]
    lines = [line for path in files for line in (case.read(path) or "").splitlines() if line.startswith("RateLimit")]
    if case.read("/proc/1/comm") != "systemd":
        return Found(SKIP, "systemd is not process 1: there is no journal")
    is_off = any(line.partition("=")[2].strip() in ("0", "0s") for line in lines)
    return Found(WARN if is_off else PASS, ", ".join(lines) or "the default, 10000 lines in 30 s")


def core_dumps(case: Case) -> Found:
    pattern = case.read("/proc/sys/kernel/core_pattern")
    if pattern is None:
        return unreadable("core_pattern")
    import resource

    is_on = resource.getrlimit(resource.RLIMIT_CORE)[0] != 0
    return Found(WARN if is_on else PASS, f"{'on' if is_on else 'off'}, to {pattern or 'nowhere'}")


def out_dir(case: Case) -> Found:
    folder = Path(case.cfg.recorder.out_dir).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Found(FAIL, f"{there} is not for us to write (recorder.out_dir)")
    free_mb = shutil.disk_usage(there).free // 1_000_000
    return Found(PASS if free_mb > _LEAST_FREE_MB else FAIL, f"{folder}: {free_mb} MB free", free_mb, "MB")


CHECKS = (
    Check("python.version", python, "rtvla needs CPython 3.11 or later", "python3.11 -m venv VENV"),
    *(
        Check(f"library.{name}", _library(name), "the pipeline cannot run without it", f"pip install --upgrade {name}")
        for name in LIBRARIES
    ),
    Check("library.libatomic", libatomic, "this CPU needs memory fences", "apt-get install libatomic1"),
    Check(
        "threads.variables",
        thread_variables,
        "more threads than cores: they spin for each other, 3 ms become 400",
        "unset OMP_NUM_THREADS",
    ),
    Check("system.systemd", systemd, "older ones lack what the units use", "Debian 12, Ubuntu 22.04 or later"),
    Check(
        "system.journal_rate",
        journal_rate,
        "without a limit a loop of errors fills the disk",
        "RateLimitIntervalSec=30s and RateLimitBurst=10000 in /etc/systemd/journald.conf",
    ),
    Check("system.core_dumps", core_dumps, "a dump of a model process delays its restart by seconds", "ulimit -c 0"),
    Check("disk.out_dir", out_dir, "the recorder loses what does not fit", "--out DIR on another disk"),
)
