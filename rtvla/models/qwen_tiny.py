"""A Qwen2.5-VL of 0.4 million random parameters that loads offline, for tests and simulation. Not for a robot.

Everything structural is the real model's: a vision tower with windows and one full-attention block, 2x2 merger, M-RoPE,
grouped-query attention, biases, tied embeddings, chat template. The files are in the hub's form, so that the code that
loads this one is the code that loads the real one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from rtvla.models.presets import vl_config

DIM = 64  # of the feature

# Qwen2.5-VL-*-Instruct's own (Apache-2.0). qwen_input.chat_text is what it gives for one message; a test compares them.
_CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# in the id order of the real tokenizer, where the first is 151643
_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"]
_SPECIALS += ["<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"]
_SPECIALS += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
# as in the real tokenizer.json
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = [
    "You are a helpful assistant. system user assistant",
    "Perform eye insertion task. Insert the needle into the eye trocar.",
    "Move the end effector to the white circle and stop when contact is felt.",
    "target red blue green yellow point silicone approach align insert retract hold",
]

_PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def make_tiny_qwen(folder: Path, seed: int, size: str = "tiny") -> None:
    """Writes the backbone into a new folder. The same seed gives the same bytes of weights. `size`: of presets.py."""
    transformers_logging.disable_progress_bar()
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    config = _config(tokenizer, size)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had happened
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    _fill(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    # over what transformers 5 has just written: its nested form and its tokenizer class cannot be read by 4.57
    _write_json(folder / "config.json", {"architectures": ["Qwen2_5_VLForConditionalGeneration"], **config})
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("backend", "extra_special_tokens"):
        settings.pop(name, None)
    settings |= {"tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": _SPECIALS[1:]}
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as in the real one, with a vocabulary of a few hundred instead of 151 643."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder, backend.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=[], show_progress=False, initial_alphabet=alphabet)
    backend.train_from_iterator(_CORPUS * 4, trainer)  # four times: a pair must occur at least twice to be merged
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=_SPECIALS[1:],
        model_max_length=131072,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast, size: str) -> dict[str, Any]:
    """config.json in the flat form of the hub, with our vocabulary."""
    ids = {token: tokenizer.get_vocab()[token] for token in _SPECIALS}
    return {
        **vl_config(size),
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
    }


@torch.no_grad()
def _fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Scaled by fan-in: with the usual 0.02 the features would hardly depend on the picture. No bias is zero."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "embed_tokens" in name:
            parameter.copy_(0.5 * noise)
        elif parameter.ndim >= 2:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.1 * noise + (0 if name.endswith("bias") else 1))
