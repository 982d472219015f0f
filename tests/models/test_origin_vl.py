"""VL weights and LoRAs inside old files: compared, merged, or kept aside; never dropped unsaid."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from old_files import save, v2_content
from safetensors.torch import load_file

from rtvla.errors import CheckpointError
from rtvla.models.checkpoint import load_policy, load_spec, load_vl_encoder
from rtvla.models.import_origin import plan, write
from rtvla.models.origin.choices import Choices
from rtvla.models.origin.export import export
from rtvla.models.origin.reader import read
from rtvla.models.qwen_tiny import DIM, make_tiny_qwen

FLOW, PLAIN = "v2.FlowMatchingActionExpert", "v2.SensorEncoder"

pytestmark = pytest.mark.usefixtures("no_hub")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    make_tiny_qwen(folder, 0)
    return folder


def vl_tensors(backbone: Path, release: str, lora: bool = False) -> dict[str, torch.Tensor]:
    """The backbone's weights under the names of a release of transformers, and of peft."""
    older = {"model.visual.": "visual.", "model.language_model.": "model."}
    found = {}
    for name, one in load_file(backbone / "model.safetensors").items():
        new = name if name.startswith(("model.visual.", "model.language_model.", "lm_head")) else None
        if new is None:  # the tiny backbone is stored under the hub's older names
            new = f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)
        if release == "4.51":
            new = next((new.replace(a, b, 1) for a, b in older.items() if new.startswith(a)), new)
        if lora:
            if "self_attn." in new and "_proj." in new:
                new = new.replace("_proj.", "_proj.base_layer.")
            new = f"base_model.model.{new}"
        found[f"vl_model.{new}"] = one
    return found


def adapter(release: str, seed: int) -> dict[str, torch.Tensor]:
    stem = "model.layers" if release == "4.51" else "model.language_model.layers"
    at = f"vl_model.base_model.model.{stem}.1.self_attn.q_proj"
    draw = torch.Generator().manual_seed(seed)
    return {
        f"{at}.lora_A.default.weight": torch.randn(4, DIM, generator=draw),
        f"{at}.lora_B.default.weight": torch.randn(DIM, 4, generator=draw) if seed else torch.zeros(DIM, 4),
    }


def file_with_vl(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    content = v2_content(FLOW, PLAIN, vl_dim=DIM)
    content["model_state_dict"] |= tensors
    return save(folder, "flow_matching_best.pt", content)


@pytest.mark.parametrize("release", ["4.51", "4.52"])
def test_vl_weights_that_are_the_backbones_are_left_out_and_others_are_refused(
    release: str, backbone: Path, tmp_path: Path
) -> None:
    tensors = vl_tensors(backbone, release)
    chosen = Choices(vl_backbone=str(backbone))
    write(plan(file_with_vl(tmp_path, tensors), chosen), tmp_path / "new")
    origin = load_spec(tmp_path / "new").origin
    assert origin is not None
    assert (origin.vl_weights, origin.vl_lora) == ("equal", "absent")
    assert load_vl_encoder(tmp_path / "new", "eye").spec.vl_dim == DIM
    name = next(name for name in tensors if name.endswith("k_proj.weight"))
    tensors[name] = tensors[name] + 1
    with pytest.raises(CheckpointError, match=r"1 differ \(model.language_model.layers.0.self_attn.k_proj.weight"):
        plan(file_with_vl(tmp_path, tensors), chosen)


@pytest.mark.parametrize("release", ["4.51", "4.52"])
def test_a_lora_is_merged_under_the_names_of_every_release(release: str, backbone: Path, tmp_path: Path) -> None:
    """Regression: of names of another release, every one was silently no weight at all."""
    parts = adapter(release, 1)
    old = file_with_vl(tmp_path, vl_tensors(backbone, release, lora=True) | parts)
    write(plan(old, Choices(vl_backbone=str(backbone), vl_from_file=True, lora_alpha=8.0)), tmp_path / "new")
    a, b = parts.values()
    expected = load_file(backbone / "model.safetensors")
    name = next(one for one in expected if one.endswith("layers.1.self_attn.q_proj.weight"))
    expected[name] = (expected[name].float() + 2.0 * b @ a).to(expected[name].dtype)
    found = load_file(tmp_path / "new" / "vl" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[one], value) for one, value in expected.items())
    spec = load_spec(tmp_path / "new")
    assert spec.origin is not None
    assert (spec.origin.vl_weights, spec.origin.vl_lora) == ("written", "merged")
    frame = spec.fake_frames(0)[0]
    shutil.copytree(backbone, tmp_path / "plain")
    plain = plan(file_with_vl(tmp_path, vl_tensors(backbone, release)), Choices(vl_backbone=str(tmp_path / "plain")))
    write(plain, tmp_path / "without")
    merged, unmerged = (load_vl_encoder(tmp_path / one, "eye").encode_view(frame) for one in ("new", "without"))
    assert not np.allclose(merged, unmerged, atol=1e-2)


def test_a_lora_is_never_dropped_unsaid(backbone: Path, tmp_path: Path) -> None:
    base = vl_tensors(backbone, "4.51", lora=True)
    untrained = plan(file_with_vl(tmp_path, base | adapter("4.51", 0)), Choices(vl_backbone=str(backbone)))
    assert untrained.vl is not None
    assert untrained.vl.lora == "zero"
    aside = plan(file_with_vl(tmp_path, base | adapter("4.51", 1)), Choices(vl_backbone=str(backbone)))
    write(aside, tmp_path / "new")
    spec = load_spec(tmp_path / "new")
    assert spec.origin is not None
    assert "vl_lora_kept_aside" in spec.origin.faults
    assert load_policy(tmp_path / "new").predict(spec.fake_observation(0), 0).actions.shape == (8, 7)
    with pytest.raises(CheckpointError, match="not merged, so its features would be others"):
        load_vl_encoder(tmp_path / "new", "eye")
    export(tmp_path / "new", tmp_path / "again.pt")
    again = read(tmp_path / "again.pt")["model_state_dict"]
    assert all(torch.equal(again[name], one) for name, one in adapter("4.51", 1).items())


def test_an_incomplete_lora_and_weights_of_another_model_are_refused(backbone: Path, tmp_path: Path) -> None:
    parts = adapter("4.51", 1)
    parts.popitem()
    with pytest.raises(CheckpointError, match="incomplete"):
        plan(file_with_vl(tmp_path, vl_tensors(backbone, "4.51", lora=True) | parts))
    tensors = vl_tensors(backbone, "4.51")
    tensors["vl_model.model.norm.weight"] = torch.ones(3)
    with pytest.raises(CheckpointError, match=r"not those of a model like .*: model.language_model.norm.weight"):
        write(
            plan(file_with_vl(tmp_path, tensors), Choices(vl_backbone=str(backbone), vl_from_file=True)),
            tmp_path / "new",
        )
    assert not (tmp_path / "new").exists()
