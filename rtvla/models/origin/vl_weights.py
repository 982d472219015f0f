"""The VL weights inside an old file: whether they are the backbone's, or a fine-tuned model of their own.

Names depend on the release of transformers that wrote them: visual.* and model.layers.* until 4.51, model.visual.* and
model.language_model.* from 4.52 on. A LoRA adds names of peft. Here all become the newer, plain ones before anything is
compared, because a name that fits nothing is silently no weight at all.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rtvla.errors import CheckpointError
from rtvla.models.backbone import weight_files

_PEFT = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])\.default\.weight")
_OLDER = {
    "visual.": "model.visual.",
    **{f"model.{n}": f"model.language_model.{n}" for n in ("layers.", "embed_tokens.", "norm.")},
}
_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
Tensors = Mapping[str, torch.Tensor]


def canonical(name: str) -> str:
    """A name behind vl_model., in the spelling of transformers 4.52 and newer, without peft's additions."""
    name = name.removeprefix(_PEFT).replace(".base_layer.", ".")
    older = next((prefix for prefix in _OLDER if name.startswith(prefix)), None)
    return name if older is None else _OLDER[older] + name.removeprefix(older)


@dataclass(frozen=True)
class VLWeights:
    base: Tensors  # under canonical names
    lora: Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # module -> A (rank, in), B (out, rank)
    adapter: Tensors  # the same, under the names that they had behind vl_model.

    @property
    def width(self) -> int | None:
        """Values in the feature, if the file says."""
        return self.base[_EMBEDDING].shape[1] if _EMBEDDING in self.base else None

    @property
    def lora_is_zero(self) -> bool:
        """B starts as zeros: if it still is, the adapter was never trained and changes nothing."""
        return not any(b.any() for _, b in self.lora.values())

    def merged(self, alpha: float) -> dict[str, torch.Tensor]:
        """Base weights with W + alpha / rank * B A, rounded to the type of W."""
        weights = dict(self.base)
        for module, (a, b) in self.lora.items():
            weight = weights[f"{module}.weight"]
            change = (alpha / len(a)) * (b.float() @ a.float())
            weights[f"{module}.weight"] = (weight.float() + change).to(weight.dtype)
        return weights


def split(vl: Tensors) -> VLWeights:
    base: dict[str, torch.Tensor] = {}
    halves: dict[str, dict[str, torch.Tensor]] = {}
    adapter: dict[str, torch.Tensor] = {}
    for name, tensor in vl.items():
        found = _LORA.fullmatch(name)
        if found:
            halves.setdefault(canonical(found["module"]), {})[found["half"]] = tensor
            adapter[name] = tensor
        elif "lora_" in name:
            raise CheckpointError(f"vl_model.{name}: an adapter of another kind than the old scripts made")
        else:
            base[canonical(name)] = tensor
    for module, pair in halves.items():
        weight = base.get(f"{module}.weight")
        if set(pair) != {"A", "B"} or weight is None or weight.shape != (len(pair["B"]), pair["A"].shape[1]):
            raise CheckpointError(f"vl_model: the LoRA of {module} is incomplete or does not fit its weight")
    return VLWeights(base, {module: (pair["A"], pair["B"]) for module, pair in halves.items()}, adapter)


def unlike(base: Tensors, backbone: Path) -> list[str]:
    """Canonical names that are not the same in both, values compared in the file's own type."""
    there = {canonical(name): (path, name) for path, name, _ in _stored(backbone)}
    ignored = {_HEAD} - (base.keys() & there.keys())  # tied to the embedding: stored or not
    wrong = [f"{name} is missing" for name in there.keys() - base.keys() - ignored]
    wrong += [f"{name} is not in the backbone" for name in base.keys() - there.keys() - ignored]
    with ExitStack() as stack:
        files = {path: stack.enter_context(safe_open(path, "pt")) for path in weight_files(backbone)}
        for name in sorted(base.keys() & there.keys()):
            path, own = there[name]
            if not _equal(base[name], files[path].get_tensor(own)):
                wrong.append(name)
    return sorted(wrong)


def _equal(mine: torch.Tensor, other: torch.Tensor) -> bool:
    return mine.shape == other.shape and torch.equal(mine, other.to(mine.dtype))


def write_backbone(weights: Tensors, like: Path, folder: Path) -> None:
    """A backbone folder with these weights; configuration, tokenizer, and the spelling of names are those of `like`."""
    spelling = {canonical(name): name for _, name, _ in _stored(like)}
    shapes = {canonical(name): shape for _, name, shape in _stored(like)}
    wrong = sorted(
        name
        for name in (spelling.keys() | weights.keys()) - {_HEAD}
        if name not in weights or shapes.get(name) != tuple(weights[name].shape)
    )
    if wrong:
        raise CheckpointError(f"VL weights of the file are not those of a model like {like}: {', '.join(wrong)}")
    strange = sorted(name for name, one in weights.items() if not torch.isfinite(one).all())
    if strange:
        raise CheckpointError(f"VL weights of the file are not finite: {', '.join(strange)}")
    kept = {spelling[name]: one.contiguous() for name, one in weights.items() if name in spelling}
    skipped = {path.name for path in weight_files(like)} | {"model.safetensors.index.json"}
    shutil.copytree(like, folder, ignore=lambda _, names: skipped & set(names))
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _stored(backbone: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    for path in weight_files(backbone):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                yield path, name, tuple(file.get_slice(name).get_shape())
