"""Drawn images for a camera that is not there: a shaded scene, a needle that moves, a dot. Made before the start."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg

LOOP_PICTURES = 50
Pixels = npt.NDArray[np.uint8]


def _scene(view: int, width: int, height: int) -> Pixels:
    """A background of its own for each view: a slanted gradient with a coarse texture, never dark."""
    rng = np.random.default_rng(view)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    texture = rng.normal(0, 8, ((height + 7) // 8, (width + 7) // 8)).repeat(8, 0).repeat(8, 1)[:height, :width]
    tint = np.array([(150, 130, 110), (110, 150, 130), (130, 110, 150), (150, 150, 110), (120, 140, 150)][view % 5])
    shade = 0.6 + 0.5 * (x * np.cos(view) + y * np.sin(view + 1.0)) ** 2
    pixels: Pixels = np.clip(shade[..., None] * tint + texture[..., None], 30, 235).astype(np.uint8)
    return pixels


def _draw(scene: Pixels, step: int) -> Pixels:
    """The scene with a needle tip and a target dot at the place of `step` in the loop."""
    picture = scene.copy()
    height, width = picture.shape[:2]
    phase = 2 * np.pi * step / LOOP_PICTURES
    tip_x, tip_y = int(width * (0.5 + 0.2 * np.sin(phase))), int(height * (0.55 + 0.15 * np.cos(phase)))
    half = max(2, width // 160)
    picture[: max(tip_y, 1), max(tip_x - half, 0) : tip_x + half] = (205, 208, 214)
    dot_x, dot_y, radius = width // 2, int(height * 0.8), max(2, height // 18)
    picture[dot_y - radius : dot_y + radius, dot_x - radius : dot_x + radius] = (40, 60, 200)
    return picture


def picture_loop(view: int, width: int, height: int, quality: int) -> list[bytes]:
    """LOOP_PICTURES JPEGs of one view (0..4); the last leads on to the first."""
    scene = _scene(view, width, height)
    return [
        simplejpeg.encode_jpeg(_draw(scene, step), quality, colorspace="RGB", colorsubsampling="420")
        for step in range(LOOP_PICTURES)
    ]
