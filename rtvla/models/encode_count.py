"""What an encode really worked on: patches that entered the vision tower, image tokens that entered the language model.

Counted where the tensors arrive, not where they were ordered. A compiled engine has no such places: count one encode of
the modules as they are, then hold the engine's feature against that one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from rtvla.models.qwen_static import Weave
from rtvla.models.qwen_vision import StaticVision


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """The counts of all encodes of this process inside the block."""
    counts = {"vision_patches": 0, "image_tokens": 0}

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, StaticVision):
            counts["vision_patches"] += len(inputs[0])
        elif isinstance(module, Weave):
            counts["image_tokens"] += inputs[0].shape[0] * inputs[0].shape[1]

    hook = register_module_forward_pre_hook(look)
    try:
        yield counts
    finally:
        hook.remove()
