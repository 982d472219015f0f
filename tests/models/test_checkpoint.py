from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rtvla.errors import CheckpointError
from rtvla.models.checkpoint import load_policy, load_spec, save_checkpoint, write_checksums
from rtvla.models.make_tiny import make_tiny
from rtvla.models.vla import VlaModel

NAME = "sensor_encoder.project.0.weight"


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path / "copy")
    return tmp_path / "copy"


def with_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = load_file(folder / "weights.safetensors") | changes
    save_file({name: value for name, value in weights.items() if value is not None}, folder / "weights.safetensors")
    write_checksums(folder)


def test_round_trip_gives_the_same_chunks(tiny: Path, tmp_path: Path) -> None:
    policy = load_policy(tiny)
    save_checkpoint(tmp_path / "again", policy._model, tiny / "vl")
    again, observation = load_policy(tmp_path / "again"), policy.spec.fake_observation(0)
    np.testing.assert_array_equal(policy.predict(observation, 1).actions, again.predict(observation, 1).actions)
    assert load_spec(tmp_path / "again") == load_spec(tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]  # nothing left beside it


def test_files_can_be_read_by_another_user(tiny: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in tiny.rglob("*.safetensors")}
    assert modes and all(mode & stat.S_IROTH for mode in modes.values())


def test_existing_checkpoint_is_kept_unless_asked(copy: Path) -> None:
    model = load_policy(copy)._model
    with pytest.raises(CheckpointError, match="exists"):
        save_checkpoint(copy, model, copy / "vl")
    with torch.no_grad():
        model.expert.head[1].bias.add_(1)
    save_checkpoint(copy, model, copy / "vl", overwrite=True)
    assert torch.equal(load_policy(copy)._model.expert.head[1].bias, model.expert.head[1].bias)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_failed_save_leaves_the_old_one(copy: Path) -> None:
    model = load_policy(copy)._model
    before = (copy / "weights.safetensors").read_bytes()
    with pytest.raises(FileNotFoundError):
        save_checkpoint(copy, model, copy / "no_such_backbone", overwrite=True)
    assert (copy / "weights.safetensors").read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_backbone_must_be_given(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vl_backbone"):
        save_checkpoint(tmp_path / "new", load_policy(tiny)._model)


def test_missing_folder_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="rtvla model make-tiny DIR"):
        load_policy(tmp_path / "none")


@pytest.mark.parametrize("name", ["spec.json", "stats.json", "weights.safetensors"])
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_policy(copy)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is missing"),
        (torch.zeros(3, 4), r"\(3, 4\) instead of"),
        (torch.zeros(64, 64, dtype=torch.float16), "float16"),
        (torch.full((64, 64), torch.nan), "not finite"),
    ],
)
def test_weight_that_does_not_fit_is_named(copy: Path, value: torch.Tensor | None, said: str) -> None:
    with_weights(copy, **{NAME: value})
    with pytest.raises(CheckpointError, match=f"{NAME} .*{said}"):
        load_policy(copy)


@pytest.mark.parametrize("name", ["spec.json", "stats.json", "weights.safetensors"])
def test_a_byte_that_changed_is_found_before_it_moves_anything(copy: Path, name: str) -> None:
    """Regression: 64 flipped bytes in the middle of the weights drove the robot."""
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is not the file that was saved|spec"):
        load_spec(copy)


def test_extra_weight_is_named(copy: Path) -> None:
    with_weights(copy, stray=torch.zeros(1))
    with pytest.raises(CheckpointError, match="stray is not part"):
        load_policy(copy)


def test_spec_of_another_size_does_not_load(copy: Path) -> None:
    spec = json.loads((copy / "spec.json").read_text())
    (copy / "spec.json").write_text(json.dumps(spec | {"robot_window": 65}))
    write_checksums(copy)
    with pytest.raises(CheckpointError, match=r"robot_encoder\.position"):
        load_policy(copy)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100])
def test_broken_weights_are_refused(copy: Path, content: bytes) -> None:
    (copy / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        load_policy(copy)


def test_flow_steps_can_be_set_and_change_the_chunk(tiny: Path) -> None:
    few, usual = load_policy(tiny, flow_steps=1), load_policy(tiny)
    observation = usual.spec.fake_observation(0)
    assert (few.spec.flow_steps, usual.spec.flow_steps) == (1, 10)
    assert not np.allclose(few.predict(observation, 0).actions, usual.predict(observation, 0).actions)
    assert few.spec.fingerprint() == usual.spec.fingerprint()


def test_flow_steps_for_regression_are_refused(tiny_regression: Path) -> None:
    with pytest.raises(CheckpointError, match="flow_steps"):
        load_policy(tiny_regression, flow_steps=4)


def test_another_expert_than_asked_for_is_refused(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="regression was asked for"):
        load_policy(tiny, expect_expert="regression")


def test_tiny_is_small_and_follows_its_seed(tiny: Path, tmp_path: Path) -> None:
    again, other = make_tiny(tmp_path / "again"), make_tiny(tmp_path / "other", seed=1)
    for name in ("weights.safetensors", "vl/model.safetensors"):
        assert (tiny / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (tiny / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
    assert again == load_spec(tiny) and again.fingerprint() != other.fingerprint()
    assert sum(path.stat().st_size for path in tiny.rglob("*") if path.is_file()) < 5_000_000
    assert isinstance(load_policy(tiny)._model, VlaModel)


def test_make_tiny_does_not_overwrite(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="exists"):
        make_tiny(tiny)


def test_policy_does_not_load_transformers() -> None:
    code = "import sys, rtvla.models.checkpoint, rtvla.models.vla; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
