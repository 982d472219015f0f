"""What the two model processes share before they load anything: which checkpoint, which device."""

from __future__ import annotations

import json
from pathlib import Path

from rtvla.config import Config
from rtvla.errors import ConfigError

HOW_TO_GET_ONE = "the small local model: rtvla model make-tiny DIR, then --checkpoint DIR"


def require_checkpoint(cfg: Config) -> Path:
    if not cfg.policy.checkpoint:
        raise ConfigError(f"policy.checkpoint is empty: name a checkpoint folder; {HOW_TO_GET_ONE}")
    path = Path(cfg.policy.checkpoint)
    if not (path / "spec.json").is_file():
        raise ConfigError(
            f'policy.checkpoint = "{path}": no spec.json there, so no checkpoint folder; {HOW_TO_GET_ONE}'
        )
    return path


def resolve_device(name: str) -> str:
    """ "auto" is CUDA if there is one, else the CPU. Asking for CUDA where there is none is an error, no fallback."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f'device = "{name}": torch sees no CUDA device; set it to "cpu" or "auto"')
    return name


def window_sizes(checkpoint: str) -> tuple[int, int]:
    """(sensor, robot) samples that the model looks at; the usual ones while no checkpoint is named."""
    path = Path(checkpoint) / "spec.json"
    if not checkpoint or not path.is_file():
        return 65, 100
    spec = json.loads(path.read_text())
    return int(spec["sensor_window"]), int(spec["robot_window"])
