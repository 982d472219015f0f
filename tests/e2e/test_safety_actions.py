"""What a policy must never say, said to the real commander in its own process: the test is all other processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from rtvla import schema
from rtvla.clock import now_ns
from rtvla.shm.hub import Hub

pytestmark = pytest.mark.e2e

POSE = (191.0, 1.0, 309.0, 1.0, 91.0, 1.0)
DPOSE = schema.COMMAND_KINDS.index("dpose")
HUGE = 1e6
# what each of the six values of each step is; the largest value that may then leave in 100 ms, None: nothing may
ACTIONS: dict[str, tuple[float, float | None]] = {
    "NaN": (float("nan"), None),
    "infinite": (float("inf"), None),
    "minus infinite": (float("-inf"), None),
    "huge": (HUGE, 0.1),
    "huge and negative": (-HUGE, 0.1),
    "largest float": (float(np.finfo(np.float32).max), 0.1),
    "smallest float": (float(np.finfo(np.float32).tiny), 0.1),
}


class Others:
    """Sensor, robot, cameras, encoder and policy: fresh data, and chunks that say `value`."""

    def __init__(self, hub: Hub) -> None:
        self.value = 0.01
        self._writers = {name: hub.writer(name) for name in ("sensor", "robot", "vl_feature", "action_chunk")}
        self._frames = [hub.writer(f"frame.{view}") for view in schema.VIEWS]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        k = 0
        while not self._ends.wait(0.01):
            now = now_ns()
            self._put("sensor", np.zeros((), schema.SENSOR), now)
            robot = np.zeros((), schema.ROBOT)
            robot["pose_mm_deg"] = POSE
            self._put("robot", robot, now)
            if k % 10 == 0:
                self._slow(now)
            k += 1

    def _put(self, name: str, record: Any, now: int) -> None:
        record["captured_ns"] = record["received_ns"] = now
        self._writers[name].put(record)

    def _slow(self, now: int) -> None:
        for writer in self._frames:
            frame = np.zeros((), schema.FRAME)
            frame["captured_ns"] = frame["received_ns"] = now
            writer.put(frame)
        feature = np.zeros((), schema.VL_FEATURE)
        feature["view_captured_ns"], feature["view_received_ns"], feature["published_ns"] = now, now, now
        self._writers["vl_feature"].put(feature)
        chunk = np.zeros((), schema.CHUNK)
        chunk["observed_ns"], chunk["published_ns"], chunk["horizon"] = now, now, 8
        chunk["actions"][:8] = self.value
        self._writers["action_chunk"].put(chunk)


class Rig:
    def __init__(self, hub: Hub, others: Others, pull: zmq.Socket[bytes]) -> None:
        self.hub, self.others, self._pull = hub, others, pull
        self.commands = hub.reader("command")

    def until(self, what: Callable[[], bool], why: str) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline, why
            time.sleep(0.02)

    def newest(self, count: int) -> Any:
        window = self.commands.latest(min(count, self.commands.head))
        return [] if window is None else window.copy()

    def moves(self) -> None:
        head = self.commands.head
        self.until(lambda: self.commands.head >= head + 5, "decisions")
        self.until(lambda: all(r["kind"] == DPOSE for r in self.newest(5)), "motion")

    def heard(self) -> list[dict[str, Any]]:
        found = []
        while self._pull.poll(0):
            found.append(json.loads(self._pull.recv()))
        return found


@pytest.fixture
def rig(hub: Hub, free_port: Callable[[], int]) -> Iterator[Rig]:
    from rtvla.procs.table import PROCESSES

    hub.create(PROCESSES)
    port = free_port()
    settings = [f"network.command_port={port}", "guard.latch_after=6", "guard.latch_window_s=60"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.bind(f"tcp://127.0.0.1:{port}")
        others = Others(hub)
        commander = subprocess.Popen([sys.executable, "-m", "rtvla", "run", "commander", *flags])
        try:
            yield Rig(hub, others, pull)
        finally:
            commander.terminate()
            commander.wait(20)
            others.close()


def test_no_value_of_a_policy_gets_past_the_commander(rig: Rig) -> None:
    rig.until(lambda: rig.commands.head > 0, "the commander")
    for name, (value, largest) in ACTIONS.items():
        rig.others.value = 0.01
        rig.moves()
        rig.heard()
        head = rig.commands.head
        rig.others.value = value
        if largest is None:
            rig.until(lambda: rig.newest(1)[0]["kind"] != DPOSE, f"{name}: the hold")
        else:
            rig.until(lambda head=head: rig.commands.head >= head + 10, "ten decisions")
        records, _, _ = rig.commands.since(head, 60)
        held = {schema.HOLD_REASONS[r["reason"]] for r in records if r["kind"] != DPOSE}
        assert largest is not None or "not_finite" in held, (name, held)
        values = [command["dp"] for command in rig.heard() if command["cmd"] == "dpose"]
        assert np.isfinite(values).all() and np.abs(values).max(initial=0) <= 0.1 + 1e-9, name
        clamped = sum(int(r["clamped"]) for r in records)
        print(f"{name}: {len(values)} commands, {clamped} clamped, held for {sorted(held) or '-'}")


def test_a_policy_that_goes_on_saying_nonsense_is_shut_out_until_an_operator_has_looked(rig: Rig) -> None:
    rig.until(lambda: rig.commands.head > 0, "the commander")
    rig.moves()
    rig.others.value = float("nan")
    rig.until(lambda: bool(rig.newest(1)[0]["latched"]), "the latch")
    rig.others.value = 0.01
    head, sent = rig.commands.head, int(rig.newest(1)[0]["seq"])
    rig.until(lambda: rig.commands.head >= head + 15, "more decisions")
    assert int(rig.newest(1)[0]["seq"]) == sent, "it let go by itself"
    done = subprocess.run([sys.executable, "-m", "rtvla", "resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "not_finite" in done.stdout, done
    rig.moves()
