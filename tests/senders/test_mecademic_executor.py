"""The rules of the robot side on a link that only writes down what it is told: exact, without a library or a clock."""

import itertools
from collections import deque
from types import SimpleNamespace

import pytest

from rtvla.clock import MS, SECOND
from rtvla.errors import WireError
from rtvla.senders.command_gate import CommandGate
from rtvla.senders.mecademic_executor import REARM_TICKS, Executor, Limits, Phase
from rtvla.senders.mecademic_link import ArmStatus
from rtvla.senders.robot_clock import WINDOW_NS, RobotClock
from rtvla.wire import command_stamp
from rtvla.wire.command import Command
from rtvla.wire.command_stamp import CommandStamp

POSE = (190.0, 1.0, 309.0, 1.0, 90.0, 0.0)
ZERO = (0.0,) * 6


class FakeLink:
    """Answers at once: what is asked for is the case at the next look."""

    def __init__(self) -> None:
        self.calls: deque[tuple] = deque()
        self.activated = self.homed = self.paused = self.error = self.arrived = False
        self.last = SimpleNamespace(pose_mm_deg=POSE)

    def status(self) -> ArmStatus:
        return ArmStatus(self.activated, self.homed, self.paused, self.error)

    def has_arrived(self) -> bool:
        return self.arrived

    def __getattr__(self, name: str):
        def call(*values) -> None:
            self.calls.append((name, *values))
            changes = {"activate": ("activated", True), "home": ("homed", True), "deactivate": ("activated", False),
                       "clear": ("paused", True), "resume": ("paused", False)}  # fmt: skip
            if name in changes:
                setattr(self, *changes[name])

        return call

    def velocities(self) -> list[tuple]:
        return [tuple(values[0]) for name, *values in self.calls if name == "velocity"]


def following(limits: Limits = Limits()) -> tuple[Executor, FakeLink]:  # noqa: B008
    executor, link = Executor(limits, lambda text: None), FakeLink()
    executor.attach(link)
    executor.execute(Command("start", POSE), 0)
    for _ in range(6):
        executor.step(0)
    assert executor.phase is Phase.MOVING
    link.arrived = True
    executor.step(0)
    assert executor.phase is Phase.FOLLOWING
    names = [call[0] for call in link.calls]
    assert names == ["activate", "home", "clear", "resume", "move"]
    link.calls.clear()
    return executor, link


def dpose(*values: float) -> Command:
    return Command("dpose", (*values, *ZERO[len(values) :]))


def test_a_tick_is_the_old_robot_pcs_added_clamped_rounded_then_zero():
    executor, link = following()
    for command in (dpose(0.03), dpose(0.024), dpose(0, 0, -7, 0, 0, 0.5), dpose(0, 0.0004)):
        executor.execute(command, 0)
    executor.tick()
    executor.tick()
    assert link.velocities() == [(0.54, 0.0, -1.0, 0.0, 0.0, 1.0), ZERO]
    assert executor.ticks == {"empty": 1, "clamped": 1, "moved": 1}


@pytest.mark.parametrize("phase", [Phase.ACTIVATING, Phase.HOMING, Phase.CLEARING, Phase.RESUMING, Phase.MOVING])
def test_a_stop_ends_a_start_at_any_point_and_nothing_follows(phase):
    executor, link = Executor(Limits(), lambda text: None), FakeLink()
    executor.attach(link)
    link.activate = lambda: link.calls.append(("activate",))  # does not come to an end
    link.activated = phase is not Phase.ACTIVATING
    executor.execute(Command("start", POSE), 0)
    for _ in range(10):
        if executor.phase is phase:
            break
        executor.step(0)
    assert executor.phase is phase
    link.calls.clear()
    executor.execute(Command("stop"), 0)
    expected = "deactivate" if phase in (Phase.ACTIVATING, Phase.HOMING) else "clear"
    assert executor.phase is Phase.IDLE and link.calls[0] == (expected,)
    link.activated = link.homed = link.arrived = True
    for _ in range(10):
        executor.step(0)
        executor.execute(dpose(0.1), 0)
        executor.tick()
    assert not {"move", "velocity", "resume"} & {call[0] for call in link.calls}


def test_the_watchdog_is_fed_by_dposes_only_and_a_hold_ends_after_ticks_that_are_not_executed():
    executor, link = following(Limits(watchdog_ns=300 * MS))
    executor.step(10 * SECOND)
    assert executor.watchdog_holds == 0, "nothing was ever commanded: nothing to hold"
    executor.execute(dpose(0.1), 0)
    executor.step(300 * MS)
    assert executor.watchdog_holds == 0
    executor.execute(Command("apose", (500_000.0,) * 6), 300 * MS)  # refused: does not feed
    executor.step(301 * MS)
    assert executor.watchdog_holds == 1 and link.velocities() == [ZERO]
    executor.tick()
    for _ in range(REARM_TICKS):
        executor.execute(dpose(0.1), 400 * MS)
        executor.tick()
    assert link.velocities() == [ZERO] and executor.ticks["rearming"] == REARM_TICKS
    executor.execute(dpose(0.1), 400 * MS)
    executor.tick()
    assert link.velocities()[-1] == (1.0, *ZERO[1:])


def test_silence_begins_the_hold_anew():
    executor, link = following()
    executor.execute(dpose(0.1), 0)
    executor.step(SECOND)
    executor.execute(dpose(0.1), 2 * SECOND)
    executor.tick()
    executor.step(3 * SECOND)
    for _ in range(REARM_TICKS):
        executor.execute(dpose(0.1), 3 * SECOND)
        executor.tick()
    assert link.velocities() == [ZERO] and executor.watchdog_holds == 1


@pytest.mark.parametrize("cause", ["paused", "deactivated", "unhomed"])
def test_what_somebody_does_at_the_robot_ends_motion_until_another_start(cause):
    executor, link = following()
    change = {"paused": ("paused", True), "deactivated": ("activated", False), "unhomed": ("homed", False)}[cause]
    setattr(link, *change)
    executor.step(0)
    assert executor.phase is Phase.IDLE and executor.interrupted == {cause: 1}
    link.activated, link.homed, link.paused = True, True, False
    executor.step(0)
    executor.execute(dpose(0.1), 0)
    executor.tick()
    assert executor.ignored_dposes == {"not_started": 1} and not link.velocities()


def test_a_start_that_never_ends_is_given_up():
    executor, link = Executor(Limits(move_timeout_ns=SECOND), lambda text: None), FakeLink()
    executor.attach(link)
    executor.execute(Command("start", POSE), 0)
    for now in (0, 0, 0, 0, 0, SECOND):
        executor.step(now)
    assert executor.phase is Phase.MOVING
    executor.step(SECOND + 1)
    assert executor.phase is Phase.IDLE and executor.interrupted == {"move_timeout": 1} and link.calls[-1] == ("clear",)


def test_an_apose_needs_a_start_and_a_start_that_locks_j6_is_refused():
    executor, link = Executor(Limits(), lambda text: None), FakeLink()
    executor.execute(Command("start", POSE), 0)
    executor.attach(link)
    executor.execute(Command("apose", POSE), 0)
    executor.execute(Command("start", POSE, lock_j6=True), 0)
    assert executor.refused_moves == {"not_connected": 1, "not_started": 1, "lock_j6": 1} and not link.calls
    executor, link = following(Limits(apose_percent=1.5))
    executor.execute(Command("apose", POSE), 0)
    for _ in range(6):
        executor.step(0)
    assert [call[0] for call in link.calls] == ["clear", "resume", "move"] and link.calls[-1][2] == 1.5
    assert executor.phase is Phase.FOLLOWING


def test_a_lost_link_ends_everything_and_the_next_one_begins_idle():
    executor, _ = following()
    executor.execute(dpose(0.1), 0)
    executor.detach()
    assert executor.phase is Phase.OFFLINE and executor.interrupted == {"connection_lost": 1}
    executor.detach()
    executor.tick()
    link = FakeLink()
    link.activated = link.homed = True
    executor.attach(link)
    executor.step(0)
    executor.tick()
    assert executor.phase is Phase.IDLE and not link.calls and executor.interrupted == {"connection_lost": 1}


def test_a_wall_stops_all_axes_outward_and_lets_back_in():
    executor, link = following(Limits(workspace_min_mm=(0, 0, 0), workspace_max_mm=(190.4, 400, 400)))
    for x, z in ((0.1, 0.1), (0.02, 0.1), (-0.1, 0.1)):
        executor.execute(dpose(x, 0, z), 0)
        executor.tick()
    assert link.velocities() == [ZERO, (0.2, 0, 1, 0, 0, 0), (-1, 0, 1, 0, 0, 0)]
    assert executor.ticks["blocked"] == 1


@pytest.mark.parametrize("kind", ["start", "dpose", "apose"])
def test_the_gate_lets_each_command_of_its_owner_through_once_and_in_time(kind):
    gate = CommandGate()
    assert gate.refusal("start", CommandStamp("a", 5), 100.0, False) == ""
    assert gate.refusal(kind, CommandStamp("a", 6, 100.0, 200.0), 100.1, True) == ""
    assert gate.refusal(kind, CommandStamp("a", 6), 100.0, True) == "old_seq"
    assert gate.refusal(kind, CommandStamp("a", 7, 100.0, 200.0), 100.3, True) == "expired"
    assert gate.refusal(kind, CommandStamp("a", 7, 100.0, 200.0), 99.7, True) == "from_the_future"
    assert gate.refusal(kind, CommandStamp("a"), 100.0, True) == "no_seq"
    assert gate.refusal(kind, CommandStamp("b", 9), 100.0, True) == "other_session"
    assert gate.refusal(kind, CommandStamp(), 100.0, True) == "other_session"
    assert gate.refusal("stop", CommandStamp("b", 1, 1.0, 1.0), 100.0, True) == ""
    assert gate.refusal(kind, CommandStamp("b", 1), 100.0, False) == ("" if kind == "start" else "other_session")


@pytest.mark.parametrize(
    "keys",
    ['"seq":-1', '"seq":true', '"seq":1.5', '"session":""', '"session":7', '"issued_s":1', '"ttl_ms":5',
     '"issued_s":1e12,"ttl_ms":5', '"issued_s":1,"ttl_ms":0', '"issued_s":"x","ttl_ms":5'],
)  # fmt: skip
def test_a_stamp_that_means_nothing_is_refused(keys):
    with pytest.raises(WireError) as caught:
        command_stamp.decode(b'{"cmd":"stop",' + keys.encode() + b"}")
    assert caught.value.cause == "bad_stamp"


def test_the_old_commands_say_nothing_about_themselves():
    assert command_stamp.decode(b'{"cmd":"dpose","dp":[0,0,0,0,0,0]}') == CommandStamp()


def test_robot_stamps_keep_their_spacing_and_are_never_after_their_arrival():
    clock, delays_ns = RobotClock(), [3 * MS, 1 * MS, 40 * MS, 2 * MS] * 500
    times = [
        (us, us * 1000 + 7 * SECOND + delay) for us, delay in zip(range(0, 20_000_000, 10_000), delays_ns, strict=True)
    ]
    stamps = [clock.to_monotonic_ns(us, arrived) for us, arrived in times]
    assert all(stamp <= arrived for stamp, (_, arrived) in zip(stamps, times, strict=True))
    assert {b - a for a, b in itertools.pairwise(stamps[1:])} == {10 * MS}
    assert stamps[-1] == times[-1][0] * 1000 + 7 * SECOND + MS and clock.restarts == 0
    assert 20 * SECOND > 2 * WINDOW_NS, "the windows have turned"
    assert clock.to_monotonic_ns(0, 60 * SECOND) == 60 * SECOND and clock.restarts == 1
