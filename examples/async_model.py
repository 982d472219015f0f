"""A checkpoint in a program of your own: slow VL features now and then, actions from them at 10 Hz.

    python examples/async_model.py [CHECKPOINT]

Without a checkpoint a small one with random weights is made, and pictures, sensor and robot are random too, so it runs
anywhere. It moves nothing. For a robot there is `rtvla infer`, with limits and an independent commander.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from rtvla.clock import Pacer
from rtvla.models import create_async_model
from rtvla.models.checkpoint import load_spec
from rtvla.models.make_tiny import make_tiny


def main(checkpoint: Path, pictures: Path, updates: int = 2) -> None:
    spec, random = load_spec(checkpoint), np.random.default_rng(0)
    model = create_async_model(
        stage1_checkpoint=checkpoint,
        finetune_vl="none" if spec.on_hub else "lora",  # lora: the VL weights must be those of the checkpoint
        sensor_window_size=spec.sensor_window,  # the sizes may be left out; any others are refused
        vlm_reuse_count=4,
        image_resize_height=spec.image_height,
        image_resize_width=spec.image_width,
    )
    pacer = Pacer(spec.step_ms * 1_000_000)
    for update in range(updates):
        paths = [pictures / f"{view}.jpg" for view in spec.views]
        for path in paths:
            shape = (spec.image_height, spec.image_width, 3)
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
        vl_features = model.extract_vl_features(
            text_inputs=[spec.prompt.format(task="eye")],
            image_inputs=[paths],
        )
        prev_actions = None
        for reuse in range(model.vlm_reuse_count):
            actions = model.predict_actions_with_cached_vl(
                vl_features=vl_features,
                z_chunk=prev_actions,  # taken as in the old interface, and not looked at
                sensor_data=random.normal(size=(spec.sensor_window, spec.sensor_channels)),
                robot_states=random.normal(size=(spec.robot_window, spec.robot_channels)),
                seed=update * model.vlm_reuse_count + reuse,
            )
            step = ", ".join(f"{value:+.3f}" for value in actions[0, 0, :6].tolist())
            print(f"update {update}, chunk {reuse} of {tuple(actions.shape)}: first step {step} (mm, deg)")
            prev_actions = actions
            pacer.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            given = Path(sys.argv[1])
        else:
            given = Path(folder) / "tiny"
            make_tiny(given)
        main(given, Path(folder))
