"""From an image file to the picture a backbone sees (spec.md 0.4): RGB, bicubic, in uint8.

The evaluation view is the one of open_clip and of the code this line of work shares: shortest side to `size`, centre
crop. The training view is a random crop of 90 to 100 % of the area, of shape 3:4 to 4:3, resized to `size`; no flip.
Normalisation is the backbone's, on its device. Orientation tags are not applied, and an alpha channel is dropped, as
everywhere in that code.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image

from .card import DataError
from .randomness import uniforms

CROP_AREA = (0.9, 1.0)
CROP_SHAPE = (3 / 4, 4 / 3)
_TRIES = 10
_LARGEST = 2**28
"""Pixels of the resized picture before its crop; beyond this a file of extreme shape would fill the memory."""


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turns what a damaged or missing image raises into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error).replace("\n", " ")
        raise DataError(
            f"{name}: cannot be read as an image ({type(error).__name__}: {reason}); fetch it again."
        ) from None


def read(file: str | os.PathLike | BinaryIO, name: str) -> Image.Image:
    """The whole image of a file in RGB; DataError that names it when it is missing, damaged or no image."""
    with naming(name), Image.open(file) as image:
        return image.convert("RGB")


def cut_border(image: Image.Image, pixels: int, name: str) -> Image.Image:
    """The image without `pixels` on each side."""
    width, height = image.size
    if min(width, height) <= 2 * pixels:
        raise DataError(f"{name}: {width} x {height} pixels leave nothing inside a border of {pixels}; fetch it again.")
    return image.crop((pixels, pixels, width - pixels, height - pixels)) if pixels else image


def centre_view(image: Image.Image, size: int, name: str) -> np.ndarray:
    """(3, size, size) uint8: shortest side to `size`, centre crop."""
    width, height = image.size
    if width <= height:
        wide, high = size, int(size * height / width)
    else:
        wide, high = int(size * width / height), size
    if wide * high > _LARGEST:
        raise DataError(f"{name}: {width} x {height} pixels are too long and thin to be resized; fetch it again.")
    resized = image if (wide, high) == image.size else image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return _channels_first(resized.crop((left, top, left + size, top + size)))


def random_box(width: int, height: int, key: np.uint64) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the training crop, a function of the key.

    Ten tries as in torchvision's `RandomResizedCrop`, whose rule this is; then the largest centred box of a legal
    shape.
    """
    draws = uniforms(np.array([key], dtype=np.uint64), 4 * _TRIES).reshape(_TRIES, 4)
    low, high = np.log(CROP_SHAPE)
    for area, shape, x, y in draws:
        pixels = width * height * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area)
        ratio = np.exp(low + (high - low) * shape)
        w, h = round(float(np.sqrt(pixels * ratio))), round(float(np.sqrt(pixels / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return int(x * (width - w + 1)), int(y * (height - h + 1)), w, h
    shape = width / height
    w = round(height * CROP_SHAPE[1]) if shape > CROP_SHAPE[1] else width
    h = round(width / CROP_SHAPE[0]) if shape < CROP_SHAPE[0] else height
    w, h = max(1, min(w, width)), max(1, min(h, height))
    return (width - w) // 2, (height - h) // 2, w, h


def random_view(image: Image.Image, size: int, key: np.uint64) -> np.ndarray:
    """(3, size, size) uint8: the crop of `random_box`, resized."""
    left, top, w, h = random_box(*image.size, key)
    cropped = image.crop((left, top, left + w, top + h))
    return _channels_first(cropped.resize((size, size), Image.Resampling.BICUBIC))


def _channels_first(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)
