"""VlaModel -> LeanModel. Exact but for the order of float32 sums.

The fusion comes apart by modality (its norm and its slice of the projection), so the VL feature passes its part once
and only the age mark is added each tick. The time embeddings of all evaluations are constants. There is no batch
normalisation to fold, and a norm lies between the last layer of an encoder and the fusion, so those stay two layers.
"""

from __future__ import annotations

import torch
from torch import nn

from rtvla.models.engines.lean import Evaluate, LeanModel, Part, find_times
from rtvla.models.engines.surgery import Call, only, split, twin
from rtvla.models.experts import RegressionExpert
from rtvla.models.fusion import ConcatFusion, TokenFusion
from rtvla.models.vla import VlaModel


class AddParts(nn.Module):
    """ConcatFusion behind its slices."""

    def __init__(self, fusion: ConcatFusion) -> None:
        super().__init__()
        self.fusion = only(fusion, *(["age"] if fusion.age is not None else []))

    def forward(self, vl: torch.Tensor, vl_age_s: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return self.fusion.with_age(sum(others, start=vl), vl_age_s)


class FuseTokens(nn.Module):
    """A TokenFusion behind its projections."""

    def __init__(self, fusion: TokenFusion, uses: list[str]) -> None:
        super().__init__()
        self.fusion, self.uses = twin(fusion), uses
        for name in ("norms", "project"):
            setattr(self.fusion, name, nn.ModuleList(nn.Identity() for _ in ("vl", *uses)))

    def forward(self, vl: torch.Tensor, vl_age_s: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        given, none = dict(zip(self.uses, others, strict=True)), vl.new_zeros(len(vl), 0)
        return self.fusion(vl, vl_age_s, given.get("sensor", none), given.get("robot", none))


def rewrite(model: VlaModel) -> LeanModel:
    spec, fusion, expert = model.spec, model.fusion, model.expert
    uses = [name for name in spec.feature_widths if name != "vl"]
    if isinstance(fusion, ConcatFusion):
        fuse: nn.Module = AddParts(fusion)
        slices = split(fusion.project, fusion.widths)
    else:
        assert isinstance(fusion, TokenFusion)
        fuse, slices = FuseTokens(fusion, uses), [*fusion.project]
    into = {
        name: nn.Sequential(norm, layer) for name, norm, layer in zip(("vl", *uses), fusion.norms, slices, strict=True)
    }
    stages: dict[str, tuple[Part, ...]] = {"vl": (Part(into["vl"], ("vl",), "vl_part", exact=True),)}
    for name in uses:
        read = Part(Call(only(model, "normalizer"), f"read_{name}"), (name, f"{name}_missing"), f"{name}_window", True)
        encode = nn.Sequential(getattr(model, f"{name}_encoder"), into[name])
        stages[name] = (read, Part(encode, (f"{name}_window",), f"{name}_part"))
    inputs = ("vl_part", "vl_age_s", *(f"{name}_part" for name in uses))
    stages["condition"] = (Part(fuse, inputs, "condition", exact=True),)

    if isinstance(expert, RegressionExpert):
        stages["net"] = (Part(expert, ("told",), "v"),)
        times = torch.zeros(1, 1)

        def walk(condition: torch.Tensor, noise: torch.Tensor, evaluate: Evaluate) -> torch.Tensor:
            return evaluate(None, None, condition)

    else:
        stages["net"] = (Part(Call(only(expert, "embed", "blocks", "head"), "denoise"), ("x", "told"), "v"),)
        sampler = only(expert)

        def walk(condition: torch.Tensor, noise: torch.Tensor, evaluate: Evaluate) -> torch.Tensor:
            sampler.velocity = evaluate
            return sampler.sample(condition, noise)

        times = find_times(walk, expert.embed_time, model.noise(1, None))
    units = (model.normalizer.get_buffer("action_std"), model.normalizer.get_buffer("action_mean"))
    return LeanModel(spec, stages, times, walk, tuple(model.noise(1, None).shape), units)
