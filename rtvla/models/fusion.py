"""VL feature with its age, sensor feature, robot feature -> the condition of the expert.

A disabled modality comes as (B, 0) and has no weights here; `none` is the VL feature alone.

Every way begins with one normalisation a modality: three scales that have nothing to do with each other, and none may
drown the others.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from rtvla.models.spec import ModelSpec

_YOUNG_S = 0.1  # ages below it are all young: a view is never used sooner
_OLD_S = 60.0  # and above it all old, so that no age drives the condition anywhere


class Fusion(nn.Module):
    """What the ways share. `widths` are those of the modalities in use, VL first."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.widths = tuple(spec.feature_widths.values())
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths)
        self.age = nn.Linear(2, spec.expert_hidden, bias=False) if spec.vl_age_input else None

    def parts(self, *features: torch.Tensor) -> list[torch.Tensor]:
        """The features in use, each normalised."""
        used = [feature for feature in features if feature.shape[-1]]
        return [norm(feature) for norm, feature in zip(self.norms, used, strict=True)]

    def with_age(self, x: torch.Tensor, vl_age_s: torch.Tensor) -> torch.Tensor:
        """`x` (B, expert_hidden) marked with the age (B,) of the VL feature in it, if the model is told."""
        return x if self.age is None else x + self.age(age_numbers(vl_age_s))


def age_numbers(age_s: torch.Tensor) -> torch.Tensor:
    """(B,) seconds -> (B, 2), both in 0..1: one that moves most below a second, one that still tells 5 s from 50 s."""
    age = age_s.clamp(0.0, _OLD_S)
    return torch.stack([torch.exp(-age), torch.log1p(age / _YOUNG_S) / math.log1p(_OLD_S / _YOUNG_S)], dim=-1)


class ConcatFusion(Fusion):
    """One linear map of everything side by side. Of the VL feature alone it is the way called `none`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.project = nn.Linear(sum(self.widths), spec.expert_hidden)

    def forward(
        self, vl: torch.Tensor, vl_age_s: torch.Tensor, sensor: torch.Tensor, robot: torch.Tensor
    ) -> torch.Tensor:
        """(B, vl_dim), (B,), (B, sensor_dim), (B, robot_dim) -> (B, expert_hidden)."""
        return self.with_age(self.project(torch.cat(self.parts(vl, sensor, robot), dim=-1)), vl_age_s)


class TokenFusion(Fusion):
    """One token a modality, all of the expert's width. The bias of each projection is its modality's embedding."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.project = nn.ModuleList(nn.Linear(width, spec.expert_hidden) for width in self.widths)

    def tokens(
        self, vl: torch.Tensor, vl_age_s: torch.Tensor, sensor: torch.Tensor, robot: torch.Tensor
    ) -> torch.Tensor:
        """-> (B, modalities, expert_hidden), VL first."""
        parts = self.parts(vl, sensor, robot)
        first, *rest = [project(part) for project, part in zip(self.project, parts, strict=True)]
        return torch.stack([self.with_age(first, vl_age_s), *rest], dim=1)


class CrossAttentionFusion(TokenFusion):
    """A learned query attends over the tokens of the modalities, so each of them has a say, by its content.

    Insertion_VLAv2 asks with sensor and robot over the one pooled VL token. The softmax over one key is 1, whatever the
    query is: there sensor and robot have no influence at all. Here they are keys and values like the VL feature.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        width, self.heads = spec.expert_hidden, spec.expert_heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(1, self.heads, 1, width // self.heads))
        # keys without a bias: softmax cancels it, so it could never learn
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, vl: torch.Tensor, vl_age_s: torch.Tensor, sensor: torch.Tensor, robot: torch.Tensor
    ) -> torch.Tensor:
        """(B, vl_dim), (B,), (B, sensor_dim), (B, robot_dim) -> (B, expert_hidden)."""
        tokens = self.norm(self.tokens(vl, vl_age_s, sensor, robot))
        batch, count, width = tokens.shape
        shape = (batch, count, self.heads, width // self.heads)
        key, value = (of(tokens).view(shape).transpose(1, 2) for of in (self.key, self.value))
        seen = functional.scaled_dot_product_attention(self.query.expand(batch, -1, -1, -1), key, value)
        return self.out(seen.reshape(batch, width))


class GatedFusion(TokenFusion):
    """A gate a modality and channel, opened by what all modalities say, then the sum.

    Arevalo et al., "Gated Multimodal Units for Information Fusion" (ICLR 2017 workshop), section 3, for any number of
    modalities; without their tanh, since the parts are normalised before.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        width = len(self.widths) * spec.expert_hidden
        self.gate = nn.Linear(width, width)

    def forward(
        self, vl: torch.Tensor, vl_age_s: torch.Tensor, sensor: torch.Tensor, robot: torch.Tensor
    ) -> torch.Tensor:
        """(B, vl_dim), (B,), (B, sensor_dim), (B, robot_dim) -> (B, expert_hidden)."""
        tokens = self.tokens(vl, vl_age_s, sensor, robot)
        gates = self.gate(tokens.flatten(1)).sigmoid().view_as(tokens)
        return (gates * tokens).sum(1)


FUSIONS: dict[str, type[ConcatFusion] | type[CrossAttentionFusion] | type[GatedFusion]] = {
    "concat": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "gated": GatedFusion,
    "none": ConcatFusion,
}
