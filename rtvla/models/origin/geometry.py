"""The constructor arguments of an old module, read from the shapes of its tensors.

What shapes cannot say is assumed as every old script had it, and can be said otherwise: the number of attention heads,
the length that a sensor window is resampled to, the horizon of an expert without positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from rtvla.errors import CheckpointError
from rtvla.models.origin.classes import CLASSES, build
from rtvla.models.origin.facts import Argument, Part

Tensors = Mapping[str, torch.Tensor]
Arguments = dict[str, Argument]


@dataclass(frozen=True)
class Assumed:
    """Of a module, what is not in its tensors."""

    heads: int = 8
    sensor_length: int = 65  # samples, after resampling
    interpolation: str = "linear"
    horizon: int = 8  # where there are no positions that say it
    timesteps: int = 100  # of the noise schedule
    vl_dim: int | None = None  # of the VL feature, where that is known
    usual_vl_dim: int | None = 2048  # tells one fusion from another where it is not


def part_of(kind: str, tensors: Tensors, assumed: Assumed, features: int = 0) -> Part:
    """`features`: values that sensor and robot encoder give to an expert. The shapes are checked, not only read."""
    try:
        arguments = _READERS[kind](tensors, assumed, features)
    except KeyError as error:
        raise CheckpointError(f"{kind}: tensor {error} is missing") from None
    part = Part(kind, arguments)
    with torch.device("meta"):
        wanted = build(kind, arguments).state_dict()
    have, need = _shapes(tensors), _shapes(wanted)
    if have != need:
        wrong = [
            f"{name} {have.get(name, 'absent')}, expected {need.get(name, 'none')}" for name in _unequal(have, need)
        ]
        raise CheckpointError(f"{kind}: not the tensors of that class with {arguments}: {'; '.join(wrong)}")
    return part


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _unequal(have: Mapping[str, object], need: Mapping[str, object]) -> list[str]:
    return sorted(name for name in have.keys() | need.keys() if have.get(name) != need.get(name))


def _layers(tensors: Tensors, stack: str) -> int:
    """How many different numbers follow `stack`."""
    return len({found[1] for name in tensors if (found := re.match(re.escape(stack) + r"\.(\d+)\.", name))})


def _width(tensors: Tensors, name: str, axis: int = 0) -> int:
    return tensors[name].shape[axis]


def _sensor(tensors: Tensors, assumed: Assumed, features: int = 0) -> Arguments:
    first = "conv_backbone.0.conv1.weight" if "conv_backbone.0.conv1.weight" in tensors else "conv_backbone.0.weight"
    stages = [name for name in tensors if re.fullmatch(r"conv_backbone\.\d+\.(conv1\.)?weight", name)]
    return {
        "input_channels": _width(tensors, first, 1),
        "temporal_length": assumed.sensor_length,
        "hidden_dim": _width(tensors, first),
        "output_dim": _width(tensors, "projection.4.weight"),
        "num_conv_layers": len([name for name in stages if tensors[name].dim() == 3]),
        "use_transformer": any(name.startswith("transformer.") for name in tensors),
        "num_transformer_layers": _layers(tensors, "transformer.layers"),
        "nhead": assumed.heads,
        "interpolation_mode": assumed.interpolation,
    }


def _force_aware(tensors: Tensors, assumed: Assumed, features: int = 0) -> Arguments:
    prefix = "dist_encoder."
    profile = _sensor({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, assumed)
    force = _width(tensors, "force_encoder.3.weight")
    renamed: Arguments = {
        "dist_channels": profile.pop("input_channels"),
        "force_channels": _width(tensors, "force_encoder.0.weight", 1),
        "dist_hidden_dim": profile.pop("hidden_dim"),
        "force_hidden_dim": force,
        "output_dim": int(profile.pop("output_dim")) + force,
    }
    return renamed | profile


def _robot(tensors: Tensors, assumed: Assumed, features: int = 0) -> Arguments:
    return {
        "input_dim": _width(tensors, "input_proj.weight", 1),
        "model_dim": _width(tensors, "input_proj.weight"),
        "output_dim": _width(tensors, "projection.4.weight"),
        "num_heads": assumed.heads,
        "num_layers": _layers(tensors, "transformer_encoder.layers"),
        "temporal_length": _width(tensors, "pos_encoder", 1),
    }


def _fusion(tensors: Tensors, last: str, assumed: Assumed, features: int) -> Arguments:
    """vl_dim, sensor_dim, fusion_strategy, hidden_dim, nhead: alike in all experts that fuse."""
    taken, known = _width(tensors, f"{last}.weight", 1), {"hidden_dim": _width(tensors, f"{last}.weight")}
    if "vl_proj.weight" in tensors:
        strategy = "gated" if "gate.0.weight" in tensors else "cross_attention"
        vl_dim, given = _width(tensors, "vl_proj.weight", 1), _width(tensors, "sensor_proj.weight", 1)
    else:
        strategy, vl_dim, given = *_by_width(last, taken, assumed, features), features
    if strategy != "none" and given != features:
        raise CheckpointError(
            f"the expert takes {given} values of sensor and robot, but their encoders give {features}"
        )
    return {"vl_dim": vl_dim, "sensor_dim": given, "fusion_strategy": strategy, "nhead": assumed.heads, **known}


def _by_width(last: str, taken: int, assumed: Assumed, features: int) -> tuple[str, int]:
    """concat or none, and vl_dim: one layer takes either the VL feature and the others, or the VL feature alone.

    If its width is not known and the usual one fits neither, it is concat, which every old script had by default.
    """
    width = assumed.vl_dim or assumed.usual_vl_dim
    if taken == width or not features:
        return "none", taken
    if assumed.vl_dim not in (None, taken - features):
        raise CheckpointError(
            f"{last} takes {taken} values: neither the VL feature of {assumed.vl_dim} alone nor with {features} of "
            "sensor and robot encoder; if the VL model has another width, name it with --vl-dim"
        )
    return ("concat", taken - features) if taken > features else ("none", taken)


def _regression(tensors: Tensors, assumed: Assumed, features: int) -> Arguments:
    return _fusion(tensors, "fusion_proj", assumed, features) | {
        "action_dim": _width(tensors, "output_head.1.weight"),
        "horizon": _width(tensors, "pos_embed", 1),
        "num_layers": _layers(tensors, "temporal_decoder.layers"),
    }


def _flow(tensors: Tensors, assumed: Assumed, features: int) -> Arguments:
    return _fusion(tensors, "fusion_proj", assumed, features) | {
        "action_dim": _width(tensors, "output_head.1.weight"),
        "horizon": assumed.horizon,
        "num_layers": _layers(tensors, "velocity_net.layers"),
        "time_embed_dim": _width(tensors, "time_mlp.0.weight", 1),
    }


def _diffusion(tensors: Tensors, assumed: Assumed, features: int) -> Arguments:
    return _fusion(tensors, "cond_proj", assumed, features) | {
        "action_dim": _width(tensors, "output_head.3.weight"),
        "horizon": assumed.horizon,
        "num_layers": _layers(tensors, "temporal_encoder.layers"),
        "timesteps": assumed.timesteps,
    }


def _without_sensor(tensors: Tensors, assumed: Assumed, features: int) -> Arguments:
    return {
        "vl_dim": _width(tensors, "context_proj.0.weight", 1),
        "action_dim": _width(tensors, "delta_head.3.weight"),
        "horizon": assumed.horizon,
        "hidden_dim": _width(tensors, "context_proj.0.weight"),
        "nhead": assumed.heads,
        "num_layers": _layers(tensors, "temporal_encoder.layers"),
    }


def _mae(tensors: Tensors, assumed: Assumed, features: int) -> Arguments:
    prefix = "encoder."
    encoder = _robot({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, assumed)
    return {
        "window": encoder["temporal_length"],
        "model_dim": encoder["model_dim"],
        "layers": encoder["num_layers"],
        "heads": assumed.heads,
        "output_dim": encoder["output_dim"],
        "decoder_dim": _width(tensors, "decoder.0.weight"),
    }


def _clip(tensors: Tensors, assumed: Assumed, features: int) -> Arguments:
    prefix = "sensor_encoder."
    sensor = _force_aware({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, assumed)
    return {
        "sensor_output_dim": sensor.pop("output_dim"),
        "embedding_dim": _width(tensors, "sensor_projection.weight"),
        "image_dim": _width(tensors, "image_projection.weight", 1),
        **sensor,
    }


_READERS: dict[str, Callable[[Tensors, Assumed, int], Arguments]] = {
    "v2.CLIPModel": _clip,
    "v2.MAERobotStateModel": _mae,
    "v2.ForceAwareSensorEncoder": _force_aware,
    "v2.SensorEncoder": _sensor,
    "v1.SensorEncoder": _sensor,
    "v2.RobotStateEncoder": _robot,
    "v2.FlowMatchingActionExpert": _flow,
    "v2.DiffusionActionExpert": _diffusion,
    "v1.DiffusionActionExpert": _diffusion,
    "v2.RegressionActionExpert": _regression,
    "v1.QwenActionExpertWithSensor": _regression,
    "v1.QwenActionExpert": _without_sensor,
}
assert _READERS.keys() == CLASSES.keys()
