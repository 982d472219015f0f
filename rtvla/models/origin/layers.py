"""Transformer layers of the old models: torch's own, so that the names and the last bit are those of the old code.

Dropout is left out, because an imported model is only ever run.
"""

from __future__ import annotations

from torch import nn

from rtvla.errors import CheckpointError


def encoder(layers: int, width: int, heads: int, activation: str = "relu") -> nn.TransformerEncoder:
    """Norm before attention and MLP, as every encoder of the old system has it. (B, S, width) -> the same."""
    _check(width, heads)
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, activation, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def decoder(layers: int, width: int, heads: int, activation: str) -> nn.TransformerDecoder:
    """Norm after each step. (B, S, width), memory (B, M, width) -> (B, S, width).

    The old memory is one token, so the attention to it cannot choose: its softmax is 1.
    """
    _check(width, heads)
    layer = nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, activation, batch_first=True)
    return nn.TransformerDecoder(layer, layers)


def attention(width: int, heads: int) -> nn.MultiheadAttention:
    _check(width, heads)
    return nn.MultiheadAttention(width, heads, batch_first=True)


def projection(width: int, out: int) -> nn.Sequential:
    """The end of each old encoder. The fourth place was dropout: the last layer keeps its number."""
    return nn.Sequential(nn.Linear(width, out), nn.LayerNorm(out), nn.GELU(), nn.Identity(), nn.Linear(out, out))


def norm_linear(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))


def _check(width: int, heads: int) -> None:
    if width % heads:
        raise CheckpointError(
            f"old module: {heads} attention heads do not divide a width of {width}; name their number"
        )
