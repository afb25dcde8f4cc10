"""Turns a typeface's outlines into small masks, with nothing but correctly rounded arithmetic.

No rasteriser is asked, so the masks depend on the font file alone: not on FreeType, its hinting, or who built it.
fontTools reads the curves; they become short straight lines, and each mask counts the samples that these enclose.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.glyphs import CHARACTERS, LEVELS, SIDE

INK = 20
"""Longer side of a glyph in pixels; the rest of SIDE is margin."""
SAMPLES = 8
"""Samples along a side of a pixel: a pixel counts 64 of them."""
PIECES = 8
"""Straight lines a curve becomes."""


def _lines(glyphs: Any, name: str) -> np.ndarray:
    """(N, 4) float64: x0, y0, x1, y1 of every straight piece of a glyph, contours closed, in font units."""
    from fontTools.pens.basePen import BasePen

    class Pen(BasePen):
        """Collects straight pieces; the base class turns components and quadratic splines into plain calls."""

        def __init__(self) -> None:
            super().__init__(glyphs)
            self.pieces: list[tuple[float, float, float, float]] = []
            self.start = self.at = (0.0, 0.0)

        def _to(self, point: tuple[float, float]) -> None:
            self.pieces.append((*self.at, *point))
            self.at = point

        def _moveTo(self, point: tuple[float, float]) -> None:
            self.start = self.at = (float(point[0]), float(point[1]))

        def _lineTo(self, point: tuple[float, float]) -> None:
            self._to((float(point[0]), float(point[1])))

        def _curveToOne(self, a: Any, b: Any, c: Any) -> None:
            o = self.at
            for k in range(1, PIECES + 1):
                t = k / PIECES
                s = 1 - t
                w = (s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t)
                self._to(
                    (
                        w[0] * o[0] + w[1] * a[0] + w[2] * b[0] + w[3] * c[0],
                        w[0] * o[1] + w[1] * a[1] + w[2] * b[1] + w[3] * c[1],
                    )
                )

        def _closePath(self) -> None:
            self._to(self.start)

        def _endPath(self) -> None:
            self._to(self.start)

    pen = Pen()
    glyphs[name].draw(pen)
    return np.array(pen.pieces, dtype=np.float64).reshape(-1, 4)


def mask(lines: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) uint8 of 0..LEVELS - 1: the enclosed share of each pixel, the glyph scaled to INK and centred.

    What is enclosed is decided by the nonzero winding rule, as in all these formats.
    """
    out = np.zeros((SIDE, SIDE), dtype=np.uint8)
    if not len(lines):
        return out
    x, y = lines[:, 0::2], lines[:, 1::2]
    width, height = x.max() - x.min(), y.max() - y.min()
    if max(width, height) <= 0:
        return out
    grid = SIDE * SAMPLES
    scale = INK * SAMPLES / max(width, height)
    x = (x - x.min()) * scale + (grid - width * scale) / 2
    y = (y.max() - y) * scale + (grid - height * scale) / 2
    rows = np.arange(grid) + 0.5
    below = y[:, :, None] <= rows
    crossing, row = np.nonzero(below[:, 0] != below[:, 1])
    x0, x1, y0, y1 = x[crossing, 0], x[crossing, 1], y[crossing, 0], y[crossing, 1]
    at = x0 + (rows[row] - y0) * ((x1 - x0) / (y1 - y0))
    column = np.clip(np.ceil(at - 0.5), 0, grid).astype(np.int64)
    turns = np.zeros((grid, grid + 1), dtype=np.int64)
    np.add.at(turns, (row, column), np.where(y1 > y0, 1, -1))
    inside = np.cumsum(turns, axis=1)[:, :grid] != 0
    count = inside.reshape(SIDE, SAMPLES, SIDE, SAMPLES).sum((1, 3))
    return ((count * (LEVELS - 1) + SAMPLES * SAMPLES // 2) // (SAMPLES * SAMPLES)).astype(np.uint8)


def read(path: Path, number: int = 0) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """Masks of all classes, the characters that the face lacks, and what it says of itself.

    Returns:
        (C, SIDE, SIDE) uint8 of 0..LEVELS - 1, in the order of CHARACTERS; missing characters, whose mask is empty;
        the strings of its name table: family, licence and the address of the licence.
    """
    from fontTools.ttLib import TTFont

    font = TTFont(path, fontNumber=number, lazy=True)
    table, glyphs = font.getBestCmap() or {}, font.getGlyphSet()
    masks = np.zeros((len(CHARACTERS), SIDE, SIDE), dtype=np.uint8)
    missing = []
    for i, character in enumerate(CHARACTERS):
        if ord(character) in table:
            masks[i] = mask(_lines(glyphs, table[ord(character)]))
        if not masks[i].any():
            missing.append(character)
    said = {
        key: str(font["name"].getDebugName(code) or "") for key, code in (("family", 1), ("licence", 13), ("at", 14))
    }
    return masks, missing, said
