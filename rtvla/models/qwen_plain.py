"""The plain transformers call: what every faster way of encoding is held against, and the last resort for odd sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import Qwen2_5_VLModel

from rtvla.errors import CheckpointError
from rtvla.models import qwen_input
from rtvla.models.qwen_input import Rgb
from rtvla.models.spec import ModelSpec


@torch.inference_mode()
def plain_states(
    model: Qwen2_5_VLModel,
    tokenize: Callable[[str], list[int]],
    prompt: str,
    spec: ModelSpec,
    sequences: Sequence[Sequence[Rgb]],
) -> torch.Tensor:
    """B sequences of frames (H, W, 3) -> last hidden states (B, S, D) on the model's device, after the final norm.

    The base model, without the language head, gives exactly the hidden_states[-1] that training read. All sequences
    must be equally long, so there is no padding: every token is real and no mask is needed.
    """
    made = [[qwen_input.patches(frame, spec) for frame in frames] for frames in sequences]
    grids = [tuple(grid for _, grid in images) for images in made]
    if len(set(grids)) != 1:
        raise CheckpointError(f"frames give the patch grids {grids}: encode frames of different sizes one by one")
    ids = qwen_input.token_ids(tokenize, prompt, grids[0])
    positions = torch.from_numpy(qwen_input.rope_positions(ids, grids[0], model.config.image_token_id))
    pixels = np.concatenate([pixels for images in made for pixels, _ in images])
    states: torch.Tensor = model(
        input_ids=torch.tensor([ids], device=model.device).expand(len(made), -1),
        position_ids=positions[:, None].to(model.device).expand(-1, len(made), -1),
        pixel_values=torch.from_numpy(pixels).to(model.device),
        image_grid_thw=torch.tensor([(1, *grid) for images in grids for grid in images], device=model.device),
        use_cache=False,
    ).last_hidden_state
    return states
