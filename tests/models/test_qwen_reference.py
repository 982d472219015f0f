"""Our features beside those of qwen-vl-utils, the hub's processor and the generating model: scripts/test_reference.

Those need torchvision, whose wheel is made for CUDA: beside a CPU build of torch its mere presence keeps transformers
from being imported. So they live in a folder of their own, named by RTVLA_QWEN_VL_UTILS, and run in a process of their
own. Last seen equal with qwen-vl-utils 0.0.14, torchvision 0.28.0, torch 2.13.0+cpu, transformers 5.23.0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtvla.models.qwen_approximate import deviation
from rtvla.models.qwen_vl import Backbone, VLEncoder

FOLDER = os.environ.get("RTVLA_QWEN_VL_UTILS", "")
PROGRAM = Path(__file__).with_name("reference_features.py")

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="needs qwen-vl-utils and torchvision in a folder of their own: scripts/test_reference"
)


@pytest.mark.parametrize(("height", "width"), [(360, 640), (270, 480), (333, 517)])
@pytest.mark.parametrize("task", ["eye", "white circle"])
def test_features_equal_those_of_the_old_chain(
    tiny: Path, encoder: VLEncoder, tmp_path: Path, height: int, width: int, task: str
) -> None:
    """By Pillow it is the same, by torchvision 0.3 to 0.7 % of the values are one grey level apart."""
    spec = replace(encoder.spec, image_height=height, image_width=width)
    backbone = Backbone(encoder._model, encoder._tokenizer)
    per_view = VLEncoder(spec, backbone, task)
    joint = VLEncoder(replace(spec, vl_sequence="joint"), backbone, task)
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([rows * 0.9, columns * 0.6, (rows + columns) * 0.3], axis=2)
    frames = np.stack([(waves + 40 * view) % 256 for view in range(5)]).astype(np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    arguments = [tiny / "vl", tmp_path / "frames.npy", per_view.prompt, height, width, tmp_path / "out.npz"]
    environment = os.environ | {"PYTHONPATH": FOLDER}
    subprocess.run([sys.executable, PROGRAM, *map(str, arguments)], env=environment, check=True)
    theirs = np.load(tmp_path / "out.npz")
    ours = {"per_view": per_view.encode_views(list(frames)), "joint": joint.encode_joint(list(frames))}
    for kind, allowed in (("pillow", 5e-6), ("torchvision", 2e-3)):
        found = {name: deviation(feature, theirs[f"{name}_{kind}"]) for name, feature in ours.items()}
        print(kind, *(f"{name}: {one}" for name, one in found.items()), sep="; ")
        assert all(one.relative < allowed for one in found.values()), found
