"""`rtvla checkpoint` and `scripts/check_golden` as they are typed: what they print and return."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from old_files import module, save, stored, training, v1_stage1_content, v2_content

from rtvla.cli import main

torch.set_num_threads(1)

GOLDEN = Path(__file__).parents[1] / "golden"
EXPERT = "v2.FlowMatchingActionExpert"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return save(tmp_path, "flow_matching_best.pt", v2_content(EXPERT, "v2.ForceAwareSensorEncoder"))


def test_import_prints_every_key_and_what_could_not_be_known(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "import", str(old), str(tmp_path / "new"), "--flow-steps", "5"]) == 0
    printed = capsys.readouterr().out
    name = "action_expert.time_mlp.0.weight"
    for line in (
        f"renamed   model_state_dict.{name} -> {name}  bfloat16 (16, 16)",
        f"used      {name}  bfloat16 (16, 16)  (a second copy of model_state_dict.{name})",
        "left out  optimizer_state_dict  (state of the optimiser, for resuming the old training (2 tensors))",
        "left out  epoch  (of the training: 12; kept in the report)",
        "layout    v2 flow matching: TRAIN_FlowMatching.py",
        "fault     no_horizon_positions: its steps have no positions: they are exchangeable, so the first action is "
        "not the first",
        "fault     force_from_last_channel:",
        "assumed   flow_steps = 5",
        "assumed   heads = 8",
        f"written: {tmp_path / 'new'}",
    ):
        assert line in printed
    assert json.loads((tmp_path / "new" / "spec.json").read_text())["flow_steps"] == 5
    assert main(["checkpoint", "import", str(old), str(tmp_path / "new")]) == 2
    assert "exists: choose another name" in capsys.readouterr().err


def test_show_writes_nothing_and_knows_both_kinds(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "show", str(old), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["layout"] == "v2 flow matching"
    part = shown["parts"]["action_expert"]
    assert part["kind"] == EXPERT
    assert part["arguments"]["sensor_dim"] == 32
    assert part["parameters"] == sum(one.numel() for one in module(EXPERT).parameters())
    assert {"key", "action", "new", "why"} <= set(shown["keys"][0])
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert main(["checkpoint", "show", str(old), "--keys"]) == 0
    assert "renamed   model_state_dict.robot_state_encoder.pos_encoder" in capsys.readouterr().out
    main(["checkpoint", "import", str(old), str(tmp_path / "new"), "--json"])
    assert json.loads(capsys.readouterr().out)["spec"]["expert"] == "flow_matching"
    assert main(["checkpoint", "show", str(tmp_path / "new")]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["layout"], about["spec"]["origin"]["layout"]) == ("v2 flow matching",) * 2


def test_export_says_what_is_not_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = v1_stage1_content()
    main(["checkpoint", "import", str(save(tmp_path, "qwen_vla_sensor.pt", before)), str(tmp_path / "new")])
    capsys.readouterr()
    assert main(["checkpoint", "export", str(tmp_path / "new"), str(tmp_path / "again.pt")]) == 0
    printed = capsys.readouterr().out
    assert "not in it  optimizer_state_dict" in printed
    assert "v1 stage 1; 73 keys, 2 not in it" in printed
    after = torch.load(tmp_path / "again.pt", weights_only=True)
    assert after["sensor_encoder"].keys() == before["sensor_encoder"].keys()
    assert main(["checkpoint", "export", str(tmp_path / "new"), str(tmp_path / "again.pt")]) == 2
    assert main(["checkpoint", "export", str(GOLDEN), str(tmp_path / "other.pt")]) == 2
    assert "was not made by rtvla checkpoint import" in capsys.readouterr().err


def test_a_pre_training_is_said_to_be_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = training(model_state_dict=stored(module("v2.MAERobotStateModel")))
    old = save(tmp_path, "robot_state_mae_best.pth", content)
    assert main(["checkpoint", "import", str(old), str(tmp_path / "new")]) == 0
    assert "it is no policy and cannot be run as one" in capsys.readouterr().out
    assert main(["checkpoint", "show", str(tmp_path / "new")]) == 0
    assert json.loads(capsys.readouterr().out)["encoder"]["kind"] == "v2.MAERobotStateModel"


def test_a_file_that_is_refused_ends_with_2_and_one_line(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.pt").write_bytes(old.read_bytes()[:2000])
    (tmp_path / "text.pt").write_text("hello")

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "proof"),)

    torch.save({"model_state_dict": {}, "epoch": Bomb()}, tmp_path / "bomb.pt")
    for name, said in (("cut", "cut short"), ("text", "not a checkpoint"), ("bomb", "refused, nothing was run")):
        for arguments in (
            ["import", str(tmp_path / f"{name}.pt"), str(tmp_path / "new")],
            ["show", str(tmp_path / f"{name}.pt")],
        ):
            assert main(["checkpoint", *arguments]) == 2
            error = capsys.readouterr().err
            assert said in error
            assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "proof").exists()


def test_the_golden_script_runs_on_files_anywhere(tmp_path: Path) -> None:
    files = [str(GOLDEN / "v2_RobotStateEncoder_T100_L3.pt"), str(GOLDEN / "diffusion_schedule_cosine100.pt")]
    run = subprocess.run(
        [sys.executable, "-m", "rtvla.tools.check_golden", *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert "v2_RobotStateEncoder_T100_L3.pt: v2.RobotStateEncoder" in run.stdout
    assert "all within 5e-05" in run.stdout
