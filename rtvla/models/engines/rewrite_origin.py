"""OriginModel -> LeanModel. Exact but for the order of float32 sums.

* Batch norms go into the convolutions before them.
* Of a concat fusion each feature has its slice; the last layer of an encoder and its slice are one matrix.
* The decoders attend to one token, so softmax is 1 and attention is a matrix: one for all layers. Their first layer
  begins with attention of constant queries among themselves, which is a constant.
* The condition and the time embeddings leave the loop of the sampling, where the old code computed both at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rtvla.models.engines.lean import Evaluate, LeanModel, Part, find_times
from rtvla.models.engines.surgery import Call, fold_batch_norms, join, linear, only, split, twin
from rtvla.models.origin.diffusion import V1DiffusionActionExpert
from rtvla.models.origin.flow import FlowMatchingActionExpert
from rtvla.models.origin.fusion import FusingExpert
from rtvla.models.origin.model import OriginModel
from rtvla.models.origin.regression import QwenActionExpert, QwenActionExpertWithSensor
from rtvla.models.spec import ModelSpec

Stages = Mapping[str, tuple[Part, ...]]
_FUSION_LAYERS = ("sensor_proj", "gate", "cross_attn", "fusion_proj", "cond_proj")
_ENCODERS = {"sensor": "sensor_encoder", "robot": "robot_state_encoder"}


class Sampling(NamedTuple):
    """How an expert comes from a condition to a chunk."""

    walk: Callable[[torch.Tensor, torch.Tensor, Evaluate], torch.Tensor]
    embed_time: Callable[[torch.Tensor], torch.Tensor] | None  # None: it asks its network once, at no time
    net: Part


class OneTokenDecoder(nn.Module):
    """A TransformerDecoder whose memory is one token and whose queries are always the same."""

    def __init__(self, decoder: Any, queries: torch.Tensor) -> None:
        super().__init__()
        self.layers = decoder.layers
        self.attend = _attention_to_one(decoder.layers)
        first = decoder.layers[0]
        with torch.no_grad():
            start = first.norm1(queries + first.self_attn(queries, queries, queries, need_weights=False)[0])
        self.start = nn.Parameter(start, requires_grad=False)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """(1, H, E) that is not looked at, (1, 1, E) -> (1, H, E)."""
        told = self.attend(memory).chunk(len(self.layers), dim=-1)
        x = self.start
        for at, layer in enumerate(self.layers):
            if at:
                x = layer.norm1(x + layer.self_attn(x, x, x, need_weights=False)[0])
            x = layer.norm2(x + told[at])
            x = layer.norm3(x + layer.linear2(layer.activation(layer.linear1(x))))
        return x


def _attention_to_one(layers: Any) -> nn.Linear:
    """What each layer's attention to a single token adds, for all layers at once: (1, E) -> (1, layers * E)."""
    each = []
    for layer in layers:
        attention = layer.multihead_attn
        value, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        each.append(join(linear(value, bias), attention.out_proj))
    return linear(torch.cat([one.weight for one in each]), torch.cat([one.bias for one in each]))


class AddParts(nn.Module):
    """The condition of a concat fusion behind its slices. The old models are not told the age of the VL feature."""

    def forward(self, vl: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return sum(others, start=vl)


class Condition(nn.Module):
    """A gated or cross-attention fusion behind its projection of the VL feature."""

    def __init__(self, expert: FusingExpert, uses: list[str]) -> None:
        super().__init__()
        layers = [name for name, _ in expert.named_children() if name in _FUSION_LAYERS]
        self.expert, self.uses = only(expert, *layers), uses
        self.expert.vl_proj = nn.Identity()

    def forward(self, vl: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        given = dict(zip(self.uses, others, strict=True))
        return self.expert.condition(vl[:, None], given.get("sensor"), given.get("robot"))


class SameForEachStep(nn.Module):
    """QwenActionExpert behind its VL context: its steps differ by their z_chunk alone, which is zeros."""

    def __init__(self, expert: QwenActionExpert) -> None:
        super().__init__()
        self.expert = only(expert, "temporal_encoder", "delta_head")

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        x = functional.gelu(context)[:, None].expand(-1, self.expert.horizon, -1)
        return self.expert.delta_head(self.expert.temporal_encoder(x))


def rewrite(model: OriginModel) -> LeanModel:
    expert: Any = model.action_expert
    stages = _vl_alone(expert) if isinstance(expert, QwenActionExpert) else _encoders_and_fusion(model, expert)
    sampling = next(make for kind, make in _SAMPLINGS if isinstance(expert, kind))(expert, model.spec)
    noise = model.noise(1, None)
    times = torch.zeros(1, 1)
    if sampling.embed_time is not None:
        times = find_times(sampling.walk, sampling.embed_time, noise)
    return LeanModel(model.spec, {**stages, "net": (sampling.net,)}, times, sampling.walk, tuple(noise.shape))


def _vl_alone(expert: Any) -> Stages:
    enter = expert.input_proj[0]
    context = nn.Sequential(expert.context_proj, linear(enter.weight[:, : -expert.action_dim], enter.bias))
    return {
        "vl": (Part(context, ("vl",), "vl_part", exact=True),),
        "condition": (Part(nn.Identity(), ("vl_part",), "condition", exact=True),),
    }


def _encoders_and_fusion(model: OriginModel, expert: Any) -> Stages:
    built = [name for name, encoder in _ENCODERS.items() if getattr(model, encoder) is not None]
    # the diffusion experts' signature had no place for the robot state
    uses = [name for name in built if name == "sensor" or not isinstance(expert, V1DiffusionActionExpert)]
    strategy = expert.strategy if uses else "none"
    uses = [] if strategy == "none" else uses
    slices: Sequence[nn.Linear | None]
    if strategy in ("none", "concat"):
        widths = [getattr(model, _ENCODERS[name]).output_dim for name in uses]
        vl, *slices = split(expert.last, [expert.last.in_features - sum(widths), *widths])
        fuse: nn.Module = AddParts()
    else:
        vl, slices, fuse = expert.vl_proj, [None] * len(uses), Condition(expert, uses)
    stages: dict[str, tuple[Part, ...]] = {"vl": (Part(vl, ("vl",), "vl_part", exact=True),)}
    for name, layer in zip(uses, slices, strict=True):
        stages[name] = (Part(_encoder(model, name, layer), (name,), f"{name}_part"),)
    inputs = ("vl_part", *(f"{name}_part" for name in uses))
    return stages | {"condition": (Part(fuse, inputs, "condition", exact=True),)}


def _encoder(model: OriginModel, name: str, into: nn.Linear | None) -> nn.Module:
    """The encoder of a window, as the model calls it, with its slice of the fusion as its last layer."""
    encoder = twin(getattr(model, _ENCODERS[name]))
    fold_batch_norms(encoder)
    if into is not None and hasattr(encoder, "projection"):
        encoder.projection[-1] = join(encoder.projection[-1], into)
    elif into is not None:
        encoder = nn.Sequential(encoder, into)
    owner = only(model)
    setattr(owner, _ENCODERS[name], encoder)
    return Call(owner, f"encode_{name}", None)  # it cannot see what is missing


def _flow(expert: Any, spec: ModelSpec) -> Sampling:
    sampler = only(expert)

    def walk(condition: torch.Tensor, noise: torch.Tensor, evaluate: Evaluate) -> torch.Tensor:
        sampler.velocity = evaluate
        return sampler.sample(noise, condition, spec.flow_steps, spec.flow_solver)

    return Sampling(walk, expert.embed_time, _denoiser(expert, "action_embed", "velocity_net", "output_head"))


def _diffusion(expert: Any, spec: ModelSpec) -> Sampling:
    sampler = only(expert)

    def walk(condition: torch.Tensor, noise: torch.Tensor, evaluate: Evaluate) -> torch.Tensor:
        sampler.noise_in = evaluate
        if spec.diffusion_sampler == "ddpm":
            return sampler.ddpm(noise, condition)
        return sampler.ddim(noise, condition, spec.diffusion_steps)

    return Sampling(walk, expert.embed_time, _denoiser(expert, "action_embed", "temporal_encoder", *_heads(expert)))


def _denoiser(expert: nn.Module, *layers: str) -> Part:
    return Part(Call(only(expert, *layers), "denoise"), ("x", "told"), "v")


def _heads(expert: nn.Module) -> list[str]:
    return [name for name, _ in expert.named_children() if name.endswith("_head")]


def _vl_alone_at_once(expert: Any, spec: ModelSpec) -> Sampling:
    return Sampling(_at_once, None, Part(SameForEachStep(expert), ("told",), "v"))


def _regression(expert: Any, spec: ModelSpec) -> Sampling:
    owner = only(expert, *_heads(expert))
    owner.temporal_decoder = OneTokenDecoder(expert.temporal_decoder, expert.pos_embed)
    return Sampling(_at_once, None, Part(Call(owner, "decode"), ("told",), "v"))


def _at_once(condition: torch.Tensor, noise: torch.Tensor, evaluate: Evaluate) -> torch.Tensor:
    return evaluate(None, None, condition)


_SAMPLINGS: tuple[tuple[type[nn.Module], Callable[[Any, ModelSpec], Sampling]], ...] = (
    (FlowMatchingActionExpert, _flow),
    (V1DiffusionActionExpert, _diffusion),
    (QwenActionExpert, _vl_alone_at_once),
    (QwenActionExpertWithSensor, _regression),
)
