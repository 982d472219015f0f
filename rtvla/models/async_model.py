"""AsyncModel: a checkpoint in a program of your own, slow VL features and fast actions apart.

The calls and their names are those of the old `models/model_with_sensor_async.py`; what differs is said in each
docstring. The pipeline (`rtvla infer`) does not use this: there the two halves are two processes. One caller at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rtvla.clock import now_ns
from rtvla.errors import CheckpointError
from rtvla.models.async_inputs import Array, read_feature, read_images, read_missing, read_window, task_in
from rtvla.models.checkpoint import load_model, load_vl_encoder
from rtvla.models.qwen_input import Rgb
from rtvla.models.qwen_vl import VLEncoder


def create_async_model(
    stage1_checkpoint: str | Path,
    finetune_vl: str = "none",
    sensor_window_size: int | None = None,
    vlm_reuse_count: int = 4,
    image_resize_height: int | None = None,
    image_resize_width: int | None = None,
    device: str = "auto",
) -> AsyncModel:
    """Both halves of a checkpoint folder, loaded strictly. A checkpoint knows its sizes: what is given here is held
    against them, and a value that differs is a CheckpointError, since it would give wrong actions.

    stage1_checkpoint: a folder (a .pt file of the old system becomes one by `rtvla checkpoint import`).
    finetune_vl: "lora" or "full" asks that the VL weights come with the checkpoint, where a tuned model's are (an
        adapter is merged when it is saved); one that takes the published ones from the hub is refused. "none": no such
        demand. Nothing is trained here.
    sensor_window_size: samples. image_resize_height, image_resize_width: pixels. None: as the checkpoint says.
    vlm_reuse_count: how many chunks the caller means to make from one VL feature; kept for his loop, not enforced.
    device: "auto" is the GPU if there is one, else the CPU.
    """
    folder = Path(stage1_checkpoint)
    if folder.is_file():
        raise CheckpointError(
            f"stage1_checkpoint = {folder} is a file: a checkpoint is a folder; make one with: "
            f"rtvla checkpoint import {folder} DIR"
        )
    if vlm_reuse_count < 1:
        raise CheckpointError(f"vlm_reuse_count = {vlm_reuse_count}: must be at least 1")
    model = AsyncModel(folder, device, vlm_reuse_count)
    spec = model.spec
    for given, name in (
        (sensor_window_size, "sensor_window"),
        (image_resize_height, "image_height"),
        (image_resize_width, "image_width"),
    ):
        if given is not None and given != getattr(spec, name):
            raise CheckpointError(
                f"{name} = {given} was asked for: checkpoint {spec.name} was trained with {getattr(spec, name)}; "
                "leave it out, or take a checkpoint that was trained so"
            )
    if finetune_vl not in ("none", "lora", "full"):
        raise CheckpointError(f'finetune_vl = "{finetune_vl}": must be none, lora or full')
    if finetune_vl != "none" and spec.on_hub:
        raise CheckpointError(
            f'finetune_vl = "{finetune_vl}": checkpoint {spec.name} takes {spec.vl_backbone} from the hub as '
            'published, so its VL model was not tuned; give "none"'
        )
    return model


class AsyncModel:
    """Made by create_async_model. `spec` is the checkpoint's."""

    def __init__(self, folder: Path, device: str, vlm_reuse_count: int) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device, self.vlm_reuse_count = torch.device(device), vlm_reuse_count
        self._model = load_model(folder).eval().requires_grad_(False).to(self._device)
        self.spec = self._model.spec
        self._encoder = load_vl_encoder(folder, "", device)
        self._encoders: dict[str, VLEncoder] = {}
        self._extracted_ns: int | None = None

    def extract_vl_features(
        self, text_inputs: Sequence[str], image_inputs: Sequence[Sequence[str | Path | Rgb]]
    ) -> torch.Tensor:
        """Slow. B instructions, B lists of images, one per view in the order of spec.views -> (B, 1, vl_dim) float32.

        An instruction is the whole sentence and must be of the form of spec.prompt, which the model was trained on. An
        image is a path or an (H, W, 3) uint8 RGB array. Samples do not influence each other: encoded one by one.
        """
        if not text_inputs or len(text_inputs) != len(image_inputs):
            raise CheckpointError(
                f"{len(text_inputs)} text_inputs and {len(image_inputs)} image_inputs: give one of each per sample"
            )
        encoders = [self._encoder_of(text) for text in text_inputs]
        self._extracted_ns = now_ns()
        features = []
        for at, (encoder, images) in enumerate(zip(encoders, image_inputs, strict=True)):
            frames = read_images(f"image_inputs[{at}]", images, self.spec)
            if self.spec.vl_sequence == "joint":
                features.append(encoder.encode_joint(frames))
            else:
                features.append(encoder.pool(np.stack([encoder.encode_view(frame) for frame in frames])))
        return torch.from_numpy(np.stack(features))[:, None].to(self._device)

    @torch.inference_mode()
    def predict_actions_with_cached_vl(
        self,
        vl_features: Array,
        z_chunk: object = None,
        sensor_data: Array | None = None,
        robot_states: Array | None = None,
        *,
        vl_age_s: float | Sequence[float] | None = None,
        sensor_missing: Array | None = None,
        robot_missing: Array | None = None,
        seed: int = 0,
    ) -> torch.Tensor:
        """Fast. -> (B, H, 7) float32 in mm, deg and gripper. The old one returned a pair; this is its first.

        vl_features: (B, 1, vl_dim) or (B, vl_dim), of extract_vl_features.
        z_chunk: taken so that old calls work, and not looked at. There the actions to be predicted were fed in during
            training and zeros at run time; a model must not see its own target.
        sensor_data: (B, T, 1026) or (T, 1026), force first, raw. robot_states: (B, R, 12) or (R, 12), deg and mm. All
            oldest first. Leave out what the checkpoint has no encoder for.
        vl_age_s: age of the images in the features. None: since the last extract_vl_features of this object began, so
            give it for features that were kept for longer, or were made from images that were old already.
        sensor_missing, robot_missing: (B, T) and (B, R) bool, or without B: samples that never came. None: all came.
        seed: of the noise of the whole batch; the same batch and seed give the same chunks.
        """
        spec, model, device = self.spec, self._model, self._device
        vl, uses = read_feature(vl_features, spec.vl_dim, device), spec.feature_widths
        sensor = read_window("sensor_data", sensor_data, len(vl), spec.sensor_channels, "sensor" in uses, device)
        robot = read_window("robot_states", robot_states, len(vl), spec.robot_channels, "robot" in uses, device)
        return model.act(
            vl,
            self._age(vl_age_s, len(vl)),
            model.encode_sensor(sensor, read_missing("sensor_missing", sensor_missing, sensor)),
            model.encode_robot(robot, read_missing("robot_missing", robot_missing, robot)),
            model.noise(len(vl), torch.Generator().manual_seed(seed)).to(device),
        )

    def _encoder_of(self, text: str) -> VLEncoder:
        """The VL encoder for an instruction; all share their weights."""
        if text not in self._encoders:
            self._encoders[text] = self._encoder.with_task(task_in(text, self.spec))
        return self._encoders[text]

    def _age(self, given: float | Sequence[float] | None, batch: int) -> torch.Tensor:
        if given is None:
            if self._extracted_ns is None:
                raise CheckpointError("vl_age_s: this object made no features yet; give the age of these in seconds")
            given = (now_ns() - self._extracted_ns) / 1e9
        age = torch.as_tensor(given, dtype=torch.float32, device=self._device)
        if age.ndim > 1 or (age.ndim == 1 and len(age) != batch) or not (age >= 0).all():
            raise CheckpointError(f"vl_age_s = {given}: must be one number of at least 0, or {batch} of them")
        return age.expand(batch)
