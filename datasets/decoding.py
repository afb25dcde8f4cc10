"""From an image file to the picture a backbone sees: RGB, resized in the backbone's own way, in uint8.

The evaluation view is open_clip's of that backbone. "shortest", of CLIP and of the code this line of work shares: the
shortest side to `size`, centre crop. "squash", of SigLIP: both sides to `size`. "longest": the longest side to `size`,
black beside the rest. The training view is a random crop of 90 to 100 % of the area, of shape 3:4 to 4:3, resized to
`size`; no flip. Both are resized by the same filter, bicubic or bilinear (open_clip trains with bicubic alone).
Normalisation is the backbone's, on its device. Orientation tags are not applied, and an alpha channel is dropped, as
everywhere in that code. Pixels that are no integers of at most 8 bits (floats, 16 and 32 bits) are refused, whatever
their values: how they are meant to be scaled is not in the file.

Two ways to get there. "exact": what open_clip's transform makes of an image that torchvision's ImageFolder opens, that
is, in RGB; to the last bit (`resample`). "fast": torch's resize of bytes in place of Pillow's. Its weights have 15 bits
and not 22, so less than half a percent of values are one level away, and up to 1.2 % in a single image. Where a picture
is enlarged, or reduced by less than half, one or two values in a million are two levels away: each of the two passes
rounds, and the second adds up what the first moved. Logits at scale 100 move by less than 0.02 where pictures have 224
pixels a side; where they have 32, and few values to average over, by up to 0.2. Both decode plain JPEGs with
simplejpeg, whose pixels are Pillow's, and everything else with Pillow.
"""

import io
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch.nn.functional import interpolate

from . import staging
from .card import USUAL, DataError, Resizing
from .randomness import uniforms
from .resample import height_first, resample

Decode = Literal["exact", "fast"]
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
        unknown = isinstance(error, UnidentifiedImageError)  # its text is the address of a buffer
        reason = "of no known format" if unknown else str(error).replace("\n", " ")
        raise DataError(
            f"{name}: cannot be read as an image ({type(error).__name__}: {reason}); fetch it again."
        ) from None


def read(file: str | os.PathLike[str] | BinaryIO, name: str) -> np.ndarray:
    """(H, W, 3) uint8: the whole image of a file in RGB.

    Raises:
        DataError: it is missing, damaged or no image; names it.
    """
    with naming(name):
        data = staging.content(file) if isinstance(file, (str, os.PathLike)) else file.read()
        pixels = _plain_jpeg(data)
        if pixels is not None:
            return pixels
        with Image.open(io.BytesIO(data)) as image:
            if _is_deep(image):
                # Pillow, and ImageFolder with it, makes white or black of all that does not fit, or drops digits.
                raise DataError(
                    f"{name}: its pixels are no 8-bit integers (mode {image.mode}, {_stored(image)}); scale them to "
                    "0..255 and save them as uint8."
                )
            return np.array(image.convert("RGB"))


def _tiles(image: Image.Image) -> list[tuple[str, Any, int, Any]]:
    """The parts of an image's file that are not decoded yet: decoder, extents, offset, arguments."""
    assert isinstance(image, ImageFile.ImageFile)  # what `open` gives
    return list(image.tile)


def _stored(image: Image.Image) -> str:
    """How an image's file has its pixels, in Pillow's words: the decoder's raw modes."""
    raw = [tile[3] for tile in _tiles(image)]
    names = [str(args[0] if isinstance(args, tuple) and args else args) for args in raw]
    return f"{image.format} of {', '.join(dict.fromkeys(names)) or image.mode}"


def _is_deep(image: Image.Image) -> bool:
    """Whether an image that is open and not decoded yet has other pixels than integers of at most 8 bits."""
    if image.mode[0] in "IF":
        return True
    for tile in _tiles(image):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and re.search(r";(16|32|64)[A-Z]+$", arg) for arg in args):
            return True
        if tile[0].startswith("ppm") and isinstance(args[-1], int) and args[-1] > 255:
            return True
    return False


def _plain_jpeg(data: bytes) -> np.ndarray | None:
    """Pixels of a baseline JPEG that is grey or YCbCr and without fault; None for anything else, which is Pillow's."""
    if not _is_baseline(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("Gray", "YCbCr") or height * width > (Image.MAX_IMAGE_PIXELS or _LARGEST):
            return None
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # a warning of the decoder is one too: Pillow decides which damage it reads over
        return None


def _is_baseline(data: bytes) -> bool:
    """Whether these are the bytes of a JPEG whose frame is baseline (SOF0), with 8 bits a value."""
    if data[:3] != b"\xff\xd8\xff":
        return False
    at = 2
    while at + 4 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; not a table, nor reserved
            return marker == 0xC0 and data[at + 4] == 8
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def cut_border(pixels: np.ndarray, border: int, name: str) -> np.ndarray:
    """The (H, W, 3) image without `border` pixels on each side."""
    height, width, _ = pixels.shape
    if min(width, height) <= 2 * border:
        raise DataError(f"{name}: {width} x {height} pixels leave nothing inside a border of {border}; fetch it again.")
    return pixels[border : height - border, border : width - border]


def eval_view(
    pixels: np.ndarray, size: int, name: str, decode: Decode = "exact", resizing: Resizing = USUAL
) -> np.ndarray:
    """(3, size, size) uint8 of (H, W, 3) uint8: open_clip's view of evaluation."""
    mode, interpolation = resizing
    if mode == "squash":
        return _resized(pixels, size, size, decode, interpolation).transpose(2, 0, 1)
    if mode == "longest":
        return _longest(pixels, size, name, decode, interpolation).transpose(2, 0, 1)
    return _shortest(pixels, size, name, decode, interpolation).transpose(2, 0, 1)


def _longest(pixels: np.ndarray, size: int, name: str, decode: Decode, interpolation: str) -> np.ndarray:
    """(size, size, 3): the whole image, its longest side resized, in the middle of black."""
    height, width, _ = pixels.shape
    ratio = max(height / size, width / size)
    high, wide = round(height / ratio), round(width / ratio)
    if not high or not wide:  # torchvision refuses it too
        raise DataError(f"{name}: {width} x {height} pixels are too long and thin to be resized; fetch it again.")
    made = np.zeros((size, size, 3), np.uint8)
    top, left = (size - high) // 2, (size - wide) // 2
    made[top : top + high, left : left + wide] = _resized(pixels, wide, high, decode, interpolation)
    return made


def _shortest(pixels: np.ndarray, size: int, name: str, decode: Decode, interpolation: str) -> np.ndarray:
    """(size, size, 3): shortest side to `size`, centre crop."""
    height, width, _ = pixels.shape
    if width <= height:
        wide, high = size, int(size * height / width)
    else:
        wide, high = int(size * width / height), size
    if wide * high > _LARGEST:
        raise DataError(f"{name}: {width} x {height} pixels are too long and thin to be resized; fetch it again.")
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return _resized(pixels, wide, high, decode, interpolation, left, left + size)[top : top + size]


def crop_draws(keys: np.ndarray) -> np.ndarray:
    """(B, 10, 4) float64: what each crop is drawn from, of (B,) keys; for a whole batch, since numpy is slow on one."""
    return uniforms(keys, 4 * _TRIES).reshape(-1, _TRIES, 4)


def random_box(width: int, height: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the training crop, from its row of `crop_draws`.

    Ten tries as in torchvision's `RandomResizedCrop`, whose rule this is; then the largest centred box of a legal
    shape.
    """
    low, high = map(math.log, CROP_SHAPE)
    for area, shape, x, y in draws.tolist():  # Python's numbers: numpy is slow on one at a time
        pixels = width * height * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area)
        ratio = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(x * (width - w + 1)), int(y * (height - h + 1)), w, h
    shape = width / height
    w = round(height * CROP_SHAPE[1]) if shape > CROP_SHAPE[1] else width
    h = round(width / CROP_SHAPE[0]) if shape < CROP_SHAPE[0] else height
    w, h = max(1, min(w, width)), max(1, min(h, height))
    return (width - w) // 2, (height - h) // 2, w, h


def random_view(
    pixels: np.ndarray, size: int, draws: np.ndarray, decode: Decode = "exact", resizing: Resizing = USUAL
) -> np.ndarray:
    """(3, size, size) uint8 of (H, W, 3) uint8: the crop of `random_box`, resized."""
    height, width, _ = pixels.shape
    left, top, w, h = random_box(width, height, draws)
    return _resized(pixels[top : top + h, left : left + w], size, size, decode, resizing[1]).transpose(2, 0, 1)


def _resized(
    pixels: np.ndarray,
    width: int,
    height: int,
    decode: Decode,
    interpolation: str = "bicubic",
    start: int = 0,
    stop: int | None = None,
) -> np.ndarray:
    """(height, stop - start, 3) uint8: (H, W, 3) resized with antialiasing to height x width, of that these columns."""
    rows, columns, _ = pixels.shape
    stop = width if stop is None else stop
    if (rows, columns) == (height, width):
        return pixels[:, start:stop]
    if decode == "exact" and interpolation == "bilinear":
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))[:, start:stop]
    if decode == "exact":
        return resample(pixels, width, height, start, stop)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if height_first(rows, columns, height, width):  # as Pillow; in another order a quarter of all values would differ
        image = interpolate(image, (height, columns), mode=interpolation, antialias=True)
    image = interpolate(image, (height, width), mode=interpolation, antialias=True)
    return image[0].permute(1, 2, 0).numpy()[:, start:stop]
