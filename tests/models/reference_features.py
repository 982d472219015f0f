"""Run as a program with qwen-vl-utils and torchvision on its path: features as the old system made them.

    python reference_features.py BACKBONE FRAMES.npy PROMPT HEIGHT WIDTH OUT.npz

Pictures through PNG files, process_vision_info and the hub's own processor with min_pixels = max_pixels = HEIGHT *
WIDTH, once with the image processor that resizes by torchvision and once with the one that resizes by Pillow; the
generating model with all hidden states; the mean over the tokens.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


def declare_operators() -> torch.library.Library | None:
    """What the wheel of torchvision needs to be imported under a CPU build of torch: it is made for CUDA."""
    try:
        torch.ops.torchvision.nms  # noqa: B018
    except (AttributeError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


_KEPT = declare_operators()  # before anything imports torchvision

import qwen_vl_utils  # noqa: E402
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil  # noqa: E402


@torch.no_grad()
def features(model: Any, processor: Any, sequences: list[list[Path]], prompt: str) -> np.ndarray:
    pooled = []
    for paths in sequences:
        content = [{"type": "image", "image": str(path)} for path in paths] + [{"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        images, _ = qwen_vl_utils.process_vision_info(messages)
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        inputs = processor(text=[text], images=images, return_tensors="pt")
        pooled.append(model(**inputs, output_hidden_states=True).hidden_states[-1].float().mean(1)[0])
    return torch.stack(pooled).numpy()


def main() -> None:
    backbone, frames, prompt, height, width, out = sys.argv[1:]
    torch.set_num_threads(1)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(backbone, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(backbone)
    area = int(height) * int(width)
    size = {"shortest_edge": area, "longest_edge": area}
    processor.image_processor.size = size
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for at, frame in enumerate(np.load(frames)):
            paths.append(Path(folder) / f"{at}.png")
            Image.fromarray(frame).save(paths[-1])
        found = {}
        for kind in ("torchvision", "pillow"):
            found[f"per_view_{kind}"] = features(model, processor, [[path] for path in paths], prompt)
            found[f"joint_{kind}"] = features(model, processor, [paths], prompt)[0]
            processor.image_processor = Qwen2VLImageProcessorPil(size=size)
    np.savez(out, **found)


if __name__ == "__main__":
    main()
