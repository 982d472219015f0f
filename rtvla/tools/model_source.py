"""The model that is to be measured: a checkpoint, or one of a preset's size with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rtvla.errors import ConfigError
from rtvla.models.checkpoint import load_policy, load_spec
from rtvla.models.engines.engine import EngineChoice
from rtvla.models.policy import VlaPolicy
from rtvla.models.presets import ACTION_SIZES, twin, vl_spec
from rtvla.models.qwen_load import Backbone, load_backbone
from rtvla.models.qwen_vl import VLEncoder
from rtvla.models.random_action import random_action_model
from rtvla.models.random_vl import StandInTokenizer, random_backbone
from rtvla.models.spec import ModelSpec
from rtvla.models.spec_rules import SAMPLING

_STEP_FIELD = {expert: field for field, expert in SAMPLING.items()}


def resolve_device(name: str) -> str:
    """ "auto" is CUDA if there is one, else the CPU. Asking for CUDA where there is none is an error, no fallback."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch sees no CUDA device here; use --device cpu")
    return name


class ModelSource:
    """A checkpoint folder; or, without one, `preset`, or else the preset that fits the device. The VL backbone is
    loaded once and shared by all encoders that are asked for."""

    def __init__(
        self, folder: Path | None, preset: str | None, device: str, choice: EngineChoice, task: str = "eye"
    ) -> None:
        self.device, self.folder = resolve_device(device), folder
        self.preset = preset or ("full" if self.device.startswith("cuda") else "small")
        self._choice, self._task = choice, task
        self._backbone: Backbone | None = None
        self.spec = load_spec(folder) if folder is not None else vl_spec(self.preset)

    @property
    def title(self) -> str:
        who = f"checkpoint {self.spec.name}" if self.folder is not None else f"preset {self.preset} (random weights)"
        return f"{who} on {self.device}"

    def policy(self) -> VlaPolicy:
        """Of a checkpoint: as it is."""
        if self.folder is None:
            raise ConfigError("a preset has no policy of its own: name a checkpoint")
        return load_policy(self.folder, self.device, choice=self._choice)

    def policy_of(self, expert: str, steps: int) -> VlaPolicy:
        """With so many sampling steps. Of a checkpoint, ConfigError if its expert is another one."""
        if self.folder is None:
            model = random_action_model("ours", expert, steps, sizes=ACTION_SIZES[self.preset])
            return VlaPolicy(model, self.device, self._choice)
        if self.spec.expert != expert:
            raise ConfigError(f"checkpoint {self.folder}: its expert is {self.spec.expert}, not {expert}")
        changed: dict[str, Any] = {_STEP_FIELD[expert]: steps}
        return load_policy(self.folder, self.device, choice=self._choice, **changed)

    def twin_of(self, spec: ModelSpec) -> VlaPolicy:
        """Random weights in the shapes of this spec."""
        return VlaPolicy(twin(spec), self.device, self._choice)

    def encoder(self, spec: ModelSpec) -> VLEncoder:
        """For this spec, which may differ from the source's own in views, sequence and picture size. Not prepared."""
        if self._backbone is None:
            self._backbone = self._load()
        return VLEncoder(spec, self._backbone, self._task, self.device)

    def _load(self) -> Backbone:
        if self.folder is None:
            whole = random_backbone(self.preset, self.spec.dtype, self.device)
            return Backbone(whole.model, StandInTokenizer(self.preset))
        source = self.spec.vl_backbone if self.spec.on_hub else self.folder / self.spec.vl_backbone
        return load_backbone(self.spec, source, torch.device(self.device))
