"""The table of old classes: how each is known by its tensors, and how it is built."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping

import torch
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.origin.diffusion import V1DiffusionActionExpert, V2DiffusionActionExpert
from rtvla.models.origin.encoders import ForceAwareSensorEncoder, RobotStateEncoder, V1SensorEncoder, V2SensorEncoder
from rtvla.models.origin.facts import Argument
from rtvla.models.origin.flow import FlowMatchingActionExpert
from rtvla.models.origin.pretrain import CLIPModel, MAERobotStateModel
from rtvla.models.origin.regression import QwenActionExpert, QwenActionExpertWithSensor, RegressionActionExpert

# version.class -> class, and the tensors that only it has. The first that has all of its own wins.
CLASSES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "v2.CLIPModel": (CLIPModel, ("sensor_projection.weight", "image_projection.weight")),
    "v2.MAERobotStateModel": (MAERobotStateModel, ("encoder.pos_encoder", "decoder.0.weight")),
    "v2.ForceAwareSensorEncoder": (
        ForceAwareSensorEncoder,
        ("force_encoder.0.weight", "dist_encoder.projection.0.weight"),
    ),
    "v2.SensorEncoder": (V2SensorEncoder, ("conv_backbone.0.conv1.weight",)),
    "v1.SensorEncoder": (V1SensorEncoder, ("conv_backbone.0.weight",)),
    "v2.RobotStateEncoder": (RobotStateEncoder, ("pos_encoder", "input_proj.weight")),
    "v2.FlowMatchingActionExpert": (FlowMatchingActionExpert, ("time_mlp.0.weight",)),
    "v2.DiffusionActionExpert": (V2DiffusionActionExpert, ("time_embed.0.weight", "trans_head.0.weight")),
    "v1.DiffusionActionExpert": (V1DiffusionActionExpert, ("time_embed.0.weight",)),
    "v2.RegressionActionExpert": (RegressionActionExpert, ("pos_embed", "trans_head.0.weight")),
    "v1.QwenActionExpertWithSensor": (QwenActionExpertWithSensor, ("pos_embed", "output_head.0.weight")),
    "v1.QwenActionExpert": (QwenActionExpert, ("context_proj.0.weight",)),
}
# Tensors that the old class never used: loaded and exported, of no effect.
DEAD = {
    "v2.RegressionActionExpert": ("output_head.",),
    "v2.DiffusionActionExpert": ("output_head.",),
    "v2.MAERobotStateModel": ("encoder.projection.",),
}
ALIASES = {"MAE": "MAERobotStateModel", "CLIPM": "CLIPModel"}  # as the manifests name them
_ONLY_IN_TRAINING = {"dropout", "sigma_min", "gradient_checkpointing"}


def identify(names: Collection[str]) -> str | None:
    """The version and class whose state_dict has these names, by the names that only it has."""
    return next((kind for kind, (_, own) in CLASSES.items() if all(name in names for name in own)), None)


def is_dead(kind: str, name: str) -> bool:
    return name.startswith(DEAD.get(kind, ()) or ("\0",))


def build(kind: str, arguments: Mapping[str, Argument]) -> nn.Module:
    """A module in eval mode with random weights. Arguments that matter in training only are taken and ignored."""
    if kind not in CLASSES:
        raise CheckpointError(f'old class "{kind}": this rtvla knows {", ".join(CLASSES)}')
    given = {name: value for name, value in arguments.items() if name not in _ONLY_IN_TRAINING}
    known = _parameters(CLASSES[kind][0])
    unknown = sorted(set(given) - known)
    if unknown:
        raise CheckpointError(f"{kind}: unknown arguments {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    try:
        return CLASSES[kind][0](**given).eval()
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{kind} cannot be built with {given}: {error}") from None


def load(module: nn.Module, weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Strictly: every difference of names and shapes at once, by name."""
    wanted = module.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in weights]
    faults += [f"{name} is not part of it" for name in weights if name not in wanted]
    faults += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted.keys() & weights.keys()
        if weights[name].shape != wanted[name].shape
    ]
    if faults:
        raise CheckpointError(f"{what}: tensors do not fit: {'; '.join(sorted(faults))}")
    module.load_state_dict(dict(weights))


def _parameters(kind: type[nn.Module]) -> set[str]:
    """Of the constructor, and of the one that its **arguments go on to."""
    onward = {
        ForceAwareSensorEncoder: V2SensorEncoder,
        RegressionActionExpert: QwenActionExpertWithSensor,
        V2DiffusionActionExpert: V1DiffusionActionExpert,
        CLIPModel: ForceAwareSensorEncoder,
    }
    names = set(inspect.signature(kind).parameters) - {"arguments"}
    return names | (_parameters(onward[kind]) if kind in onward else set())
