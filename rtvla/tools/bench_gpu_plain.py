"""The plain transformers call on the same weights and pictures, as a system without an encoder of its own makes it.

The whole model: language head, KV cache and the list of all hidden states included, of which only the last is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rtvla.models import qwen_input
from rtvla.models.spec import ModelSpec

Rgb = npt.NDArray[np.uint8]


def prepare(spec: ModelSpec, tokenizer: Any, frames: Sequence[Rgb], image_id: int, device: str) -> dict[str, Any]:
    """The arguments of the call: one sequence of all frames (joint) or a batch of one frame each, on the device."""
    made = [qwen_input.patches(frame, spec) for frame in frames]
    grids = [grid for _, grid in made]
    sequences = [grids] if spec.vl_sequence == "joint" else [[grid] for grid in grids]
    prompt = spec.prompt.format(task="eye")
    ids = [qwen_input.token_ids(lambda text: tokenizer(text)["input_ids"], prompt, of_one) for of_one in sequences]
    pairs = zip(ids, sequences, strict=True)
    positions = np.stack([qwen_input.rope_positions(one, of_one, image_id) for one, of_one in pairs], axis=1)
    return {
        "input_ids": torch.tensor(ids, device=device),
        "position_ids": torch.from_numpy(positions).to(device),
        "pixel_values": torch.from_numpy(np.concatenate([pixels for pixels, _ in made])).to(device),
        "image_grid_thw": torch.tensor([(1, *grid) for grid in grids], device=device),
    }


@torch.inference_mode()
def encode(whole: Any, inputs: dict[str, Any]) -> npt.NDArray[np.float32]:
    """(D,) on the host: the mean over the tokens, then over the sequences."""
    states = whole(**inputs, output_hidden_states=True, use_cache=True).hidden_states[-1]
    feature: npt.NDArray[np.float32] = states.float().mean(1).mean(0).cpu().numpy()
    return feature
