"""Every fault that the field knows, in real processes on a real (loopback) network: what was commanded meanwhile?

One pipeline for all; each case waits until the arm moves, makes one thing bad, follows every decision of its commander,
mends it, and waits until the arm moves again. RTVLA_SAFETY_TABLE=FILE: what was measured, as docs/safety.md has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import relay
from safety_live import Live, Seen

from rtvla.config import Config
from rtvla.control.settings import degrade_table
from rtvla.schema import INPUTS, VIEWS

pytestmark = pytest.mark.e2e

SPIKE = 50.0  # guard.force is 10
SETTINGS = ("guard.force=10.0", "guard.latch_after=8", "commander.ttl_ms=500.0", "commander.auto_start=true")


@pytest.fixture
def no_process_left() -> None:
    """Not after each test here: the pipeline serves all of them, and `live` looks at its end."""


@pytest.fixture(scope="module")
def live(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    before, os.environ["RTVLA_NAMESPACE"] = os.environ.get("RTVLA_NAMESPACE"), name
    live = Live(name, checkpoint, tmp_path_factory.mktemp("runs"), SETTINGS)
    try:
        live.start()
        yield live
    finally:
        live.close()
        os.environ.pop("RTVLA_NAMESPACE")
        os.environ |= {} if before is None else {"RTVLA_NAMESPACE": before}


@dataclass(frozen=True)
class Case:
    """`make` begins the fault and gives what ends it. `causes`: why it holds, of which one must be seen. None: it must
    move more than it holds (this machine may have other work), and never latch."""

    name: str
    make: Callable[[Live], Callable[[], object]]
    for_s: float = 1.5
    causes: tuple[str, ...] = ()


def on(link: str, fault: Callable[[], relay.Fault]) -> Callable[[Live], Callable[[], object]]:
    def make(live: Live) -> Callable[[], object]:
        live.relay.faults[link] = fault()
        return lambda: live.relay.faults.update({link: relay.good})

    return make


def process(name: str, number: int) -> Callable[[Live], Callable[[], object]]:
    def make(live: Live) -> Callable[[], object]:
        pid = live.pipeline.rows()[name]["pid"]
        os.kill(pid, number)
        return lambda: live.back(name, pid)

    return make


def slow(name: str, stopped_s: float, running_s: float) -> Callable[[Live], Callable[[], object]]:
    """Stopped again and again: a process that gets little of its core."""
    script = (
        "import os, signal, sys, time\n"
        "pid, stopped, running = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])\n"
        "while True:\n"
        "    os.kill(pid, signal.SIGSTOP); time.sleep(stopped)\n"
        "    os.kill(pid, signal.SIGCONT); time.sleep(running)\n"
    )

    def make(live: Live) -> Callable[[], object]:
        pid = live.pipeline.rows()[name]["pid"]
        brake = subprocess.Popen([sys.executable, "-c", script, str(pid), str(stopped_s), str(running_s)])

        def end() -> None:
            brake.kill()
            brake.wait()
            os.kill(pid, signal.SIGCONT)

        return end

    return make


VIEW_GONE = tuple(f"{view}_{level}" for view in VIEWS for level in ("stale", "gone"))
CAMERA = (*VIEW_GONE, "vl_feature_stale", "vl_feature_gone")
POLICY = ("policy_dead", "chunk_stale", "chunk_gone", "no_chunk")
ROBOT = ("robot_stale", "robot_gone", "chunk_stale", "chunk_gone")
SENSOR = ("sensor_stale", "sensor_gone", "chunk_stale", "chunk_gone")


def stepped(link: str, seconds: float) -> Callable[[Live], Callable[[], object]]:
    return on(link, lambda: relay.stamped(link, lambda stamp, now: stamp + seconds))


def drifting(link: str) -> Callable[[Live], Callable[[], object]]:
    begun = time.time()
    return on(link, lambda: relay.stamped(link, lambda stamp, now: stamp + (stamp - begun) * 100e-6))


def cut(seconds: float) -> Callable[[Live], Callable[[], object]]:
    def make(live: Live) -> Callable[[], object]:
        live.cuts.append(live.relay.cut(seconds))
        return lambda: None

    return make


LINKS = ("sensor", "robot", "camera")
INGESTS = (("sensor_ingest", SENSOR), ("robot_ingest", ROBOT), ("camera_ingest", CAMERA))
CASES = (
    *(Case(f"{link} silent", on(link, lambda: relay.silent), causes=causes)
      for link, causes in (("sensor", SENSOR), ("robot", ROBOT), ("camera", CAMERA))),
    Case("sensor frozen", on("sensor", lambda: relay.frozen("sensor")), causes=SENSOR),
    Case("camera frozen", on("camera", lambda: relay.frozen("camera")), 3.0, causes=CAMERA),
    Case("robot frozen under new stamps", on("robot", lambda: relay.frozen("robot"))),
    Case("sensor 300 ms late", on("sensor", lambda: relay.late(0.3)), causes=SENSOR),
    Case("robot 300 ms late", on("robot", lambda: relay.late(0.3)), causes=ROBOT),
    Case("camera 300 ms late", on("camera", lambda: relay.late(0.3))),
    *(Case(f"{link} out of order", on(link, relay.swapped)) for link in LINKS),
    *(Case(f"{link} duplicated", on(link, lambda: relay.twice)) for link in LINKS),
    *(Case(f"{link} clock stepped by {seconds * 1e3:+.0f} ms", stepped(link, seconds), 2.5)
      for link in LINKS for seconds in (0.25, -0.25)),
    *(Case(f"{link} clock drifting 100 ppm", drifting(link), 2.0) for link in LINKS),
    Case("force spike of 0.3 s", on("sensor", lambda: relay.pushed(SPIKE)), 0.3, causes=("force",)),
    Case("sensor says NaN", on("sensor", lambda: relay.pushed(float("nan"))), causes=SENSOR),
    *(Case(f"network cut for {seconds:g} s", cut(seconds), 0.2, causes=("send_failed", *ROBOT, *SENSOR, *CAMERA))
      for seconds in (0.1, 1.0, 10.0)),
    *(Case(f"{name} killed", process(name, signal.SIGKILL), 0.5, causes=(f"{name}_dead", *causes))
      for name, causes in (("policy", POLICY), ("vl_encoder", ()), *INGESTS)),
    Case("commander killed", process("commander", signal.SIGKILL), 0.5, causes=("resuming", "no_chunk")),
    *(Case(f"{name} killed", process(name, signal.SIGKILL), 0.5) for name in ("recorder", "monitor")),
    *(Case(f"{name} hung", process(name, signal.SIGSTOP), 0.5, causes=(f"{name}_dead", *causes))
      for name, causes in (("policy", POLICY), ("vl_encoder", CAMERA), *INGESTS)),
    Case("commander hung", process("commander", signal.SIGSTOP), 0.5, causes=("resuming", "no_chunk")),
    Case("policy slow: 0.4 s stopped, 0.1 s running", slow("policy", 0.4, 0.1), 2.5, causes=POLICY),
    Case("robot_ingest slow: 0.05 s stopped, 0.05 s running", slow("robot_ingest", 0.05, 0.05)),
)  # fmt: skip
# One of each kind in every run of scripts/test; scripts/test_long has the others.
QUICK = {
    "sensor silent",
    "robot silent",
    "camera frozen",
    "robot duplicated",
    "robot clock stepped by -250 ms",
    "force spike of 0.3 s",
    "network cut for 1 s",
    "robot_ingest hung",
}
GONE_NS = {name: row.gone_ns for name, row in degrade_table(Config()).items()}


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=() if c.name in QUICK else pytest.mark.long) for c in CASES]
)
def test_the_arm_moves_only_on_what_is_fresh(live: Live, case: Case) -> None:
    live.moves()
    begun = live.follow()
    end = case.make(live)
    live.wait(case.for_s)
    end()
    live.moves()
    seen = live.seen(begun)
    live.report(case.name, seen)
    check_ages(seen)
    check_wire(live, seen)
    assert "latched" not in seen.causes
    if case.causes:
        assert seen.causes & set(case.causes), seen.causes
    else:
        assert len(seen.moved) > len(seen.held), seen.causes


def check_ages(seen: Seen) -> None:
    """No motion on an input that is gone, whatever the fault was."""
    for record in seen.moved:
        for name, age_ns in zip(INPUTS, record["input_age_ns"].tolist(), strict=True):
            assert age_ns <= GONE_NS[name], f"moved although {name} was {age_ns / 1e6:.0f} ms old"


def check_wire(live: Live, seen: Seen) -> None:
    """Each command once, in order, within the limits; none that was issued while nobody could hear it."""
    sent = [command for _, command in seen.wire if command["cmd"] == "dpose"]
    for session in {command["session"] for command in sent}:
        numbers = [command["seq"] for command in sent if command["session"] == session]
        assert numbers == sorted(set(numbers))
    assert not any(command["cmd"] == "start" for _, command in seen.wire), "start was sent again"
    for command in sent:
        assert np.isfinite(command["dp"]).all() and np.abs(command["dp"]).max() <= 0.1 + 1e-9


def test_after_a_cut_nothing_old_is_delivered(live: Live) -> None:
    """Of all cuts above. The issue time is the commander's, the arrival the network's; both are of this machine."""
    assert live.cuts
    offset_ns = time.time_ns() - time.monotonic_ns()
    for began_ns, ended_ns in live.cuts:
        for arrived_ns, command in live.relay.commands:
            issued_ns = int(command["issued_s"] * 1e9) - offset_ns
            assert not (arrived_ns > ended_ns and issued_ns < began_ns), "a command was queued over the cut"


def test_a_force_that_stays_latches_until_an_operator_says_resume(live: Live) -> None:
    live.moves()
    begun = live.follow()
    live.relay.faults["sensor"] = relay.pushed(SPIKE)
    live.until(lambda: bool(live.last()["latched"]), "the latch")
    live.relay.faults["sensor"] = relay.good
    live.wait(1.5)
    assert live.last()["latched"], "it let go by itself"
    pid = live.pipeline.rows()["commander"]["pid"]
    os.kill(pid, signal.SIGKILL)
    live.back("commander", pid)
    live.wait(0.5)
    assert live.last()["latched"], "the latch died with the process"
    resume = [sys.executable, "-m", "rtvla", "resume"]
    done = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "force" in done.stdout, done
    live.moves()
    live.report("force stays over the limit", live.seen(begun))


def test_the_supervisor_killed_means_no_more_commands(live: Live) -> None:
    """The last of this file: nothing lives after it."""
    live.moves()
    begun = live.follow()
    assert live.pipeline.process is not None
    live.pipeline.process.kill()
    live.pipeline.process.wait()
    live.gone()
    heard = len(live.relay.commands)
    time.sleep(1.0)
    assert len(live.relay.commands) == heard
    seen = live.seen(begun)
    live.report("supervisor killed", seen)
    check_ages(seen)
