"""The language model over embeddings at fixed positions: no head, no cache, keys and values handed on as tensors.

What came before a piece of the sequence is known only by its keys and values, and attention is causal. So a piece gives
the same states whether the rest is computed with it, was computed before it, or comes later.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rtvla.errors import CheckpointError
from rtvla.models.qwen_rotary import rotate, text_tables


class StaticLanguage(nn.Module):
    """Tokens [begin, end) of a sequence whose positions are given: embeddings -> states after the final norm."""

    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor | None

    def __init__(self, language: Any, positions: torch.Tensor, begin: int, end: int) -> None:
        """`positions` (3, S) of the whole sequence."""
        super().__init__()
        config = language.config
        if getattr(config, "use_sliding_window", False):
            raise CheckpointError("VL backbone: use_sliding_window is true; only full attention is built")
        self._heads = (config.num_attention_heads, config.num_key_value_heads)
        self.layers, self.norm = language.layers, language.norm
        device = language.embed_tokens.weight.device
        cos, sin = text_tables(language, positions[:, begin:end].to(device))
        self.register_buffer("cos", cos[:, None], persistent=False)  # the same for all heads
        self.register_buffer("sin", sin[:, None], persistent=False)
        self._begin, sees = begin, None
        if begin > end - begin:  # else attention without a mask, which skips the half that is not seen, is faster
            sees = torch.ones(end - begin, end, dtype=torch.bool, device=device).tril(begin)
        self.register_buffer("mask", sees, persistent=False)

    def forward(self, x: torch.Tensor, past: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, S, D); past (layers, 2, 1, heads, begin, head size) -> states (B, S, D), the same of these tokens."""
        kept, x = [], x.to(self.cos.dtype)
        for at, layer in enumerate(self.layers):
            before = None if past is None else past[at].to(x.dtype)
            attended, own = self._attention(layer.self_attn, layer.input_layernorm(x), before)
            x = x + attended
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            kept.append(own)
        return self.norm(x), torch.stack(kept)

    def _attention(self, module: Any, x: torch.Tensor, past: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        batch, length, _ = x.shape
        own_heads, shared_heads = self._heads
        q, k, v = (
            project(x).view(batch, length, heads, -1)
            for project, heads in (
                (module.q_proj, own_heads),
                (module.k_proj, shared_heads),
                (module.v_proj, shared_heads),
            )
        )
        # before the transposes: OpenVINO 2026.4 moves them past a rotation and then, where length equals heads, turns
        # each head by the angle of a token
        q, k = rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        own = torch.stack((k, v))
        if past is not None:
            k, v = torch.cat((past.expand(-1, batch, -1, -1, -1), own), 3).unbind(0)
        # each pair of key and value serves several queries; spelled out, since not every backend has it built in
        repeats = own_heads // shared_heads
        k, v = (t.unsqueeze(2).expand(-1, -1, repeats, -1, -1).flatten(1, 2) for t in (k, v))
        if self.mask is None:  # with a row of zeros for each earlier token, so that rows and columns agree
            rows = functional.pad(q, (0, 0, self._begin, 0))
            mixed = functional.scaled_dot_product_attention(rows, k, v, is_causal=True)[:, :, self._begin :]
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return module.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1)), own
