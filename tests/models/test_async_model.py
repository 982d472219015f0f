from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rtvla.models
from rtvla.errors import CheckpointError
from rtvla.models import AsyncModel, create_async_model
from rtvla.models.checkpoint import load_policy, load_vl_encoder, write_checksums
from rtvla.models.make_tiny import make_tiny

TEXT = "Perform eye insertion task"


@pytest.fixture(scope="module")
def model(tiny: Path) -> AsyncModel:
    return create_async_model(
        stage1_checkpoint=tiny,
        finetune_vl="lora",
        sensor_window_size=65,
        vlm_reuse_count=4,
        image_resize_height=108,
        image_resize_width=192,
        device="cpu",
    )


@pytest.fixture(scope="module")
def windows(model: AsyncModel) -> dict[str, np.ndarray]:
    draw, spec = np.random.default_rng(0), model.spec
    return {
        "sensor_data": draw.standard_normal((2, spec.sensor_window, spec.sensor_channels)),
        "robot_states": draw.standard_normal((2, spec.robot_window, spec.robot_channels)),
    }


@pytest.fixture(scope="module")
def features(model: AsyncModel) -> torch.Tensor:
    return model.extract_vl_features([TEXT, "Perform nose insertion task"], [model.spec.fake_frames(i) for i in (0, 1)])


def one(windows: dict[str, np.ndarray], at: int) -> dict[str, np.ndarray]:
    return {name: window[at] for name, window in windows.items()}


def test_features_are_those_of_the_pipeline(model: AsyncModel, features: torch.Tensor, tiny: Path) -> None:
    assert (features.shape, features.dtype) == ((2, 1, model.spec.vl_dim), torch.float32)
    for at, task in enumerate(("eye", "nose")):
        encoder = load_vl_encoder(tiny, task)
        frames = model.spec.fake_frames(at)
        expected = encoder.pool(np.stack([encoder.encode_view(frame) for frame in frames]))
        np.testing.assert_allclose(features[at, 0].numpy(), expected, atol=1e-6)
    assert not torch.allclose(features[0], features[1])


def test_joint_features_are_those_of_the_pipeline(tiny_regression: Path) -> None:
    joint = create_async_model(tiny_regression, device="cpu")
    frames = joint.spec.fake_frames(0)
    made = joint.extract_vl_features([TEXT], [frames])[0, 0].numpy()
    np.testing.assert_allclose(made, load_vl_encoder(tiny_regression, "eye").encode_joint(frames), atol=1e-6)


def test_images_may_be_files(model: AsyncModel, tmp_path: Path) -> None:
    frames = model.spec.fake_frames(0)
    paths = [tmp_path / f"{view}.png" for view in model.spec.views]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    mixed = [str(paths[0]), *paths[1:4], frames[4]]
    assert torch.equal(model.extract_vl_features([TEXT], [mixed]), model.extract_vl_features([TEXT], [frames]))


def test_actions_are_those_of_the_pipeline(
    model: AsyncModel, features: torch.Tensor, windows: dict[str, np.ndarray], tiny: Path
) -> None:
    policy = load_policy(tiny)
    observation = policy.spec.fake_observation(0)
    made = model.predict_actions_with_cached_vl(
        vl_features=observation.vl_feature[None],
        sensor_data=observation.sensor,
        robot_states=observation.robot,
        vl_age_s=observation.vl_age_s,
        seed=7,
    )
    np.testing.assert_array_equal(made[0].numpy(), policy.predict(observation, 7).actions)


def test_a_batch_is_its_samples(tiny_regression: Path, features: torch.Tensor, windows: dict[str, np.ndarray]) -> None:
    model, ages = create_async_model(tiny_regression, device="cpu"), [0.1, 1.0]
    together = model.predict_actions_with_cached_vl(features, **windows, vl_age_s=ages)
    assert (together.shape, together.dtype) == ((2, 8, 7), torch.float32)
    for at in (0, 1):
        alone = model.predict_actions_with_cached_vl(features[at], **one(windows, at), vl_age_s=ages[at])
        torch.testing.assert_close(together[at : at + 1], alone, atol=1e-6, rtol=0)


def test_samples_of_a_batch_have_each_its_own_noise(model: AsyncModel, windows: dict[str, np.ndarray]) -> None:
    twice = {name: window[[0, 0]] for name, window in windows.items()}
    chunks = model.predict_actions_with_cached_vl(torch.zeros(2, 1, model.spec.vl_dim), **twice, vl_age_s=0.1)
    assert not torch.allclose(chunks[0], chunks[1], atol=1e-4)


def test_z_chunk_is_not_looked_at(model: AsyncModel, features: torch.Tensor, windows: dict[str, np.ndarray]) -> None:
    """Regression: the old models were given the actions to predict, so a good guess made a good prediction."""
    given = {"vl_features": features, **windows, "vl_age_s": 0.2}
    plain = model.predict_actions_with_cached_vl(**given)
    for z_chunk in (torch.full((2, 8, 7), 100.0), plain, "anything"):
        assert torch.equal(model.predict_actions_with_cached_vl(z_chunk=z_chunk, **given), plain)


@pytest.mark.parametrize("name", ["sensor_data", "robot_states"])
def test_windows_missing_samples_and_age_matter(
    model: AsyncModel, features: torch.Tensor, windows: dict[str, np.ndarray], name: str
) -> None:
    given = {"vl_features": features, **windows, "vl_age_s": 0.2}
    plain = model.predict_actions_with_cached_vl(**given)
    flags = {"sensor_data": "sensor_missing", "robot_states": "robot_missing"}[name]
    missing = np.ones(windows[name].shape[:2], bool)
    for other in ({name: windows[name] + 1}, {flags: missing}, {"vl_age_s": 2.0}, {"seed": 1}):
        assert not torch.allclose(model.predict_actions_with_cached_vl(**{**given, **other}), plain, atol=1e-6), other


def test_without_an_age_it_counts_from_the_extraction(
    model: AsyncModel, windows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10_000_000_000, 10_750_000_000])
    monkeypatch.setattr("rtvla.models.async_model.now_ns", lambda: next(clock))
    features = model.extract_vl_features([TEXT], [model.spec.fake_frames(0)])
    counted = model.predict_actions_with_cached_vl(features, **one(windows, 0))
    assert torch.equal(counted, model.predict_actions_with_cached_vl(features, **one(windows, 0), vl_age_s=0.75))


def test_features_of_elsewhere_need_an_age(tiny: Path, features: torch.Tensor, windows: dict[str, np.ndarray]) -> None:
    with pytest.raises(CheckpointError, match="vl_age_s"):
        create_async_model(tiny, device="cpu").predict_actions_with_cached_vl(features, **windows)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sensor_window_size": 650}, r"sensor_window = 650 .* trained with 65"),
        ({"image_resize_height": 360}, r"image_height = 360 .* trained with 108"),
        ({"image_resize_width": 640}, r"image_width = 640 .* trained with 192"),
        ({"vlm_reuse_count": 0}, "vlm_reuse_count = 0"),
        ({"finetune_vl": "qlora"}, "finetune_vl"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(tiny: Path, given: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        create_async_model(tiny, device="cpu", **given)


def test_tuned_weights_cannot_come_from_the_hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub"
    make_tiny(hub)
    spec = json.loads((hub / "spec.json").read_text())
    (hub / "spec.json").write_text(json.dumps(spec | {"vl_backbone": "organisation/model", "vl_fingerprint": ""}))
    write_checksums(hub)
    monkeypatch.setattr("rtvla.models.async_model.load_vl_encoder", lambda *_: load_vl_encoder(tiny, "eye"))
    assert create_async_model(hub, device="cpu").spec.on_hub
    with pytest.raises(CheckpointError, match=r'finetune_vl = "lora": .* organisation/model from the hub'):
        create_async_model(hub, finetune_vl="lora", device="cpu")


def test_a_file_of_the_old_system_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "stage1_best.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"rtvla checkpoint import .*stage1_best\.pt DIR"):
        create_async_model(tmp_path / "stage1_best.pt")


@pytest.mark.parametrize("text", ["Insert needle into target", "Perform insertion task", "Perform eye insertion task."])
def test_an_instruction_unlike_the_training_is_refused(model: AsyncModel, text: str) -> None:
    """Regression: trained on a short sentence, run with a prompt of 569 characters."""
    with pytest.raises(CheckpointError, match=r'text ".*of the form "Perform \{task\} insertion task"'):
        model.extract_vl_features([text], [model.spec.fake_frames(0)])


def test_wrong_images_are_refused_by_name(model: AsyncModel, tmp_path: Path) -> None:
    frames = model.spec.fake_frames(0)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for images, said in (
        (frames[:4], r"image_inputs\[0\] has 4 images"),
        ([*frames[:4], tmp_path / "none.jpg"], r"image_inputs\[0\]\[4\] = .*none\.jpg"),
        ([tmp_path / "bad.jpg", *frames[1:]], r"image_inputs\[0\]\[0\] = .*bad\.jpg"),
        ([frames[0].astype(np.float32), *frames[1:]], r"image_inputs\[0\]\[0\] is float32"),
        ([frames[0][..., 0], *frames[1:]], r"image_inputs\[0\]\[0\] is uint8 \(108, 192\)"),
    ):
        with pytest.raises(CheckpointError, match=said):
            model.extract_vl_features([TEXT], [images])
    with pytest.raises(CheckpointError, match="2 text_inputs and 1 image_inputs"):
        model.extract_vl_features([TEXT, TEXT], [frames])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"vl_features": torch.zeros(2, 5, 64)}, r"vl_features are \(2, 5, 64\)"),
        ({"vl_features": torch.zeros(2, 63)}, r"must be \(B, 1, 64\)"),
        ({"sensor_data": None}, "sensor_data is missing"),
        ({"sensor_data": np.zeros((2, 65, 1025))}, r"sensor_data is \(2, 65, 1025\)"),
        ({"sensor_data": np.zeros((2, 64, 1026))}, "sensor window has 64 samples"),
        ({"sensor_data": np.zeros((65, 1026))}, r"sensor_data is \(1, 65, 1026\): must be \(2, "),
        ({"robot_states": "no"}, "robot_states cannot be made a tensor"),
        ({"robot_missing": np.zeros((2, 99), bool)}, r"robot_missing is \(2, 99\)"),
        ({"vl_age_s": -1.0}, "vl_age_s = -1.0"),
        ({"vl_age_s": float("nan")}, "vl_age_s = nan"),
        ({"vl_age_s": [0.1, 0.2, 0.3]}, "2 of them"),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    model: AsyncModel, features: torch.Tensor, windows: dict[str, np.ndarray], given: dict[str, object], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        model.predict_actions_with_cached_vl(**{"vl_features": features, **windows, "vl_age_s": 0.1, **given})


def test_a_disabled_modality_is_left_out(tmp_path: Path, windows: dict[str, np.ndarray]) -> None:
    make_tiny(tmp_path / "blind", sensor_encoder="none")
    blind = create_async_model(tmp_path / "blind", device="cpu")
    features, robot = torch.zeros(2, 1, blind.spec.vl_dim), {"robot_states": windows["robot_states"]}
    assert blind.predict_actions_with_cached_vl(features, **robot, vl_age_s=0.1).shape == (2, 8, 7)
    with pytest.raises(CheckpointError, match="sensor_data is given.*leave it out"):
        blind.predict_actions_with_cached_vl(features, **windows, vl_age_s=0.1)


def test_the_package_names_it_and_costs_no_torch_until_then() -> None:
    code = "import sys, rtvla.models, rtvla.models.spec; print('torch' in sys.modules, hasattr(rtvla.models, 'other'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert rtvla.models.create_async_model is create_async_model


def test_the_example_runs(tiny: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "async_model.py"
    done = subprocess.run(
        [sys.executable, str(example), str(tiny)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as the processes of the pipeline
    )
    assert done.stdout.count("chunk") == 8 and "of (1, 8, 7)" in done.stdout
