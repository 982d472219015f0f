"""Files that are no old checkpoint, or a dangerous one: each is refused with what it is, and nothing of it is run."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_files import module, save, stored, v2_content, whole
from safetensors.torch import save_file
from torch import nn

import rtvla
from rtvla.errors import CheckpointError
from rtvla.models.import_origin import plan

FLOW, PLAIN, V1 = "v2.FlowMatchingActionExpert", "v2.SensorEncoder", "v1.SensorEncoder"

pytestmark = pytest.mark.usefixtures("no_hub")
torch.set_num_threads(1)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        content = v2_content(FLOW, PLAIN)
        change(content)
        return save(folder, "old.pt", content)

    return made


def compressed(folder: Path) -> Path:
    plain = save(folder, "plain.pt", v2_content(FLOW, PLAIN))
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(folder / "old.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return folder / "old.pt"


def flipped(folder: Path) -> Path:
    path = save(folder, "old.pt", v2_content(FLOW, PLAIN))
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda one: one.file_size)
    with open(path, "r+b") as file:
        file.seek(record.header_offset + record.file_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 8]))
    return path


def bytes_of(content: bytes) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / "old.pt").write_bytes(content)
        return folder / "old.pt"

    return made


def plain_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "old.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return folder / "old.pt"


def safetensors(folder: Path) -> Path:
    save_file({"a": torch.zeros(2)}, folder / "old.pt")
    return folder / "old.pt"


def script(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "old.pt", "w") as archive:  # the records that torch.jit.save writes
        for name in ("data.pkl", "constants.pkl", "code/__torch__/linear.py"):
            archive.writestr(f"old/{name}", b"\x80\x02}.")
    return folder / "old.pt"


def expert_of(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Alone: its second copy is taken out."""
    del content["action_expert"]
    tensors: dict[str, torch.Tensor] = content["model_state_dict"]
    return tensors


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / "old.pt", "No such file"),
    "folder": (lambda folder: folder, "Is a directory"),
    "empty": (bytes_of(b""), "is empty"),
    "text": (bytes_of(b"hello, this is text"), "is something else, not a checkpoint of torch.save"),
    "image": (bytes_of(b"\x89PNG\r\n\x1a\n0000"), "is a PNG image"),
    "zip": (plain_zip, "a zip archive, but not one of torch.save"),
    "safetensors": (safetensors, "is a safetensors file"),
    "TorchScript": (script, "TorchScript program"),
    "compressed": (compressed, "compressed records"),
    "flipped bit": (flipped, "is damaged; copy the file again"),
    "no pickle": (bytes_of(b"\x80\x02garbage"), "cannot be read"),
    "tensor": (lambda folder: save(folder, "old.pt", torch.zeros(2)), "holds a Tensor, not a dictionary"),
    "other model": (lambda folder: save(folder, "old.pt", nn.Linear(2, 2).state_dict()), "it has weight, bias"),
    "other wrapped": (
        lambda folder: save(folder, "old.pt", {"model_state_dict": nn.Linear(2, 2).state_dict()}),
        "not a model of the old system: weight, bias",
    ),
    "later system": (lambda folder: save(folder, "old.pt", {"policy_state_dict": {}, "step": 1}), "later system"),
    "golden": (lambda folder: save(folder, "old.pt", {"golden": {}, "meta": {}}), "scripts/check_golden"),
    "numbers for names": (lambda folder: save(folder, "old.pt", {0: torch.zeros(1)}), "not a dictionary by name"),
    "numbers inside": (
        lambda folder: save(folder, "old.pt", {"model_state_dict": {0: torch.zeros(1)}}),
        "not a state_dict",
    ),
    "no state_dict": (lambda folder: save(folder, "old.pt", {"model_state_dict": {"a": 3}}), "not a state_dict"),
    "mixed versions": (
        changed(lambda old: old["model_state_dict"].update(whole(sensor_encoder=module(V1).state_dict()))),
        "sensor_encoder.* is not what model_state_dict has|not the tensors of that class|no old script combined",
    ),
    "two models": (
        changed(lambda old: old["action_expert"].update({"output_head.1.bias": torch.ones(7)})),
        "action_expert.output_head.1.bias is not what model_state_dict has: the file holds two different models",
    ),
    "NaN": (
        changed(lambda old: expert_of(old)["action_expert.action_embed.bias"].fill_(torch.nan)),
        "not finite: action_expert.action_embed.bias",
    ),
    "float64": (
        changed(lambda old: expert_of(old).update({"action_expert.action_embed.bias": torch.zeros(16).double()})),
        "torch.float64: no old script wrote that",
    ),
    "missing": (
        changed(lambda old: expert_of(old).pop("action_expert.action_embed.bias")),
        r"action_embed.bias absent, expected \(16,\)",
    ),
    "stray": (
        changed(lambda old: expert_of(old).update({"action_expert.other": torch.zeros(1)})),
        r"other \(1,\), expected none",
    ),
    "other part": (changed(lambda old: old["model_state_dict"].update(other=torch.zeros(1))), "system: other;"),
    "random projection": (
        changed(lambda old: expert_of(old).update({"action_expert._dynamic_fusion_proj.weight": torch.zeros(1)})),
        "random projection that the old code made while running",
    ),
    "too large": (
        changed(lambda old: old["model_state_dict"].update(a=torch.zeros(1).expand(1 << 20, 1 << 20))),
        "more than the file holds",
    ),
    "robot of another width": (
        changed(lambda old: old["model_state_dict"].update(
            whole(robot_state_encoder=stored(module("v2.RobotStateEncoder", input_dim=9)))
        )),
        "takes 9 channels, the data of this runtime have 12",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_old_checkpoint_is_refused_with_what_it_is(name: str, tmp_path: Path) -> None:
    make, said = REFUSED[name]
    with pytest.raises(CheckpointError, match=said):
        plan(make(tmp_path))


def circle(folder: Path) -> Path:
    round_and_round: list[object] = []
    round_and_round.append(round_and_round)
    return save(folder, "old.pt", {"model_state_dict": {}, "more": round_and_round})


def test_content_that_contains_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="round in circles"):
        plan(circle(tmp_path))


def test_nothing_in_the_project_unpickles_without_weights_only() -> None:
    for path in sorted(Path(rtvla.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
                assert "pickle" not in names or path.name == "reader.py", path  # there for the name of an error
                assert not {"dill", "cloudpickle", "joblib"} & set(names), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads"):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("weights_only") == "True", f"{path}: {ast.unparse(node)}"


def cuts(size: int) -> Iterator[int]:
    yield from (1, 3, 17, size // 3, size // 2, size - 100, size - 1)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    whole_file = save(tmp_path, "old.pt", v2_content(FLOW, PLAIN)).read_bytes()
    for length in cuts(len(whole_file)):
        (tmp_path / "cut.pt").write_bytes(whole_file[:length])
        with pytest.raises(CheckpointError, match="cut.pt"):
            plan(tmp_path / "cut.pt")


def test_random_damage_never_ends_in_anything_but_a_refusal(tmp_path: Path) -> None:
    """Of the pickle inside, which is not protected by a checksum in the older form."""
    legacy = io.BytesIO()
    torch.save({"model_state_dict": {"a": torch.zeros(3)}}, legacy, _use_new_zipfile_serialization=False)
    draw = np.random.default_rng(0)
    for _ in range(150):
        damaged = np.frombuffer(legacy.getvalue(), np.uint8).copy()
        damaged[draw.integers(0, damaged.size, 4)] = draw.integers(0, 256, 4)
        (tmp_path / "old.pt").write_bytes(damaged.tobytes())
        with pytest.raises(CheckpointError):
            plan(tmp_path / "old.pt")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_file_is_refused_and_nothing_of_it_is_run(form: str, tmp_path: Path) -> None:
    proof, old = tmp_path / "proof", tmp_path / "old.pt"
    content = v2_content(FLOW, PLAIN) | {"epoch": Bomb(proof)}
    if form == "pickle":
        old.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, old, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        CheckpointError, match=r"(asks to run posix.mkdir|cannot be read as tensors).* refused"
    ) as caught:
        plan(old)
    assert not proof.exists()
    assert "weights_only" not in str(caught.value)  # torch's message advises to switch the protection off
    if form == "pickle":  # it is armed: this is what the old loaders did
        pickle.loads(old.read_bytes())
        assert proof.exists()
