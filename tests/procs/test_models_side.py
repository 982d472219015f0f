"""policy and vl_encoder around fake models: what they look at, what they publish, and when they do not."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from fakes import FakeEncoder, FakeMe, FakeVla, spec

from rtvla import schema
from rtvla.clock import MS, now_ns
from rtvla.config import Config
from rtvla.procs.model_setup import feature_of
from rtvla.procs.policy import Policy
from rtvla.procs.vl_encoder import Encoder
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingWriter


class Inputs:
    """Writers of all that the policy reads, filled with fresh records."""

    def __init__(self, hub: Hub) -> None:
        self.sensor, self.robot, self.feature = (hub.writer(name) for name in ("sensor", "robot", "vl_feature"))

    def fill(self, fingerprint: int, sensor: int = 65, robot: int = 100) -> None:
        now = now_ns()
        for writer, dtype, count, period in (
            (self.sensor, schema.SENSOR, sensor, 1_538_461),
            (self.robot, schema.ROBOT, robot, 10 * MS),
        ):
            for at in range(count):
                record = np.zeros((), dtype)
                record["received_ns"] = record["captured_ns"] = now - (count - 1 - at) * period
                writer.put(record)
        record = np.zeros((), schema.VL_FEATURE)
        record["fingerprint"], record["dim"], record["update_number"] = fingerprint, 12, 3
        record["view_received_ns"], record["view_captured_ns"] = now - 180 * MS, now - 200 * MS
        record["view_index"] = 11
        self.feature.put(record)


def test_a_chunk_names_all_that_it_was_made_from(hub: Hub) -> None:
    inputs, me, vla = Inputs(hub), FakeMe(hub), FakeVla(spec())
    policy = Policy(me, Config(), vla)  # type: ignore[arg-type]
    inputs.fill(feature_of(Config(), vla.spec))
    policy.tick()
    policy.tick()
    chunks = hub.reader("action_chunk").latest(2)
    assert chunks is not None and me.counted == {"chunks": 2}
    assert chunks["vl_reuse"].tolist() == [0, 1] and chunks["vl_update_number"].tolist() == [3, 3]
    assert (chunks["sensor_index"] == 64).all() and (chunks["robot_index"] == 99).all()
    assert (chunks["vl_age_ns"] >= 200 * MS).all() and (chunks["sensor_age_ns"] >= 0).all()
    assert (chunks["view_index"] == 11).all() and (chunks["view_age_ns"] >= 200 * MS).all()
    for name in ("sensor", "robot", "view"):  # ages count from capture
        captured = chunks[f"{name}_captured_ns"]
        assert (
            chunks["observed_ns"].reshape(2, *(1,) * (captured.ndim - 1)) - captured == chunks[f"{name}_age_ns"]
        ).all()
    assert (chunks["sensor_count"] + chunks["sensor_missing"] == 65).all()
    assert (chunks["robot_count"] + chunks["robot_missing"] == 100).all()
    assert chunks["horizon"].tolist() == [8, 8] and np.allclose(chunks["actions"][:, :8], 0.01)
    assert [seed for _, seed in vla.seen] == [0, 1], "the seed is the chunk's number, so a chunk can be made again"


@pytest.mark.parametrize(
    ("fill", "why"),
    [
        ({"sensor": 64}, "sensor_short"),
        ({"robot": 99}, "robot_short"),
        ({"fingerprint": 5}, "vl_of_another_model"),
    ],
)
def test_without_a_whole_observation_there_is_no_chunk_but_a_count(hub: Hub, fill: dict[str, int], why: str) -> None:
    inputs, me, vla = Inputs(hub), FakeMe(hub), FakeVla(spec())
    policy = Policy(me, Config(), vla)  # type: ignore[arg-type]
    inputs.fill(**{"fingerprint": feature_of(Config(), vla.spec), **fill})
    policy.tick()
    assert me.counted == {f"no_chunk.{why}": 1} and hub.reader("action_chunk").head == 0


def test_a_chunk_that_is_not_finite_is_not_published(hub: Hub) -> None:
    inputs, me = Inputs(hub), FakeMe(hub)
    vla = FakeVla(spec(), np.full((8, 7), np.nan, np.float32))
    policy = Policy(me, Config(), vla)  # type: ignore[arg-type]
    inputs.fill(feature_of(Config(), vla.spec))
    policy.tick()
    assert me.counted == {"no_chunk.not_finite": 1}


class Cameras:
    def __init__(self, hub: Hub) -> None:
        self.rings: list[RingWriter] = [hub.writer(f"frame.{view}") for view in schema.VIEWS]

    def frame(self, at: int, grey: int, received_ns: int | None = None, side: int = 16) -> None:
        jpeg = simplejpeg.encode_jpeg(np.full((side, side, 3), grey, np.uint8), 95)
        record = np.zeros((), schema.FRAME)
        record["received_ns"], record["n_bytes"] = received_ns or now_ns(), len(jpeg)
        record["captured_ns"], record["clock_uncertainty_ns"] = record["received_ns"] - 30 * MS, 70_000
        record["jpeg"][: len(jpeg)] = np.frombuffer(jpeg, np.uint8)
        self.rings[at].put(record)


def encoder(hub: Hub, reuse: int = 1, **changes: object) -> tuple[Encoder, FakeMe]:
    me = FakeMe(hub)
    cfg = Config.load(None, [f"vl_encoder.reuse={reuse}", "policy.rate_hz=1000000.0"])
    return Encoder(me, cfg, FakeEncoder(spec(**changes))), me  # type: ignore[arg-type]


def test_views_are_encoded_as_they_come_and_the_feature_names_each_frame(hub: Hub) -> None:
    cameras = Cameras(hub)
    rolling, me = encoder(hub)
    for at in range(4):
        cameras.frame(at, 10 * at)
        assert rolling.step()
    features = hub.reader("vl_feature")
    assert features.head == 0, "no feature before every view was seen"
    cameras.frame(4, 40)
    rolling.step()
    assert features.head == 1 and not rolling.step()
    stamp = now_ns()
    cameras.frame(2, 120, stamp)
    assert rolling.step()
    newest = features.newest()
    assert newest is not None and features.head == 2
    assert newest["view_captured_ns"][2] == stamp - 30 * MS and (newest["view_uncertainty_ns"] == 70_000).all()
    assert newest["view_received_ns"][2] == stamp and newest["view_index"].tolist() == [0, 0, 1, 0, 0]
    assert newest["feature"][0] == pytest.approx((0 + 10 + 120 + 30 + 40) / 5, abs=1)
    assert newest["update_number"] == 1 and me.counted == {"updates": 1, "features": 2}


def test_only_the_newest_frame_of_a_view_is_encoded(hub: Hub) -> None:
    cameras = Cameras(hub)
    rolling, _me = encoder(hub)
    for grey in (0, 50, 100):
        for at in range(5):
            cameras.frame(at, grey)
    while rolling.step():
        pass
    newest = hub.reader("vl_feature").newest()
    assert newest is not None
    assert newest["feature"][0] == pytest.approx(100, abs=1) and newest["view_index"].tolist() == [2] * 5


def test_reuse_bounds_how_often_a_view_is_encoded(hub: Hub) -> None:
    cameras = Cameras(hub)
    slow, _me = encoder(hub, reuse=60_000_000)  # one minute at a million chunks a second
    for at in range(5):
        cameras.frame(at, 10)
    while slow.step():
        pass
    cameras.frame(0, 20)
    assert not slow.step()


def test_a_restarted_encoder_goes_on_counting_updates(hub: Hub) -> None:
    cameras = Cameras(hub)
    first, _ = encoder(hub)
    for at in range(5):
        cameras.frame(at, 10)
    while first.step():
        pass
    first._out.close()
    again, _ = encoder(hub)
    while again.step():
        pass
    newest = hub.reader("vl_feature").newest()
    assert newest is not None and newest["update_number"] == 2
