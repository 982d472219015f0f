from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rtvla.errors import CheckpointError
from rtvla.models.spec import ModelSpec

SPEC = ModelSpec(name="test", vl_backbone="vl", vl_fingerprint="ab" * 32)


def changed(**values: object) -> str:
    return json.dumps(json.loads(SPEC.to_json()) | values)


def test_json_round_trip_keeps_everything() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


def test_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="horizn"):
        ModelSpec.from_json(changed(horizn=8))


def test_missing_key_is_refused_by_name() -> None:
    given = json.loads(SPEC.to_json())
    del given["image_rule"]
    with pytest.raises(CheckpointError, match="image_rule"):
        ModelSpec.from_json(json.dumps(given))


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="spec"):
        ModelSpec.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("horizon", "8"),
        ("horizon", 8.0),
        ("horizon", True),
        ("horizon", 0),
        ("horizon", 33),
        ("name", 3),
        ("views", "View1"),
        ("views", ["View1", "View9"]),
        ("views", ["View1", "View1"]),
        ("views", []),
        ("sensor_stages", [32, "48"]),
        ("sensor_stages", [30]),
        ("sensor_heads", 7),
        ("expert_heads", 7),
        ("format_version", 1),
        ("action_dim", 6),
        ("step_ms", 50),
        ("sensor_order", "force_last"),
        ("action_frame", "joints_deg"),
        ("expert", "transformer"),
        ("normalisation", "min_max"),
        ("sensor_encoder", "Plain"),
        ("sensor_resample", "cubic"),
        ("robot_encoder", "plain"),
        ("fusion", "sum"),
        ("fusion", "none"),
        ("diffusion_sampler", "euler"),
        ("diffusion_steps", 101),
        ("missing_mask", 1),
        ("view_pooling", "attention"),
        ("horizon", 1),
        ("sensor_window", 16),
        ("sensor_window_s", 1.0),
        ("robot_window_s", "1.0"),
        ("dtype", "float16"),
        ("vl_sequence", "parallel"),
        ("vl_dim", 9000),
        ("vl_backbone", "../other"),
        ("vl_backbone", "/abs/path"),
        ("vl_backbone", "a/b/c"),
        ("vl_backbone", ""),
        ("vl_fingerprint", ""),
        ("vl_fingerprint", "xy" * 32),
        ("prompt", "Perform {job}"),
        ("prompt", "Perform {task"),
    ],
)
def test_bad_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=name):
        ModelSpec.from_json(changed(**{name: value}))


def test_hub_backbone_may_be_unpinned() -> None:
    assert replace(SPEC, vl_backbone="Qwen/Qwen2.5-VL-3B-Instruct", vl_fingerprint="").on_hub


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vl_fingerprint", "cd" * 32),
        ("prompt", "Do {task}"),
        ("image_rule", "hub"),
        ("image_height", 112),
        ("image_width", 168),
        ("views", ("View1", "View2")),
        ("vl_sequence", "joint"),
        ("dtype", "float32"),
        ("view_pooling", "max"),
    ],
)
def test_fingerprint_changes_with_what_makes_the_feature(name: str, value: object) -> None:
    assert replace(SPEC, **{name: value}).fingerprint() != SPEC.fingerprint()


def test_fingerprint_ignores_the_action_model_and_fits_its_field() -> None:
    other = replace(SPEC, name="other", flow_steps=3, expert="regression", horizon=4)
    assert other.fingerprint() == SPEC.fingerprint()
    assert 0 < SPEC.fingerprint() < 2**64


@pytest.mark.parametrize("fusion", ["cross_attention", "gated"])
def test_weighing_the_vl_feature_against_nothing_is_refused(fusion: str) -> None:
    with pytest.raises(CheckpointError, match=f'fusion = "{fusion}".*set it to "none", or enable an encoder'):
        replace(SPEC, fusion=fusion, sensor_encoder="none", robot_encoder="none")


@pytest.mark.parametrize("encoder", ["sensor_encoder", "robot_encoder"])
def test_an_encoder_that_its_fusion_would_not_look_at_is_refused(encoder: str) -> None:
    """It would be weights that nothing ever trains."""
    other = ({"sensor_encoder", "robot_encoder"} - {encoder}).pop()
    with pytest.raises(CheckpointError, match=f'fusion = "none".*set {encoder} to "none"'):
        replace(SPEC, fusion="none", **{other: "none"})


@pytest.mark.parametrize(("name", "value"), [("sensor_heads", 128), ("sensor_dim", 2046), ("sensor_dim", 12)])
def test_force_branch_must_fit(name: str, value: int) -> None:
    plain = replace(SPEC, **{name: value})
    with pytest.raises(CheckpointError, match=name):
        replace(plain, sensor_encoder="force_aware")


def test_windows_are_stated_in_samples_and_seconds() -> None:
    stated = json.loads(replace(SPEC, sensor_window=130, robot_window=50).to_json())
    assert (stated["sensor_window"], stated["sensor_window_s"]) == (130, 0.2)
    assert (stated["robot_window"], stated["robot_window_s"]) == (50, 0.5)
    assert ModelSpec.from_json(json.dumps(stated)).sensor_window_s == 0.2


def test_a_window_that_contradicts_itself_is_refused_with_the_sum() -> None:
    with pytest.raises(
        CheckpointError, match=r"sensor_window_s = 1\.0: sensor_window = 65 at sensor_hz = 650 is 0\.1 s"
    ):
        ModelSpec.from_json(changed(sensor_window_s=1.0))


def test_feature_widths_follow_the_encoders() -> None:
    assert SPEC.feature_widths == {"vl": 2048, "sensor": 2048, "robot": 2048}
    assert replace(SPEC, sensor_encoder="none", robot_dim=512).feature_widths == {"vl": 2048, "robot": 512}
    alone = replace(SPEC, sensor_encoder="none", robot_encoder="none", fusion="none")
    assert alone.feature_widths == {"vl": 2048}


def test_fake_data_has_the_shapes_of_the_spec_and_follows_the_seed() -> None:
    made, again, other = (SPEC.fake_observation(seed) for seed in (0, 0, 1))
    assert (made.sensor.shape, made.robot.shape, made.vl_feature.shape) == ((65, 1026), (100, 12), (2048,))
    assert {part.dtype for part in (made.sensor, made.robot, made.vl_feature)} == {np.dtype(np.float32)}
    assert (made.sensor_missing.shape, made.robot_missing.shape) == ((65,), (100,))
    np.testing.assert_array_equal(made.sensor, again.sensor)
    assert not np.array_equal(made.sensor, other.sensor)
    frames = SPEC.fake_frames(0)
    assert [(frame.shape, frame.dtype) for frame in frames] == [((360, 640, 3), np.dtype(np.uint8))] * 5
