"""Sorts the content of an old file: what belongs to the action model, what to the VL model, what is left out and why.

Two shapes of file exist: the whole model under model_state_dict, or sensor_encoder and action_expert as keys of their
own (v1). Some files hold both: then they must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from rtvla.errors import CheckpointError
from rtvla.models.origin.reader import tensors_in
from rtvla.models.origin.report import LEFT_OUT, RENAMED, USED, Row, tensor_row

WHOLE = "model_state_dict"
PARTS = ("sensor_encoder", "robot_state_encoder", "action_expert")
VL = "vl_model."
IMAGE = "image_encoder."  # the frozen VL model again, in the files of the CLIP training
_TRAINING = {
    "optimizer_state_dict": "state of the optimiser, for resuming the old training",
    "scheduler_state_dict": "state of the schedule, for resuming the old training",
}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_HINTS = {
    "policy_state_dict": "it looks like a file of the later system (SmolVLA), which has nothing in common with these",
    "golden": "it looks like a golden file of one module: hold it against the code with scripts/check_golden",
}


@dataclass
class Sorted:
    whole: bool  # it holds a model_state_dict
    weights: dict[str, torch.Tensor] = field(default_factory=dict)  # of the checkpoint, under their new names
    vl: dict[str, torch.Tensor] = field(default_factory=dict)  # under their names behind vl_model.
    rows: list[Row] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one part without its prefix; empty if the file does not have it."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): one for key, one in self.weights.items() if key.startswith(prefix)}


def sort(path: object, content: Mapping[str, Any]) -> Sorted:
    """Raises CheckpointError for a file that none of the old scripts wrote."""
    whole = content.get(WHOLE)
    if not isinstance(whole, Mapping) and not isinstance(content.get("action_expert"), Mapping):
        keys = ", ".join(map(str, list(content)[:8])) or "nothing"
        hint = next((f"; {text}" for key, text in _HINTS.items() if key in content), "")
        raise CheckpointError(
            f"{path}: not an old checkpoint: it needs {WHOLE}, or sensor_encoder and action_expert; it has {keys}{hint}"
        )
    found = Sorted(isinstance(whole, Mapping))
    if found.whole:
        for name, tensor in _tensors(path, WHOLE, content[WHOLE]).items():
            _place(path, found, name, tensor)
    for section, value in content.items():
        if section in PARTS and value is not None:
            _place_part(path, found, section, _tensors(path, section, value))
        elif section != WHOLE:
            _leave(found, section, value)
    strange = [name for name, one in found.weights.items() if one.is_floating_point() and not torch.isfinite(one).all()]
    if strange:
        raise CheckpointError(f"{path}: not finite: {', '.join(strange)}; such a model cannot be run")
    return found


def _tensors(path: object, section: str, value: object) -> Mapping[str, torch.Tensor]:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in value.items()
    ):
        raise CheckpointError(f"{path}: {section} is not a state_dict (names and tensors)")
    return value


def _place(path: object, found: Sorted, name: str, tensor: torch.Tensor) -> None:
    """One tensor of model_state_dict."""
    if name.startswith(VL):
        found.vl[name.removeprefix(VL)] = tensor  # its row is written by who decides about the VL model
    elif name.startswith(IMAGE):
        why = "the frozen VL model that the pre-training looked through; it was not trained"
        found.rows.append(tensor_row(WHOLE, name, tensor, LEFT_OUT, why=why))
    elif "_dynamic_fusion_proj" in name:
        raise CheckpointError(
            f"{path}: {name}: a random projection that the old code made while running, because the widths of its "
            "features did not fit; what it gave cannot be relied on, so the file is refused"
        )
    else:
        found.weights[name] = _float32(path, name, tensor)
        found.rows.append(tensor_row(WHOLE, name, tensor, RENAMED, name))


def _place_part(path: object, found: Sorted, section: str, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        new = f"{section}.{name}"
        value = _float32(path, new, tensor)
        if found.whole and (new not in found.weights or not torch.equal(found.weights[new], value)):
            raise CheckpointError(f"{path}: {new} is not what {WHOLE} has: the file holds two different models")
        found.weights[new] = value
        why = f"a second copy of {WHOLE}.{new}" if found.whole else ""
        found.rows.append(tensor_row(section, name, tensor, USED, new, why))


def _float32(path: object, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Without loss: the narrower kinds are part of it."""
    if tensor.dtype == torch.int64:
        return tensor
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(f"{path}: {name} is {tensor.dtype}: no old script wrote that")
    return tensor.float()


def _leave(found: Sorted, section: str, value: object) -> None:
    if section in _TRAINING:
        inside = len(list(tensors_in(value)))
        found.rows.append(Row(section, "", LEFT_OUT, why=f"{_TRAINING[section]} ({inside} tensors)"))
    elif value is None or isinstance(value, bool | int | float | str):
        found.values[section] = value
        found.rows.append(Row(section, "", LEFT_OUT, why=f"of the training: {value}; kept in the report"))
    else:
        found.rows.append(
            Row(section, "", LEFT_OUT, why="no old script wrote such a key; nothing here has a use for it")
        )
