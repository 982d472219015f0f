"""VLEncoder: frames and a prompt -> one vector, by the frozen Qwen2.5-VL. Alone at run time to know transformers.

The base model, without the language head, the KV cache and the hidden-state list, gives exactly the last hidden state
that training read, in less time. Not real-time safe: an encode takes milliseconds (tiny) to seconds (3B on a CPU).
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.utils import cached_file, is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from rtvla.errors import CheckpointError
from rtvla.models import qwen_input
from rtvla.models.backbone import verify_backbone
from rtvla.models.qwen_input import Grid, Rgb
from rtvla.models.spec import ModelSpec

F32 = npt.NDArray[np.float32]
LOG = logging.getLogger(__name__)

_BROKEN = ((5, 4, 0), (5, 5, 3))  # first and last release with a wrong time index for still images (fixed in 5.5.4)
_NOT_NEEDED = {"lm_head.weight"}  # dropped anyway; a folder may lack it where it is not tied to the embedding
_KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


class VLEncoder:
    """One model, one task text. `encode_view` and `pool` for per_view specs, `encode_joint` for joint ones."""

    def __init__(self, spec: ModelSpec, source: str | Path, task: str, device: str = "cpu") -> None:
        """`source`: the folder of a Qwen2_5_VLForConditionalGeneration, or a hub name."""
        check_transformers(transformers.__version__)
        transformers_logging.disable_progress_bar()
        if "<|" in task:
            raise CheckpointError(f'task "{task}": "<|" would be read as a control token; name the task in plain words')
        self.spec, self.prompt = spec, spec.prompt.format(task=task)
        self._device = torch.device(device)
        if isinstance(source, Path):
            verify_backbone(source, spec.vl_fingerprint)
        self._model, self._tokenizer = _load(spec, source, self._device)
        if not isinstance(source, Path):
            _verify_hub(source, spec)
        dim = self._model.language_model.config.hidden_size
        if dim != spec.vl_dim:
            raise CheckpointError(f"VL backbone {source}: features have {dim} values, spec vl_dim = {spec.vl_dim}")
        self._text = functools.lru_cache(maxsize=16)(self._build_text)  # constant for a given size of the frames
        self._expected = qwen_input.grid_of(spec.image_height, spec.image_width, spec)

    def encode_view(self, rgb: Rgb) -> F32:
        """(H, W, 3) uint8 RGB -> (D,)."""
        return self.encode_views([rgb])[0]

    def encode_views(self, frames: Sequence[Rgb]) -> F32:
        """Frames of one size, each in its own sequence: V x (H, W, 3) -> (V, D). The same vectors as one by one."""
        self._require("per_view")
        return _mean(self.token_states([[frame] for frame in frames]))

    def encode_joint(self, frames: Sequence[Rgb]) -> F32:
        """One frame per view in the order of spec.views, all in one sequence: V x (H, W, 3) -> (D,)."""
        self._require("joint")
        if len(frames) != len(self.spec.views):
            raise CheckpointError(f"{len(frames)} frames given: a joint sequence needs {len(self.spec.views)} views")
        return _mean(self.token_states([frames]))[0]

    def pool(self, per_view: F32) -> F32:
        """(V, D) -> (D,): the feature of a set of views."""
        expected = (len(self.spec.views), self.spec.vl_dim)
        if per_view.shape != expected:
            raise CheckpointError(f"per-view features are {per_view.shape}: must be {expected}, one row per view")
        return per_view.mean(axis=0, dtype=np.float32)

    def _require(self, sequence: str) -> None:
        if self.spec.vl_sequence != sequence:
            raise CheckpointError(
                f"{sequence} was asked for, but the checkpoint was trained on vl_sequence = {self.spec.vl_sequence}, "
                "another feature: use the encode method of that kind"
            )

    @torch.inference_mode()
    def token_states(self, sequences: Sequence[Sequence[Rgb]]) -> torch.Tensor:
        """B sequences of frames -> their last hidden states (B, S, D) on the device, after the final norm.

        All sequences must be equally long, so there is no padding: every token is real and no mask is needed.
        """
        made = [[qwen_input.patches(frame, self.spec) for frame in frames] for frames in sequences]
        grids = [tuple(grid for _, grid in images) for images in made]
        if len(set(grids)) != 1:
            raise CheckpointError(f"frames give the patch grids {grids}: encode frames of different sizes one by one")
        ids, positions = self._text(grids[0])
        pixels = np.concatenate([pixels for images in made for pixels, _ in images])
        states: torch.Tensor = self._model(
            input_ids=ids.expand(len(made), -1),
            position_ids=positions.expand(-1, len(made), -1),
            pixel_values=torch.from_numpy(pixels).to(self._device),
            image_grid_thw=torch.tensor([(1, *grid) for images in grids for grid in images], device=self._device),
            use_cache=False,
        ).last_hidden_state
        return states

    def _build_text(self, grids: tuple[Grid, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (1, S) and positions (3, 1, S) of one sequence."""
        if set(grids) != {self._expected}:
            LOG.warning(
                "frames give patch grids %s, the model was trained on %s: check the cameras", grids, self._expected
            )
        ids = qwen_input.token_ids(self._tokenize, self.prompt, grids)
        positions = qwen_input.rope_positions(ids, grids, self._model.config.image_token_id)
        return torch.tensor([ids], device=self._device), torch.from_numpy(positions)[:, None].to(self._device)

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _mean(states: torch.Tensor) -> F32:
    """(B, S, D) -> (B, D) over the tokens. In float32: taken in bfloat16 it loses nearly as much as the whole model."""
    feature: F32 = states.float().mean(1).cpu().numpy()
    return feature


def check_transformers(version: str) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if _BROKEN[0] <= numbers <= _BROKEN[1]:
        raise CheckpointError(
            f"transformers {version}: 5.4.0 to 5.5.3 position still images wrongly; install 5.5.4 or newer, or 4.57"
        )


def _attention(spec: ModelSpec, device: torch.device) -> str:
    if device.type != "cuda" or spec.dtype == "float32":
        return "sdpa"
    if is_flash_attn_2_available():
        return "flash_attention_2"
    LOG.warning(
        "flash_attn is not installed: attention falls back to sdpa, one call per window of each view; it is slower"
    )
    return "sdpa"


def _load(
    spec: ModelSpec, source: str | Path, device: torch.device
) -> tuple[Qwen2_5_VLModel, transformers.PreTrainedTokenizerBase]:
    """The model in eval mode on the device, and its tokenizer. A key too few or too many is an error, not a warning.

    Loaded as the class that it was saved from, for the key names: for that one transformers 5.23 knows the hub's names
    (visual.*) and the newer ones (model.visual.*), for Qwen2_5_VLModel itself only the hub's.
    """
    local, attention = isinstance(source, Path), _attention(spec, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            source,
            dtype=getattr(torch, spec.dtype),
            attn_implementation=attention,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"VL backbone {source} cannot be loaded: {error}") from error
    model, info = loaded[0].model, loaded[1]
    faults = {kind: sorted(map(str, set(info.get(kind) or ()) - _NOT_NEEDED)) for kind in _KINDS}
    if any(faults.values()):
        raise CheckpointError(
            f"VL backbone {source} does not fit Qwen2.5-VL: { {k: v for k, v in faults.items() if v} }"
        )
    if model.config._attn_implementation != attention:
        LOG.warning("attention is %s instead of %s: slower", model.config._attn_implementation, attention)
    return model.eval().requires_grad_(False).to(device), tokenizer


def _verify_hub(name: str, spec: ModelSpec) -> None:
    if not spec.vl_fingerprint:
        LOG.warning('spec vl_fingerprint is empty: whatever the hub has as "%s" is used', name)
        return
    config = str(cached_file(name, "config.json", local_files_only=True))  # there: it has just been loaded
    verify_backbone(Path(config).parent, spec.vl_fingerprint)
