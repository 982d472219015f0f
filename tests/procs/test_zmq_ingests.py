"""robot_ingest and camera_ingest: messages as they come from the wire into real rings, with their capture times."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import simplejpeg
from fakes import FakeMe

from rtvla import schema
from rtvla.clock import MS, SECOND, now_ns
from rtvla.config import Config
from rtvla.procs import camera_ingest, robot_ingest
from rtvla.procs.arrival import RestartGap, SenderTimes
from rtvla.senders.camera_pictures import picture_loop
from rtvla.senders.camera_sim import CAMERAS
from rtvla.senders.sensor_signal import LOOP_SAMPLES, Signal
from rtvla.shm.hub import Hub
from rtvla.wire import camera, robot

STAMP_S = 1.7e9
STILL = ([1.0] * 6, [191.0, 1, 309, 1, 91, 1])


class RobotIngest:
    def __init__(self, hub: Hub) -> None:
        self.me, self.ring = FakeMe(hub), hub.writer("robot")
        self.times = SenderTimes(self.me, "robot")  # type: ignore[arg-type]
        self.gap = RestartGap(self.me, self.ring, "robot", 100, lambda r: float(r["sampled_s"]))  # type: ignore[arg-type]

    def take(self, stamp_s: float, state: tuple[list[float], list[float]] = STILL) -> np.void:
        parts = robot.encode(stamp_s, now_ns() / SECOND, *state)  # sent anew each time
        robot_ingest.take(self.me, parts, self.ring, self.times, self.gap)  # type: ignore[arg-type]
        return self.ring.record(-1).copy()


def test_an_arm_that_is_still_is_not_frozen(hub: Hub) -> None:
    ingest = RobotIngest(hub)
    records = [ingest.take(STAMP_S + k * 0.01) for k in range(20)]
    assert ingest.me.counted == {"states": 20}
    assert (np.diff([record["captured_ns"] for record in records]) > 0).all()
    assert all(record["captured_ns"] <= record["received_ns"] for record in records)


def test_a_state_that_comes_again_with_its_stamp_is_dropped_and_counted(hub: Hub) -> None:
    """Regression: each state sent twice halved the time that the newest hundred of them cover, and the arm held."""
    ingest = RobotIngest(hub)
    for k in range(5):
        ingest.take(STAMP_S + k * 0.01)
    newest = ingest.take(STAMP_S + 0.05)
    for _ in range(50):
        assert ingest.take(STAMP_S + 0.05)["captured_ns"] == newest["captured_ns"]
    assert ingest.me.counted == {"states": 6, "dropped.duplicate": 50}
    assert ingest.ring.next_index == 6
    assert ingest.take(STAMP_S + 0.6)["captured_ns"] > newest["captured_ns"]


def test_a_robot_whose_stamps_never_advance_is_dated_by_arrival(hub: Hub) -> None:
    ingest = RobotIngest(hub)
    records = [ingest.take(STAMP_S) for _ in range(20)]
    assert ingest.me.counted == {"states": 20}
    assert (np.diff([record["captured_ns"] for record in records]) > 0).all()


def test_a_robot_without_stamps_is_dated_by_arrival(hub: Hub) -> None:
    ingest = RobotIngest(hub)
    records = [ingest.take(0.0) for _ in range(20)]
    assert ingest.me.counted == {"states": 20}
    assert all(record["captured_ns"] == record["received_ns"] for record in records)
    assert (np.diff([record["captured_ns"] for record in records]) > 0).all()


class CameraIngest:
    def __init__(self, hub: Hub) -> None:
        self.me, cfg = FakeMe(hub), Config()
        self.views = {name: camera_ingest.View(self.me, cfg, name) for name in schema.VIEWS}  # type: ignore[arg-type]

    def take(self, at: int, stamp_s: float, jpeg: bytes) -> np.void:
        camera_ingest.take(self.me, camera.encode(CAMERAS[at], stamp_s, jpeg), self.views)  # type: ignore[arg-type]
        return self.views[schema.VIEWS[at]].ring.record(-1)


def picture(grey: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((16, 16, 3), grey, np.uint8), 95)


def test_a_frozen_camera_is_known_by_the_second_of_the_same_pictures(hub: Hub) -> None:
    ingest = CameraIngest(hub)
    first = ingest.take(0, STAMP_S, picture(10))["captured_ns"]
    assert ingest.take(1, STAMP_S, picture(10))["captured_ns"] > first, "each view by itself"
    for k in range(1, 30):  # more frames than the ring holds
        frame = ingest.take(0, STAMP_S + 0.2 * k, picture(10))
        assert frame["captured_ns"] == first < frame["received_ns"]
    assert ingest.me.counted["frozen.frame.View1"] == 29
    assert ingest.take(0, STAMP_S + 6, picture(40))["captured_ns"] > first


def test_an_ingest_that_was_restarted_still_knows_a_frozen_camera(hub: Hub) -> None:
    ingest = CameraIngest(hub)
    first = int(ingest.take(0, STAMP_S, picture(10))["captured_ns"])
    for view in ingest.views.values():
        view.ring.close()
    assert CameraIngest(hub).take(0, STAMP_S + 0.2, picture(10))["captured_ns"] == first


def test_a_frame_that_waited_in_a_queue_is_not_fresh(hub: Hub) -> None:
    ingest = CameraIngest(hub)
    ingest.take(0, STAMP_S, picture(10))
    taken = now_ns()
    frame = ingest.take(0, STAMP_S - 0.5, picture(20))
    assert taken - frame["captured_ns"] == pytest.approx(500 * MS, rel=0.1)
    assert frame["captured_ns"] <= frame["received_ns"] and ingest.me.counted["out_of_order.frame.View1"] == 1


@pytest.mark.parametrize("size", [(640, 360), (160, 96)])
def test_no_picture_of_the_simulated_cameras_is_that_before_it(size: tuple[int, int]) -> None:
    for view in range(5):
        loop = picture_loop(view, *size, 75)
        assert all(a != b for a, b in zip(loop, [*loop[1:], loop[0]], strict=True))


def test_no_sample_of_the_simulated_sensor_is_that_before_it() -> None:
    signal = Signal()
    lines = [signal.aline(k).tobytes() for k in range(LOOP_SAMPLES + 1)]
    assert all(a != b for a, b in itertools.pairwise(lines))
