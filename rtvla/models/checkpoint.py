"""A checkpoint is a folder: weights.safetensors, spec.json, stats.json, and the VL backbone unless that is on the hub.

Loading is strict in every respect. Importing this file loads torch but not transformers: the policy process has no use
for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rtvla.errors import CheckpointError
from rtvla.models.engines.engine import EngineChoice
from rtvla.models.feature import EXACT, Approximation
from rtvla.models.normalize import Statistics
from rtvla.models.origin import encoder_only
from rtvla.models.origin.model import OriginModel
from rtvla.models.policy import VlaPolicy
from rtvla.models.spec import ModelSpec
from rtvla.models.spec_rules import SAMPLING
from rtvla.models.vla import VlaModel

if TYPE_CHECKING:
    from rtvla.models.qwen_vl import VLEncoder

WEIGHTS, SPEC, STATS = "weights.safetensors", "spec.json", "stats.json"
CHECKSUMS = "checksums.json"  # SHA-256 of the three others: a bit that flips in a weight moves an arm
_HOW_TO_GET_ONE = "the small local model: rtvla model make-tiny DIR"


def load_spec(folder: str | Path) -> ModelSpec:
    """The spec of a checkpoint whose files are all there and as they were saved."""
    folder = Path(folder)
    if (folder / encoder_only.DESCRIPTION).is_file():
        raise CheckpointError(f"checkpoint {folder} is an encoder alone, to start a training with: it is no policy")
    spec = ModelSpec.from_json(_text(folder, SPEC))
    verify_files(folder)
    return spec


def write_checksums(folder: Path) -> None:
    """Vouch for the files as they are now."""
    checksums = {name: _sha256(folder / name) for name in (WEIGHTS, SPEC, STATS)}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=2))


def verify_files(folder: Path) -> None:
    """Raises CheckpointError by name for a file that is missing or is not what was saved. About 1 s per GB."""
    try:
        wanted = json.loads(_text(folder, CHECKSUMS))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"checkpoint {folder}: {CHECKSUMS} is not JSON ({error}); copy it again") from None
    for name in (WEIGHTS, SPEC, STATS):
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise CheckpointError(f"checkpoint {folder}: {name}: {error.strerror}; {_HOW_TO_GET_ONE}") from None
        if not isinstance(wanted, dict) or wanted.get(name) != found:
            raise CheckpointError(f"checkpoint {folder}: {name} is not the file that was saved; copy it again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_policy(
    folder: str | Path,
    device: str = "cpu",
    flow_steps: int | None = None,
    expect_expert: str | None = None,
    diffusion_steps: int | None = None,
    choice: EngineChoice | None = None,
) -> VlaPolicy:
    """`load_model`, ready to predict by the engine of `choice`; default is the model itself in torch."""
    model = load_model(folder, flow_steps, expect_expert, diffusion_steps)
    return VlaPolicy(model, device, choice, Path(folder))


def load_model(
    folder: str | Path,
    flow_steps: int | None = None,
    expect_expert: str | None = None,
    diffusion_steps: int | None = None,
) -> VlaModel | OriginModel:
    """The action model on the CPU. `flow_steps`, `diffusion_steps`: instead of the checkpoint's, if it has them.

    `expect_expert`: refuse any other. CheckpointError, by name, for whatever is missing, damaged or does not fit.
    """
    folder, spec = Path(folder), load_spec(folder)
    if expect_expert is not None and spec.expert != expect_expert:
        raise CheckpointError(f"checkpoint {folder}: expert is {spec.expert}, but {expect_expert} was asked for")
    asked = {"flow_steps": flow_steps, "diffusion_steps": diffusion_steps}
    asked = {name: steps for name, steps in asked.items() if steps is not None}
    for name, steps in asked.items():
        if spec.expert != SAMPLING[name]:
            raise CheckpointError(f"{name} = {steps}: checkpoint {folder} is a {spec.expert} model; leave it out")
    spec = replace(spec, **asked)  # type: ignore[arg-type]
    make = VlaModel if spec.origin is None else OriginModel
    model = make(spec, Statistics.from_json(_text(folder, STATS)))
    weights = _read_weights(folder / WEIGHTS)
    _check_weights(folder, weights, model.state_dict())
    model.load_state_dict(weights)
    return model


def load_vl_encoder(
    folder: str | Path, task: str, device: str = "cpu", approximation: Approximation = EXACT
) -> VLEncoder:
    """`task` fills the prompt of the spec. Needs transformers, and for a hub backbone its cache or a network."""
    from rtvla.models.qwen_vl import VLEncoder

    spec = load_spec(folder)
    if spec.origin is not None and spec.origin.vl_lora == "kept_aside":
        raise CheckpointError(
            f"checkpoint {folder}: the LoRA of its VL model is not merged, so its features would be others: import the "
            "old file again with --vl-backbone FOLDER --vl-from-file"
        )
    source = spec.vl_backbone if spec.on_hub else Path(folder) / spec.vl_backbone
    return VLEncoder(spec, source, task, device, approximation)


def save_checkpoint(
    folder: str | Path, model: VlaModel | OriginModel, backbone: Path | None = None, *, overwrite: bool = False
) -> None:
    """All or nothing: written beside `folder`, synced, then renamed. `backbone` is copied in as spec.vl_backbone.

    With `overwrite` a crash between the two renames leaves the old checkpoint beside it, as .NAME.old.
    """
    folder, spec = Path(folder).absolute(), model.spec
    if folder.exists() and not overwrite:
        raise CheckpointError(f"checkpoint {folder} exists: choose another name, or ask to overwrite it")
    if (backbone is None) != spec.on_hub:
        raise CheckpointError(f'spec vl_backbone = "{spec.vl_backbone}": give its folder, or none if it is on the hub')
    partial, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file(model.state_dict(), partial / WEIGHTS)
        (partial / SPEC).write_text(spec.to_json())
        (partial / STATS).write_text(model.statistics.to_json())
        write_checksums(partial)
        if backbone is not None:
            shutil.copytree(backbone, partial / spec.vl_backbone)
        for path in partial.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors writes 0600; the runtime may be another user than the trainer
        _sync(path for path in partial.rglob("*") if path.is_file())
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        _sync([folder.parent])
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text()
    except UnicodeDecodeError:
        raise CheckpointError(f"checkpoint {folder}: {name} is not text") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder}: {name}: {error.strerror}; {_HOW_TO_GET_ONE}") from None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({error}); copy it again") from None


def _check_weights(folder: Path, given: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Every difference by name at once, not the first one only."""
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is not part of the model" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        have, need = given[name], wanted[name]
        if (have.shape, have.dtype) != (need.shape, need.dtype):
            faults.append(f"{name} is {have.dtype} {tuple(have.shape)} instead of {need.dtype} {tuple(need.shape)}")
        elif not torch.isfinite(have).all():
            faults.append(f"{name} is not finite")
    if faults:
        raise CheckpointError(f"checkpoint {folder}: weights do not fit the spec: {'; '.join(sorted(faults))}")
