"""Takes over a checkpoint of the old system: reads it safely, finds its geometry, writes a checkpoint of ours.

`plan` does all but the writing, so that a file can be looked at first. What is written behaves as the old model did,
faults included; they are named in spec.origin. A file of a pre-training becomes an encoder of its own, not a policy.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from rtvla.errors import CheckpointError
from rtvla.models.backbone import fingerprint_backbone
from rtvla.models.checkpoint import save_checkpoint
from rtvla.models.origin import encoder_only
from rtvla.models.origin.choices import Choices
from rtvla.models.origin.classes import identify, is_dead, load
from rtvla.models.origin.facts import Origin, Part
from rtvla.models.origin.faults import faults_of
from rtvla.models.origin.geometry import Assumed, part_of
from rtvla.models.origin.layouts import PRETRAINED, Layout, find_layout
from rtvla.models.origin.model import OriginModel
from rtvla.models.origin.reader import read
from rtvla.models.origin.report import REPORT, Report, Row
from rtvla.models.origin.sort import PARTS, Sorted, sort
from rtvla.models.origin.spec_of import expert_name, spec_of
from rtvla.models.origin.vl_decision import ADAPTER, VLDecision, decide
from rtvla.models.spec import ModelSpec


@dataclass(frozen=True)
class Plan:
    """Of one file: what it is and what an import writes."""

    layout: Layout
    parts: Mapping[str, Part]  # by their place in the file
    spec: ModelSpec | None  # None: an encoder of its own
    vl: VLDecision | None
    weights: Mapping[str, torch.Tensor]
    report: Report


def plan(path: str | Path, choices: Choices | None = None) -> Plan:
    """Raises CheckpointError, by name, for a file that none of the old scripts wrote, and never runs what is in it."""
    path, choices = Path(path), choices or Choices()
    found = sort(path, read(path))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kind = identify(found.weights)
    if kind is not None and kind in PRETRAINED:
        return _plan_encoder(path, digest, found, choices, kind)
    return _plan_model(path, digest, found, choices)


def _plan_encoder(path: Path, digest: str, found: Sorted, choices: Choices, kind: str) -> Plan:
    layout = PRETRAINED[kind]
    filled = choices.filled(layout)
    part = part_of(kind, found.weights, _assumed(filled))
    if found.vl:
        raise CheckpointError(f"{path}: holds vl_model beside the tensors of {kind}: no old script wrote such a file")
    assumed = {name: str(getattr(filled, name)) for name in ("heads", *(["sensor_length"] if "CLIP" in kind else []))}
    rows = _marked(found.rows, {"": part})
    report = Report(path.name, digest, layout.name, assumed, tuple(rows), found.values)
    return Plan(layout, {"": part}, None, None, found.weights, report)


def _plan_model(path: Path, digest: str, found: Sorted, choices: Choices) -> Plan:
    strangers = [name for name in found.weights if name.partition(".")[0] not in PARTS]
    tensors = {name: found.part(name) for name in PARTS}
    kinds = {name: identify(part) for name, part in tensors.items() if part}
    unknown = strangers + [f"{name}.*" for name, kind in kinds.items() if kind is None]
    if unknown or "action_expert" not in kinds:
        raise CheckpointError(
            f"{path}: not a model of the old system: {', '.join(unknown[:8]) or 'it has no action_expert'}; "
            f"its parts are {', '.join(PARTS)} and vl_model"
        )
    expert_kind = str(kinds["action_expert"])
    has_lora = any(".lora_" in name for name in found.vl)
    layout = find_layout(path.name, found.whole, expert_kind, kinds.get("sensor_encoder"), has_lora)
    filled = choices.filled(layout)
    vl = decide(found.vl, filled)
    assumed = replace(_assumed(filled), vl_dim=vl.dim, usual_vl_dim=vl.usual_dim)
    parts = {name: part_of(str(kinds[name]), tensors[name], assumed) for name in kinds if name != "action_expert"}
    parts["action_expert"] = part_of(expert_kind, tensors["action_expert"], assumed, _features(parts, expert_kind))
    origin = _origin(layout, parts, filled, vl)
    name = re.sub(r"[^\w.-]", "-", path.stem)
    spec = spec_of(name, origin, filled, vl.name, vl.fingerprint, vl.dim)
    said = {"vl_from_file", *([] if vl.lora == "merged" else ["lora_alpha"])}
    said |= {"horizon"} if "pos_embed" in tensors["action_expert"] else set()
    shown = filled.assumed(expert_name(origin.expert), said) | _other_width(spec, vl)
    rows = (*_marked(found.rows, parts), *vl.rows)
    return Plan(
        layout, parts, spec, vl, found.weights, Report(path.name, digest, layout.name, shown, rows, found.values)
    )


def _assumed(filled: Choices) -> Assumed:
    return Assumed(
        heads=filled.heads,
        sensor_length=filled.sensor_length or 0,
        interpolation=filled.interpolation,
        horizon=filled.horizon,
        timesteps=filled.timesteps,
    )


def _other_width(spec: ModelSpec, vl: VLDecision) -> dict[str, str]:
    """Said if the tensors ask for a backbone that is not the named one; the VL encoder would refuse it."""
    if spec.vl_dim in (vl.dim, vl.usual_dim):
        return {}
    return {"vl_dim": f"{spec.vl_dim}, of the tensors: {spec.vl_backbone} does not fit, name the right backbone"}


def _features(parts: Mapping[str, Part], expert: str) -> int:
    """Values that the expert gets of the encoders. Diffusion took no robot state, and without sensor none took any."""
    if "sensor_encoder" not in parts:
        return 0
    used = [name for name in parts if not (name == "robot_state_encoder" and "Diffusion" in expert)]
    return sum(int(parts[name].arguments["output_dim"]) for name in used)


def _origin(layout: Layout, parts: Mapping[str, Part], filled: Choices, vl: VLDecision) -> Origin:
    sensor, robot, expert = (parts.get(name) for name in PARTS)
    assert expert is not None
    states = {"vl_weights": vl.weights, "vl_lora": vl.lora}
    faults = faults_of(sensor, robot, expert, str(filled.vl_sequence), filled.diffusion_sampler, states)
    return Origin(layout.name, sensor, robot, expert, faults, **states)


def _marked(rows: list[Row], parts: Mapping[str, Part]) -> list[Row]:
    """The rows, those of dead tensors saying so."""

    def marked(row: Row) -> Row:
        place, _, name = row.new.partition(".") if "" not in parts else ("", "", row.new)
        if place not in parts or not is_dead(parts[place].kind, name):
            return row
        return replace(row, why="; ".join(filter(None, (row.why, "dead: the old code never used it"))))

    return [marked(row) for row in rows]


def write(plan: Plan, folder: str | Path) -> None:
    """A new checkpoint folder, whole or not at all."""
    folder = Path(folder).absolute()
    if folder.exists():
        raise CheckpointError(f"checkpoint {folder} exists: choose another name")
    staging, workplace = (folder.with_name(f".{folder.name}.{kind}") for kind in ("importing", "backbone"))
    try:
        for leftover in (staging, workplace):
            shutil.rmtree(leftover, ignore_errors=True)
        if plan.spec is None:
            encoder_only.save(staging, plan.parts[""], plan.weights)
        else:
            _write_model(plan, plan.spec, staging, workplace)
        (staging / REPORT).write_text(plan.report.to_json())
        _sync(staging)
        staging.rename(folder)
        _sync_one(folder.parent)
    finally:
        for leftover in (staging, workplace):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_model(plan: Plan, spec: ModelSpec, folder: Path, workplace: Path) -> None:
    assert plan.vl is not None
    workplace.mkdir(parents=True)
    backbone = plan.vl.backbone(workplace)
    if backbone is not None:
        spec = replace(spec, vl_fingerprint=fingerprint_backbone(backbone))
    model = OriginModel(spec)
    load(model, plan.weights, plan.report.file)
    save_checkpoint(folder, model, backbone)
    if plan.vl.adapter:
        adapter = {name: one.contiguous() for name, one in plan.vl.adapter.items()}
        save_file(adapter, folder / ADAPTER)
        (folder / ADAPTER).chmod(0o644)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
