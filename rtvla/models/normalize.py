"""Mean and standard deviation of what the model was trained on: stats.json in the checkpoint.

The same numbers scale the observation in and the actions out, in training and at run time alike, because the trainable
module holds them. Units are those of the wire.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import nn

from rtvla import schema
from rtvla.errors import CheckpointError


@dataclass(frozen=True)
class MeanStd:
    mean: tuple[float, ...]
    std: tuple[float, ...]


# How many values each may have; the A-line has one for all bins or one per bin.
_LENGTHS = {
    "force": (1,),
    "aline": (1, schema.ALINE_BINS),
    "robot": (len(schema.ROBOT_CHANNEL_NAMES),),
    "action": (schema.ACTION_DIM,),
}


@dataclass(frozen=True)
class Statistics:
    force: MeanStd
    aline: MeanStd
    robot: MeanStd
    action: MeanStd

    def __post_init__(self) -> None:
        for name, lengths in _LENGTHS.items():
            part: MeanStd = getattr(self, name)
            if len(part.mean) not in lengths or len(part.std) != len(part.mean):
                wanted = " or ".join(map(str, lengths))
                raise CheckpointError(
                    f"stats {name}: {len(part.mean)} means and {len(part.std)} deviations; both must be {wanted}"
                )
            for at, (mean, std) in enumerate(zip(part.mean, part.std, strict=True)):
                if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
                    raise CheckpointError(
                        f"stats {name}[{at}]: mean {mean}, std {std}; both must be finite and std above 0 "
                        "(for a channel that never changes, write std 1)"
                    )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Statistics:
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"stats are not JSON: {error}") from None
        names = {field.name for field in fields(cls)}
        if not isinstance(given, Mapping) or set(given) != names:
            raise CheckpointError(f"stats: must be an object with exactly {', '.join(sorted(names))}")
        return cls(**{name: _mean_std(name, value) for name, value in given.items()})


def _mean_std(name: str, value: object) -> MeanStd:
    if not isinstance(value, Mapping) or set(value) != {"mean", "std"}:
        raise CheckpointError(f"stats {name}: must be an object with mean and std")
    for key, numbers in value.items():
        if not isinstance(numbers, list) or any(type(one) not in (int, float) for one in numbers):
            raise CheckpointError(f"stats {name}.{key}: must be a list of numbers")
    return MeanStd(tuple(map(float, value["mean"])), tuple(map(float, value["std"])))


class Normalizer(nn.Module):
    """Applies and inverts. Its numbers move with the module but stay out of its weights: stats.json is their home."""

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        bins = schema.ALINE_BINS
        for kind in ("mean", "std"):
            aline = getattr(statistics.aline, kind)
            aline = aline * bins if len(aline) == 1 else aline
            numbers = {
                "sensor": (*getattr(statistics.force, kind), *aline),  # force first
                "robot": getattr(statistics.robot, kind),
                "action": getattr(statistics.action, kind),
            }
            for name, values in numbers.items():
                self.register_buffer(f"{name}_{kind}", torch.tensor(values, dtype=torch.float32), persistent=False)

    def apply_to(self, name: str, raw: torch.Tensor) -> torch.Tensor:
        """`name` is sensor, robot or action; channels last."""
        return (raw - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")

    def invert(self, name: str, normalised: torch.Tensor) -> torch.Tensor:
        return normalised * self.get_buffer(f"{name}_std") + self.get_buffer(f"{name}_mean")
