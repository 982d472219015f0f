"""A reader that waits: asleep until there is something, and never asleep while there is."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rtvla import schema
from rtvla.shm.hub import Hub

FRAME = np.zeros((), schema.FRAME)


def test_a_reader_does_not_sleep_when_there_is_more_than_it_saw(hub: Hub) -> None:
    writer, reader = hub.writer("frame.View1"), hub.reader("frame.View1")
    writer.put(FRAME)
    began = time.monotonic()
    for _ in range(100):
        assert reader.wait(0, 10.0)
    assert time.monotonic() - began < 100 * 10.0  # it would have slept 1000 s


def test_the_time_runs_out_when_nobody_writes(hub: Hub) -> None:
    hub.writer("frame.View1")
    began = time.monotonic()
    assert not hub.reader("frame.View1").wait(0, 0.05)
    assert time.monotonic() - began >= 0.05


def test_a_sleeping_reader_is_woken_by_the_writer(hub: Hub) -> None:
    writer, reader = hub.writer("frame.View1"), hub.reader("frame.View1")
    woken: list[bool] = []
    sleeper = threading.Thread(target=lambda: woken.append(reader.wait(0, 60.0)))
    sleeper.start()
    time.sleep(0.1)
    writer.put(FRAME)
    sleeper.join(timeout=30)
    assert woken == [True], "the sleeper was not woken before its minute was over"


def test_a_waiting_reader_uses_no_cpu(hub: Hub) -> None:
    hub.writer("frame.View1")
    reader = hub.reader("frame.View1")
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(10):
        reader.wait(0, 0.1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s < 0.1, "a tenth of the second that it waited"


@pytest.mark.stress
def test_no_wake_up_is_ever_lost(hub: Hub) -> None:
    """The reader answers each record through a ring of its own; one lost wake-up would cost a whole timeout.
    Regression: a wake-up for a record that was already seen came late and ended the wait for the next one."""
    code = (
        "import sys, numpy as np; from rtvla import schema; from rtvla.shm.hub import Hub\n"
        f"hub = Hub({hub.namespace!r}); reader = hub.reader('frame.View1'); answer = hub.writer('frame.View2')\n"
        "seen, frame = 0, np.zeros((), schema.FRAME)\n"
        "print('up', flush=True)\n"
        "while seen < 5000:\n"
        "    assert reader.wait(seen, 30.0), seen\n"
        "    seen = reader.head\n"
        "    answer.slot(); answer.commit()\n"
    )
    echo = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert echo.stdout is not None and echo.stdout.readline() == b"up\n"
    writer, answers = hub.writer("frame.View1"), hub.reader("frame.View2")
    try:
        for number in range(5000):
            writer.slot()
            writer.commit()
            assert answers.wait(number, 30.0), f"no answer to record {number}"
        assert echo.wait(timeout=30) == 0
    finally:
        echo.kill()
        echo.communicate()
