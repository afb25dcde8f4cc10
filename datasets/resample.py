"""Pillow's bicubic resize of 8-bit pictures, to the last bit and in two thirds of its time.

Pillow turns its weights into whole numbers of 22 bits, sums them in integers and rounds after each of two passes. Here
the same sums are float32 matrix products over bands of neighbouring outputs. Such a sum is off by less than a bound
that the weights give, so its rounding can only be wrong next to a half: those few are summed again in integers. The
weights are Pillow's own, for Pillow says them: it is made to resize pictures of single marks, in its 32-bit mode.
"""

import math
import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

_BITS = 22
_BAND = 8
"""Outputs of one product: fewer make more calls, more make wider bands, whose weights are mostly zero."""
_ONE_THREAD = 2**18
"""Multiplications up to which OpenBLAS keeps to one thread; a loader has one process a core already."""
_PARTS = 4
"""Products of that size in one call: a large picture needs no four times its memory."""
_SMALL = 2**16
"""Pixels below which the calls would take longer than Pillow's loops."""

_kept = threading.local()


def height_first(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether Pillow resizes the height before the width: where that loses more than twice as many pixels."""
    return rows - height > max(0, 2 * (columns - width))


def resample(pixels: np.ndarray, width: int, height: int, start: int, stop: int) -> np.ndarray:
    """(height, stop - start, 3) uint8: (H, W, 3) uint8 resized to height x width, of that the columns start:stop."""
    rows, columns, _ = pixels.shape
    # Not Pillow's: another release may begin with the other side, or round elsewhere.
    if rows * columns < _SMALL or not _is_pillows():
        return _by_pillow(pixels, width, height)[:, start:stop]
    return _resample(pixels, width, height, start, stop)


def _resample(pixels: np.ndarray, width: int, height: int, start: int, stop: int) -> np.ndarray:
    rows, columns, _ = pixels.shape
    if height_first(rows, columns, height, width):
        pixels = _along_rows(pixels, height)
    pixels = _along_columns(pixels, width, start, stop) if columns != width else pixels[:, start:stop]
    return _along_rows(pixels, height) if len(pixels) != height else pixels


@lru_cache(1)
def _is_pillows() -> bool:
    """Whether the installed Pillow agrees, where it takes the width first and where it takes the height first."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 53, 3), dtype=np.uint8)
    return all(
        np.array_equal(_resample(noise, *size, 0, size[0]), _by_pillow(noise, *size)) for size in ((31, 43), (47, 20))
    )


def _by_pillow(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _along_columns(pixels: np.ndarray, width: int, start: int, stop: int) -> np.ndarray:
    """(H, stop - start, 3) of (H, W, 3)."""
    rows, columns, _ = pixels.shape
    reads, weights, doubt, begins, bands = _plan_of(columns)(columns, width, start, stop)
    wide = 3 * bands.shape[2]
    each_colour = np.zeros((len(bands), bands.shape[2], 3, _BAND, 3), np.float32)
    for colour in range(3):
        each_colour[:, :, colour, :, colour] = bands.transpose(0, 2, 1)
    colours = each_colour.reshape(len(bands), wide, 3 * _BAND)
    flat = pixels.reshape(rows, 3 * columns)
    made = np.empty((rows, 3 * (stop - start)), np.uint8)
    height = max(1, _ONE_THREAD // colours[0].size)
    for top in range(0, rows, _PARTS * height):
        part = flat[top : top + _PARTS * height]
        split = -(-len(part) // height)
        each = -(-len(part) // split)
        values = _scratch("values", split, each, 3 * columns)
        values.reshape(-1, 3 * columns)[: len(part)] = part
        values.reshape(-1, 3 * columns)[len(part) :] = 0
        sums = _scratch("sums", split, each, 3 * _BAND * len(bands))
        for k, begin in enumerate(begins):
            into = sums[:, :, 3 * _BAND * k : 3 * _BAND * (k + 1)]
            np.matmul(values[:, :, 3 * begin : 3 * begin + wide], colours[k], out=into)

        def again(row: np.ndarray, at: np.ndarray, part: np.ndarray = part) -> np.ndarray:
            column, colour = np.divmod(at, 3)
            return (part[row[:, None], 3 * reads[column] + colour[:, None]] * weights[column]).sum(1)

        sums = sums.reshape(split * each, -1)[: len(part), : made.shape[1]]
        _round(sums, doubt, again, made[top : top + _PARTS * height])
    return made.reshape(rows, -1, 3)


def _along_rows(pixels: np.ndarray, height: int) -> np.ndarray:
    """(height, W, 3) of (H, W, 3)."""
    rows, columns, _ = pixels.shape
    reads, weights, doubt, begins, bands = _plan_of(rows)(rows, height, 0, height)
    flat = pixels.reshape(rows, 3 * columns)
    made = np.empty((height, 3 * columns), np.uint8)
    width = max(1, _ONE_THREAD // bands[0].size)
    for left in range(0, 3 * columns, width):
        part = flat[:, left : left + width]
        values = _scratch("values", *part.shape)
        values[...] = part
        sums = _scratch("sums", _BAND * len(bands), part.shape[1])
        for k, begin in enumerate(begins):
            np.matmul(bands[k], values[begin : begin + bands.shape[2]], out=sums[_BAND * k : _BAND * (k + 1)])

        def again(row: np.ndarray, at: np.ndarray, part: np.ndarray = part) -> np.ndarray:
            return (part[reads[row], at[:, None]] * weights[row]).sum(1)

        _round(sums[:height], doubt, again, made[:, left : left + width])
    return made.reshape(height, columns, 3)


def _round(
    sums: np.ndarray, doubt: float, again: Callable[[np.ndarray, np.ndarray], np.ndarray], made: np.ndarray
) -> None:
    """Writes (R, C) sums to uint8 as Pillow rounds them; `again` gives the integer sums of those near a half."""
    np.clip(sums, 0, 255, out=sums)
    np.add(sums, np.float32(0.5 - doubt), out=made, casting="unsafe")
    other = np.add(sums, np.float32(0.5 + doubt), out=np.empty(made.shape, np.uint8), casting="unsafe")
    at = np.divmod(np.flatnonzero(made != other), made.shape[1])
    made[at] = (again(*at) + (1 << _BITS - 1) >> _BITS).clip(0, 255)


def _scratch(use: str, *shape: int) -> np.ndarray:
    """Floats to write in, kept by each thread from picture to picture: fresh pages cost more than the sums."""
    size, held = math.prod(shape), getattr(_kept, use, None)
    if held is None or held.size < size:
        held = np.empty(size, np.float32)
        setattr(_kept, use, held)
    return held[:size].reshape(shape)


def _plan_of(size: int) -> Callable[[int, int, int, int], tuple[np.ndarray, np.ndarray, float, list[int], np.ndarray]]:
    """`_plan`, kept for sizes that come again and whose plans are small: 512 of 224 outputs have 16 to 40 MB."""
    return _plan if size <= 1024 else _plan.__wrapped__


@lru_cache(512)
def _plan(size: int, new: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, float, list[int], np.ndarray]:
    """How outputs start:stop of `new` follow from `size` inputs.

    Returns the inputs that each reads and their weights in 2^-22, both (outputs, T); how many levels a float32 sum in
    any order can be from the true one; of each band of outputs the first input, and its weights (bands, _BAND, K).
    """
    reach = 2 * max(size / new, 1)
    centre = (np.arange(start, stop) + 0.5) * size / new - 0.5
    first = np.ceil(centre - reach - 1e-6).clip(0).astype(np.int64)
    taps = int((np.floor(centre + reach + 1e-6).clip(max=size - 1) - first).max()) + 1
    first = first.clip(max=size - taps)
    reads = (first[:, None] + np.arange(taps)).astype(np.int32)
    every = np.arange(size)
    marks = np.zeros((taps, size), np.int32)  # a mark in each `taps`-th place, so that no output sees two in a row
    marks[every % taps, every] = 1 << _BITS
    seen = np.asarray(Image.fromarray(marks).resize((new, taps), Image.Resampling.BICUBIC)).T[start:stop]
    outputs = np.arange(stop - start)
    weights = seen[outputs[:, None], reads % taps]
    doubt = float(np.abs(weights).sum(1).max()) * (255 * (taps + 2) * 2.0 ** -(24 + _BITS))
    begins, ends = first[::_BAND], first[np.minimum(outputs[::_BAND] + _BAND, len(outputs)) - 1] + taps
    wide = int((ends - begins).max())
    begins = np.minimum(begins, size - wide)
    band, place = np.divmod(outputs, _BAND)
    bands = np.zeros((len(begins), _BAND, wide), np.float32)
    bands[band[:, None], place[:, None], reads - begins[band, None]] = weights * 2.0**-_BITS
    return reads, weights, doubt, begins.tolist(), bands
