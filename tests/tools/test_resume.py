"""`rtvla resume` against a commander that is played by a thread on real rings."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from rtvla import schema
from rtvla.cli import main
from rtvla.clock import now_ns
from rtvla.shm import operator
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingWriter

WHY = schema.HOLD_REASONS.index("outside_workspace")


def put(writer: RingWriter, latched: int, latched_ns: int) -> None:
    record = np.zeros((), schema.COMMAND)
    record["reason"], record["latched"], record["latched_ns"] = (
        schema.HOLD_REASONS.index("latched"),
        latched,
        latched_ns,
    )
    record["violations"] = 1 << schema.GUARD_CHECKS.index("workspace")
    record["decided_ns"] = now_ns()
    writer.put(record)


@contextmanager
def commander(hub: Hub, writer: RingWriter, latched_ns: int, then: int) -> Iterator[list[np.void]]:
    """Answers requests for the latch of `latched_ns`; `then`: what it is latched by afterwards (0: nothing)."""
    asked, ends, requests = [], threading.Event(), operator.requests(hub)
    begun = requests.head

    def play() -> None:
        seen = begun
        while not ends.wait(0.005):
            if requests.head > seen:
                seen = requests.head
                request = requests.newest()
                assert request is not None
                asked.append(request.copy())
                if request["latched_ns"] == latched_ns:
                    put(writer, then, latched_ns + 1 if then else 0)

    thread = threading.Thread(target=play)
    thread.start()
    yield asked
    ends.set()
    thread.join()


def test_without_a_commander_or_a_latch_there_is_nothing_to_resume(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume"]) == 3
    assert "no commander runs" in capsys.readouterr().err
    writer = hub.writer("command")
    put(writer, 0, 0)
    assert main(["resume", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["result"] == "nothing latched"


def test_it_says_why_and_waits_until_the_commander_has_confirmed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    writer, latched_ns = hub.writer("command"), now_ns() - 3_000_000_000
    put(writer, WHY, latched_ns)
    with commander(hub, writer, latched_ns, then=0) as asked:
        assert main(["resume", "--json", "--timeout", "30"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["result"], said["latched"], said["last_violations"]) == (
        "resumed",
        "outside_workspace",
        {"workspace": 1},
    )
    assert said["for_ms"] >= 3000
    assert [int(request["latched_ns"]) for request in asked] == [latched_ns] and b"pid" in bytes(asked[0]["who"])


def test_a_commander_that_latches_again_or_says_nothing_is_an_error(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, latched_ns = hub.writer("command"), now_ns()
    put(writer, WHY, latched_ns)
    assert main(["resume", "--timeout", "0.1"]) == 1
    assert "has not confirmed" in capsys.readouterr().err
    with commander(hub, writer, latched_ns, then=WHY):
        assert main(["resume", "--timeout", "30"]) == 1
    assert "latched again by outside_workspace" in capsys.readouterr().err


def test_of_two_operators_one_is_told_so(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    put(hub.writer("command"), WHY, now_ns())
    other = operator.asking(hub)
    assert main(["resume"]) == 5
    assert "somebody else is resuming" in capsys.readouterr().err
    other.close()
