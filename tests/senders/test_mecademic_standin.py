"""The stand-in for the controller: its arm with given times, its ports with the vendor's own library, unmodified."""

import json
import socket
import threading

import numpy as np
import pytest

from rtvla.clock import MS, SECOND
from rtvla.errors import ConfigError
from rtvla.senders.mecademic_standin import Standin
from rtvla.senders.standin_arm import StandinArm

from .sending import wait_for

mecademic = pytest.importorskip("mecademicpy.robot")
Z_UP = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


@pytest.fixture
def arm():
    arm = StandinArm(0)
    arm.activate()
    arm.home()
    arm.news.clear()
    return arm


class Running:
    """A stand-in in a thread."""

    def __init__(self) -> None:
        self.standin = Standin("127.0.0.1", {"control": 0, "monitor": 0, "test": 0})
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self) -> None:
        while not self._ending.is_set():
            self.standin.step()

    def robot(self, role: str = "control"):
        robot = mecademic.Robot()
        robot.default_timeout = 20
        address = f"127.0.0.1:{self.standin.ports[role]}"
        robot.Connect(address, monitor_mode=role == "monitor", disconnect_on_exception=False, timeout=20)
        return robot

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self.standin.close()


@pytest.fixture
def running():
    running = Running()
    yield running
    running.close()


@pytest.fixture
def robot(running):
    robot = running.robot()
    robot.ActivateRobot()
    robot.WaitActivated(20)
    robot.Home()
    robot.WaitHomed(20)
    yield robot
    robot.Disconnect()


def test_a_velocity_ends_by_itself_after_its_timeout(arm):
    start = arm.pose.copy()
    arm.queue("setveltimeout", (0.4,))
    arm.queue("movelinvelwrf", Z_UP)
    arm.advance(100 * MS)
    assert arm.pose[2] - start[2] == pytest.approx(0.1)
    arm.advance(10 * SECOND)
    assert arm.pose[2] - start[2] == pytest.approx(0.4)
    assert arm.counts["velocity_timeouts"] == 1 and arm.news[-1] == (3012, "End of block.")


def test_the_next_velocity_takes_over_at_once(arm):
    arm.queue("setveltimeout", (0.4,))
    arm.queue("movelinvelwrf", Z_UP)
    arm.advance(100 * MS)
    arm.queue("movelinvelwrf", (2.0, 0, 0, 0, 0, 0))
    arm.advance(SECOND)
    np.testing.assert_allclose(arm.velocity_path[:3], [0.8, 0, 0.1])


def test_a_pause_holds_the_queue_and_a_clear_empties_it(arm):
    target = (arm.pose[0] + 10, *arm.pose[1:])
    arm.queue("setjointvel", (1.0,))  # 10 mm/s
    arm.queue("movepose", target)
    arm.queue("setcheckpoint", (1.0,))
    arm.advance(SECOND // 2)
    arm.pause()
    arm.advance(10 * SECOND)
    assert arm.pose[0] == pytest.approx(195)
    arm.resume()
    arm.advance(10 * SECOND + 400 * MS)
    assert arm.pose[0] == pytest.approx(199)
    arm.clear()
    arm.resume()
    arm.advance(20 * SECOND)
    assert arm.pose[0] == pytest.approx(199) and (3030, "1") not in arm.news


def test_a_velocity_that_a_pause_outlasted_does_not_run_backwards(arm):
    """Regression: its end lay before the time of the resumption, and the step became negative."""
    arm.queue("setveltimeout", (0.4,))
    arm.queue("movelinvelwrf", Z_UP)
    arm.advance(100 * MS)
    arm.pause()
    arm.advance(10 * SECOND)
    arm.resume()
    arm.advance(11 * SECOND)
    assert arm.velocity_path[2] == pytest.approx(0.1)


def test_an_arm_in_error_or_without_motors_refuses_motion(arm):
    arm.fail(1012, "singular")
    arm.queue("movelinvelwrf", Z_UP)
    arm.reset_error()
    arm.deactivate()
    arm.queue("movelinvelwrf", Z_UP)
    arm.advance(SECOND)
    assert [code for code, _ in arm.news] == [1012, 1011, 2005, 2004, 1005] and not arm.velocity_path.any()


def test_the_library_moves_it_and_waits_for_its_checkpoints(running, robot):
    robot.SetJointVel(20)
    robot.MovePose(200, 1, 309, 1, 90, 0)
    robot.WaitIdle(20)
    np.testing.assert_allclose(running.standin.arm.pose, [200, 1, 309, 1, 90, 0])
    robot.SetVelTimeout(0.1)
    robot.MoveLinVelWrf(0, 0, 1, 0, 0, 0)
    robot.WaitIdle(20)
    np.testing.assert_allclose(running.standin.arm.pose[2], 309.1)
    assert robot.GetStatusRobot(synchronous_update=True).homing_state


def test_the_library_clears_resumes_resets_errors_and_deactivates(running, robot):
    robot.MoveLinVelWrf(0, 0, 1, 0, 0, 0)
    robot.ClearMotion()
    robot.WaitMotionCleared(20)
    assert robot.GetStatusRobot().pause_motion_status
    robot.ResumeMotion()
    robot.WaitMotionResumed(20)
    robot.SendCustomCommand("MovePose(1,2,nan,4,5,6)")
    robot.SendCustomCommand("Fly(1)")
    running.standin.arm.fail(1012, "singular")
    wait_for(lambda: robot.GetStatusRobot().error_status, "the error")
    robot.ResetError()
    robot.WaitErrorReset(20)
    robot.DeactivateRobot()
    robot.WaitDeactivated(20)
    assert running.standin.arm.account()["status"]["error"] == 0 and running.standin.heard["fly"] == 1


def test_the_monitoring_port_carries_the_robots_own_microseconds(running, robot):
    robot.SetRealTimeMonitoring("JointPos", "CartPos")
    robot.SetMonitoringInterval(0.01)
    monitor = running.robot("monitor")
    stamps: set[int] = set()

    def several() -> bool:
        data = monitor.GetRobotRtData()
        if data.rt_cart_pos.timestamp:
            assert data.rt_cart_pos.timestamp == data.rt_joint_pos.timestamp
            np.testing.assert_allclose(data.rt_cart_pos.data, running.standin.arm.pose, atol=1e-4)
            stamps.add(data.rt_cart_pos.timestamp)
        return len(stamps) > 5

    wait_for(several, "monitoring cycles")
    monitor.Disconnect()
    assert max(stamps) - min(stamps) >= (len(stamps) - 2) * 10_000, "more cycles than fit into the robot's own time"


def test_a_client_that_goes_or_stops_refreshing_leaves_a_paused_arm(running, robot):
    arm = running.standin.arm
    robot.SetVelTimeout(0.4)
    robot.MoveLinVelWrf(0, 0, 1, 0, 0, 0)
    robot.ConnectionWatchdog(0.1)
    wait_for(lambda: arm.counts["watchdog_stops"], "the watchdog")
    wait_for(lambda: not robot.IsConnected(), "the closed connection")
    assert arm.paused and arm.counts["connection_stops"] == 1
    again = running.robot()
    again.ResumeMotion()
    again.WaitMotionResumed(20)
    again.Disconnect()
    wait_for(lambda: arm.counts["connection_stops"] == 2, "the end of the second client")
    assert arm.paused


def test_only_one_client_controls(running, robot):
    with pytest.raises(mecademic.CommunicationError):
        running.robot()
    assert robot.IsConnected()


def test_a_word_the_test_port_does_not_know_is_said(running):
    with socket.create_connection(("127.0.0.1", running.standin.ports["test"])) as connection:
        lines = connection.makefile("rw")
        lines.write("fly\n")
        lines.flush()
        assert json.loads(lines.readline()) == {"unknown": "fly"}
        lines.close()


def test_it_serves_loopback_only():
    with pytest.raises(ConfigError, match="loopback only"):
        Standin("0.0.0.0", {"control": 0})
