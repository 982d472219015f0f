"""Origin: what an imported model was, which faults came with it, and what the import did with the VL weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rtvla.errors import CheckpointError

Argument = int | str | bool

# A fault of the old model that the imported one still has, or that the import had to leave as it is.
FAULTS = {
    "no_horizon_positions": "its steps have no positions: they are exchangeable, so the first action is not the first",
    "time_not_scaled": "the flow time enters its sinusoid as 0..1, where few of its values move",
    "force_from_last_channel": "the force branch reads the last bin of the A-line, and the force is read as profile",
    "raw_units": "nothing is normalised: millimetres, degrees and raw sensor values go straight into the layers",
    "true_chunk_in_training": "in training its input z_chunk was the true chunk, so it was taught to add nothing",
    "first_action_only": "it was trained on the first action of a chunk alone",
    "features_ignored": "sensor and robot state have no influence: attention over one VL token cannot choose",
    "vl_only": "its fusion looks at the VL feature alone; sensor and robot state have no influence",
    "actions_clipped": "predicted actions are clipped to 1 mm and 1 deg at each step of the sampling",
    "sensor_resampled": "trained on windows of 650 samples resampled to its length, served the newest samples",
    "padding_in_pooled_mean": "the mean over VL tokens counted padding; with frames of one size there is none to count",
    "joint_in_training": "trained on the feature of all views in one sequence, served the mean of one sequence a view",
    "robot_ignored": "its expert takes no robot state; that encoder has no influence",
    "never_run": "its class could not be built as it was shipped; it runs here with the schedule of v1",
    "vl_not_compared": "the file held VL weights, which the import could not compare with the backbone",
    "vl_lora_kept_aside": "the file held a LoRA of the VL model, which is not merged: no VL feature can be made",
}
VL_WEIGHTS = ("absent", "equal", "not_compared", "written")
VL_LORA = ("absent", "zero", "merged", "kept_aside")


@dataclass(frozen=True)
class Part:
    """One old module: its class (a name of origin.classes.CLASSES) and the arguments that its constructor was given."""

    kind: str
    arguments: Mapping[str, Argument] = field(hash=False)

    @property
    def class_name(self) -> str:
        """Without the version, as the old code and its golden files name it."""
        return self.kind.partition(".")[2]


@dataclass(frozen=True)
class Origin:
    layout: str  # a name of import_origin's table
    sensor: Part | None
    robot: Part | None
    expert: Part
    faults: tuple[str, ...]
    vl_weights: str = "absent"  # equal: to the backbone's. written: they are the backbone of this checkpoint
    vl_lora: str = "absent"  # zero: changes nothing. kept_aside: in a file of its own, not applied

    def __post_init__(self) -> None:
        unknown = [name for name in self.faults if name not in FAULTS]
        if unknown:
            raise CheckpointError(f"spec origin.faults = {unknown}: unknown to this rtvla; it knows {sorted(FAULTS)}")
        for name, choices in (("vl_weights", VL_WEIGHTS), ("vl_lora", VL_LORA)):
            if getattr(self, name) not in choices:
                raise CheckpointError(
                    f'spec origin.{name} = "{getattr(self, name)}": must be one of {", ".join(choices)}'
                )

    @classmethod
    def from_json(cls, given: object) -> Origin:
        """Of the value that dataclasses.asdict and JSON made of it."""
        values = _exactly(given, cls, "origin")
        for name in ("sensor", "robot", "expert"):
            if values[name] is not None or name == "expert":
                part = _exactly(values[name], Part, f"origin.{name}")
                if not isinstance(part["arguments"], Mapping):
                    raise CheckpointError(f"spec origin.{name}.arguments: must be a JSON object")
                values[name] = Part(**part)
        if not isinstance(values["faults"], list):
            raise CheckpointError("spec origin.faults: must be a list of names")
        return cls(**values | {"faults": tuple(values["faults"])})


def _exactly(given: object, kind: type, where: str) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    if not isinstance(given, Mapping) or set(given) != names:
        raise CheckpointError(f"spec {where}: must be an object with exactly {', '.join(sorted(names))}")
    return dict(given)
