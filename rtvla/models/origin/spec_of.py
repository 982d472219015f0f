"""The ModelSpec of an imported model: what its parts are, in the words of our own models."""

from __future__ import annotations

from typing import Any

from rtvla import schema
from rtvla.errors import CheckpointError
from rtvla.models.origin.choices import Choices
from rtvla.models.origin.facts import Origin, Part
from rtvla.models.spec import ModelSpec

_EXPERTS = {"FlowMatchingActionExpert": "flow_matching", "DiffusionActionExpert": "diffusion"}  # others: regression


def expert_name(part: Part) -> str:
    return _EXPERTS.get(part.class_name, "regression")


def spec_of(
    name: str, origin: Origin, choices: Choices, vl_backbone: str, vl_fingerprint: str, vl_dim: int | None
) -> ModelSpec:
    """`choices` filled. Raises CheckpointError where the old model does not fit the data of this runtime."""
    expert = origin.expert.arguments
    if vl_dim not in (None, expert["vl_dim"]):
        raise CheckpointError(
            f"the expert takes a VL feature of {expert['vl_dim']} values, the backbone gives {vl_dim}: "
            "name the backbone that it was trained with (--vl-backbone, --vl-dim)"
        )
    fields: dict[str, Any] = {
        "horizon": expert["horizon"],
        "action_dim": expert["action_dim"],
        "missing_mask": False,
        "vl_age_input": False,
        "fusion": expert.get("fusion_strategy", "none"),
        "expert": expert_name(origin.expert),
        "expert_hidden": expert["hidden_dim"],
        "expert_layers": expert["num_layers"],
        "expert_heads": expert["nhead"],
        "expert_ff": 4 * int(expert["hidden_dim"]),
        "flow_steps": choices.flow_steps,
        "flow_solver": choices.flow_solver,
        "diffusion_timesteps": choices.timesteps,
        "diffusion_sampler": choices.diffusion_sampler,
        "diffusion_steps": choices.diffusion_steps,
        "vl_dim": expert["vl_dim"],
        "vl_sequence": choices.vl_sequence,
        "view_pooling": choices.view_pooling,
        "image_height": choices.image_height,
        "image_width": choices.image_width,
        "image_rule": choices.image_rule,
        "prompt": choices.prompt,
    }
    fields |= _sensor(origin.sensor, choices) | _robot(origin.robot)
    return ModelSpec(name=name, vl_backbone=vl_backbone, vl_fingerprint=vl_fingerprint, origin=origin, **fields)


def _sensor(part: Part | None, choices: Choices) -> dict[str, Any]:
    if part is None:
        return {"sensor_encoder": "none", "sensor_window": choices.window}
    force_aware, given = part.class_name == "ForceAwareSensorEncoder", part.arguments
    channels = int(given["dist_channels"]) + 1 if force_aware else given["input_channels"]
    _fits("sensor encoder", channels, schema.SENSOR_CHANNELS)
    if not given["use_transformer"]:
        raise CheckpointError("the sensor encoder has no transformer: no old script made such a model")
    hidden = int(given["dist_hidden_dim" if force_aware else "hidden_dim"])
    return {
        "sensor_encoder": "force_aware" if force_aware else "plain",
        "sensor_resample": given["interpolation_mode"],
        "sensor_window": choices.window,
        "sensor_stages": (hidden, *(2 * hidden,) * (int(given["num_conv_layers"]) - 1)),
        "sensor_layers": given["num_transformer_layers"],
        "sensor_heads": given["nhead"],
        "sensor_dim": given["output_dim"],
    }


def _robot(part: Part | None) -> dict[str, Any]:
    if part is None:
        return {"robot_encoder": "none"}
    given = part.arguments
    _fits("robot state encoder", given["input_dim"], len(schema.ROBOT_CHANNEL_NAMES))
    return {
        "robot_window": given["temporal_length"],
        "robot_hidden": given["model_dim"],
        "robot_layers": given["num_layers"],
        "robot_heads": given["num_heads"],
        "robot_dim": given["output_dim"],
    }


def _fits(what: str, channels: object, expected: int) -> None:
    if channels != expected:
        raise CheckpointError(f"the {what} takes {channels} channels, the data of this runtime have {expected}")
