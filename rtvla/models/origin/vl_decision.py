"""Which VL backbone an imported model runs with, and what becomes of the VL weights in its file.

The old scripts stored the whole VL model in every file, and never trained it: its features were made without gradient,
even with a LoRA. So the named backbone is used, after it was compared; what differs is never dropped unsaid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from rtvla.errors import CheckpointError
from rtvla.models.backbone import fingerprint_backbone, weight_files
from rtvla.models.origin.choices import Choices
from rtvla.models.origin.report import LEFT_OUT, RENAMED, USED, Row, tensor_row
from rtvla.models.origin.sort import VL, WHOLE
from rtvla.models.origin.vl_weights import VLWeights, canonical, split, unlike, write_backbone

FOLDER, ADAPTER = "vl", "vl_lora.safetensors"  # in the checkpoint
_NOT_YET = "0" * 64  # the fingerprint of a backbone that is written with the checkpoint
_WIDTHS = {"Qwen/Qwen2.5-VL-3B-Instruct": 2048, "Qwen/Qwen2.5-VL-7B-Instruct": 3584}
_WHY = {
    "equal": "equal to the backbone, which is used",
    "not_compared": "the backbone is used; it is not on this machine, so the two could not be compared",
    "zero": "the LoRA was never trained: its B is zero, so it changes nothing",
    "merged": "merged into the backbone of this checkpoint",
    "kept_aside": "not applied: give --vl-backbone FOLDER --vl-from-file to merge it",
}


@dataclass(frozen=True)
class VLDecision:
    name: str  # spec.vl_backbone
    fingerprint: str  # spec.vl_fingerprint
    dim: int | None  # of the feature, if it was asked for or is that of a given folder
    usual_dim: int | None  # what the VL weights of the file say, or the named hub model is known for
    weights: str  # Origin.vl_weights
    lora: str  # Origin.vl_lora
    folder: Path | None  # goes into the checkpoint, or is what the written backbone is made like
    new_weights: Mapping[str, torch.Tensor] | None
    adapter: Mapping[str, torch.Tensor]  # goes into the checkpoint, not applied
    rows: tuple[Row, ...]

    def backbone(self, workplace: Path) -> Path | None:
        """The folder to put into the checkpoint, written first if its weights are those of the file."""
        if self.new_weights is None or self.folder is None:
            return self.folder if self.name == FOLDER else None
        write_backbone(self.new_weights, self.folder, workplace / FOLDER)
        return workplace / FOLDER


def decide(vl: Mapping[str, torch.Tensor], choices: Choices) -> VLDecision:
    inside = split(vl)
    local = Path(choices.vl_backbone).is_dir()
    found = Path(choices.vl_backbone) if local else _in_hub_cache(choices.vl_backbone)
    if choices.vl_from_file:
        return _from_file(inside, vl, found, choices)
    weights = _compare(inside, found, choices)
    lora = "absent" if not inside.lora else "zero" if inside.lora_is_zero else "kept_aside"
    return VLDecision(
        name=FOLDER if local else choices.vl_backbone,
        fingerprint=fingerprint_backbone(found) if found else "",
        dim=choices.vl_dim or (_configured(found) if local else None),
        usual_dim=inside.width or _configured(found) or _WIDTHS.get(choices.vl_backbone),
        weights=weights,
        lora=lora,
        folder=found if local else None,
        new_weights=None,
        adapter=inside.adapter if lora == "kept_aside" else {},
        rows=_rows(vl, inside, weights, lora),
    )


def _compare(inside: VLWeights, found: Path | None, choices: Choices) -> str:
    if not inside.base:
        return "absent"
    if found is None:
        return "not_compared"
    wrong = unlike(inside.base, found)
    if wrong:
        raise CheckpointError(
            f"the VL weights in the file are not those of {choices.vl_backbone}: {len(wrong)} differ ({wrong[0]}...); "
            "use them with --vl-from-file, or name the backbone that they are of with --vl-backbone"
        )
    return "equal"


def _from_file(inside: VLWeights, vl: Mapping[str, torch.Tensor], found: Path | None, choices: Choices) -> VLDecision:
    if not inside.base:
        raise CheckpointError("--vl-from-file: the file holds no VL weights; leave it out")
    if found is None:
        raise CheckpointError(
            f"--vl-from-file needs the configuration and tokenizer of {choices.vl_backbone}, which is not on this "
            "machine: give a folder with --vl-backbone"
        )
    lora = "absent" if not inside.lora else "merged"
    return VLDecision(
        name=FOLDER,
        fingerprint=_NOT_YET,
        dim=choices.vl_dim or inside.width,
        usual_dim=_configured(found),
        weights="written",
        lora=lora,
        folder=found,
        new_weights=inside.merged(choices.lora_alpha),
        adapter={},
        rows=_rows(vl, inside, "written", lora),
    )


def _rows(vl: Mapping[str, torch.Tensor], inside: VLWeights, weights: str, lora: str) -> tuple[Row, ...]:
    def row(name: str, tensor: torch.Tensor) -> Row:
        if name in inside.adapter:
            kept = lora == "kept_aside"
            new = f"{ADAPTER}:{name}" if kept else ""
            return tensor_row(WHOLE, VL + name, tensor, RENAMED if kept else LEFT_OUT, new, _WHY[lora])
        if weights == "written":
            return tensor_row(WHOLE, VL + name, tensor, USED, f"{FOLDER}:{canonical(name)}", "in the backbone")
        return tensor_row(WHOLE, VL + name, tensor, LEFT_OUT, why=_WHY[weights])

    return tuple(row(name, tensor) for name, tensor in vl.items())


def _configured(folder: Path | None) -> int | None:
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text())
        width = config.get("text_config", config).get("hidden_size")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"VL backbone {folder / 'config.json'}: {error}; copy the whole folder again") from None
    return width if isinstance(width, int) else None


def _in_hub_cache(name: str) -> Path | None:
    """The folder of a hub model that is complete on this machine; nothing is downloaded."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        weight_files(folder)
        fingerprint_backbone(folder)
    except (LocalEntryNotFoundError, CheckpointError):
        return None
    except HFValidationError:
        raise CheckpointError(f"--vl-backbone {name}: neither a folder nor a hub name (organisation/model)") from None
    return folder
