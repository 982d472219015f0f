"""Loads the Qwen2.5-VL backbone: strictly, from a folder or the hub, never with a transformers known to be wrong."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from rtvla.errors import CheckpointError
from rtvla.models.backbone import verify_backbone
from rtvla.models.spec import ModelSpec

LOG = logging.getLogger(__name__)

_BROKEN = ((5, 4, 0), (5, 5, 3))  # first and last release with a wrong time index for still images (fixed in 5.5.4)
_NOT_NEEDED = {"lm_head.weight"}  # dropped anyway; a folder may lack it where it is not tied to the embedding
_KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


class Backbone(NamedTuple):
    """A loaded model and its tokenizer. Several encoders may share one."""

    model: Qwen2_5_VLModel
    tokenizer: Any


def check_transformers(version: str) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if _BROKEN[0] <= numbers <= _BROKEN[1]:
        raise CheckpointError(
            f"transformers {version}: 5.4.0 to 5.5.3 position still images wrongly; install 5.5.4 or newer, or 4.57"
        )


def load_backbone(spec: ModelSpec, source: str | Path, device: torch.device) -> Backbone:
    """In eval mode on the device, after its fingerprint was held against the spec.

    `source`: the folder of a Qwen2_5_VLForConditionalGeneration, or a hub name.
    """
    check_transformers(transformers.__version__)
    transformers_logging.disable_progress_bar()
    if isinstance(source, Path):
        verify_backbone(source, spec.vl_fingerprint)
    backbone = _load(spec, source, device)
    if not isinstance(source, Path):
        _verify_hub(source, spec)
    return backbone


def _load(spec: ModelSpec, source: str | Path, device: torch.device) -> Backbone:
    """A key too few or too many is an error, not a warning.

    Loaded as the class that it was saved from, for the key names: for that one transformers 5.23 knows the hub's names
    (visual.*) and the newer ones (model.visual.*), for Qwen2_5_VLModel itself only the hub's.
    """
    local = isinstance(source, Path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            source,
            dtype=getattr(torch, spec.dtype),
            attn_implementation="sdpa",  # of the plain call only, which the static one is held against
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
    return Backbone(model.eval().requires_grad_(False).to(device), tokenizer)


def _verify_hub(name: str, spec: ModelSpec) -> None:
    if not spec.vl_fingerprint:
        LOG.warning('spec vl_fingerprint is empty: whatever the hub has as "%s" is used', name)
        return
    config = str(cached_file(name, "config.json", local_files_only=True))  # there: it has just been loaded
    verify_backbone(Path(config).parent, spec.vl_fingerprint)
