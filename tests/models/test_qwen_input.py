"""Held against transformers' own processor, chat template and position code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from rtvla.errors import CheckpointError
from rtvla.models import qwen_input
from rtvla.models.qwen_vl import VLEncoder
from rtvla.models.spec import ModelSpec

SPEC = ModelSpec(name="test", vl_backbone="vl", vl_fingerprint="ab" * 32)
HUB = (3136, 12845056)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes with noise, so that a wrong filter or a wrong order of axes shows."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([rows * 0.9, columns * 0.6, (rows + columns) * 0.3], axis=2)
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    return (waves % 196 + noise).astype(np.uint8)


@pytest.mark.parametrize(
    ("rule", "height", "width", "stages"),
    [
        ("origin", 360, 640, [(364, 644), (336, 616)]),  # 264 tokens, not the 299 of the hub's rule
        ("origin", 720, 1280, [(728, 1288), (336, 616)]),
        ("hub", 360, 640, [(364, 644), (364, 644)]),
        ("hub", 270, 480, [(280, 476), (280, 476)]),
    ],
)
def test_sizes_are_those_of_the_origin(rule: str, height: int, width: int, stages: list[tuple[int, int]]) -> None:
    assert qwen_input.resize_stages(height, width, replace(SPEC, image_rule=rule)) == stages


@pytest.mark.parametrize("rule", ["origin", "hub"])
@pytest.mark.parametrize("size", [(360, 640), (720, 1280), (112, 168), (40, 200)])
def test_patches_equal_the_processor(rule: str, size: tuple[int, int]) -> None:
    spec, frame = replace(SPEC, image_rule=rule), picture(*size)
    rows, columns = qwen_input.smart_resize(*size, *HUB)
    opened = Image.fromarray(frame).resize((columns, rows))  # qwen_vl_utils.fetch_image
    low, high = HUB if rule == "hub" else (360 * 640, 360 * 640)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": low, "longest_edge": high})
    expected = processor(images=[opened], return_tensors="np")
    pixels, grid = qwen_input.patches(frame, spec)
    assert (1, *grid) == tuple(expected["image_grid_thw"][0])
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, expected["pixel_values"])


@pytest.mark.parametrize("images", [1, 5])
def test_ids_equal_the_chat_template(encoder: VLEncoder, images: int) -> None:
    tokenizer, grid = encoder._tokenizer, (8, 12)
    content = [{"type": "image"}] * images + [{"type": "text", "text": encoder.prompt}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    expanded = text.replace("<|image_pad|>", "<|image_pad|>" * 24)  # what the processor does with the grid
    assert qwen_input.token_ids(encoder._tokenize, encoder.prompt, [grid] * images) == tokenizer(expanded)["input_ids"]


@pytest.mark.parametrize("grids", [[(8, 12)], [(8, 12)] * 5, [(8, 12), (4, 20), (6, 6)]])
def test_positions_equal_transformers(encoder: VLEncoder, grids: list[tuple[int, int]]) -> None:
    ids = qwen_input.token_ids(encoder._tokenize, encoder.prompt, grids)
    image_id = encoder._model.config.image_token_id
    tokens = torch.tensor([ids])
    expected, _ = encoder._model.get_rope_index(
        tokens,
        image_grid_thw=torch.tensor([(1, *grid) for grid in grids]),
        mm_token_type_ids=(tokens == image_id).int(),
    )
    np.testing.assert_array_equal(qwen_input.rope_positions(ids, grids, image_id), expected[:, 0].numpy())


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((112, 168, 3), np.float32),
        np.zeros((112, 168), np.uint8),
        np.zeros((112, 168, 4), np.uint8),
        np.zeros((0, 168, 3), np.uint8),
        np.zeros((2, 500, 3), np.uint8),
    ],
)
def test_what_is_no_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(CheckpointError, match="frame"):
        qwen_input.patches(frame, SPEC)
