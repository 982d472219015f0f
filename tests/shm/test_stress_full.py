"""A full /dev/shm, for real: a small one in a mount namespace of the test's own."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.stress
MOUNT = 'mount -t tmpfs -o "$1" tmpfs /dev/shm && shift && exec "$@"'
UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--user", "--map-root-user")


def within(options: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a /dev/shm of its own, which goes with it."""
    whole = [*UNSHARE, "sh", "-c", MOUNT, "sh", options, *command]
    return subprocess.run(whole, capture_output=True, text=True, check=False)


@functools.cache
def why_not() -> str:
    try:
        return within("size=1m", "true").stderr
    except FileNotFoundError as error:
        return str(error)


@pytest.fixture(autouse=True)
def own_mounts() -> None:
    if why_not():
        pytest.skip(f"cannot mount a /dev/shm of its own, needs root: {why_not().strip()}")


def python(options: str, code: str) -> subprocess.CompletedProcess[str]:
    """The code, and then what it has left in /dev/shm."""
    program = f"import mmap, os, sys\nfrom rtvla.shm.hub import Hub\nhub = Hub('full')\n{code}"
    return within(options, "sh", "-c", '"$@"; code=$?; ls -A /dev/shm; exit $code', "sh", sys.executable, "-c", program)


TOO_SMALL = {
    "size=1m": "No space left on device",  # not even for the first
    "size=9m": "No space left on device",  # for some
    "size=99m,nr_inodes=4": "No space left on device",  # space, but no more files
    "size=99m,ro": "Read-only file system",
}


@pytest.mark.parametrize("options", TOO_SMALL)
def test_no_room_is_an_error_at_creation_and_nothing_is_left(options: str) -> None:
    """Regression: without a free inode it was no ShmError; and what had been made until then stayed."""
    done = python(options, "hub.create(['policy'])")
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("rtvla.errors.ShmError: cannot allocate ")
    assert " bytes for /dev/shm/rtvla.full." in last and f": {TOO_SMALL[options]}; free /dev/shm" in last


@pytest.mark.parametrize("verb", ["infer", "run"])
def test_a_command_that_finds_no_room_ends_with_the_remedy_and_without_a_traceback(verb: str) -> None:
    arguments = {"infer": ["infer", "--sim", "--checkpoint", ".", "--out", "/dev/shm"], "run": ["run", "sensor_ingest"]}
    code = (
        "import rtvla.cli, rtvla.procs.pipeline\n"
        "rtvla.procs.pipeline.require_checkpoint = lambda cfg: None\n"
        "os.environ['RTVLA_NAMESPACE'] = 'full'\n"
        f"sys.exit(rtvla.cli.main({arguments[verb]}))"
    )
    done = python("size=1m", code)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("rtvla: cannot allocate ") and "free /dev/shm" in last
    assert "rtvla.full.sensor" not in done.stdout and ".tmp" not in done.stdout


FILL_UP = """
with open("/dev/shm/ballast", "wb", buffering=0) as ballast:
    try:
        while ballast.write(bytes(4096)): pass
    except OSError as error:
        assert error.errno == 28
"""


def test_what_was_made_can_be_written_to_the_last_byte_however_full_it_gets() -> None:
    code = f"{FILL_UP}\nfor slot in writer.slots: slot[:] = bytes(len(slot))\nwriter.commit()\nhub.purge()"
    done = python("size=9m", f"writer = hub.writer('sensor')\n{code}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ballast\n"


def test_a_file_that_is_only_as_long_as_a_segment_is_a_sigbus_later() -> None:
    """Why it is allocated: the control of the test above."""
    sparse = "fd = os.open('/dev/shm/sparse', os.O_RDWR | os.O_CREAT)\nos.ftruncate(fd, 4096)\n"
    done = python("size=1m", f"{sparse}mapping = mmap.mmap(fd, 4096)\n{FILL_UP}\nmapping[:] = bytes(4096)")
    assert done.returncode == 128 + signal.SIGBUS
