"""The whole way to the arm: pipeline, robot side through the vendor's library, a stand-in for the controller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safety_live import Live
from senders.mecademic_bench import Controller

pytestmark = pytest.mark.e2e


@pytest.fixture
def controller() -> Iterator[Controller]:
    controller = Controller()
    yield controller
    controller.kill()


@pytest.fixture
def live(namespace: str, checkpoint: Path, tmp_path: Path, controller: Controller) -> Iterator[Live]:
    ports = ["--control-port", str(controller.ports["control"]), "--monitor-port", str(controller.ports["monitor"])]
    robot = ["--arm", "mecademic", "--robot-address", "127.0.0.1", *ports]
    live = Live(namespace, checkpoint, tmp_path, ("commander.auto_start=true",), robot)
    try:
        live.start()
        yield live
    finally:
        live.close()


def path(controller: Controller) -> list[float]:
    """How far velocities have moved the arm so far, mm and deg."""
    return list(controller.ask()["velocity_path_mm_deg"])


def test_a_robot_in_error_stands_until_people_have_seen_to_it(live: Live, controller: Controller) -> None:
    before = path(controller)
    live.wait(0.5)
    assert path(controller) != before, "the commands do not arrive at the arm"
    begun = live.follow()
    controller.ask("error 1012")
    stopped = path(controller)
    live.wait(2.0)
    assert path(controller) == stopped
    controller.ask("reset")  # at the robot: that the error is gone does not mean that motion is wanted
    live.wait(1.0)
    assert path(controller) == stopped and controller.stands()
    assert controller.ask()["heard"]["movepose"] == 1, "start was sent again"
    live.report("robot error", live.seen(begun))


@pytest.mark.long
def test_a_robot_that_is_switched_off_is_a_silent_one(live: Live, controller: Controller) -> None:
    begun = live.follow()
    controller.ask("freeze")
    live.until(lambda: bool(live.seen(begun).held), "the hold")
    assert live.seen(begun).causes & {"robot_stale", "robot_gone", "chunk_gone"}
    live.report("robot's controller frozen", live.seen(begun))
