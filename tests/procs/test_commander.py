"""What the commander decides, tick by tick, on real rings and a fake clock. Every reason to hold has its test."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import FakeMe, FakeSocket

from rtvla import schema
from rtvla.clock import MS
from rtvla.config import Config
from rtvla.procs.commander import Commander
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingWriter

NOW = 100_000 * MS
POSE = (191.0, 1.0, 309.0, 1.0, 91.0, 1.0)


@dataclass
class Rig:
    me: FakeMe
    sock: FakeSocket
    commander: Commander
    chunks: RingWriter
    robot: RingWriter
    hub: Hub

    def chunk(self, observed_ns: int = NOW, step: float = 0.01, horizon: int = 8) -> None:
        record = np.zeros((), schema.CHUNK)
        record["observed_ns"], record["horizon"] = observed_ns, horizon
        record["sensor_age_ns"], record["robot_age_ns"], record["vl_age_ns"] = 2 * MS, 5 * MS, 400 * MS
        record["actions"][:horizon] = step * np.arange(1, horizon + 1)[:, None]
        self.chunks.put(record)

    def state(self, received_ns: int = NOW, pose: tuple[float, ...] = POSE) -> None:
        record = np.zeros((), schema.ROBOT)
        record["received_ns"], record["pose_mm_deg"] = received_ns, pose
        self.robot.put(record)

    def tick(self, now_ns: int = NOW + 50 * MS) -> tuple[str, str]:
        self.commander.tick(now_ns)
        record = self.last()
        return schema.COMMAND_KINDS[record["kind"]], schema.HOLD_REASONS[record["reason"]]

    def last(self) -> np.void:
        record = self.hub.reader("command").newest()
        assert record is not None
        return record

    def steps(self) -> list[list[float]]:
        return [json.loads(payload)["dp"] for payload in self.sock.sent if b"dpose" in payload]


def make(hub: Hub, *settings: str) -> Rig:
    me, sock = FakeMe(hub), FakeSocket()
    hub.writer("vl_feature").put(np.zeros((), schema.VL_FEATURE))  # this process stands for the encoder too
    commander = Commander(me, Config.load(None, settings), sock)  # type: ignore[arg-type]
    return Rig(me, sock, commander, hub.writer("action_chunk"), hub.writer("robot"), hub)


@pytest.fixture
def rig(hub: Hub) -> Rig:
    return make(hub)


def test_it_sends_the_step_that_is_due_with_the_age_of_all_it_was_made_from(rig: Rig) -> None:
    rig.chunk()
    rig.state()
    assert rig.tick(NOW + 50 * MS) == ("dpose", "none")
    rig.state(NOW + 150 * MS)
    assert rig.tick(NOW + 150 * MS) == ("dpose", "none")
    assert np.allclose(rig.steps(), [[0.01] * 6, [0.02] * 6])
    record = rig.last()
    assert (record["step"], record["chunk_age_ns"]) == (1, 150 * MS)
    assert (record["sensor_age_ns"], record["robot_age_ns"], record["vl_age_ns"]) == (152 * MS, 155 * MS, 550 * MS)


def test_a_newer_chunk_replaces_the_rest_of_the_old_one(rig: Rig) -> None:
    rig.state()
    rig.chunk(NOW - 100 * MS, step=0.01)
    rig.chunk(NOW, step=0.03)
    rig.tick(NOW + 50 * MS)
    assert np.allclose(rig.steps(), [[0.03] * 6]) and rig.last()["chunk_index"] == 1


def test_silence_of_the_policy_makes_it_hold(rig: Rig) -> None:
    rig.state()
    assert rig.tick() == ("hold", "no_chunk")
    rig.chunk()
    rig.state(NOW + 250 * MS)
    assert rig.tick(NOW + 250 * MS)[0] == "dpose"
    rig.state(NOW + 350 * MS)
    assert rig.tick(NOW + 350 * MS) == ("hold", "chunk_late")
    assert len(rig.sock.sent) == 1


def test_a_finished_chunk_makes_it_hold(rig: Rig) -> None:
    rig.chunk(horizon=2)
    rig.state(NOW + 210 * MS)
    assert rig.tick(NOW + 210 * MS) == ("hold", "chunk_finished")


def test_a_chunk_from_the_future_is_not_executed(rig: Rig) -> None:
    rig.chunk(NOW + 500 * MS)
    rig.state()
    assert rig.tick() == ("hold", "no_chunk")


@pytest.mark.parametrize(("writer", "reason"), [("_chunks", "policy_dead"), ("_features", "vl_encoder_dead")])
def test_a_dead_process_upstream_makes_it_hold_at_the_next_tick(rig: Rig, writer: str, reason: str) -> None:
    rig.chunk()
    rig.state()
    getattr(rig.commander, writer).writer_alive = lambda: False
    assert rig.tick() == ("hold", reason)


def test_a_silent_robot_makes_it_hold(rig: Rig) -> None:
    rig.chunk()
    assert rig.tick() == ("hold", "robot_stale")
    rig.state(NOW - 101 * MS)
    assert rig.tick() == ("hold", "robot_stale")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_sent(rig: Rig, bad: float) -> None:
    rig.chunk(step=bad)
    rig.state()
    assert rig.tick() == ("hold", "not_finite")
    rig.chunk()
    rig.state(pose=(bad, *POSE[1:]))
    assert rig.tick() == ("hold", "not_finite")
    assert rig.sock.sent == []


def test_a_long_step_is_shortened_and_says_so(rig: Rig) -> None:
    rig.chunk(step=1.0)
    rig.state()
    assert rig.tick() == ("dpose", "none")
    record = rig.last()
    assert record["clamped"] == 1 and rig.me.counted["clamped"] == 1
    assert np.allclose(record["requested_mm_deg"], 1.0) and np.allclose(record["sent_mm_deg"], 0.1)


def test_the_workspace_is_not_left(hub: Hub) -> None:
    rig = make(hub, "commander.workspace_min_mm=[190,0,300]", "commander.workspace_max_mm=[191,2,310]")
    rig.chunk(step=0.05)
    rig.state()
    assert rig.tick() == ("hold", "outside_workspace")


def test_a_robot_that_is_away_gets_nothing_later(rig: Rig) -> None:
    rig.sock.connected = False
    rig.chunk()
    rig.state()
    assert rig.tick() == ("hold", "send_failed")
    assert rig.sock.sent == [] and rig.last()["sent_mm_deg"].tolist() == [0] * 6


def test_start_is_sent_once_and_steps_wait_until_the_arm_has_arrived(hub: Hub) -> None:
    rig = make(hub, "commander.auto_start=true")
    far = (150.0, *POSE[1:])
    now, kinds = NOW, []
    for tick in range(14):
        now = NOW + tick * 100 * MS
        rig.chunk(now)
        rig.state(now, POSE if tick >= 6 else far)
        kinds.append(rig.tick(now + 50 * MS))
    assert kinds[0] == ("start", "none")
    assert set(kinds[1:10]) == {("hold", "starting")}
    assert kinds[-1] == ("dpose", "none") and rig.me.counted["start"] == 1
    assert json.loads(rig.sock.sent[0]) == {"cmd": "start", "start_joints": list(POSE), "lock_j6": False}


def test_a_restarted_commander_does_not_send_start_again(hub: Hub) -> None:
    rig = make(hub, "commander.auto_start=true")
    rig.chunk()
    rig.state()
    rig.tick()
    assert rig.me.counted["start_sent"] == 1
    rig.commander._out.close()
    again = Commander(rig.me, Config.load(None, ["commander.auto_start=true"]), rig.sock)  # type: ignore[arg-type]
    again.tick(NOW + 60 * MS)
    assert schema.HOLD_REASONS[rig.last()["reason"]] == "starting" and len(rig.sock.sent) == 1


def test_every_decision_is_on_record_with_a_reason(rig: Rig) -> None:
    for _ in range(5):
        rig.tick()
    assert rig.hub.reader("command").head == 5 and rig.me.counted == {"hold.no_chunk": 5}


def test_a_late_tick_does_not_send_a_step_twice(rig: Rig) -> None:
    """Regression: after a pause the late tick and the next one on time both sent the same step."""
    rig.chunk()
    rig.state()
    assert rig.tick(NOW + 90 * MS) == ("dpose", "none")  # 40 ms late
    assert rig.tick(NOW + 99 * MS) == ("hold", "step_done")
    rig.chunk(NOW + 100 * MS)
    rig.state(NOW + 100 * MS)
    assert rig.tick(NOW + 120 * MS) == ("hold", "step_done"), "two steps within half a period would be added up"
    assert rig.tick(NOW + 150 * MS) == ("dpose", "none")
    assert len(rig.steps()) == 2


def test_a_restarted_commander_does_not_repeat_the_step_of_its_predecessor(rig: Rig) -> None:
    rig.chunk()
    rig.state()
    rig.tick(NOW + 50 * MS)
    rig.commander._out.close()
    again = Commander(rig.me, Config(), rig.sock)  # type: ignore[arg-type]
    again.tick(NOW + 99 * MS)
    assert schema.HOLD_REASONS[rig.last()["reason"]] == "step_done" and len(rig.steps()) == 1


def test_start_does_not_wait_for_a_step_that_is_allowed(hub: Hub) -> None:
    rig = make(
        hub,
        "commander.auto_start=true",
        "commander.workspace_min_mm=[190,0,300]",
        "commander.workspace_max_mm=[200,2,310]",
    )
    rig.chunk(step=-0.1)
    rig.state(pose=(150.0, *POSE[1:]))
    assert rig.tick() == ("start", "none")
