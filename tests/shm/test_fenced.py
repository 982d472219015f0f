"""The path of CPUs that need fences, forced on this one: the same tests must hold there."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RTVLA_FENCES": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def libatomic() -> None:
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError:
        pytest.skip("libatomic.so.1 is not installed: apt-get install libatomic1")


def test_the_ring_holds_with_real_fences() -> None:
    """Regression: the fenced path named its functions so that Python mangled them, and failed at the first ring."""
    done = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "test_ring.py"), str(HERE / "test_stress_counter.py")
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "failed" not in done.stdout and "skipped" not in done.stdout


def test_forcing_really_forces() -> None:
    code = "from rtvla.shm import atomics; assert atomics.IS_FENCED and atomics.full_fence() is not None"
    assert run("-c", code).returncode == 0
