"""vl_encoder around a fake model: in which order views are encoded, what is skipped, and what names a feature."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from fakes import FakeEncoder, FakeMe, FakeVla, spec
from test_models_side import Cameras, Inputs

from rtvla import schema
from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.procs.model_setup import feature_of
from rtvla.procs.policy import Policy
from rtvla.procs.view_source import _LOOK_EVERY
from rtvla.procs.vl_encoder import Encoder
from rtvla.shm.hub import Hub


def encoder(hub: Hub, *settings: str, **changes: object) -> tuple[Encoder, FakeMe, FakeEncoder]:
    """With as good as no pause between two encodes of a view, unless `settings` say so."""
    me, model = FakeMe(hub), FakeEncoder(spec(**changes))
    cfg = Config.load(None, ["vl_encoder.reuse=1", "policy.rate_hz=1000000.0", *settings])
    return Encoder(me, cfg, model), me, model  # type: ignore[arg-type]


def newest(hub: Hub) -> np.void:
    record = hub.reader("vl_feature").newest()
    assert record is not None
    return record


def test_a_joint_set_is_worked_on_as_its_frames_come(hub: Hub) -> None:
    cameras = Cameras(hub)
    joint, me, model = encoder(hub, vl_sequence="joint")
    for at in (3, 0, 4, 1):
        cameras.frame(at, 10 * at)
        assert joint.step() and not joint.step()
    assert hub.reader("vl_feature").head == 0, "no feature before every view was seen"
    cameras.frame(2, 20)
    assert joint.step() and not joint.step()
    assert model.stream(0, 0).order == [3, 0, 4, 1, 2]
    assert me.counted == {"updates": 1, "features": 1} and newest(hub)["update_number"] == 1
    assert newest(hub)["feature"][0] == pytest.approx(20, abs=1)


def test_a_joint_set_takes_the_views_that_it_lacks_first_and_in_their_order(hub: Hub) -> None:
    cameras = Cameras(hub)
    joint, _me, model = encoder(hub, vl_sequence="joint")
    for at in (2, 0):
        cameras.frame(at, 10)
        joint.step()
    for at in (4, 3, 2):  # view 2 again
        cameras.frame(at, 50)
    for _ in range(3):
        joint.step()
    assert model.stream(0, 0).order == [2, 0, 3, 4, 2]
    cameras.frame(1, 10)
    joint.step()
    record = newest(hub)
    assert record["view_index"].tolist() == [0, 0, 1, 0, 0]
    assert record["feature"][0] == pytest.approx((10 + 10 + 50 + 50 + 50) / 5, abs=1)


def test_frames_of_the_last_set_or_of_a_check_are_no_part_of_the_next_one(hub: Hub) -> None:
    """Regression: the first feature after each start was of one real picture and four that were drawn for the check."""
    cameras = Cameras(hub)
    joint, me, model = encoder(hub, vl_sequence="joint")
    for at in range(5):
        model.stream(0, 0).put(at, np.full((16, 16, 3), 200, np.uint8))
    for done, at in enumerate((1, 0, 2, 3, 4)):
        assert me.counted.get("features", 0) == 0, f"published with {done} views"
        cameras.frame(at, 10)
        joint.step()
    assert newest(hub)["feature"][0] == pytest.approx(10, abs=1)


def test_all_views_of_a_joint_set_are_due_together(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: each view kept the pace of its own first frame, so the early ones waited for the late ones for ever:
    the pictures of a streamed set were older than those of a whole one."""
    clock = [1_000_000_000]
    for module in ("vl_encoder", "view_source"):
        monkeypatch.setattr(f"rtvla.procs.{module}.now_ns", lambda: clock[0])
    cameras = Cameras(hub)
    joint, _me, model = encoder(hub, "policy.rate_hz=1", vl_sequence="joint")  # a set each second
    for at in range(5):
        cameras.frame(at, 10)
        assert joint.step()
        clock[0] += 180_000_000
    first_set_begun_ns = 1_000_000_000
    for at in range(5):
        cameras.frame(at, 20)
    assert not joint.step(), "not a second since the first set was begun"
    clock[0] = first_set_begun_ns + 1_000_000_000
    while joint.step():
        pass
    assert model.stream(0, 0).order == [0, 1, 2, 3, 4] * 2 and newest(hub)["update_number"] == 2


def test_joint_views_of_different_sizes_are_encoded_as_a_set(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    cameras = Cameras(hub)
    joint, me, model = encoder(hub, vl_sequence="joint")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for at in range(5):
                cameras.frame(at, 10, side=16 if at else 24)
            while joint.step():
                pass
    assert me.counted["features"] == 1 and [r.message.count("different sizes") for r in caplog.records] == [1]
    assert model.stream(0, 0).order == [0]


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
def test_not_rolling_all_views_are_encoded_at_once(hub: Hub, sequence: str) -> None:
    cameras = Cameras(hub)
    batch, me, model = encoder(hub, "vl_encoder.rolling=false", vl_sequence=sequence)
    for at in range(4):
        cameras.frame(at, 10)
        assert not batch.step()
    cameras.frame(4, 60)
    assert batch.step() and not batch.step()
    assert me.counted == {"updates": 1, "features": 1} and model.encoded == 5
    assert newest(hub)["feature"][0] == pytest.approx(20, abs=1)


def fill(cameras: Cameras, rolling: Encoder, greys: list[int]) -> None:
    for at, grey in enumerate(greys):
        cameras.frame(at, grey)
    while rolling.step():
        pass


def test_a_view_that_has_not_changed_keeps_its_vector_and_gets_its_age(hub: Hub) -> None:
    cameras = Cameras(hub)
    rolling, me, model = encoder(hub, "vl_encoder.skip_below=4.0")
    fill(cameras, rolling, [10, 20, 30, 40, 50])
    assert model.encoded == 5
    fill(cameras, rolling, [12, 20, 30, 40, 90])
    assert model.encoded == 6 and me.counted["skipped"] == 4
    record = newest(hub)
    assert record["view_index"].tolist() == [1] * 5 and record["update_number"] == 2
    assert record["feature"][0] == pytest.approx((10 + 20 + 30 + 40 + 90) / 5, abs=1)


def test_slow_changes_add_up_and_are_seen(hub: Hub) -> None:
    """Regression guard: compared is with the picture that was encoded, not with the last one."""
    cameras = Cameras(hub)
    rolling, _me, model = encoder(hub, "vl_encoder.skip_below=4.0")
    for step in range(6):
        fill(cameras, rolling, [10 + 2 * step, 20, 30, 40, 50])
    assert model.encoded == 5 + 2


def test_what_skipping_costs_is_measured_now_and_then(hub: Hub) -> None:
    cameras = Cameras(hub)
    rolling, me, model = encoder(hub, "vl_encoder.skip_below=4.0")
    fill(cameras, rolling, [100] * 5)
    for _ in range(_LOOK_EVERY):
        fill(cameras, rolling, [102] * 5)
    assert me.counted["skipped"] == 5 * _LOOK_EVERY and model.encoded == 5 + 5
    assert me.gauges["skip_deviation"] == pytest.approx(2 / 102, abs=0.01)


def test_without_being_asked_for_nothing_is_skipped(hub: Hub) -> None:
    cameras = Cameras(hub)
    rolling, me, model = encoder(hub)
    for _ in range(2):
        fill(cameras, rolling, [10] * 5)
    assert model.encoded == 10 and "skipped" not in me.counted


@pytest.mark.parametrize(("setting", "sequence"), [("rolling=true", "joint"), ("rolling=false", "per_view")])
def test_skipping_is_refused_where_it_is_not_built(hub: Hub, setting: str, sequence: str) -> None:
    with pytest.raises(ConfigError, match="skip_below"):
        encoder(hub, "vl_encoder.skip_below=4.0", f"vl_encoder.{setting}", vl_sequence=sequence)


def test_whether_a_graph_was_replayed_is_in_the_health_row(hub: Hub) -> None:
    cameras = Cameras(hub)
    rolling, me, model = encoder(hub)
    fill(cameras, rolling, [10] * 5)
    assert me.gauges["cuda_graph"] == 0
    model.replays += 1
    cameras.frame(0, 10)
    rolling.step()
    assert me.gauges["cuda_graph"] == 1
    cameras.frame(0, 10)
    rolling.step()
    assert me.gauges["cuda_graph"] == 0, "a graph that is there but was not replayed does not count"


OTHERS = ["vl_encoder.task_name=white circle", "vl_encoder.quantize=int8", "vl_encoder.layers=1"]


@pytest.mark.parametrize("setting", OTHERS)
def test_a_feature_of_another_task_or_made_in_another_way_is_refused(hub: Hub, setting: str) -> None:
    """Regression: two tasks gave different features under one fingerprint, and the policy took either."""
    inputs, me, vla = Inputs(hub), FakeMe(hub), FakeVla(spec())
    ours, theirs = Config(), Config.load(None, [setting])
    policy = Policy(me, ours, vla)  # type: ignore[arg-type]
    inputs.fill(feature_of(theirs, vla.spec))
    policy.tick()
    assert me.counted == {"no_chunk.vl_of_another_model": 1}
    inputs.fill(feature_of(ours, vla.spec))
    policy.tick()
    assert me.counted["chunks"] == 1


def test_the_encoder_writes_the_name_that_the_policy_demands(hub: Hub) -> None:
    cameras = Cameras(hub)
    for setting in OTHERS:
        rolling, _me, model = encoder(hub, setting)
        fill(cameras, rolling, [10] * 5)
        assert newest(hub)["fingerprint"] == feature_of(Config.load(None, [setting]), model.spec)
        rolling._out.close()


def test_the_engine_and_the_pace_are_no_part_of_the_name() -> None:
    names = {feature_of(Config.load(None, [s]), spec()) for s in ("vl_encoder.engine=eager", "vl_encoder.reuse=9")}
    assert names == {feature_of(Config(), spec())}
    assert feature_of(Config(), spec()) != feature_of(Config(), spec(prompt="Do {task}"))
    assert 0 < names.pop() < 2**64 and schema.VL_FEATURE["fingerprint"] == np.uint64
