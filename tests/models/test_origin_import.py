"""Taking over old files: what is found in them, what is made of them, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_files import VL_DIM, module, save, stored, training, v1_stage1_content, v2_content, whole
from torch import nn

from rtvla.errors import CheckpointError
from rtvla.models.checkpoint import load_policy, load_spec
from rtvla.models.import_origin import plan, write
from rtvla.models.origin.choices import Choices
from rtvla.models.origin.encoder_only import load_encoder
from rtvla.models.origin.export import export
from rtvla.models.origin.facts import FAULTS, Origin
from rtvla.models.origin.reader import read, tensors_in
from rtvla.models.origin.report import LEFT_OUT, Report
from rtvla.models.spec import ModelSpec

REGRESSION, FLOW, DIFFUSION = "v2.RegressionActionExpert", "v2.FlowMatchingActionExpert", "v2.DiffusionActionExpert"
PLAIN, FORCE_AWARE, V1 = "v2.SensorEncoder", "v2.ForceAwareSensorEncoder", "v1.SensorEncoder"
WITH_SENSOR, V1_DIFFUSION, NO_SENSOR = (
    f"v1.{name}" for name in ("QwenActionExpertWithSensor", "DiffusionActionExpert", "QwenActionExpert")
)
NONE = {"fusion_strategy": "none"}

pytestmark = pytest.mark.usefixtures("no_hub")
torch.set_num_threads(1)


def v1_whole(expert: str, sensor: bool = True, **arguments: Any) -> dict[str, Any]:
    parts = {"action_expert": stored(module(expert, 3, **arguments))}
    parts |= {"sensor_encoder": stored(module(V1, 1))} if sensor else {}
    return training(model_state_dict=whole(**parts))


def with_lora(content: dict[str, Any]) -> dict[str, Any]:
    """As peft has it, of a VL model of one layer; B is still zero."""
    at = "vl_model.base_model.model.model.layers.0.self_attn.q_proj"
    content["model_state_dict"] |= {
        f"{at}.base_layer.weight": torch.ones(8, 8),
        f"{at}.lora_A.default.weight": torch.ones(2, 8),
        f"{at}.lora_B.default.weight": torch.zeros(8, 2),
    }
    return content


# name of the file, its content, layout, sensor, robot, expert, its arguments, faults that must be named
CASES: dict[str, tuple[str, Callable[[], dict[str, Any]], str, str | None, bool, str, dict[str, Any], set[str]]] = {
    "regression": (
        "regression_best.pt", lambda: v2_content(REGRESSION, FORCE_AWARE, horizon=1), "v2 regression",
        FORCE_AWARE, True, REGRESSION, {"horizon": 1},
        {"force_from_last_channel", "first_action_only", "true_chunk_in_training", "padding_in_pooled_mean"},
    ),
    "flow": (
        "flow_matching_best.pt", lambda: v2_content(FLOW, FORCE_AWARE), "v2 flow matching",
        FORCE_AWARE, True, FLOW, {}, {"no_horizon_positions", "time_not_scaled", "padding_in_pooled_mean"},
    ),
    "unified flow": (
        "flow_matching_latest.pt", lambda: v2_content(FLOW, PLAIN, fusion_strategy="gated"), "v2 unified flow matching",
        PLAIN, True, FLOW, {"fusion_strategy": "gated"}, {"no_horizon_positions", "joint_in_training"},
    ),
    "unified regression": (
        "regression_latest.pt", lambda: v2_content(REGRESSION, PLAIN, fusion_strategy="cross_attention"),
        "v2 unified regression", PLAIN, True, REGRESSION, {"fusion_strategy": "cross_attention"}, {"features_ignored"},
    ),
    "no sensor": (
        "regression_best.pt", lambda: v2_content(REGRESSION, None, **NONE), "v2 regression",
        None, True, REGRESSION, NONE, {"vl_only"},
    ),
    "no robot": (
        "flow_matching_best.pt", lambda: v2_content(FLOW, PLAIN, robot=False, sensor_dim=16),
        "v2 unified flow matching", PLAIN, False, FLOW, {"sensor_dim": 16}, {"no_horizon_positions"},
    ),
    "VL alone": (
        "flow_matching_best.pt", lambda: v2_content(FLOW, None, robot=False, **NONE), "v2 flow matching",
        None, False, FLOW, NONE, {"raw_units"},
    ),
    "unified diffusion": (
        "diffusion_best.pt", lambda: v2_content(DIFFUSION, PLAIN), "v2 unified diffusion",
        PLAIN, True, DIFFUSION, {}, {"never_run", "actions_clipped", "robot_ignored", "no_horizon_positions"},
    ),
    "stage 1": (
        "qwen_vla_sensor_best.pt", v1_stage1_content, "v1 stage 1",
        V1, False, WITH_SENSOR, {}, {"true_chunk_in_training"},
    ),
    "stage 1 without sensor": (
        "qwen_vla_sensor.pt",
        lambda: training(sensor_encoder=None, action_expert=stored(module(WITH_SENSOR, 3, **NONE))),
        "v1 stage 1", None, False, WITH_SENSOR, NONE, {"true_chunk_in_training"},
    ),
    "no fusion": (
        "flow_matching_best.pt", lambda: v2_content(FLOW, PLAIN, **NONE), "v2 unified flow matching",
        PLAIN, True, FLOW, NONE, {"vl_only"},
    ),
    "v1 diffusion": (
        "diffusion_epoch3.pt", lambda: v1_stage1_content(V1_DIFFUSION, fusion_strategy="gated"), "v1 diffusion",
        V1, False, V1_DIFFUSION, {"fusion_strategy": "gated"}, {"actions_clipped"},
    ),
    "encoder and action": (
        "encoder_action_best.pt", lambda: v1_whole(WITH_SENSOR), "v1 encoder and action",
        V1, False, WITH_SENSOR, {}, {"true_chunk_in_training"},
    ),
    "v1 whole": (
        "qwen_vla_sensor_final.pt", lambda: v1_whole(WITH_SENSOR), "v1 whole",
        V1, False, WITH_SENSOR, {}, {"raw_units"},
    ),
    "v1 LoRA": (
        "qwen_vla_async_best.pt", lambda: with_lora(v1_whole(WITH_SENSOR)), "v1 async LoRA",
        V1, False, WITH_SENSOR, {}, {"vl_not_compared"},
    ),
    "v1 without sensor": (
        "qwen_vla.pt", lambda: v1_whole(NO_SENSOR, sensor=False), "v1 without sensor",
        None, False, NO_SENSOR, {}, {"no_horizon_positions", "true_chunk_in_training"},
    ),
}  # fmt: skip


def old_chunk(
    sensor: str | None, robot: bool, expert: str, arguments: dict[str, Any], spec: ModelSpec, seed: int
) -> Any:
    """What the old receiver did with the modules: encode, then the expert, z_chunk zeros."""
    seen = spec.fake_observation(seed)
    window, state, vl = (torch.tensor(one)[None] for one in (seen.sensor, seen.robot, seen.vl_feature))
    made: Any = module(expert, 3, **arguments)
    length = {} if sensor in (None, FORCE_AWARE) else {"temporal_length": spec.sensor_window}
    features = [
        module(sensor, 1, **length)(window) if sensor else None,
        module("v2.RobotStateEncoder", 2)(state) if robot else None,
    ]
    noise = torch.randn(1, 8, 7, generator=torch.Generator().manual_seed(seed))
    if expert == FLOW:
        return made.sample(noise, made.condition(vl[:, None], *features), 10, "euler")
    if "Diffusion" in expert:
        return made.ddim(noise, made.condition(vl[:, None], features[0]), 50)
    return made(vl[:, None], torch.zeros(1, spec.horizon, 7), *features)[0]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_layout_becomes_a_policy_that_does_what_the_old_modules_did(case: str, tmp_path: Path) -> None:
    file, content, layout, sensor, robot, expert, arguments, faults = CASES[case]
    planned = plan(save(tmp_path, file, content()))
    write(planned, tmp_path / "new")
    policy = load_policy(tmp_path / "new")
    spec = policy.spec
    assert spec.origin is not None
    assert planned.layout.name == spec.origin.layout == layout
    assert faults <= set(spec.origin.faults)
    assert spec.sensor_window == (650 if layout == "v1 encoder and action" else 65)
    assert spec.vl_sequence == ("joint" if layout.startswith("v1") else "per_view")
    expected = old_chunk(sensor, robot, expert, arguments, spec, 4)
    np.testing.assert_array_equal(policy.predict(spec.fake_observation(4), 4).actions, expected[0].numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["new", file])  # nothing half made is left


@pytest.mark.parametrize("case", CASES)
def test_every_key_is_accounted_for_and_export_gives_the_tensors_back(case: str, tmp_path: Path) -> None:
    file, content = CASES[case][:2]
    before = content()
    planned = plan(save(tmp_path, file, before))
    keys = {row.key for row in planned.report.rows}
    for name, _ in tensors_in(before):
        assert name in keys or name.startswith("optimizer_state_dict."), name
    assert all(row.why for row in planned.report.rows if row.action == LEFT_OUT)
    write(planned, tmp_path / "new")
    _, absent = export(tmp_path / "new", tmp_path / "again.pt")
    after = read(tmp_path / "again.pt")
    gone = {row.key for row in absent}
    assert {key.partition(".")[0] for key in gone} <= {
        "optimizer_state_dict",
        "scheduler_state_dict",
        "model_state_dict",
    }
    assert all(key.startswith("model_state_dict.vl_model.") for key in gone if key.startswith("model"))
    expected = {name: one for name, one in tensors_in(before) if not name.startswith("optim") and name not in gone}
    found = dict(tensors_in(after))
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert found[name].dtype == one.dtype and torch.equal(found[name], one), name
    assert (after["epoch"], after["val_loss"]) == (12, 0.25)


def test_dead_tensors_are_named_as_such(tmp_path: Path) -> None:
    planned = plan(save(tmp_path, "regression_best.pt", v2_content(REGRESSION, PLAIN)))
    dead = {row.new for row in planned.report.rows if "dead" in row.why}
    assert dead == {f"action_expert.output_head.{at}.{kind}" for at in (0, 1) for kind in ("weight", "bias")}


def test_what_the_file_does_not_say_can_be_said(tmp_path: Path) -> None:
    old = save(tmp_path, "flow_matching_best.pt", v2_content(FLOW, PLAIN, nhead=4))
    chosen = Choices(window=650, heads=4, flow_solver="rk4", prompt="Insert into the {task}", vl_sequence="joint")
    write(plan(old, chosen), tmp_path / "new")
    spec = load_spec(tmp_path / "new")
    assert (spec.sensor_window, spec.expert_heads, spec.flow_solver) == (650, 4, "rk4")
    assert (spec.prompt, spec.vl_sequence) == ("Insert into the {task}", "joint")
    assert spec.origin is not None
    assert "joint_in_training" not in spec.origin.faults
    assert load_policy(tmp_path / "new").predict(spec.fake_observation(0), 0).actions.shape == (8, 7)
    assumed = Report.read(tmp_path / "new").assumed
    assert (assumed["window"], assumed["flow_solver"], assumed["horizon"]) == ("650", "rk4", "8")
    assert "diffusion_steps" not in assumed


def test_the_width_of_the_vl_feature_tells_concat_from_none(tmp_path: Path) -> None:
    concat = save(tmp_path, "flow_matching_best.pt", v2_content(FLOW, PLAIN))
    strategies = {dim: plan(concat, Choices(vl_dim=dim)).parts["action_expert"].arguments for dim in (24, 56)}
    assert strategies[24]["fusion_strategy"] == "concat"
    assert strategies[56]["fusion_strategy"] == "none"  # a VL feature of 56 values would leave no room for others
    assert "does not fit" in plan(concat).report.assumed["vl_dim"]
    with pytest.raises(CheckpointError, match="takes 56 values: neither the VL feature of 30 alone nor with 32"):
        plan(concat, Choices(vl_dim=30))


@pytest.mark.parametrize("kind", ["v2.MAERobotStateModel", "v2.CLIPModel"])
def test_a_pre_training_becomes_an_encoder_and_no_policy(kind: str, tmp_path: Path) -> None:
    before = training(model_state_dict=stored(module(kind)), best_val_loss=float("inf"))
    if kind == "v2.CLIPModel":
        before["model_state_dict"]["image_encoder.model.norm.weight"] = torch.ones(VL_DIM)
    write(plan(save(tmp_path, "old.pth", before)), tmp_path / "new")
    expected: nn.Module = module(kind).get_submodule("encoder" if "MAE" in kind else "sensor_encoder")
    encoder = load_encoder(tmp_path / "new")
    assert type(encoder) is type(expected)
    for name, one in encoder.state_dict().items():
        assert torch.equal(one, expected.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="is an encoder alone, to start a training with"):
        load_policy(tmp_path / "new")
    export(tmp_path / "new", tmp_path / "again.pth")
    after = dict(tensors_in(read(tmp_path / "again.pth")["model_state_dict"]))
    kept = {name: one for name, one in before["model_state_dict"].items() if not name.startswith("image_encoder")}
    assert after.keys() == kept.keys()
    assert all(torch.equal(after[name], one) for name, one in kept.items())
    with open(tmp_path / "new" / "weights.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    with pytest.raises(CheckpointError, match="not the file that was saved"):
        load_encoder(tmp_path / "new")


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    planned = plan(save(tmp_path, "flow_matching_best.pt", v2_content(FLOW, PLAIN)))
    (tmp_path / "new").mkdir()
    with pytest.raises(CheckpointError, match="exists"):
        write(planned, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_the_facts_survive_their_file_and_reject_what_they_do_not_know(tmp_path: Path) -> None:
    write(plan(save(tmp_path, "flow_matching_best.pt", v2_content(FLOW, PLAIN))), tmp_path / "new")
    spec = load_spec(tmp_path / "new")
    assert ModelSpec.from_json(spec.to_json()) == spec
    given = json.loads(spec.to_json())["origin"]
    for change, said in (
        ({"faults": ["colour"]}, "unknown to this rtvla"),
        ({"vl_lora": "perhaps"}, "must be one of absent"),
        ({"expert": None}, "origin.expert"),
        ({"more": 1}, "exactly"),
    ):
        with pytest.raises(CheckpointError, match=said):
            Origin.from_json(given | change)
    assert all(sentence and sentence[0].islower() for sentence in FAULTS.values())
