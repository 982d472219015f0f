"""The measurements of `rtvla bench vl`, in an interpreter of their own: the number of threads and how they wait are
settled before torch is loaded. Prints one JSON line a row.

    python -m rtvla.tools.bench_vl_child --preset small --dtype float32 --sequence per_view --views 5 --pairs 9

Contestants take turns on the same weights, the same JPEG bytes and the same threads, and each turn begins with another
one of them. The plain ones do what the old system does: every picture decoded, resized as qwen_vl_utils does it, put
through the hub's image processor (its Pillow form, which needs no torchvision) and given to transformers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from rtvla.clock import now_ns
from rtvla.models import qwen_input
from rtvla.models.feature import EXACT, Approximation
from rtvla.models.presets import PRESETS, vl_spec
from rtvla.models.qwen_approximate import deviation
from rtvla.models.qwen_load import Backbone
from rtvla.models.qwen_vl import VLEncoder
from rtvla.models.random_vl import StandInTokenizer, random_backbone
from rtvla.models.spec import ModelSpec
from rtvla.schema import F32, VIEWS
from rtvla.tools.bench_model_frames import drawn_sets

HEIGHT, WIDTH, TASK = 360, 640, "eye"
WARM_UPS = 2
STAGES = ("decode", "preprocess", "model")
Stamps = list[int]
Encode = Callable[[Sequence[bytes]], tuple[Stamps, F32]]  # when each stage ended, and a vector for each sequence


def decode(jpegs: Sequence[bytes]) -> list[np.ndarray]:
    return [simplejpeg.decode_jpeg(jpeg, "RGB") for jpeg in jpegs]


class Plain:
    """The whole call without anything kept from one to the next."""

    def __init__(self, spec: ModelSpec, model: Any, backbone: Backbone, *, generating: bool) -> None:
        self._spec, self._model, self._tokenizer, self._generating = spec, model, backbone.tokenizer, generating
        area = spec.image_height * spec.image_width
        self._processor = Qwen2VLImageProcessorPil(size={"shortest_edge": area, "longest_edge": area})
        self._image_id = backbone.model.config.image_token_id

    @torch.inference_mode()
    def __call__(self, jpegs: Sequence[bytes]) -> tuple[Stamps, F32]:
        stamps = [now_ns()]
        frames = decode(jpegs)
        stamps.append(now_ns())
        inputs = self._inputs(frames)
        stamps.append(now_ns())
        if self._generating:
            states = self._model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1]
        else:
            states = self._model(**inputs, use_cache=False).last_hidden_state
        vectors = states.float().mean(1).cpu().numpy()
        return [*stamps, now_ns()], vectors

    def _inputs(self, frames: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        opened = [self._opened(frame) for frame in frames]
        made = self._processor(images=opened, return_tensors="pt")
        grids = [(int(rows), int(columns)) for _, rows, columns in made["image_grid_thw"]]
        sequences = [grids] if self._spec.vl_sequence == "joint" else [[grid] for grid in grids]
        prompt = self._spec.prompt.format(task=TASK)
        ids = torch.tensor([qwen_input.token_ids(self._tokenize, prompt, sequence) for sequence in sequences])
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self._image_id).int(),
            "pixel_values": made["pixel_values"],
            "image_grid_thw": made["image_grid_thw"],
        }

    def _opened(self, frame: np.ndarray) -> Image.Image:
        rows, columns = qwen_input.resize_stages(frame.shape[0], frame.shape[1], self._spec)[0]
        return Image.fromarray(frame).resize((columns, rows))  # as qwen_vl_utils.fetch_image

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class Ours:
    def __init__(
        self, spec: ModelSpec, backbone: Backbone, engine: str, rolling: bool = False, how: Approximation = EXACT
    ) -> None:
        self._encoder = VLEncoder(spec, backbone, TASK, approximation=how)
        began = now_ns()
        self._encoder.prepare(engine, [(HEIGHT, WIDTH)], rolling)
        self.build_s = (now_ns() - began) / 1e9
        self._encoder.check()  # an exact one that is fast and wrong has no time to show

    def __call__(self, jpegs: Sequence[bytes]) -> tuple[Stamps, F32]:
        stamps = [now_ns()]
        frames = decode(jpegs)
        stamps.append(now_ns())
        given = self._encoder.tensor(frames)
        stamps.append(now_ns())
        vectors = self._encoder.encode_tensor(given)
        return [*stamps, now_ns()], vectors


def race(contestants: dict[str, Encode], jpegs: Sequence[Sequence[bytes]], pairs: int) -> dict[str, Any]:
    """Each contestant once a turn; medians of the stages in ms, and of the ratios within a turn."""
    names, took = list(contestants), {name: np.zeros((pairs, len(STAGES))) for name in contestants}
    for name in names * WARM_UPS:
        vectors = contestants[name](jpegs[0])[1]
    exact = contestants[names[0]](jpegs[0])[1]
    found = {name: deviation(contestants[name](jpegs[0])[1], exact) for name in names}
    assert vectors.shape == exact.shape
    for turn in range(pairs):
        for at in range(len(names)):
            name = names[(turn + at) % len(names)]
            took[name][turn] = np.diff(contestants[name](jpegs[turn % len(jpegs)])[0]) / 1e6
    totals = {name: stages.sum(1) for name, stages in took.items()}
    rows = {}
    for name in names:
        rows[name] = {
            **dict(zip(STAGES, np.median(took[name], 0).tolist(), strict=True)),
            "total": float(np.median(totals[name])),
            "relative_difference": found[name].relative,
            "one_minus_cosine": found[name].angle,
            "plain_over_this": {one: float(np.median(totals[one] / totals[name])) for one in names if "plain" in one},
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--sequence", choices=("per_view", "joint"), required=True)
    parser.add_argument("--views", type=int, nargs="+", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--engines", nargs="+", required=True)
    parser.add_argument("--approximations", action="store_true")
    args = parser.parse_args()
    whole = random_backbone(args.preset, args.dtype, "cpu")
    backbone = Backbone(whole.model, StandInTokenizer(args.preset))
    own = vl_spec(args.preset, dtype=args.dtype, vl_sequence=args.sequence, image_height=HEIGHT, image_width=WIDTH)
    for count in args.views:
        spec = replace(own, views=VIEWS[:count])
        jpegs = [[simplejpeg.encode_jpeg(frame, 85) for frame in one] for one in drawn_sets(HEIGHT, WIDTH, count, 3)]
        contestants: dict[str, Encode] = {
            "plain": Plain(spec, whole, backbone, generating=True),
            "plain_base": Plain(spec, whole.model, backbone, generating=False),
        }
        ours = {engine: Ours(spec, backbone, engine) for engine in args.engines}
        if args.approximations:
            layers = whole.config.get_text_config().num_hidden_layers // 2
            for bits in ("int8", "fp8"):
                ours[bits] = Ours(spec, backbone, "eager", how=Approximation(bits))
            ours["half_the_layers"] = Ours(spec, backbone, args.engines[-1], how=Approximation(layers=layers))
        row = {
            **{name: getattr(args, name) for name in ("preset", "dtype", "sequence")},
            "views": count,
            "threads": torch.get_num_threads(),
            "build_s": {name: one.build_s for name, one in ours.items()},
            "contestants": race({**contestants, **ours}, jpegs, args.pairs),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
