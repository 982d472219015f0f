import numpy as np
import pytest

from rtvla.clock import MS, SECOND
from rtvla.senders.robot_arm import HOME_MM_DEG, Arm, joints_of
from rtvla.wire.command import Command

TICK = 100 * MS
ZERO = (0.0,) * 6


def dpose(*values: float) -> Command:
    return Command("dpose", (*values, *ZERO)[:6])


class Driven:
    """An arm with a clock that only moves when told."""

    def __init__(self) -> None:
        self.arm, self.now = Arm(0), 0

    def wait(self, ns: int) -> None:
        self.now += ns
        self.arm.advance(self.now)

    def do(self, command: Command) -> None:
        self.arm.advance(self.now)
        self.arm.execute(command, self.now)

    def moved(self) -> np.ndarray:
        return self.arm.pose_mm_deg - np.array(HOME_MM_DEG)


@pytest.fixture
def started() -> Driven:
    """Started at home, in the middle of a tick."""
    driven = Driven()
    driven.do(Command("start", HOME_MM_DEG))
    driven.wait(TICK // 2)
    return driven


def test_a_dpose_is_executed_over_one_tick(started):
    started.do(dpose(0.05, -0.1, 0, 0.02))
    started.wait(TICK // 2)  # taken at the tick, executed after it
    assert not started.moved().any()
    started.wait(TICK // 2)
    np.testing.assert_allclose(started.moved(), [0.025, -0.05, 0, 0.01, 0, 0], atol=1e-9)
    started.wait(TICK // 2)
    np.testing.assert_allclose(started.moved(), [0.05, -0.1, 0, 0.02, 0, 0], atol=1e-9)
    started.wait(SECOND)  # a tick without a command is zero velocity
    np.testing.assert_allclose(started.moved(), [0.05, -0.1, 0, 0.02, 0, 0], atol=1e-9)
    assert started.arm.ticks["clamped"] == 0 and started.arm.ticks["moved"] == 1


def test_excess_is_discarded_and_counted(started):
    started.do(dpose(1.0, -5.0, 0.05, 0.3, -2.0))
    started.wait(5 * TICK)
    np.testing.assert_allclose(started.moved(), [0.1, -0.1, 0.05, 0.1, -0.1, 0], atol=1e-9)
    assert started.arm.ticks["clamped"] == 1
    assert started.arm.largest_step_mm == pytest.approx(0.15)
    assert started.arm.largest_step_deg == pytest.approx(0.1)


def test_exactly_the_limit_is_not_clamped(started):
    for _ in range(10):
        started.do(dpose(0.1, -0.1, 0.1, 0.1, 0.1, -0.1))
        started.wait(TICK)
    started.wait(TICK)
    assert started.arm.ticks["clamped"] == 0
    np.testing.assert_allclose(started.moved(), [1, -1, 1, 1, 1, -1], atol=1e-9)


def test_two_commands_in_a_tick_are_added_then_clamped(started):
    started.do(dpose(0.03))
    started.do(dpose(0.04))
    started.wait(2 * TICK)
    assert started.moved()[0] == pytest.approx(0.07)
    started.do(dpose(0.08))
    started.do(dpose(0.08))
    started.wait(2 * TICK)
    assert started.moved()[0] == pytest.approx(0.17)
    assert started.arm.ticks["clamped"] == 1


def test_velocities_have_two_decimals(started):
    started.do(dpose(0.0004, 0.0126))  # 0.004 mm/s rounds to nothing, 0.126 to 0.13
    started.wait(3 * TICK)
    np.testing.assert_allclose(started.moved()[:2], [0, 0.013], atol=1e-9)


def test_dposes_before_start_are_ignored():
    driven = Driven()
    driven.do(dpose(0.1))
    driven.wait(SECOND)
    assert not driven.moved().any()
    assert driven.arm.ignored_dposes == {"not_started": 1}


def test_start_moves_there_and_reads_nothing_on_the_way():
    driven = Driven()
    target = (240.0, 1.0, 309.0, 1.0, 90.0, 0.0)
    driven.do(Command("start", target))
    assert not driven.arm.reads_commands()
    driven.wait(SECOND // 2)
    assert driven.moved()[0] == pytest.approx(25)  # 50 mm at 50 mm/s
    assert not driven.arm.reads_commands()
    driven.wait(SECOND // 2)
    assert driven.arm.reads_commands()
    np.testing.assert_array_equal(driven.arm.pose_mm_deg, target)
    driven.do(dpose(0.1))
    driven.wait(2 * TICK)
    assert driven.arm.pose_mm_deg[0] == pytest.approx(240.1)
    assert driven.arm.path_length_mm == pytest.approx(50.1)
    assert driven.arm.dpose_path_mm == pytest.approx(0.1)


def test_apose_ignores_dposes_on_the_way_and_obeys_them_after(started):
    started.do(Command("apose", (190.0, 1.0, 309.0, 1.0, 90.0, 25.0)))
    assert started.arm.reads_commands()
    started.wait(SECOND // 4)
    started.do(dpose(0.1))
    started.wait(SECOND)
    np.testing.assert_allclose(started.moved(), [0, 0, 0, 0, 0, 25])
    assert started.arm.ignored_dposes == {"during_apose": 1}
    started.do(dpose(0.1))
    started.wait(2 * TICK)
    assert started.moved()[0] == pytest.approx(0.1)


def test_stop_ends_motion_at_once(started):
    started.do(dpose(0.1))
    started.wait(TICK)  # half way through its tick
    started.do(Command("stop"))
    halfway = started.moved()[0]
    started.wait(SECOND)
    assert started.moved()[0] == halfway == pytest.approx(0.05)
    started.do(dpose(0.1))
    started.wait(SECOND)
    assert started.moved()[0] == halfway
    assert started.arm.ignored_dposes == {"not_started": 1}


def test_stop_ends_an_apose(started):
    started.do(Command("apose", (240.0, 1.0, 309.0, 1.0, 90.0, 0.0)))
    started.wait(SECOND // 2)
    started.do(Command("stop"))
    started.wait(SECOND)
    assert started.moved()[0] == pytest.approx(25)


def test_longest_gap_between_dposes(started):
    for gap in (100, 130, 90):
        started.do(dpose(0.01))
        started.wait(gap * MS)
    started.do(dpose(0.01))
    assert started.arm.longest_dpose_gap_ns == 130 * MS


@pytest.mark.filterwarnings("error")
def test_absurd_numbers_do_no_harm(started):
    for sign in (1, -1, 1):
        started.do(Command("dpose", (sign * 1e308,) * 6))
        started.do(Command("dpose", (sign * 1e308,) * 6))
    started.do(Command("apose", (1e308,) * 6))
    started.do(dpose(1e308))
    started.wait(SECOND)
    assert started.arm.refused_moves == 1
    assert np.isfinite(started.arm.pose_mm_deg).all() and np.abs(started.moved()).max() <= 0.1 + 1e-9


def test_one_long_wait_is_the_same_as_many_short_ones():
    coarse, fine = Driven(), Driven()
    for driven, steps in ((coarse, 1), (fine, 77)):
        driven.do(Command("start", (200.0, 1.0, 309.0, 1.0, 90.0, 0.0)))
        for _ in range(steps):
            driven.wait(SECOND // steps)
        driven.do(dpose(0.05, 0.3))
        for _ in range(steps):
            driven.wait(SECOND // steps)
    np.testing.assert_allclose(coarse.arm.pose_mm_deg, fine.arm.pose_mm_deg, atol=1e-9)
    assert coarse.arm.path_length_mm == pytest.approx(fine.arm.path_length_mm)


def test_joints_follow_the_pose_smoothly_and_invertibly():
    rng = np.random.default_rng(0)
    for _ in range(50):
        pose = np.array(HOME_MM_DEG) + rng.uniform(-60, 60, 6)
        jacobian = np.array([(joints_of(pose + e) - joints_of(pose - e)) / 0.002 for e in 0.001 * np.eye(6)]).T
        off_diagonal = np.abs(jacobian).sum(1) - np.abs(np.diag(jacobian))
        assert (np.abs(np.diag(jacobian)) > off_diagonal).all()  # diagonally dominant everywhere: one pose for each
