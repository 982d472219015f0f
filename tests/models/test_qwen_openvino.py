"""Every attention of the VL encoder through OpenVINO, at shapes where two axes are of one length.

Its passes over a graph know axes by their lengths. Where tokens are as many as heads, a transpose moved past an
elementwise operation can give the values of one to the other, without an error.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rtvla.models.qwen_engine import as_tuple
from rtvla.models.qwen_language import StaticLanguage
from rtvla.models.qwen_vision import StaticVision
from rtvla.models.qwen_vl import VLEncoder

pytest.importorskip("openvino")

from rtvla.models.qwen_openvino import OpenVino

HEADS, KV_HEADS, VISION_HEADS, HEAD = 4, 2, 4, 16  # of the tiny model


def difference(module: nn.Module, *inputs: torch.Tensor) -> float:
    """The largest of all outputs, relative to the length of the right one."""
    with torch.inference_mode():
        wanted = as_tuple(module(*inputs))
        found = as_tuple(OpenVino().prepare(module, inputs)(*inputs))
    assert len(found) == len(wanted)
    return max(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True))


def test_the_tiny_model_has_these_heads(encoder: VLEncoder) -> None:
    language, vision = encoder._model.language_model.config, encoder._model.visual.config
    assert (language.num_attention_heads, language.num_key_value_heads, vision.num_heads) == (4, 2, 4)


@pytest.mark.parametrize(
    ("tokens", "before", "batch"),
    [
        (HEADS, 0, 1),
        (HEADS, 0, HEADS),
        (HEADS, HEADS, 1),
        (HEADS, 2 * HEADS, 1),  # with a mask
        (KV_HEADS, 0, KV_HEADS),
        (KV_HEADS, 3, 1),
        (HEAD, 0, 1),
        (5, HEADS, HEADS),
    ],
)
def test_language_where_tokens_are_as_many_as_heads(encoder: VLEncoder, tokens: int, before: int, batch: int) -> None:
    """Regression: OpenVINO 2026.4.1 turned each head by the angle of a token; the states were off by 40 to 97 %."""
    language = encoder._model.language_model
    torch.manual_seed(0)
    module = StaticLanguage(language, torch.arange(before + tokens).expand(3, -1), before, before + tokens)
    inputs = [torch.randn(batch, tokens, language.config.hidden_size)]
    if before:
        inputs.append(torch.randn(len(language.layers), 2, 1, KV_HEADS, before, HEAD))
    assert difference(module, *inputs) < 1e-5


@pytest.mark.parametrize(
    ("grid", "views"),
    [
        ((2, 2), 1),  # as many patches as heads
        ((2, 2), VISION_HEADS),
        ((10, 10), 1),  # windows of 64, 16 and 4 patches
        ((8, 12), VISION_HEADS),
        ((2, 8), 1),  # as many patches as values in a head
    ],
)
def test_vision_where_patches_are_as_many_as_heads(encoder: VLEncoder, grid: tuple[int, int], views: int) -> None:
    torch.manual_seed(0)
    module = StaticVision(encoder._model.visual, views, grid)
    patches = torch.randint(0, 256, (views * grid[0] * grid[1], 588), dtype=torch.uint8)
    assert difference(module, patches) < 1e-5
