"""Floating-point operations of one VL encode, by formula; an addition and a multiplication count one each.

Per layer: every weight matrix of m x n costs 2 m n a token (Kaplan et al., "Scaling Laws for Neural Language Models",
2020, section 2.1); attention costs 4 d n^2 for QK^T and PV over n tokens, of which a causal model needs half (Dao,
"FlashAttention-2", 2023, section 4.1). Norms, activations, rotations and the pooling are left out: under 1 %. The
language head is left out too, since the encoder does not need it; `lm_head` is what the plain call spends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Grid = tuple[int, int]  # patches, rows first


def encode_flops(config: Mapping[str, Any], grid: Grid, views: int, sequences: int, length: int) -> dict[str, float]:
    """Of `views` pictures of `grid` in `sequences` sequences of `length` tokens: vision, language, their total; and
    lm_head beside it."""
    vision = views * vision_flops(config["vision_config"], grid)
    language = sequences * language_flops(config, length)
    head = 2.0 * sequences * length * config["hidden_size"] * config["vocab_size"]
    return {"vision": vision, "language": language, "total": vision + language, "lm_head": head}


def vision_flops(vision: Mapping[str, Any], grid: Grid) -> float:
    """Of one image through the vision tower: window attention but for `fullatt_block_indexes`, then the merger."""
    width, merge = vision["hidden_size"], vision["spatial_merge_size"]
    patches, depth, full = grid[0] * grid[1], vision["depth"], len(vision["fullatt_block_indexes"])
    embed = 2.0 * patches * vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * width
    layers = 2.0 * patches * depth * (4 * width**2 + 3 * width * vision["intermediate_size"])
    pairs = (depth - full) * sum(size**2 for size in windows(vision, grid)) + full * patches**2
    merged = merge**2 * width
    merger = 2.0 * (patches // merge**2) * (merged**2 + merged * vision["out_hidden_size"])
    return embed + layers + 4.0 * width * pairs + merger


def windows(vision: Mapping[str, Any], grid: Grid) -> list[int]:
    """Patches in each attention window; those at the right and the lower edge are smaller."""
    merge = vision["spatial_merge_size"]
    side = vision["window_size"] // vision["patch_size"] // merge  # in merged tokens
    rows, columns = ([min(side, n // merge - at) for at in range(0, n // merge, side)] for n in grid)
    return [height * width * merge**2 for height in rows for width in columns]


def language_flops(config: Mapping[str, Any], length: int) -> float:
    """Of one sequence through the decoder layers, without the head."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    key_value = 2 * config["num_key_value_heads"] * (width // heads)
    weights = 2 * width**2 + key_value * width + 3 * width * config["intermediate_size"]
    return config["num_hidden_layers"] * (2.0 * length * weights + 2.0 * width * length**2)
