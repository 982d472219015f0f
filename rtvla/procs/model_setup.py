"""What the model processes and whoever starts them share before anything is loaded: which checkpoint, which device."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.models.feature import Approximation, feature_fingerprint
from rtvla.models.spec import ModelSpec
from rtvla.models.spec_rules import SAMPLING

HOW_TO_GET_ONE = "the small local model: rtvla model make-tiny DIR, then --checkpoint DIR"


def require_checkpoint(cfg: Config) -> Path:
    """The checkpoint folder of the config, after its spec was read and held against what was asked for."""
    if not cfg.policy.checkpoint:
        raise ConfigError(f"policy.checkpoint is empty: name a checkpoint folder; {HOW_TO_GET_ONE}")
    path = Path(cfg.policy.checkpoint)
    if not (path / "spec.json").is_file():
        raise ConfigError(
            f'policy.checkpoint = "{path}": no spec.json there, so no checkpoint folder; {HOW_TO_GET_ONE}'
        )
    spec = ModelSpec.from_json((path / "spec.json").read_text())
    asked = cfg.policy.model_type
    if asked and spec.expert != asked:
        raise ConfigError(f"checkpoint {path}: expert is {spec.expert}, but {asked} was asked for")
    for name, expert in SAMPLING.items():
        steps = getattr(cfg.policy, name)
        if steps and spec.expert != expert:
            raise ConfigError(f"policy.{name} = {steps}: {path} is a {spec.expert} model; leave it out")
    if not spec.trained and not _is_loopback(cfg.network.robot_ip):
        raise ConfigError(
            f"checkpoint {path} has random weights and network.robot_ip = {cfg.network.robot_ip} is a real robot: "
            "such a model is for simulated robots on this machine only"
        )
    return path


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def resolve_device(name: str) -> str:
    """ "auto" is CUDA if there is one, else the CPU. Asking for CUDA where there is none is an error, no fallback."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f'device = "{name}": torch sees no CUDA device; set it to "cpu" or "auto"')
    return name


def approximation_of(cfg: Config) -> Approximation:
    return Approximation(cfg.vl_encoder.quantize, cfg.vl_encoder.layers)


def feature_of(cfg: Config, spec: ModelSpec) -> int:
    """Names the VL feature that this config makes with this model: the encoder writes it, the policy demands it."""
    return feature_fingerprint(spec, cfg.vl_encoder.task_name, approximation_of(cfg))


def window_sizes(checkpoint: str) -> tuple[int, int]:
    """(sensor, robot) samples that the model looks at; the usual ones while no checkpoint is named."""
    path = Path(checkpoint) / "spec.json"
    if not checkpoint or not path.is_file():
        return 65, 100
    spec = ModelSpec.from_json(path.read_text())
    return spec.sensor_window, spec.robot_window
