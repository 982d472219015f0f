"""How the old experts make one condition of the VL tokens and the features: four ways, the same in v1 and v2."""

from __future__ import annotations

import torch
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.origin.layers import attention

FUSIONS = ("concat", "cross_attention", "gated", "none")


class FusingExpert(nn.Module):
    """The fusion's layers lie beside the expert's own, as in the old files; `last` is the name of the last of them."""

    def __init__(self, vl_dim: int, sensor_dim: int, hidden_dim: int, nhead: int, strategy: str, last: str) -> None:
        super().__init__()
        if strategy not in FUSIONS:
            raise CheckpointError(f'fusion_strategy = "{strategy}": must be one of {", ".join(FUSIONS)}')
        self.strategy, self._last = strategy, last
        width = {"concat": vl_dim + sensor_dim, "none": vl_dim}.get(strategy, hidden_dim)
        if strategy in ("cross_attention", "gated"):
            self.vl_proj, self.sensor_proj = nn.Linear(vl_dim, hidden_dim), nn.Linear(sensor_dim, hidden_dim)
        if strategy == "cross_attention":
            self.cross_attn = attention(hidden_dim, nhead)
        elif strategy == "gated":
            self.gate = nn.Sequential(nn.Linear(2 * hidden_dim, hidden_dim), nn.Sigmoid())
        self.add_module(last, nn.Linear(width, hidden_dim))

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the condition."""
        layer = self.get_submodule(self._last)
        assert isinstance(layer, nn.Linear)
        return layer

    def condition(self, vl: torch.Tensor, *features: torch.Tensor | None) -> torch.Tensor:
        """VL tokens (B, S, vl_dim), sensor and robot feature (B, F), None where there is none -> (B, hidden_dim).

        Without any feature it is the mean of the tokens alone, whatever the strategy, as the old code has it.
        """
        given = [feature for feature in features if feature is not None]
        strategy = self.strategy if given else "none"
        if strategy == "cross_attention":
            fused = self._attend(vl, torch.cat(given, dim=-1))
        elif strategy == "gated":
            fused = self._weigh(vl.mean(1), torch.cat(given, dim=-1))
        else:
            fused = torch.cat([vl.mean(1), *given] if strategy == "concat" else [vl.mean(1)], dim=-1)
        last = self.last
        if fused.shape[-1] != last.in_features:
            raise CheckpointError(
                f"features of {fused.shape[-1]} values in all, but {self._last} takes {last.in_features}: the old code "
                "failed here, or went on with a random projection; give the features that the model was trained with"
            )
        return last(fused)

    def _attend(self, vl: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The features ask, the tokens answer. With one pooled token the answer does not depend on the question."""
        tokens = self.vl_proj(vl)
        return self.cross_attn(self.sensor_proj(features)[:, None], tokens, tokens)[0][:, 0]

    def _weigh(self, vl: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        left, right = self.vl_proj(vl), self.sensor_proj(features)
        gate = self.gate(torch.cat([left, right], dim=-1))
        return gate * left + (1 - gate) * right
