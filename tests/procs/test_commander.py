"""What the commander decides, tick by tick, on real rings and a fake clock. Every reason to hold has its test."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from fakes import FakeMe, FakeSocket

from rtvla import schema
from rtvla.clock import MS, SECOND, now_ns
from rtvla.config import Config
from rtvla.control.settings import STREAM_OF
from rtvla.procs.commander import Commander
from rtvla.shm import operator
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingWriter
from rtvla.streams import STREAMS
from rtvla.wire import command_stamp

NOW = 100_000 * MS
POSE = (191.0, 1.0, 309.0, 1.0, 91.0, 1.0)
FREE = ("guard.acceleration_mm_s2=0", "guard.acceleration_deg_s2=0")  # where a test looks at something else
AT_ONCE = ("degrade.resume_after_ms=0", 'commander.mode="switch"')


@dataclass
class Rig:
    """The commander on the rings of this test, which stands for all other processes."""

    me: FakeMe
    sock: FakeSocket
    commander: Commander
    writers: Mapping[str, RingWriter]
    hub: Hub
    settings: tuple[str, ...]
    silent: set[str] = field(default_factory=set)  # inputs that have stopped

    def chunk(self, observed_ns: int, step: float = 0.01, horizon: int = 8, **values: object) -> None:
        record = np.zeros((), schema.CHUNK)
        record["observed_ns"], record["horizon"] = observed_ns, horizon
        record["published_ns"], record["vl_reuse"] = observed_ns + 20 * MS, 3
        record["sensor_captured_ns"], record["robot_captured_ns"] = observed_ns - 2 * MS, observed_ns - 5 * MS
        record["view_captured_ns"][:3] = observed_ns - np.array([100, 400, 300]) * MS
        record["sensor_age_ns"], record["robot_age_ns"], record["vl_age_ns"] = 2 * MS, 5 * MS, 400 * MS
        record["actions"][:horizon] = step * np.arange(1, horizon + 1)[:, None]
        for name, value in values.items():
            record[name] = value
        self.writers["chunk"].put(record)

    def put(self, name: str, at_ns: int, **values: object) -> None:
        record = np.zeros(
            (), schema.FRAME if name in schema.VIEWS else schema.ROBOT if name == "robot" else schema.SENSOR
        )
        record["captured_ns"] = record["received_ns"] = at_ns
        for key, value in values.items():
            record[key] = value
        self.writers[name].put(record)

    def sensor(self, at_ns: int, force: float = 0.0) -> None:
        record = np.zeros((), schema.SENSOR)
        record["captured_ns"] = record["received_ns"] = at_ns
        record["wire"]["force"] = force
        self.writers["sensor"].put(record)

    def feature(self, at_ns: int) -> None:
        record = np.zeros((), schema.VL_FEATURE)
        record["view_captured_ns"][:3] = record["view_received_ns"][:3] = record["published_ns"] = at_ns
        self.writers["vl_feature"].put(record)

    def fresh(self, now_ns: int, pose: tuple[float, ...] = POSE) -> None:
        """New data of everything that has not fallen silent, but no chunk."""
        for name in {"sensor", *schema.VIEWS[:3]} - self.silent:
            self.put(name, now_ns)
        if "robot" not in self.silent:
            self.put("robot", now_ns, pose_mm_deg=pose)
        if "vl_feature" not in self.silent:
            self.feature(now_ns)

    def tick(self, now_ns: int = NOW + 50 * MS) -> tuple[str, str]:
        self.commander.tick(now_ns)
        record = self.last()
        return schema.COMMAND_KINDS[record["kind"]], schema.HOLD_REASONS[record["reason"]]

    def round(self, k: int, step: float = 0.01, pose: tuple[float, ...] = POSE) -> tuple[str, str]:
        """The k-th 100 ms: data, a chunk of its beginning unless the policy is silent, and the tick in its middle."""
        at_ns = NOW + k * 100 * MS
        self.fresh(at_ns + 40 * MS, pose)
        if "chunk" not in self.silent:
            self.chunk(at_ns, step)
        return self.tick(at_ns + 50 * MS)

    def last(self) -> np.void:
        record = self.hub.reader("command").newest()
        assert record is not None
        return record

    def messages(self) -> list[dict]:
        return [json.loads(payload) for payload in self.sock.sent]

    def steps(self) -> list[list[float]]:
        return [message["dp"] for message in self.messages() if message["cmd"] == "dpose"]

    def restarted(self) -> Rig:
        self.commander._out.close()
        commander = Commander(self.me, Config.load(None, self.settings), self.sock)  # type: ignore[arg-type]
        return Rig(self.me, self.sock, commander, self.writers, self.hub, self.settings, self.silent)


def make(hub: Hub, *settings: str) -> Rig:
    me, sock = FakeMe(hub), FakeSocket()
    writers = {name: hub.writer(stream) for name, stream in STREAM_OF.items()}
    commander = Commander(me, Config.load(None, settings), sock)  # type: ignore[arg-type]
    return Rig(me, sock, commander, writers, hub, settings)


@pytest.fixture
def rig(hub: Hub) -> Rig:
    return make(hub, *AT_ONCE, *FREE)


def test_it_sends_the_motion_of_its_own_time_with_the_age_of_all_it_was_made_from(rig: Rig) -> None:
    rig.fresh(NOW + 40 * MS)
    rig.chunk(NOW)
    assert rig.tick(NOW + 50 * MS) == ("dpose", "none")
    rig.fresh(NOW + 140 * MS)
    assert rig.tick(NOW + 150 * MS) == ("dpose", "none")
    assert np.allclose(rig.steps(), [[0.015] * 6, [0.025] * 6]), "half of each of the two steps it lies in"
    record = rig.last()
    assert (record["step"], record["chunk_age_ns"], record["vl_reuse"]) == (1, 150 * MS, 3)
    assert (record["start_ns"], record["end_ns"]) == (NOW + 150 * MS, NOW + 250 * MS)
    assert (record["sensor_age_ns"], record["robot_age_ns"], record["vl_age_ns"]) == (152 * MS, 155 * MS, 550 * MS)
    assert (record["sensor_captured_ns"], record["view_captured_ns"]) == (NOW - 2 * MS, NOW - 400 * MS)
    ages = dict(zip(schema.INPUTS, record["input_age_ns"].tolist(), strict=True))
    assert ages["chunk"] == 150 * MS and ages["sensor"] == ages["View3"] == 10 * MS and ages["View4"] == -1


def test_a_sensor_that_the_model_does_not_have_need_not_exist_unless_the_force_is_limited(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, *FREE)
    rig.silent.add("sensor")
    rig.fresh(NOW + 40 * MS)
    rig.chunk(NOW, sensor_captured_ns=0)
    assert rig.tick(NOW + 50 * MS) == ("dpose", "none")


def test_a_limit_of_the_force_needs_the_sensor_whatever_the_model_reads(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, *FREE, "guard.force=5.0")
    rig.silent.add("sensor")
    rig.fresh(NOW + 40 * MS)
    rig.chunk(NOW, sensor_captured_ns=0)
    assert rig.tick(NOW + 50 * MS) == ("hold", "sensor_gone")


def test_at_100_hz_the_parts_add_up_to_the_same_motion(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, *FREE, "commander.rate_hz=100")
    rig.chunk(NOW)
    for part in range(10):
        at_ns = NOW + (50 + 10 * part) * MS
        rig.fresh(at_ns)
        assert rig.tick(at_ns) == ("dpose", "none")
    assert np.allclose(np.sum(rig.steps(), axis=0), [0.015] * 6)
    assert np.allclose(rig.steps()[0], [0.001] * 6) and np.allclose(rig.steps()[-1], [0.002] * 6)


def test_a_newer_chunk_replaces_the_rest_of_the_old_one(rig: Rig) -> None:
    rig.fresh(NOW + 40 * MS)
    rig.chunk(NOW - 100 * MS, step=0.01)
    rig.chunk(NOW, step=0.02)
    rig.tick()
    assert np.allclose(rig.steps(), [[0.03] * 6]) and rig.last()["chunk_index"] == 1


def test_a_chunk_of_an_earlier_observation_is_not_executed_and_counted(rig: Rig) -> None:
    rig.fresh(NOW + 40 * MS)
    rig.chunk(NOW, step=0.02)
    rig.chunk(NOW - 100 * MS, step=0.01)
    rig.tick()
    assert np.allclose(rig.steps(), [[0.03] * 6]) and rig.me.counted["chunk.backwards"] == 1


@pytest.mark.parametrize(
    ("silent", "limit_ms"), [("sensor", 150), ("View2", 1000), ("vl_feature", 1500), ("chunk", 250)]
)
def test_when_an_input_falls_silent_it_decelerates_and_holds_within_100_ms_of_its_limit(
    hub: Hub, silent: str, limit_ms: int
) -> None:
    rig = make(hub, *AT_ONCE, *FREE, "commander.rate_hz=50")
    sent: list[tuple[float, float]] = []  # (age in ms, share of the speed)
    rig.fresh(NOW)
    rig.silent = {silent}
    if silent == "chunk":
        rig.chunk(NOW, horizon=32)
    for at_ns in range(NOW + 10 * MS, NOW + 2 * SECOND, 20 * MS):
        rig.fresh(at_ns)
        if silent != "chunk" and (at_ns - NOW) % (100 * MS) == 10 * MS:
            rig.chunk(at_ns)
        kind, reason = rig.tick(at_ns)
        if kind == "dpose":
            sent.append(((at_ns - NOW) / MS, float(rig.last()["speed"])))
        elif (at_ns - NOW) / MS > limit_ms:
            assert reason.startswith(silent), reason
    within = [speed for age, speed in sent if age <= limit_ms]
    after = [(age, speed) for age, speed in sent if age > limit_ms]
    assert set(within) == {1.0} and 4 <= len(after) <= 5
    assert max(age for age, _ in after) <= limit_ms + 100
    assert sorted((speed for _, speed in after), reverse=True) == [speed for _, speed in after] and after[-1][1] < 0.25


def test_a_robot_that_says_nothing_is_held_at_once(rig: Rig) -> None:
    rig.chunk(NOW)
    rig.silent = {"robot"}
    rig.fresh(NOW + 40 * MS)
    assert rig.tick() == ("hold", "robot_gone")
    rig.put("robot", NOW - 101 * MS, pose_mm_deg=POSE)
    assert rig.tick() == ("hold", "robot_gone")
    rig.put("robot", NOW, pose_mm_deg=POSE)
    rig.chunk(NOW + 100 * MS)
    rig.fresh(NOW + 140 * MS)
    assert rig.tick(NOW + 150 * MS) == ("dpose", "none")
    rig.chunk(NOW + 200 * MS)
    rig.fresh(NOW + 240 * MS)
    assert rig.tick(NOW + 250 * MS) == ("hold", "robot_gone")


def test_a_policy_that_has_not_spoken_yet_is_no_chunk(rig: Rig) -> None:
    rig.fresh(NOW + 40 * MS)
    assert rig.tick() == ("hold", "no_chunk")
    assert rig.sock.sent == []


def test_a_finished_chunk_makes_it_hold(rig: Rig) -> None:
    rig.chunk(NOW, horizon=2)
    rig.fresh(NOW + 200 * MS)
    rig.tick(NOW + 150 * MS)
    assert rig.last()["end_ns"] == NOW + 250 * MS, "half of it has no chunk: half the motion"
    assert np.allclose(rig.steps(), [[0.01] * 6])
    assert rig.tick(NOW + 250 * MS) == ("hold", "chunk_finished")


def test_a_chunk_from_the_future_is_not_executed(rig: Rig) -> None:
    rig.chunk(NOW + 500 * MS)
    rig.fresh(NOW + 40 * MS)
    assert rig.tick() == ("hold", "no_chunk") and rig.me.counted["chunk.from_the_future"] == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("chunk", "policy_dead"),
        ("vl_feature", "vl_encoder_dead"),
        ("sensor", "sensor_ingest_dead"),
        ("robot", "robot_ingest_dead"),
        ("View2", "camera_ingest_dead"),
    ],
)
def test_a_dead_process_upstream_makes_it_hold_at_the_next_tick(rig: Rig, name: str, reason: str) -> None:
    assert rig.round(0) == ("dpose", "none")
    rig.commander._inputs._readers[name].writer_alive = lambda: False  # type: ignore[method-assign]
    assert rig.round(1) == ("hold", reason)


def test_after_a_hold_only_a_chunk_that_was_observed_after_it_moves_the_arm(rig: Rig) -> None:
    rig.round(0)
    rig.silent = {"robot"}
    rig.round(1), rig.round(2)
    assert rig.round(3) == ("hold", "robot_gone")
    rig.silent = {"chunk"}
    rig.fresh(NOW + 440 * MS)
    rig.chunk(NOW + 340 * MS)
    assert rig.tick(NOW + 450 * MS) == ("hold", "no_chunk") and rig.me.counted["chunk.before_hold"] == 1
    rig.chunk(NOW + 500 * MS)
    rig.fresh(NOW + 540 * MS)
    assert rig.tick(NOW + 550 * MS) == ("dpose", "none")


def test_motion_resumes_only_after_the_inputs_were_good_for_a_while_and_from_rest(hub: Hub) -> None:
    rig = make(hub, 'commander.mode="switch"', "guard.acceleration_mm_s2=2.0")
    seen = [rig.round(k, step=1.0) for k in range(8)]
    assert seen[:2] == [("hold", "resuming")] * 2 and seen[2:] == [("dpose", "none")] * 6
    lengths = [math.hypot(*step[:3]) for step in rig.steps()]
    assert lengths[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08]), "2 mm/s2 from rest"
    rig.silent = {"sensor"}
    assert [rig.round(k)[0] for k in range(8, 12)][-1] == "hold"
    rig.silent = set()
    seen = [rig.round(k, step=1.0) for k in range(12, 16)]
    assert seen[:2] == [("hold", "resuming")] * 2 and seen[2:] == [("dpose", "none")] * 2
    assert math.hypot(*rig.steps()[-2][:3]) == pytest.approx(0.02)


def test_a_slow_policy_moves_again_after_a_hold_too(rig: Rig) -> None:
    """Chunks that come 120 ms after their observation: a hold must not refuse each of them for ever."""
    sent = []
    for k in range(12):
        at_ns = NOW + k * 100 * MS
        rig.silent = {"robot"} if k in (4, 5, 6) else set()
        rig.fresh(at_ns + 40 * MS)
        if k:
            rig.chunk(at_ns - 100 * MS)
        sent.append(rig.tick(at_ns + 50 * MS)[0])
    assert sent[3] == "dpose" and sent[6] == "hold" and sent[-2:] == ["dpose", "dpose"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_sent(rig: Rig, bad: float) -> None:
    assert rig.round(0, step=bad) == ("hold", "not_finite")
    assert rig.round(1, pose=(bad, *POSE[1:])) == ("hold", "not_finite")
    rig.sensor(NOW + 245 * MS, force=bad)
    assert rig.round(2) == ("hold", "not_finite")
    assert rig.sock.sent == [] and rig.last()["violations"] == 1 << schema.GUARD_CHECKS.index("not_finite")


def test_a_long_step_is_shortened_and_says_so(rig: Rig) -> None:
    assert rig.round(0, step=1.0) == ("dpose", "none")
    record = rig.last()
    assert record["clamped"] == 1 and rig.me.counted["clamped"] == rig.me.counted["guard.step"] == 1
    assert record["violations"] == 1 << schema.GUARD_CHECKS.index("step")
    assert np.allclose(record["requested_mm_deg"], 1.5) and np.allclose(record["sent_mm_deg"], 0.1)


def test_the_workspace_is_not_left(hub: Hub) -> None:
    box = ("guard.workspace_min_mm=[190,0,300]", "guard.workspace_max_mm=[191,2,310]")
    rig = make(hub, *AT_ONCE, *FREE, *box)
    assert rig.round(0, step=0.05) == ("hold", "outside_workspace")


def test_motion_that_does_not_show_in_the_pose_yet_counts_for_the_workspace(hub: Hub) -> None:
    box = ("guard.workspace_min_mm=[190,0,300]", "guard.workspace_max_mm=[191.25,2,310]")
    rig = make(hub, *AT_ONCE, *FREE, *box)
    assert [rig.round(k, step=1.0)[0] for k in range(3)] == ["dpose", "dpose", "hold"], "0.1 mm each, 0.25 mm to go"


def test_a_robot_that_is_away_gets_nothing_later(rig: Rig) -> None:
    rig.sock.connected = False
    assert rig.round(0) == ("hold", "send_failed")
    assert rig.sock.sent == [] and rig.last()["sent_mm_deg"].tolist() == [0] * 6 and rig.last()["sent_ns"] == 0
    rig.sock.connected = True
    assert rig.round(1) == ("dpose", "none") and len(rig.sock.sent) == 1


def test_commands_carry_session_number_and_time_beside_the_old_keys(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, "commander.ttl_ms=300")
    rig.round(0), rig.round(1)
    said = [command_stamp.decode(payload) for payload in rig.sock.sent]
    assert [stamp.seq for stamp in said] == [1, 2] and said[0].session == said[1].session
    assert said[0].ttl_ms == 300 and said[0].issued_s is not None
    assert set(rig.messages()[0]) == {"cmd", "dp", "session", "seq", "issued_s", "ttl_ms"}
    assert (rig.last()["seq"], bytes(rig.last()["session"]).decode()) == (2, said[1].session)
    without = make_again(hub, rig, *AT_ONCE)
    without.round(2)
    assert set(without.messages()[-1]) == {"cmd", "dp", "session", "seq"}, "no clocks need to agree by default"


def make_again(hub: Hub, rig: Rig, *settings: str) -> Rig:
    rig.settings = settings
    return rig.restarted()


def test_start_is_sent_once_and_steps_wait_until_the_arm_has_arrived(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, "commander.auto_start=true")
    far = (150.0, *POSE[1:])
    kinds = [rig.round(k, pose=POSE if k >= 6 else far) for k in range(14)]
    assert kinds[0] == ("start", "none")
    assert set(kinds[1:10]) == {("hold", "starting")}
    assert kinds[-1] == ("dpose", "none") and rig.me.counted["start"] == rig.me.counted["start_sent"] == 1
    start = rig.messages()[0]
    assert (start["cmd"], start["start_joints"], start["lock_j6"]) == ("start", list(POSE), False)


def test_start_that_found_nobody_is_sent_when_somebody_is_there(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, "commander.auto_start=true")
    rig.sock.connected = False
    assert rig.round(0) == ("hold", "send_failed")
    rig.sock.connected = True
    assert rig.round(1) == ("start", "none") and rig.me.counted["start_sent"] == 1


def test_start_is_counted_before_it_is_sent(hub: Hub) -> None:
    """Regression: a commander that was killed between the two sent it a second time."""
    rig = make(hub, *AT_ONCE, "commander.auto_start=true")
    counted: list[int] = []
    send, rig.sock.send = rig.sock.send, lambda *_: counted.append(rig.me.counted["start_sent"])  # type: ignore
    rig.round(0)
    assert counted == [1]
    rig.sock.send = send
    again = rig.restarted()
    assert again.round(1) == ("hold", "starting") and again.sock.sent == []


def test_a_restarted_commander_does_not_send_start_again_and_goes_on_in_its_session(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, "commander.auto_start=true")
    rig.round(0)
    again = rig.restarted()
    assert again.round(1) == ("hold", "starting") and len(rig.sock.sent) == 1
    for k in range(2, 7):
        again.round(k)
    first, second = (command_stamp.decode(payload) for payload in (rig.sock.sent[0], rig.sock.sent[-1]))
    assert b"dpose" in rig.sock.sent[-1] and first.session == second.session
    assert first.seq is not None and second.seq is not None and second.seq > first.seq + 1


def test_every_decision_is_on_record_with_a_reason_and_every_change_is_counted(rig: Rig) -> None:
    rig.fresh(NOW)
    for _ in range(5):
        rig.tick()
    assert rig.hub.reader("command").head == 5
    assert rig.me.counted == {"hold.no_chunk": 5, "became.hold": 1}
    rig.round(1)
    assert rig.me.counted["became.act"] == 1


def test_a_late_tick_does_not_send_a_step_twice(rig: Rig) -> None:
    """Regression: after a pause the late tick and the next one on time both sent the same step."""
    rig.chunk(NOW)
    rig.fresh(NOW + 90 * MS)
    assert rig.tick(NOW + 90 * MS) == ("dpose", "none")  # 40 ms late: what is left of its time
    assert np.allclose(rig.steps(), [[0.1 * 0.01 + 0.5 * 0.02] * 6])
    assert rig.tick(NOW + 99 * MS) == ("hold", "step_done")
    assert rig.tick(NOW + 120 * MS) == ("hold", "step_done"), "two steps within half a period would be added up"
    assert rig.tick(NOW + 150 * MS) == ("dpose", "none")
    assert len(rig.steps()) == 2


def test_a_restarted_commander_does_not_repeat_the_step_of_its_predecessor(rig: Rig) -> None:
    rig.round(0)
    again = rig.restarted()
    again.fresh(NOW + 90 * MS)
    again.chunk(NOW + 95 * MS)
    assert again.tick(NOW + 99 * MS) == ("hold", "step_done") and len(rig.steps()) == 1


def test_start_does_not_wait_for_a_step_that_is_allowed(hub: Hub) -> None:
    box = ("guard.workspace_min_mm=[190,0,300]", "guard.workspace_max_mm=[200,2,310]")
    rig = make(hub, *AT_ONCE, "commander.auto_start=true", *box)
    assert rig.round(0, step=-0.1, pose=(150.0, *POSE[1:])) == ("start", "none")


LATCHING = (*AT_ONCE, *FREE, "guard.latch_after=3", "guard.workspace_min_mm=[190,0,300]")
LATCHING += ("guard.workspace_max_mm=[191,2,310]",)


def ask(rig: Rig, latched_ns: int, received_ns: int | None = None) -> None:
    writer = operator.asking(rig.hub)
    request = np.zeros((), operator.REQUEST)
    request["received_ns"] = now_ns() if received_ns is None else received_ns
    request["latched_ns"], request["who"] = latched_ns, b"a test"
    writer.put(request)
    writer.close()


def test_repeated_violation_latches_until_an_operator_ends_it(hub: Hub) -> None:
    rig = make(hub, *LATCHING)
    reasons = [rig.round(k, step=0.05)[1] for k in range(6)]
    assert reasons == ["outside_workspace"] * 3 + ["latched"] * 3
    record = rig.last()
    assert schema.HOLD_REASONS[record["latched"]] == "outside_workspace"
    latched_ns = int(record["latched_ns"])
    assert rig.round(6, step=-0.01) == ("hold", "latched"), "also for a motion that is allowed"
    ask(rig, latched_ns - 1)
    assert rig.round(7, step=-0.01) == ("hold", "latched") and rig.me.counted["resume_ignored"] == 1
    ask(rig, latched_ns, received_ns=1)
    assert rig.round(8, step=-0.01) == ("hold", "latched") and rig.me.counted["resume_ignored"] == 2
    ask(rig, latched_ns)
    assert rig.round(9, step=-0.01) == ("hold", "no_chunk"), "released, but the chunk was observed before"
    assert rig.last()["latched"] == 0
    assert rig.round(10, step=-0.01) == ("dpose", "none") and rig.me.counted["resumed"] == 1


def test_a_latch_survives_the_death_of_the_commander_and_an_old_request_does_not_end_it(hub: Hub) -> None:
    rig = make(hub, *LATCHING)
    for k in range(4):
        rig.round(k, step=0.05)
    ask(rig, int(rig.last()["latched_ns"]))
    again = rig.restarted()
    assert again.round(4, step=-0.01) == ("hold", "latched")
    assert schema.HOLD_REASONS[again.last()["latched"]] == "outside_workspace"
    ask(again, int(again.last()["latched_ns"]))
    again.round(5)
    assert again.last()["latched"] == 0


def test_the_degrade_table_can_latch(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, 'degrade.sensor.at_gone="latch"')
    rig.silent = {"sensor"}
    assert rig.round(-1) == ("hold", "sensor_gone"), "before the first motion there is nothing to latch"
    rig.silent = set()
    assert rig.round(0) == ("dpose", "none")
    rig.silent = {"sensor"}
    assert [rig.round(k) for k in range(1, 4)][-1] == ("hold", "latched")
    rig.silent = set()
    assert rig.round(4) == ("hold", "latched")
    assert schema.HOLD_REASONS[rig.last()["latched"]] == "sensor_gone"


def test_a_force_over_its_limit_holds_even_if_it_was_over_between_two_ticks(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, "guard.force=2.0")
    assert rig.round(0) == ("dpose", "none")
    rig.sensor(NOW + 100 * MS, force=-2.5)
    assert rig.round(1) == ("hold", "force")
    assert rig.last()["force"] == -2.5


def test_a_force_that_rises_too_fast_holds(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, "guard.force_rate=20.0")
    for force in np.linspace(0, 0.1, 100):
        rig.sensor(NOW + 30 * MS, force=force)
    assert rig.round(0) == ("dpose", "none")
    for force in np.linspace(0.1, 0.9, 14):
        rig.sensor(NOW + 130 * MS, force=-force)
    assert rig.round(1) == ("hold", "force_rate")


def test_on_force_it_can_retract_so_far_and_no_farther(hub: Hub) -> None:
    retract = ('guard.on_force="retract"', "guard.retract_mm=[0,0,0.08]", "guard.retract_limit_mm=0.2")
    rig = make(hub, *AT_ONCE, *FREE, "guard.force=2.0", *retract)
    assert rig.round(0) == ("dpose", "none")
    seen = []
    for k in range(1, 6):
        rig.sensor(NOW + (k * 100 + 30) * MS, force=3)
        seen.append(rig.round(k))
    assert seen == [("dpose", "force")] * 2 + [("hold", "force")] * 3
    assert np.allclose(rig.steps()[1:], [[0, 0, 0.08, 0, 0, 0]] * 2)
    for _ in range(100):
        rig.sensor(NOW + 630 * MS)
    assert rig.round(6) == ("dpose", "none"), "the force is gone"


def test_a_stamp_from_the_future_makes_nothing_younger(rig: Rig) -> None:
    rig.chunk(NOW)
    rig.fresh(NOW + 40 * MS)
    rig.put("robot", NOW - 110 * MS, captured_ns=NOW + 10 * SECOND, pose_mm_deg=POSE)
    assert rig.tick() == ("hold", "robot_gone")


def test_content_that_is_frozen_is_as_old_as_its_first_capture(rig: Rig) -> None:
    """The ingest keeps the first capture of what comes again: its arrival is new, its age is not."""
    for k in range(12):
        rig.fresh(NOW + k * 100 * MS + 40 * MS)
        rig.put("View2", NOW + k * 100 * MS + 40 * MS, captured_ns=NOW)
        rig.chunk(NOW + k * 100 * MS)
        seen = rig.tick(NOW + k * 100 * MS + 50 * MS)
    assert seen == ("hold", "View2_gone")


def test_a_retract_never_pushes_on_however_low_the_limit_of_acceleration_is(hub: Hub) -> None:
    retract = ('guard.on_force="retract"', "guard.retract_mm=[-0.08,0,0]", "guard.acceleration_mm_s2=1")
    rig = make(hub, *AT_ONCE, "guard.force=2.0", *retract)
    for k in range(12):
        rig.round(k, step=0.03)
    assert rig.steps()[-1][0] > 0.04
    rig.sensor(NOW + 1230 * MS, force=3)
    assert rig.round(12) == ("dpose", "force") and rig.steps()[-1][0] == pytest.approx(-0.01), "1 mm/s2 from rest"


def test_a_late_input_can_make_it_slower(hub: Hub) -> None:
    rig = make(hub, *AT_ONCE, *FREE, "degrade.vl_feature.late_ms=100", 'degrade.vl_feature.at_late="slow"')
    assert rig.round(0) == ("dpose", "none")
    rig.silent = {"vl_feature"}
    assert [rig.round(k) for k in (1, 2)] == [("dpose", "none")] * 2
    assert np.allclose(rig.steps(), [[0.015] * 6, [0.0075] * 6, [0.0075] * 6])
    record = rig.last()
    assert (schema.DEGRADE_ACTIONS[record["action"]], record["speed"]) == ("slow", 0.5)
    assert schema.HOLD_REASONS[record["cause"]] == "vl_feature_late" and rig.me.counted["became.slow"] == 1


def test_every_name_that_a_decision_can_have_can_be_recorded() -> None:
    levels = [f"{name}_{level}" for name in schema.INPUTS for level in schema.AGE_LEVELS[1:]]
    dead = [f"{STREAMS[stream].writer}_dead" for stream in STREAM_OF.values()]
    own = ["no_chunk", "chunk_finished", "step_done", "resuming", "latched", "starting", "send_failed"]
    checks = ["outside_workspace" if name == "workspace" else name for name in schema.GUARD_CHECKS]
    assert set(levels + dead + own + checks) <= set(schema.HOLD_REASONS)
    assert len(schema.GUARD_CHECKS) <= 32
