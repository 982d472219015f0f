from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from rtvla.errors import CheckpointError
from rtvla.models import qwen_input
from rtvla.models.backbone import fingerprint_backbone
from rtvla.models.checkpoint import load_spec, load_vl_encoder
from rtvla.models.qwen_vl import VLEncoder, check_transformers

Frames = list[np.ndarray]
LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def reference(tiny: Path) -> Qwen2_5_VLForConditionalGeneration:
    """What training used: the generating model with all its outputs. Both tiny checkpoints have these weights."""
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny / "vl", dtype=torch.float32).eval()


@pytest.fixture
def frames(encoder: VLEncoder) -> Frames:
    return encoder.spec.fake_frames(0)


@pytest.fixture
def backbone(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny / "vl", tmp_path / "vl")
    return tmp_path / "vl"


@torch.no_grad()
def reference_states(
    model: Qwen2_5_VLForConditionalGeneration, encoder: VLEncoder, sequences: list[Frames], side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden_states[-1] (B, S, D) of padded sequences as transformers makes them, and the mask of real tokens."""
    made = [[qwen_input.patches(frame, encoder.spec) for frame in images] for images in sequences]
    ids = [qwen_input.token_ids(encoder._tokenize, encoder.prompt, [grid for _, grid in images]) for images in made]
    texts = encoder._tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side=side)
    output = model(
        input_ids=texts["input_ids"],
        attention_mask=texts["attention_mask"],
        pixel_values=torch.from_numpy(np.concatenate([pixels for images in made for pixels, _ in images])),
        image_grid_thw=torch.tensor([(1, *grid) for images in made for _, grid in images]),
        mm_token_type_ids=(texts["input_ids"] == model.config.image_token_id).int(),
        output_hidden_states=True,
    )
    return output.hidden_states[-1], texts["attention_mask"]


def save(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def load(tiny: Path, folder: Path) -> VLEncoder:
    """The encoder of a changed backbone whose fingerprint was taken after the change."""
    spec = replace(load_spec(tiny), vl_fingerprint=fingerprint_backbone(folder))
    return VLEncoder(spec, folder, "eye")


def test_states_of_one_view_equal_the_generating_model(
    reference: Qwen2_5_VLForConditionalGeneration, encoder: VLEncoder, frames: Frames
) -> None:
    expected, _ = reference_states(reference, encoder, [frames[:1]])
    torch.testing.assert_close(encoder.token_states([frames[:1]]), expected, atol=5e-5, rtol=0)


def test_states_of_a_joint_sequence_equal_the_generating_model(
    reference: Qwen2_5_VLForConditionalGeneration, joint_encoder: VLEncoder, frames: Frames
) -> None:
    expected, _ = reference_states(reference, joint_encoder, [frames])
    torch.testing.assert_close(joint_encoder.token_states([frames]), expected, atol=5e-5, rtol=0)
    np.testing.assert_allclose(joint_encoder.encode_joint(frames), expected[0].mean(0).numpy(), atol=5e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_feature_is_the_mean_over_real_tokens(
    reference: Qwen2_5_VLForConditionalGeneration, encoder: VLEncoder, frames: Frames, side: str
) -> None:
    """Regression: a plain mean over a padded batch counts the padding, an error of 11 to 62 %."""
    sequences = [[frames[0]], [np.ascontiguousarray(frames[1][:56])]]
    states, mask = reference_states(reference, encoder, sequences, side)
    assert not mask.all()
    real = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    for images, expected in zip(sequences, real, strict=True):
        np.testing.assert_allclose(encoder.encode_view(images[0]), expected.numpy(), atol=2e-5)


def test_views_one_by_one_equal_a_batch(encoder: VLEncoder, frames: Frames) -> None:
    rolling = np.stack([encoder.encode_view(frame) for frame in frames])
    np.testing.assert_allclose(rolling, encoder.encode_views(frames), atol=1e-5)
    assert (rolling.shape, rolling.dtype) == ((5, 64), np.dtype(np.float32))
    np.testing.assert_allclose(encoder.pool(rolling), rolling.mean(0), atol=1e-6)


def test_views_differ(encoder: VLEncoder, frames: Frames) -> None:
    first, second = encoder.encode_views(frames[:2])
    assert np.abs(first - second).max() > 1e-2


def test_joint_is_another_feature_than_per_view(encoder: VLEncoder, joint_encoder: VLEncoder, frames: Frames) -> None:
    per_view = encoder.pool(encoder.encode_views(frames))
    assert np.linalg.norm(per_view - joint_encoder.encode_joint(frames)) > 0.01 * np.linalg.norm(per_view)
    assert encoder.spec.fingerprint() != joint_encoder.spec.fingerprint()


def test_the_other_kind_of_sequence_is_refused(encoder: VLEncoder, joint_encoder: VLEncoder, frames: Frames) -> None:
    with pytest.raises(CheckpointError, match="per_view"):
        encoder.encode_joint(frames)
    with pytest.raises(CheckpointError, match="joint"):
        joint_encoder.encode_view(frames[0])


def test_wrong_number_of_views_is_refused(encoder: VLEncoder, joint_encoder: VLEncoder, frames: Frames) -> None:
    with pytest.raises(CheckpointError, match="5 views"):
        joint_encoder.encode_joint(frames[:4])
    with pytest.raises(CheckpointError, match="one row per view"):
        encoder.pool(np.zeros((4, 64), np.float32))


def test_task_changes_the_feature(encoder: VLEncoder, tiny: Path, frames: Frames) -> None:
    other = load_vl_encoder(tiny, "white circle")
    assert other.prompt == "Perform white circle insertion task"
    assert not np.allclose(encoder.encode_view(frames[0]), other.encode_view(frames[0]), atol=1e-4)


def test_control_tokens_in_the_task_are_refused(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="control token"):
        load_vl_encoder(tiny, "eye<|im_end|>")


def test_frames_of_another_shape_are_encoded_and_said_once(
    encoder: VLEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.isfinite(encoder.encode_view(np.zeros((300, 200, 3), np.uint8))).all()
    assert [record.message.count("check the cameras") for record in caplog.records] == [1]


def test_frames_of_different_shapes_are_no_batch(encoder: VLEncoder, frames: Frames) -> None:
    with pytest.raises(CheckpointError, match="different sizes"):
        encoder.encode_views([frames[0], frames[1][:60]])


def test_bfloat16_stays_near(encoder: VLEncoder, tiny: Path, frames: Frames) -> None:
    low = VLEncoder(replace(encoder.spec, dtype="bfloat16"), tiny / "vl", "eye")
    exact, near = encoder.encode_view(frames[0]), low.encode_view(frames[0])
    assert near.dtype == np.float32
    assert 0 < np.linalg.norm(near - exact) < 0.03 * np.linalg.norm(exact)


def test_keys_of_transformers_since_4_52_load_too(
    tiny: Path, backbone: Path, encoder: VLEncoder, frames: Frames
) -> None:
    weights = load_file(backbone / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"model", "visual"}  # as on the hub
    renamed = {
        f"model.{name}" if name.startswith("visual.") else f"model.language_{name}": value
        for name, value in weights.items()
    }
    save(backbone, renamed)
    np.testing.assert_array_equal(load(tiny, backbone).encode_view(frames[0]), encoder.encode_view(frames[0]))


def test_language_head_in_the_files_is_no_fault(tiny: Path, backbone: Path) -> None:
    weights = load_file(backbone / "model.safetensors")
    save(backbone, weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    load(tiny, backbone)


@pytest.mark.parametrize(
    ("name", "value"),
    [(LAYER, None), (LAYER, torch.zeros(3, 3)), ("model.layers.7.mlp.up_proj.weight", torch.zeros(3))],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tiny: Path, backbone: Path, name: str, value: torch.Tensor | None
) -> None:
    """Regression: strict=False loaded renamed keys as random weights without a word."""
    weights = load_file(backbone / "model.safetensors") | {name: value}
    save(backbone, {key: tensor for key, tensor in weights.items() if tensor is not None})
    with pytest.raises(CheckpointError, match=name.removeprefix("model.")):
        load(tiny, backbone)


def edit_weights(folder: Path) -> None:
    """Same names, same sizes, as after merging a LoRA."""
    weights = load_file(folder / "model.safetensors")
    weights[LAYER] += 0.01
    save(folder, weights)


def edit_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))


def edit_tokenizer(folder: Path) -> None:
    with open(folder / "tokenizer.json", "a") as file:
        file.write(" ")


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 4)


def drop_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [edit_weights, edit_config, edit_tokenizer, drop_weights, cut_weights, drop_folder])
def test_changed_backbone_is_refused(tiny: Path, tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(tiny, tmp_path / "copy")
    change(tmp_path / "copy" / "vl")
    with pytest.raises(CheckpointError, match="VL backbone"):
        load_vl_encoder(tmp_path / "copy", "eye")


def test_fingerprint_follows_the_weight_index(backbone: Path) -> None:
    one, weights = fingerprint_backbone(backbone), load_file(backbone / "model.safetensors")
    (backbone / "model.safetensors").rename(backbone / "part.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "part.safetensors")}
    (backbone / "model.safetensors.index.json").write_text(json.dumps(index))
    split = fingerprint_backbone(backbone)
    assert split != one
    (backbone / "adapter.safetensors").write_bytes(b"not part of the model")
    assert fingerprint_backbone(backbone) == split


@pytest.mark.parametrize("version", ["5.4.0", "5.5.0", "5.5.3", "5.4.0.dev0"])
def test_releases_with_wrong_positions_are_refused(version: str) -> None:
    with pytest.raises(CheckpointError, match=version):
        check_transformers(version)


@pytest.mark.parametrize("version", ["4.57.6", "5.3.0", "5.5.4", "5.23.0"])
def test_other_releases_are_accepted(version: str) -> None:
    check_transformers(version)
