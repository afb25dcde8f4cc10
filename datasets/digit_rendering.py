"""Draws 8 x 8 handwriting as 32 x 32 colour pictures, in the styles of the `digits` benchmark.

Every operation is a correctly rounded IEEE one (+, -, *, /, comparisons, integer indexing): no sine, no exponential, no
matrix product. So the same keys give the same bytes on every machine, and a hash of the pictures can stand on the card.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .randomness import uniforms

SIZE = 32
"""Height and width of a picture in pixels."""

COLOURS = {
    "red": (0.86, 0.12, 0.14), "blue": (0.14, 0.24, 0.88), "green": (0.13, 0.66, 0.24), "yellow": (0.93, 0.86, 0.16),
    "purple": (0.58, 0.18, 0.72), "orange": (0.96, 0.53, 0.10), "white": (0.95, 0.95, 0.95), "grey": (0.55, 0.55, 0.55),
}  # fmt: skip
"""Colour names of the captions and their RGB values in [0, 1]."""

_F = np.float32


@dataclass(frozen=True, slots=True)
class Jitter:
    """Ranges of the random geometry; lengths in halves of the picture, angles as tan(angle / 2)."""

    half_tan: float = 0.09  # +-10 degrees
    shear: float = 0.12
    shift: float = 0.08
    zoom: tuple[float, float] = (0.74, 0.94)
    """Height of the glyph relative to the picture."""


def _spread(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return (low + u * (high - low)).astype(_F)


def ink(glyphs: np.ndarray, u: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Ink density in [0, 1], (B, SIZE, SIZE), of (B, 8, 8) glyphs of 0..16 under random affine maps.

    Args:
        glyphs: (B, 8, 8) integers 0..16.
        u: (B, 7) uniforms: rotation, shear, two shifts, zoom, aspect, stroke width.
        jitter: ranges of the maps.
    """
    t = _spread(u[:, 0], -jitter.half_tan, jitter.half_tan)
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)  # rational: exact on every machine
    shear = _spread(u[:, 1], -jitter.shear, jitter.shear)
    zoom = 1 / _spread(u[:, 4], *jitter.zoom)
    aspect = _spread(u[:, 5], 0.85, 1.15)
    axis = ((np.arange(SIZE, dtype=_F) + _F(0.5)) / _F(SIZE / 2)) - 1
    x = axis[None, None, :] - _spread(u[:, 2], -jitter.shift, jitter.shift)[:, None, None]
    y = axis[None, :, None] - _spread(u[:, 3], -jitter.shift, jitter.shift)[:, None, None]
    c, s, k, z, a = (v[:, None, None] for v in (cos, sin, shear, zoom, aspect))
    gx = (c * x + s * y + k * y) * z * a * 4 + _F(3.5)
    gy = (c * y - s * x) * z * 4 + _F(3.5)
    padded = np.zeros((len(glyphs), 12, 12), dtype=_F)
    padded[:, 2:10, 2:10] = glyphs.astype(_F) / 16
    row = np.arange(len(glyphs))[:, None, None]
    gx, gy = np.clip(gx, -1.5, 8.5) + 2, np.clip(gy, -1.5, 8.5) + 2
    ix, iy = np.floor(gx).astype(np.int64), np.floor(gy).astype(np.int64)
    fx, fy = gx - ix.astype(_F), gy - iy.astype(_F)
    top = padded[row, iy, ix] * (1 - fx) + padded[row, iy, ix + 1] * fx
    low = padded[row, iy + 1, ix] * (1 - fx) + padded[row, iy + 1, ix + 1] * fx
    density = top * (1 - fy) + low * fy
    threshold = _spread(u[:, 6], 0.30, 0.50)[:, None, None]
    return np.clip((density - threshold) * 4 + _F(0.5), 0, 1)


def _triangle(phase: np.ndarray) -> np.ndarray:
    """A wave of period 1 in [0, 1] made of straight lines (a sine would differ in its last bit between machines)."""
    frac = phase - np.floor(phase)
    return 1 - np.abs(2 * frac - 1)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(SIZE, dtype=_F) / _F(SIZE)
    return axis[None, None, :], axis[None, :, None]


def _compose(mask: np.ndarray, ink_rgb: np.ndarray, paper_rgb: np.ndarray) -> np.ndarray:
    """(B, 3, SIZE, SIZE): ink over paper; colours are (B, 3) or (B, 3, SIZE, SIZE)."""
    ink_rgb, paper_rgb = (v if v.ndim == 4 else v[:, :, None, None] for v in (ink_rgb, paper_rgb))
    return paper_rgb + mask[:, None] * (ink_rgb - paper_rgb)


def _grey(level: np.ndarray) -> np.ndarray:
    return np.repeat(level[:, None], 3, axis=1).astype(_F)


def _plain(mask: np.ndarray, rgb: np.ndarray, u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Solid ink on a plain dark or light ground."""
    ground = np.where(u[:, 0] < 0.5, _spread(u[:, 1], 0.0, 0.25), _spread(u[:, 1], 0.7, 1.0))
    return _compose(mask, rgb, _grey(ground))


def _street(mask: np.ndarray, rgb: np.ndarray, u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The finetuning style: coloured ink over a dark ground crossed by bright bars, with blotches and grain."""
    x, y = _grid()
    scene = np.repeat(_grey(_spread(u[:, 0], 0.05, 0.30))[:, :, None, None], SIZE, 2).repeat(SIZE, 3)
    for k in range(3):
        v = u[:, 1 + 5 * k : 6 + 5 * k]
        slope = _spread(v[:, 0], -1.5, 1.5)[:, None, None]
        line = np.abs((y - x * slope) - _spread(v[:, 1], -0.6, 1.2)[:, None, None])
        bar = (line < _spread(v[:, 2], 0.01, 0.05)[:, None, None]).astype(_F)
        tint = np.stack([_spread(v[:, 3], 0.25, 0.75), _spread(v[:, 4], 0.25, 0.75), _spread(v[:, 2], 0.25, 0.75)], 1)
        scene = scene + bar[:, None] * (tint[:, :, None, None] - scene)
    picture = _compose(mask * _spread(u[:, 16], 0.65, 1.0)[:, None, None], rgb, scene)
    return picture + (noise - _F(0.5)) * _F(0.45)


def _striped(mask: np.ndarray, rgb: np.ndarray, u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Ink hatched by stripes on light paper."""
    x, y = _grid()
    a, b = _spread(u[:, 0], 3.0, 7.0)[:, None, None], _spread(u[:, 1], -6.0, 6.0)[:, None, None]
    wave = (_triangle(x * a + y * b + u[:, 2].astype(_F)[:, None, None]) > _F(0.4)).astype(_F)
    return _compose(mask * wave, rgb, _grey(_spread(u[:, 3], 0.75, 1.0)))


def _shaded(mask: np.ndarray, rgb: np.ndarray, u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Ink that fades across the glyph, on tinted paper."""
    x, y = _grid()
    direction = np.where(u[:, 0, None, None] < 0.5, x + 0 * y, y + 0 * x).astype(_F)
    tint = _F(0.55) + _F(0.45) * u[:, 1:4].astype(_F)
    return _compose(mask * (_F(0.35) + _F(0.65) * direction), rgb, tint)


def _sketch(mask: np.ndarray, rgb: np.ndarray, u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Contour only, pencil on paper: ink where the density passes one half."""
    contour = np.clip(4 * mask * (1 - mask) * _F(1.3), 0, 1)
    pencil = _grey(_spread(u[:, 0], 0.0, 0.35))
    paper = _grey(_spread(u[:, 1], 0.8, 1.0))
    return _compose(contour, pencil, paper) + (noise - _F(0.5)) * _F(0.12)


def _negative(mask: np.ndarray, rgb: np.ndarray, u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The glyph cut out of coloured ground."""
    return _compose(mask, _grey(_spread(u[:, 0], 0.85, 1.0)), rgb)


STYLES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": _plain, "street": _street, "striped": _striped, "shaded": _shaded, "sketch": _sketch,
    "negative": _negative,
}  # fmt: skip
"""Style name -> function of (ink (B, H, W), ink colour (B, 3), uniforms (B, 17), pixel noise (B, 1, H, W))."""


def draw(glyphs: np.ndarray, colours: np.ndarray, style: str, keys: np.ndarray, jitter: Jitter) -> np.ndarray:
    """uint8 (B, 3, SIZE, SIZE) pictures of one style.

    Args:
        glyphs: (B, 8, 8) integers 0..16.
        colours: (B,) indices into COLOURS, in its order.
        style: a key of STYLES.
        keys: (B,) uint64, one a picture: the only source of randomness.
        jitter: ranges of the geometry.
    """
    u = uniforms(keys, 27 + SIZE * SIZE)
    mask = ink(glyphs, u[:, :7], jitter)
    palette = np.array(list(COLOURS.values()), dtype=_F)
    rgb = np.clip(palette[colours] + (u[:, 7:10].astype(_F) - _F(0.5)) * _F(0.16), 0, 1)
    noise = u[:, 27:].astype(_F).reshape(len(u), 1, SIZE, SIZE)
    picture = STYLES[style](mask, rgb, u[:, 10:27], noise)
    return np.floor(np.clip(picture, 0, 1) * 255 + _F(0.5)).astype(np.uint8)
