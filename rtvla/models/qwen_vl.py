"""VLEncoder: frames and a prompt -> one vector, by the frozen Qwen2.5-VL.

Runs static modules (qwen_static.py), which are exact up to the order of sums. `prepare` hands them to an engine for the
sizes that will come. Not real-time safe: an encode takes milliseconds (tiny) to seconds (3B on a CPU).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rtvla.errors import CheckpointError
from rtvla.models.feature import EXACT, Approximation
from rtvla.models.qwen_approximate import Deviation, approximate, deviation
from rtvla.models.qwen_calls import Calls
from rtvla.models.qwen_engine import Eager, Engine, choose
from rtvla.models.qwen_input import Rgb
from rtvla.models.qwen_load import Backbone, check_transformers, load_backbone
from rtvla.models.qwen_pixels import Size
from rtvla.models.qwen_plain import plain_states
from rtvla.models.qwen_stream import JointStream
from rtvla.models.spec import ModelSpec

__all__ = ["Backbone", "VLEncoder", "check_transformers", "load_backbone"]

F32 = npt.NDArray[np.float32]
LOG = logging.getLogger(__name__)
# What an exact encoder may differ from the plain transformers call: relative difference, 1 - cosine.
TOLERANCE = {"float32": Deviation(5e-6, 1e-9), "bfloat16": Deviation(1e-2, 2e-5)}


class VLEncoder:
    """One model, one task text. `encode_view` and `pool` for per_view specs, `encode_joint` for joint ones."""

    def __init__(
        self,
        spec: ModelSpec,
        source: str | Path | Backbone,
        task: str,
        device: str = "cpu",
        approximation: Approximation = EXACT,
    ) -> None:
        """`source`: the folder of a Qwen2_5_VLForConditionalGeneration, a hub name, or what is already on `device`."""
        self.spec, self.approximation, self._device = spec, approximation, torch.device(device)
        loaded = source if isinstance(source, Backbone) else load_backbone(spec, source, self._device)
        self._model, self._tokenizer = loaded
        dim = self._model.language_model.config.hidden_size
        if dim != spec.vl_dim:
            name = "in memory" if isinstance(source, Backbone) else source
            raise CheckpointError(f"VL backbone {name}: features have {dim} values, spec vl_dim = {spec.vl_dim}")
        self._parts = approximate(self._model, approximation)
        self._set_task(task)

    def with_task(self, task: str) -> VLEncoder:
        """Another task text on the same weights; nothing is prepared for it."""
        other = copy.copy(self)
        other._set_task(task)
        return other

    def _set_task(self, task: str) -> None:
        if "<|" in task:
            raise CheckpointError(f'task "{task}": "<|" would be read as a control token; name the task in plain words')
        self.prompt = self.spec.prompt.format(task=task)
        self.engine: Engine = Eager(self._device)
        self._rolling, self._sizes = True, [(self.spec.image_height, self.spec.image_width)]
        self._calls = Calls(self.spec, self._parts, self._tokenize, self.prompt, self._device)

    def prepare(self, engine: str = "auto", sizes: Sequence[Size] = (), rolling: bool = True) -> None:
        """Have an engine of qwen_engine.NAMES run what comes: frames of `sizes` (rows, columns), or of the spec's size.

        `rolling`: one view at a time (encode_view, or stream for a joint model); else all views at once. Other calls
        and other sizes still work, slower. Takes seconds; minutes where a GPU's kernels are compiled.
        """
        self._rolling, self._sizes = rolling, sorted(set(sizes)) or self._sizes
        try:
            self._prepare(choose(engine, self._device, self.approximation))
        except RuntimeError as error:
            if engine != "auto":
                raise
            LOG.warning("the VL encoder runs WITHOUT AN ENGINE, and slower: %s", str(error).strip()[:500])
            self._prepare(Eager(self._device))

    def _prepare(self, engine: Engine) -> None:
        self.engine = engine
        if self.spec.vl_sequence == "joint":
            sequences = 0 if self._rolling else 1
        else:
            sequences = 1 if self._rolling else len(self.spec.views)
        self._calls.prepare(engine, self._sizes, sequences)

    @property
    def replays(self) -> int:
        """How often a CUDA graph was replayed: does it grow with each encode, then the graph is in use."""
        return self.engine.replays

    def encode_view(self, rgb: Rgb) -> F32:
        """(H, W, 3) uint8 RGB -> (D,)."""
        return self.encode_views([rgb])[0]

    def encode_views(self, frames: Sequence[Rgb]) -> F32:
        """Frames of one size, each in its own sequence: V x (H, W, 3) -> (V, D). The same vectors as one by one."""
        self._require("per_view")
        if len({frame.shape for frame in frames}) != 1:
            raise CheckpointError(f"{[f.shape for f in frames]}: encode frames of different sizes one by one")
        return self.encode_tensor(self.tensor(frames))

    def encode_joint(self, frames: Sequence[Rgb]) -> F32:
        """One frame per view in the order of spec.views, all in one sequence: V x (H, W, 3) -> (D,)."""
        self._require("joint")
        if len(frames) != len(self.spec.views):
            raise CheckpointError(f"{len(frames)} frames given: a joint sequence needs {len(self.spec.views)} views")
        if len({frame.shape for frame in frames}) != 1:  # rare: encoded by the plain call
            return _copied(self.token_states([frames]).float().mean(1))[0]
        return self.encode_tensor(self.tensor(frames))[0]

    def stream(self, height: int, width: int) -> JointStream:
        """For joint specs: encode_joint in steps, view by view, for frames of one size. Feed it with `tensor`."""
        self._require("joint")
        return self._calls.stream(height, width)

    def tensor(self, frames: Sequence[Rgb]) -> torch.Tensor:
        """Frames of one size as `encode_tensor` and `stream` take them; on a CPU they are resized here."""
        return self._calls.tensor(frames)

    def encode_tensor(self, given: torch.Tensor) -> F32:
        """One vector for each sequence, which is a view, or for a joint spec the set: (views, D) or (1, D)."""
        return _copied(self._calls.run(given, 1 if self.spec.vl_sequence == "joint" else len(given)))

    def pool(self, per_view: F32) -> F32:
        """(V, D) -> (D,): the feature of a set of views."""
        expected = (len(self.spec.views), self.spec.vl_dim)
        if per_view.shape != expected:
            raise CheckpointError(f"per-view features are {per_view.shape}: must be {expected}, one row per view")
        pooled: F32 = (
            per_view.max(axis=0) if self.spec.view_pooling == "max" else per_view.mean(axis=0, dtype=np.float32)
        )
        return pooled

    def token_states(self, sequences: Sequence[Sequence[Rgb]]) -> torch.Tensor:
        """B sequences of frames -> last hidden states (B, S, D) by the plain transformers call: the reference."""
        return plain_states(self._model, self._tokenize, self.prompt, self.spec, sequences)

    def check(self) -> Deviation:
        """How far the features of drawn frames are from those of the plain call, at worst over all prepared sizes.

        CheckpointError if an exact encoder is further off than it may be.
        """
        each = [self._check_size(size) for size in self._sizes]
        found = Deviation(*np.max([(one.relative, one.angle) for one in each], axis=0).tolist())  # a nan stays one
        allowed = TOLERANCE[self.spec.dtype]
        if self.approximation == EXACT and not (found.relative <= allowed.relative and found.angle <= allowed.angle):
            raise CheckpointError(
                f"the VL feature by {self.engine.name} is not that of transformers: {found}, allowed are {allowed}; "
                'set vl_encoder.engine to "eager" and report this'
            )
        return found

    def _check_size(self, size: Size) -> Deviation:
        draw = np.random.default_rng(0)
        frames = [draw.integers(0, 256, (*size, 3), np.uint8) for _ in self.spec.views]
        if self.spec.vl_sequence == "joint":
            exact = self.token_states([frames])
            given = self._by_stream(frames) if self._rolling else self.encode_joint(frames)
        else:
            frames = frames[:1] if self._rolling else frames
            exact, given = self.token_states([[frame] for frame in frames]), self.encode_views(frames)
        return deviation(given, _copied(exact.float().mean(1)))

    def _by_stream(self, frames: Sequence[Rgb]) -> F32:
        stream = self.stream(*frames[0].shape[:2])
        stream.begin()
        for at, frame in enumerate(frames):
            stream.put(at, self.tensor([frame]))
        feature = stream.feature()
        assert feature is not None
        stream.begin()  # the next set, which is real, must not be completed by drawn frames
        return feature

    def _require(self, sequence: str) -> None:
        if self.spec.vl_sequence != sequence:
            raise CheckpointError(
                f"{sequence} was asked for, but the checkpoint was trained on vl_sequence = {self.spec.vl_sequence}, "
                "another feature: use the encode method of that kind"
            )

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _copied(vectors: torch.Tensor) -> F32:
    """Of its own: an engine overwrites its output at the next call."""
    copied: F32 = vectors.cpu().numpy().copy()
    return copied
