"""A Qwen2.5-VL with random weights, made where it is to be measured, and a tokenizer that needs no vocabulary file."""

from __future__ import annotations

import re
import zlib

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from rtvla.models.presets import vl_config

# in the id order of the real tokenizer; the first of them is the config's bos_token_id
_SPECIALS = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"]
_SPECIALS += ["quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]


def random_backbone(preset: str, dtype: str, device: str, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The whole model of a preset, in eval mode, made on `device` itself: nothing of it passes through a file.

    Scaled by fan-in: with the usual 0.02 the features would hardly depend on the picture.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device), torch.random.fork_rng():
            model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**vl_config(preset)))
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=device, dtype=parameter.dtype)
            if "embed_tokens" in name:
                parameter.copy_(noise.mul_(0.5))
            elif parameter.ndim >= 2:
                parameter.copy_(noise.mul_(parameter[0].numel() ** -0.5))
            else:
                parameter.copy_(noise.mul_(0.1).add_(0 if name.endswith("bias") else 1))
    return model.eval().requires_grad_(False)


class StandInTokenizer:
    """The special tokens have their real ids, every other piece of text gets one id.

    Pieces are words with the space before them, single other characters and line breaks, as in the real tokenizer's
    split. The template's words are one token each in the real vocabulary, so the lengths differ by rare words only.
    """

    def __init__(self, preset: str) -> None:
        self._first_special: int = vl_config(preset)["bos_token_id"]
        specials = (f"<|{name}|>" for name in _SPECIALS)
        self._special = {token: self._first_special + at for at, token in enumerate(specials)}
        self._split = re.compile("|".join([*map(re.escape, self._special), r" ?\w+", r"\s", r"\S"]))

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        pieces = self._split.findall(text)
        return {"input_ids": [self._special.get(piece, self._word(piece)) for piece in pieces]}

    def _word(self, piece: str) -> int:
        return zlib.crc32(piece.encode()) % self._first_special
