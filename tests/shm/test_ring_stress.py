"""The ring under attack, in real processes: writers killed, readers stopped, every record checked. scripts/stress runs
the same at full length; here as much of it as shows that it still holds."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest
from stress_jobs import Row, controls, plan

from rtvla.shm import inspect
from rtvla.shm.hub import Hub

pytestmark = pytest.mark.stress
KILLS = 100
PLAIN = plan(KILLS, fenced=False)
FENCED = [row for row in plan(KILLS, fenced=True) if row.job in ("kill", "torn64")]


def has_libatomic() -> bool:
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("row", PLAIN + FENCED, ids=lambda row: row.name)
def test_nothing_torn_is_accepted_nobody_blocks_and_head_never_goes_back(row: Row, namespace: str) -> None:
    if row.fenced and not has_libatomic():
        pytest.skip("libatomic.so.1 is not installed: apt-get install libatomic1")
    assert row.faults(row.run()) == []


@pytest.mark.parametrize("row", controls(), ids=lambda row: row.name)
def test_what_is_broken_on_purpose_is_caught(row: Row, namespace: str) -> None:
    """Without this the zeros above could mean that nothing was attacked."""
    report = row.run()
    assert report["torn_accepted"] > 0, report


WRITER = """
import sys, time
import numpy as np
from rtvla import schema
from rtvla.clock import now_ns
from rtvla.shm.hub import Hub
writer, record = Hub(sys.argv[1]).writer("robot"), np.zeros((), schema.ROBOT)
while True:
    record["received_ns"] = now_ns()
    writer.put(record)
    time.sleep(0.001)
"""


def test_a_stopped_writer_is_alive_and_what_it_wrote_grows_old(hub: Hub) -> None:
    def look() -> dict[str, object]:
        return inspect.listing(hub.namespace, 0.02)[0]

    reader = hub.reader("robot")
    with subprocess.Popen([sys.executable, "-c", WRITER, hub.namespace]) as writer:
        try:
            while reader.head < 10:
                time.sleep(0.001)
            writer.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
            first, second = look(), look()
            assert first["writer"] == second["writer"] == "alive" and reader.writer_alive()
            assert first["records"] == second["records"] and second["hz"] == 0
            assert float(str(second["age_ms"])) >= float(str(first["age_ms"])) + 20
            writer.send_signal(signal.SIGCONT)
            while reader.head == first["records"]:
                time.sleep(0.001)
        finally:
            writer.kill()
    assert look()["writer"] == "dead" and not reader.writer_alive()
