"""How a process takes the signals that ask it to stop."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, signal, time
from rtvla.procs.lifecycle import StopRequest
stop = StopRequest()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("asked" if stop.asked else "", flush=True)
time.sleep(0.3)
os.kill(os.getpid(), signal.SIGTERM)
print("still here")
"""


def test_signals_of_one_moment_are_one_request_and_a_later_one_ends_it() -> None:
    """Regression: the kernel sends the death signal of a parent for each of its threads, and the recorder of a killed
    supervisor left its files open."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (128 + 15, "asked\n")
