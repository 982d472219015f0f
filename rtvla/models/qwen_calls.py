"""The static modules of one model and one text: made for a size of frames when it is first seen, and who runs them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rtvla.models import qwen_input
from rtvla.models.qwen_engine import Call, Eager, Engine, as_tuple
from rtvla.models.qwen_input import PATCH, Grid, Rgb
from rtvla.models.qwen_pixels import Size
from rtvla.models.qwen_static import Layout, Prefix, StaticPictures, StaticQwen, StaticSegment, lay_out
from rtvla.models.qwen_stream import JointStream
from rtvla.models.spec import ModelSpec

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """Of the frames as a module gets them: what it still has to resize them to, and the patches that they become."""

    frame: Size
    stages: tuple[Size, ...]
    grid: Grid


class Calls:
    """Frames in, vectors on the device out. Sizes that were prepared run on the engine, others as they are."""

    def __init__(
        self, spec: ModelSpec, parts: Any, tokenize: Callable[[str], list[int]], prompt: str, device: torch.device
    ) -> None:
        self._spec, self._parts, self._device = spec, parts, device
        self._tokenize, self._prompt = tokenize, prompt
        self._expected = qwen_input.grid_of(spec.image_height, spec.image_width, spec)
        self._eager = Eager(self._device)
        self._prepared: dict[tuple[int, Shape], Call] = {}
        self._streams: dict[Shape, JointStream] = {}
        self._layout = functools.lru_cache(maxsize=16)(self._lay_out)
        self._unprepared = functools.lru_cache(maxsize=16)(self._without_engine)

    def run(self, given: torch.Tensor, sequences: int) -> torch.Tensor:
        """What `tensor` made of frames, divided among the sequences -> (sequences, D) float32."""
        shape = self._shape_given(given.shape[1], given.shape[2])
        call = self._prepared.get((sequences, shape)) or self._unprepared(sequences, shape)
        (vectors,) = as_tuple(call(given))
        return vectors

    def tensor(self, frames: Sequence[Rgb]) -> torch.Tensor:
        """(V, H, W, 3) uint8 on the host. For a CPU resized already, by Pillow: several times as fast as matrices."""
        for frame in frames:
            qwen_input.check_frame(frame)
        if self._device.type == "cpu":
            frames = [qwen_input.resize(frame, self._spec) for frame in frames]
        return torch.from_numpy(np.stack(frames))

    def prepare(self, engine: Engine, sizes: Iterable[Size], sequences: int) -> None:
        """Have `engine` run so many sequences of frames of these sizes; 0: a stream."""
        for shape in {self._shape(*size) for size in sizes}:
            if sequences:
                self._prepared[sequences, shape] = self._build(sequences, shape, engine)
            else:
                self._streams[shape] = self._build_stream(shape, engine)

    def stream(self, height: int, width: int) -> JointStream:
        """The one for frames of this size; the same at each call."""
        shape = self._shape(height, width)
        if shape not in self._streams:
            self._warn_unprepared(shape)
            self._streams[shape] = self._build_stream(shape, self._eager)
        return self._streams[shape]

    def _without_engine(self, sequences: int, shape: Shape) -> Call:
        self._warn_unprepared(shape)
        return self._build(sequences, shape, self._eager)

    def _warn_unprepared(self, shape: Shape) -> None:
        if self._prepared or self._streams:
            LOG.warning(
                "%s was not prepared for: encoded WITHOUT THE ENGINE, slower; restart with the cameras on", shape
            )

    def _shape_given(self, height: int, width: int) -> Shape:
        """Of frames as `tensor` gives them."""
        if self._device.type == "cpu":
            return Shape((height, width), (), (height // PATCH, width // PATCH))
        return self._shape(height, width)

    def _shape(self, height: int, width: int) -> Shape:
        """Of frames as they come."""
        stages = qwen_input.resize_stages(height, width, self._spec)
        grid = qwen_input.grid_of(height, width, self._spec)
        return (
            Shape(stages[-1], (), grid) if self._device.type == "cpu" else Shape((height, width), tuple(stages), grid)
        )

    def _lay_out(self, grid: Grid, pictures: int) -> Layout:
        if grid != self._expected:
            LOG.warning(
                "frames give patch grid %s, the model was trained on %s: check the cameras", grid, self._expected
            )
        ids = qwen_input.token_ids(self._tokenize, self._prompt, [grid] * pictures)
        return lay_out(ids, grid, self._parts.config.image_token_id)

    @torch.inference_mode()
    def _build(self, sequences: int, shape: Shape, engine: Engine) -> Call:
        pictures = len(self._spec.views) if self._spec.vl_sequence == "joint" else 1
        layout = self._layout(shape.grid, pictures)
        module = StaticQwen(self._parts, layout, sequences, shape.frame, shape.stages)
        return engine.prepare(module, (torch.zeros(sequences * pictures, *shape.frame, 3, dtype=torch.uint8),))

    @torch.inference_mode()
    def _build_stream(self, shape: Shape, engine: Engine) -> JointStream:
        layout, frame = (
            self._layout(shape.grid, len(self._spec.views)),
            torch.zeros(1, *shape.frame, 3, dtype=torch.uint8),
        )
        prefix = Prefix(self._parts, layout)
        pictures = engine.prepare(StaticPictures(self._parts, 1, shape.frame, shape.stages, shape.grid), (frame,))
        (image,) = as_tuple(pictures(frame))
        segments, past = [], [prefix.past]
        for at in range(len(layout.begins)):
            segment = StaticSegment(self._parts, layout, at)
            inputs = (image.clone(), *past)
            segments.append(engine.prepare(segment, inputs))
            past.append(as_tuple(segments[at](*inputs))[1])
        return JointStream(pictures, segments, prefix, len(layout.ids))
