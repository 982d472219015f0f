"""The pictures that `rtvla bench model` encodes: of a recorded episode, or drawn.

An episode folder has its pictures in images/ViewN/*.jpg (data collector, rtvla's own runs) or ViewN/*.jpg; a stereo
view of the first recordings has them in ViewN/left/*.jpg. Names sort by their time stamp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg

from rtvla.errors import ConfigError

Rgb = npt.NDArray[np.uint8]  # (H, W, 3)
FrameSet = list[Rgb]  # one frame a view
_PLACES = ("images/{view}", "{view}", "images/{view}/left", "{view}/left")


def recorded_sets(episode: Path, views: Sequence[str], most: int) -> list[FrameSet]:
    """Up to `most` sets, spread evenly over the episode; the k-th of each view belong together."""
    if not episode.is_dir():
        raise ConfigError(f"--dataset-dir {episode}: no such folder; give the folder of one episode")
    files = [_files(episode, view) for view in views]
    length = min(len(of_view) for of_view in files)
    chosen = np.linspace(0, length - 1, min(most, length)).round().astype(int)
    return [[_decode(of_view[at]) for of_view in files] for at in chosen]


def drawn_sets(height: int, width: int, views: int, most: int, seed: int = 0) -> list[FrameSet]:
    """Smooth random pictures, each different: blocks of 8 x 8 pixels in random colours under a gradient."""
    draw = np.random.default_rng(seed)
    return [[_draw(draw, height, width) for _ in range(views)] for _ in range(most)]


def _draw(draw: np.random.Generator, height: int, width: int) -> Rgb:
    blocks = draw.integers(0, 200, (-(-height // 8), -(-width // 8), 3))
    pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return (pixels + np.linspace(0, 55, width)[None, :, None]).astype(np.uint8)


def _files(episode: Path, view: str) -> list[Path]:
    places = [episode / place.format(view=view) for place in _PLACES]
    for place in places:
        found = sorted(place.glob("*.jpg"))
        if found:
            return found
    looked = ", ".join(str(place.relative_to(episode)) for place in places)
    raise ConfigError(f"--dataset-dir {episode}: no picture of {view} (*.jpg in {looked})")


def _decode(path: Path) -> Rgb:
    try:
        picture: Rgb = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
    except ValueError as error:
        raise ConfigError(f"--dataset-dir: {path} is not a whole JPEG ({error}); remove it") from None
    return picture
