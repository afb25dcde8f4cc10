"""Paints masks of characters as 32 x 32 colour pictures, for the `glyphs` benchmark.

A picture has an ink (a colour and a texture) and a ground. As in `digit_rendering` every operation is a correctly
rounded IEEE one (+, -, *, /, comparisons, integer indexing), so the same keys give the same bytes on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .digit_rendering import COLOURS
from .randomness import uniforms

SIZE = 32
"""Height and width of a picture in pixels."""
_F = np.float32
_GEOMETRY, _COLOUR, _TEXTURE, _GROUND = slice(0, 7), slice(7, 10), slice(10, 16), slice(16, 40)


@dataclass(frozen=True, slots=True)
class Jitter:
    """Ranges of the random geometry; lengths in halves of the picture, angles as tan(angle / 2)."""

    half_tan: float = 0.06  # +-7 degrees
    shear: float = 0.10
    shift: float = 0.10
    zoom: tuple[float, float] = (0.72, 1.05)
    """Height of the mask, its margin included, relative to the picture."""
    aspect: tuple[float, float] = (0.88, 1.14)
    stroke: tuple[float, float] = (0.32, 0.62)
    """Share of a pixel that must be covered for ink: thinner strokes where it is high."""


def _spread(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return (low + u * (high - low)).astype(_F)


def ink(masks: np.ndarray, u: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Ink density in [0, 1], (B, SIZE, SIZE), of masks under random affine maps.

    Args:
        masks: (B, S, S) integers 0..15.
        u: (B, 7) uniforms: rotation, shear, two shifts, zoom, aspect, stroke width.
        jitter: ranges of the maps.
    """
    side = masks.shape[-1]
    t = _spread(u[:, 0], -jitter.half_tan, jitter.half_tan)
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)  # rational: exact on every machine
    shear, zoom = _spread(u[:, 1], -jitter.shear, jitter.shear), 1 / _spread(u[:, 4], *jitter.zoom)
    axis = ((np.arange(SIZE, dtype=_F) + _F(0.5)) / _F(SIZE / 2)) - 1
    x = axis[None, None, :] - _spread(u[:, 2], -jitter.shift, jitter.shift)[:, None, None]
    y = axis[None, :, None] - _spread(u[:, 3], -jitter.shift, jitter.shift)[:, None, None]
    c, s, k, z, a = (v[:, None, None] for v in (cos, sin, shear, zoom, _spread(u[:, 5], *jitter.aspect)))
    half, middle = _F(side / 2), _F((side - 1) / 2)
    gx = np.clip((c * x + s * y + k * y) * z * a * half + middle, -1.5, side + 0.5) + 2
    gy = np.clip((c * y - s * x) * z * half + middle, -1.5, side + 0.5) + 2
    padded = np.zeros((len(masks), side + 4, side + 4), dtype=_F)
    padded[:, 2:-2, 2:-2] = masks.astype(_F) / 15
    row = np.arange(len(masks))[:, None, None]
    ix, iy = np.floor(gx).astype(np.int64), np.floor(gy).astype(np.int64)
    fx, fy = gx - ix.astype(_F), gy - iy.astype(_F)
    top = padded[row, iy, ix] * (1 - fx) + padded[row, iy, ix + 1] * fx
    low = padded[row, iy + 1, ix] * (1 - fx) + padded[row, iy + 1, ix + 1] * fx
    density = top * (1 - fy) + low * fy
    return np.clip((density - _spread(u[:, 6], *jitter.stroke)[:, None, None]) * 3 + _F(0.5), 0, 1)


def _triangle(phase: np.ndarray) -> np.ndarray:
    """A wave of period 1 in [0, 1] made of straight lines."""
    return 1 - np.abs(2 * (phase - np.floor(phase)) - 1)


_AXIS = np.arange(SIZE, dtype=_F) / _F(SIZE)
_X, _Y = _AXIS[None, None, :], _AXIS[None, :, None]


def _column(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return _spread(u, low, high)[:, None, None]


def _grey(level: np.ndarray) -> np.ndarray:
    """(B, 3, 1, 1) of (B,) levels."""
    return np.repeat(level[:, None], 3, axis=1).astype(_F)[:, :, None, None]


def _tint(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """(B, 3, 1, 1) of (B, 3) uniforms."""
    return _spread(u, low, high)[:, :, None, None]


def _solid(mask: np.ndarray, u: np.ndarray) -> np.ndarray:
    return mask


def _striped(mask: np.ndarray, u: np.ndarray) -> np.ndarray:
    wave = _triangle(_X * _column(u[:, 0], 3, 7) + _Y * _column(u[:, 1], -7, 7) + _column(u[:, 2], 0, 1))
    return mask * (wave > _F(0.42)).astype(_F)


def _dotted(mask: np.ndarray, u: np.ndarray) -> np.ndarray:
    pitch = _column(u[:, 0], 6, 9)
    spots = _triangle(_X * pitch + _column(u[:, 1], 0, 1)) * _triangle(_Y * pitch + _column(u[:, 2], 0, 1))
    return mask * np.clip((spots - _F(0.16)) * 6, 0, 1)


def _faded(mask: np.ndarray, u: np.ndarray) -> np.ndarray:
    along = np.where(u[:, 0, None, None] < 0.5, _X + 0 * _Y, _Y + 0 * _X).astype(_F)
    along = np.where(u[:, 1, None, None] < 0.5, along, 1 - along)
    return mask * (_F(0.25) + _F(0.75) * along)


def _outlined(mask: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The contour alone: where the density passes one half, and where it falls from one pixel to the next."""
    right, down = np.zeros_like(mask), np.zeros_like(mask)
    right[:, :, :-1] = np.abs(mask[:, :, 1:] - mask[:, :, :-1])
    down[:, :-1] = np.abs(mask[:, 1:] - mask[:, :-1])
    return np.clip(np.maximum(right, down) * _F(1.2), 0, 1)


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "solid": _solid, "striped": _striped, "dotted": _dotted, "faded": _faded, "outlined": _outlined,
}  # fmt: skip
"""Texture of the ink -> function of (density (B, H, W), uniforms (B, 6))."""


def _light(u: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    return _grey(_spread(u[:, 0], 0.78, 1.0))


def _dark(u: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    return _grey(_spread(u[:, 0], 0.0, 0.22))


def _coloured(u: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """A palette colour that is not the ink's: the one whose channels are exchanged and turned around."""
    return (_F(0.85) - _F(0.7) * rgb[:, (1, 2, 0)] + _F(0.1) * (u[:, :3].astype(_F) - _F(0.5)))[:, :, None, None]


def _checked(u: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    pitch = np.floor(_column(u[:, 0], 3, 6))
    odd = np.floor(_X * pitch + _column(u[:, 1], 0, 1)) + np.floor(_Y * pitch + _column(u[:, 2], 0, 1))
    on = (odd - 2 * np.floor(odd / 2)).astype(_F)[:, None]
    a, b = _tint(u[:, 3:6], 0.0, 0.6), _tint(u[:, 6:9], 0.4, 1.0)
    return a + on * (b - a)


def _sloped(u: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    along = np.where(u[:, 0, None, None] < 0.5, _X + 0 * _Y, (_X + _Y) / 2).astype(_F)[:, None]
    a, b = _tint(u[:, 1:4], 0.0, 1.0), _tint(u[:, 4:7], 0.0, 1.0)
    return a + along * (b - a)


def _street(u: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """The ground of finetuning: dull, crossed by three bars."""
    scene = np.broadcast_to(_grey(_spread(u[:, 0], 0.08, 0.38)), (len(u), 3, SIZE, SIZE))
    for k in range(3):
        v = u[:, 1 + 6 * k : 7 + 6 * k]
        line = np.abs((_Y - _X * _column(v[:, 0], -1.5, 1.5)) - _column(v[:, 1], -0.6, 1.2))
        bar = (line < _column(v[:, 2], 0.015, 0.06)).astype(_F)
        scene = scene + bar[:, None] * (_tint(v[:, 3:6], 0.25, 0.8) - scene)
    return scene


GROUNDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "light": _light, "dark": _dark, "coloured": _coloured, "checked": _checked, "sloped": _sloped, "street": _street,
}  # fmt: skip
"""Ground -> function of (uniforms (B, 24), ink colour (B, 3)); (B, 3, H or 1, W or 1)."""
GRAIN = {"light": 0.05, "dark": 0.05, "coloured": 0.05, "checked": 0.05, "sloped": 0.05, "street": 0.25}
"""Range of the noise on every pixel."""


def paint(
    masks: np.ndarray, colours: np.ndarray, textures: np.ndarray, grounds: np.ndarray, keys: np.ndarray,
    jitter: Jitter,
) -> np.ndarray:  # fmt: skip
    """uint8 (B, 3, SIZE, SIZE) pictures.

    Args:
        masks: (B, S, S) integers 0..15.
        colours: (B,) indices into COLOURS, in its order.
        textures: (B,) indices into TEXTURES, in its order.
        grounds: (B,) indices into GROUNDS, in its order.
        keys: (B,) uint64, one a picture: the only source of randomness.
        jitter: ranges of the geometry.
    """
    u = uniforms(keys, 40 + SIZE * SIZE)
    density = ink(masks, u[:, _GEOMETRY], jitter)
    palette = np.array(list(COLOURS.values()), dtype=_F)
    rgb = np.clip(palette[colours] + (u[:, _COLOUR].astype(_F) - _F(0.5)) * _F(0.16), 0, 1)
    out = np.empty((len(masks), 3, SIZE, SIZE), dtype=_F)
    cover = np.empty_like(density)
    for number, texture in enumerate(TEXTURES.values()):
        if len(rows := np.flatnonzero(textures == number)):
            cover[rows] = texture(density[rows], u[rows, _TEXTURE])
    for number, (name, ground) in enumerate(GROUNDS.items()):
        if len(rows := np.flatnonzero(grounds == number)):
            scene, some = ground(u[rows, _GROUND], rgb[rows]), cover[rows][:, None]
            picture = scene + some * (rgb[rows][:, :, None, None] - scene)
            noise = u[rows, 40:].astype(_F).reshape(len(rows), 1, SIZE, SIZE) - _F(0.5)
            out[rows] = picture + noise * _F(GRAIN[name])
    return np.floor(np.clip(out, 0, 1) * 255 + _F(0.5)).astype(np.uint8)
