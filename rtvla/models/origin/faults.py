"""Which faults of the old system an imported model still has: seen from its parts, in the words of facts.FAULTS."""

from __future__ import annotations

from rtvla.models.origin.facts import Part

_NO_POSITIONS = ("FlowMatchingActionExpert", "DiffusionActionExpert", "QwenActionExpert")
_ADDS_TO_CHUNK = ("RegressionActionExpert", "QwenActionExpertWithSensor", "QwenActionExpert")


def faults_of(
    sensor: Part | None, robot: Part | None, expert: Part, vl_sequence: str, sampler: str, vl: dict[str, str]
) -> tuple[str, ...]:
    """`vl`: what became of the VL weights, as the fields vl_weights and vl_lora of Origin."""
    name, fusion, version = expert.class_name, expert.arguments.get("fusion_strategy"), expert.kind[:2]
    has_features = sensor is not None or robot is not None
    present = {
        "raw_units": True,
        "no_horizon_positions": name in _NO_POSITIONS,
        "time_not_scaled": name == "FlowMatchingActionExpert",
        "force_from_last_channel": sensor is not None and sensor.class_name == "ForceAwareSensorEncoder",
        "true_chunk_in_training": name in _ADDS_TO_CHUNK,
        "first_action_only": expert.arguments["horizon"] == 1,
        "features_ignored": fusion == "cross_attention",
        "vl_only": has_features and (fusion == "none" or name == "QwenActionExpert"),
        "robot_ignored": robot is not None and name == "DiffusionActionExpert",
        "actions_clipped": name == "DiffusionActionExpert" and sampler == "ddim",
        "never_run": expert.kind == "v2.DiffusionActionExpert",
        "sensor_resampled": version == "v2" and sensor is not None and sensor.arguments["temporal_length"] == 65,
        "padding_in_pooled_mean": version == "v2",
        "joint_in_training": version == "v2" and vl_sequence == "per_view",
        "vl_not_compared": vl["vl_weights"] == "not_compared",
        "vl_lora_kept_aside": vl["vl_lora"] == "kept_aside",
    }
    return tuple(fault for fault, there in present.items() if there)
