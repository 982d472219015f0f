"""From what a camera gives to the JPEG that goes out."""

from __future__ import annotations

import numpy as np
import simplejpeg

from rtvla.schema import MAX_JPEG_BYTES
from rtvla.senders.cameras.source import BadPicture, Picture, Pixels


def fit(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """The largest size of the same shape within the given one; never larger than it was."""
    scale = min(1.0, max_width / width, max_height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode(picture: Picture, max_width: int, max_height: int, quality: int) -> bytes:
    """A JPEG (4:2:0) of at most this size; a ready one stays as it is. Raises BadPicture where there can be none."""
    if isinstance(picture.data, bytes):
        data = picture.data
    else:
        pixels = np.ascontiguousarray(_shrunk(picture.data, max_width, max_height))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        try:
            data = simplejpeg.encode_jpeg(pixels, quality, colorspace=picture.colorspace, colorsubsampling="420")
        except ValueError as error:
            raise BadPicture(f"{picture.colorspace} of shape {pixels.shape}: {error}") from None
    if len(data) > MAX_JPEG_BYTES:
        raise BadPicture(
            f"{len(data)} bytes: the receiver takes {MAX_JPEG_BYTES}; lower --width, --height or --quality"
        )
    return data


def _shrunk(pixels: Pixels, max_width: int, max_height: int) -> Pixels:
    """Area mean, as the old senders. Only sources that came through OpenCV give more than was asked for."""
    height, width = pixels.shape[:2]
    size = fit(width, height, max_width, max_height)
    if size == (width, height):
        return pixels
    import cv2

    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
