"""An encoder that was pre-trained for its own sake: weights to start a training with, not a policy.

A folder of weights.safetensors and encoder.json. There is no spec.json, so that nothing takes it for a policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.origin.classes import build, load
from rtvla.models.origin.facts import Part

DESCRIPTION, WEIGHTS = "encoder.json", "weights.safetensors"
_VERSION = 1
_ENCODER = {"v2.MAERobotStateModel": "encoder", "v2.CLIPModel": "sensor_encoder"}  # its place in the old model


def save(folder: Path, part: Part, weights: Mapping[str, torch.Tensor]) -> None:
    model = build(part.kind, part.arguments)
    load(model, weights, part.kind)
    folder.mkdir(parents=True)
    save_file({name: one.contiguous() for name, one in model.state_dict().items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes 0600
    described = {"format_version": _VERSION, "part": asdict(part), "weights_sha256": _sha256(folder / WEIGHTS)}
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def describe(folder: Path) -> Part:
    """The old model that the encoder is in. Raises CheckpointError if a file is missing or not what was saved."""
    try:
        given = json.loads((folder / DESCRIPTION).read_text())
        version, part, digest = given["format_version"], Part(**given["part"]), given["weights_sha256"]
        found = _sha256(folder / WEIGHTS)
    except OSError as error:
        raise CheckpointError(f"encoder {folder}: {error.strerror}; import the old file again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"encoder {folder}: {DESCRIPTION}: {error!r}; import the old file again") from None
    if version != _VERSION or digest != found:
        raise CheckpointError(f"encoder {folder}: {WEIGHTS} is not the file that was saved; import the old file again")
    return part


def load_encoder(folder: str | Path) -> nn.Module:
    """The encoder alone, in eval mode: a RobotStateEncoder or a ForceAwareSensorEncoder of origin.encoders."""
    folder = Path(folder)
    part = describe(folder)
    model = build(part.kind, part.arguments)
    try:
        load(model, load_file(folder / WEIGHTS), f"encoder {folder}")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"encoder {folder}: cannot be read ({error}); import the old file again") from None
    return model.get_submodule(_ENCODER[part.kind])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
