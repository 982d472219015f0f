from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import small_batch, small_model

from rtvla.errors import CheckpointError
from rtvla.models.checkpoint import load_model, load_policy, load_spec, save_checkpoint, write_checksums
from rtvla.models.experts import EXPERTS
from rtvla.models.make_tiny import make_tiny
from rtvla.models.policy import VlaPolicy
from rtvla.models.vla import VlaModel

NAME = "sensor_encoder.project.0.weight"


# Each expert with ways to put the parts together: (fusion, sensor_encoder, robot_encoder).
TRAINED = [
    (expert, *parts)
    for expert in EXPERTS
    for parts in (
        ("concat", "plain", "transformer"),
        ("cross_attention", "force_aware", "transformer"),
        ("gated", "plain", "none"),
        ("none", "none", "none"),
    )
]
_PREDICT = """
import sys, torch
from rtvla.models.checkpoint import load_policy
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    policy = load_policy(folder)
    print(policy.predict(policy.spec.fake_observation(3), seed=5).actions.tobytes().hex())
"""


def saved(model: VlaModel, folder: Path) -> None:
    """With its backbone on the hub, so that there is nothing to copy."""
    model.spec = replace(model.spec, vl_backbone="organisation/model", vl_fingerprint="")
    save_checkpoint(folder, model)


def trained(model: VlaModel) -> list[float]:
    """The losses of 30 steps on one batch, with the same noise in each: what falls is the error, not luck."""
    (inputs, actions), losses = small_batch(model.spec, 8, missing=True), []
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.loss(inputs, actions, torch.Generator().manual_seed(0))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_trained_saved_and_loaded_in_another_process_it_predicts_the_same(tmp_path: Path) -> None:
    predicted = {}
    for number, (expert, fusion, sensor, robot) in enumerate(TRAINED):
        model = small_model(expert=expert, fusion=fusion, sensor_encoder=sensor, robot_encoder=robot)
        fresh = VlaPolicy(model).predict(model.spec.fake_observation(3), seed=5).actions
        losses = trained(model.train().requires_grad_(True))
        assert losses[-1] < 0.7 * losses[0], (expert, fusion, losses)
        saved(model, tmp_path / str(number))
        actions = VlaPolicy(model).predict(model.spec.fake_observation(3), seed=5).actions
        assert not np.allclose(actions, fresh)
        predicted[str(tmp_path / str(number))] = actions.tobytes().hex()
    done = subprocess.run([sys.executable, "-c", _PREDICT, *predicted], capture_output=True, text=True, check=True)
    assert dict(zip(predicted, done.stdout.split(), strict=True)) == predicted


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
    save_checkpoint(tmp_path / "again", load_model(tiny), tiny / "vl")
    again, observation = load_policy(tmp_path / "again"), policy.spec.fake_observation(0)
    np.testing.assert_array_equal(policy.predict(observation, 1).actions, again.predict(observation, 1).actions)
    assert load_spec(tmp_path / "again") == load_spec(tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]  # nothing left beside it


def test_files_can_be_read_by_another_user(tiny: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in tiny.rglob("*.safetensors")}
    assert modes and all(mode & stat.S_IROTH for mode in modes.values())


def test_existing_checkpoint_is_kept_unless_asked(copy: Path) -> None:
    model = load_model(copy)
    with pytest.raises(CheckpointError, match="exists"):
        save_checkpoint(copy, model, copy / "vl")
    with torch.no_grad():
        model.expert.head[1].bias.add_(1)
    save_checkpoint(copy, model, copy / "vl", overwrite=True)
    assert torch.equal(load_model(copy).expert.head[1].bias, model.expert.head[1].bias)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_failed_save_leaves_the_old_one(copy: Path) -> None:
    model = load_model(copy)
    before = (copy / "weights.safetensors").read_bytes()
    with pytest.raises(FileNotFoundError):
        save_checkpoint(copy, model, copy / "no_such_backbone", overwrite=True)
    assert (copy / "weights.safetensors").read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_backbone_must_be_given(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vl_backbone"):
        save_checkpoint(tmp_path / "new", load_model(tiny))


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
    (copy / "spec.json").write_text(json.dumps(spec | {"robot_window": 65, "robot_window_s": 0.65}))
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


def test_steps_of_diffusion_can_be_set_and_change_the_chunk(tmp_path: Path) -> None:
    saved(small_model(expert="diffusion"), tmp_path / "diffusion")
    few, usual = load_policy(tmp_path / "diffusion", diffusion_steps=2), load_policy(tmp_path / "diffusion")
    observation = usual.spec.fake_observation(0)
    assert (few.spec.diffusion_steps, usual.spec.diffusion_steps) == (2, 4)
    assert not np.allclose(few.predict(observation, 0).actions, usual.predict(observation, 0).actions)
    with pytest.raises(CheckpointError, match=r"diffusion_steps = 101: must be at most diffusion_timesteps = 100"):
        load_policy(tmp_path / "diffusion", diffusion_steps=101)
    with pytest.raises(CheckpointError, match="diffusion_steps = 0: must be positive"):
        load_policy(tmp_path / "diffusion", diffusion_steps=0)


def test_steps_of_another_expert_are_refused(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match=r"diffusion_steps = 4: .*flow_matching model"):
        load_policy(tiny, diffusion_steps=4)


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
    assert isinstance(load_model(tiny), VlaModel)


@pytest.mark.parametrize(
    "changes",
    [
        {"expert": "diffusion", "fusion": "cross_attention", "sensor_encoder": "force_aware"},
        {"expert": "regression", "fusion": "gated", "robot_encoder": "none", "vl_sequence": "joint"},
        {"fusion": "none", "sensor_encoder": "none", "robot_encoder": "none", "flow_solver": "rk4"},
        {"expert": "diffusion", "diffusion_sampler": "ddpm"},
    ],
)
def test_make_tiny_makes_what_it_is_asked_for(tmp_path: Path, changes: dict[str, str]) -> None:
    spec = make_tiny(tmp_path / "tiny", **changes)
    policy = load_policy(tmp_path / "tiny")
    assert policy.spec == spec and changes.items() <= asdict(spec).items()
    assert np.isfinite(policy.predict(spec.fake_observation(0), 0).actions).all()


def test_make_tiny_leaves_nothing_of_what_does_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="fusion"):
        make_tiny(tmp_path / "tiny", fusion="none")
    assert not list(tmp_path.iterdir())


def test_make_tiny_does_not_overwrite(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="exists"):
        make_tiny(tiny)


def test_policy_does_not_load_transformers() -> None:
    code = "import sys, rtvla.models.checkpoint, rtvla.models.vla; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
