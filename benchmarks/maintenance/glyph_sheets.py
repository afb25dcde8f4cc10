"""Draws the contact sheets of the glyphs benchmark: every family that stays, and some pictures of every set.

python -m robustft.benchmarks.maintenance.glyph_sheets    writes docs/glyphs/*.png
"""

from pathlib import Path

import numpy as np

from ...datasets import glyphs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "glyphs"
COLUMNS, PICTURES = 2, 36
SHORT = {"finetune": "ft", "validation": "val", "development": "dev", "pretrain": "pre"}


def families_sheet(style: str) -> np.ndarray:
    """(H, W) uint8 grey: a line a family, its name and split before its masks at three quarters of their size."""
    from PIL import Image, ImageDraw

    text = ("serif", "sans-serif")
    rows = [row for row in glyphs.families() if row["style"] == style or (style == "text" and row["style"] in text)]
    order = [row["id"] for row in glyphs.families()]
    first = {row["id"]: sum(len(r["faces"]) for r in glyphs.families()[:i]) for i, row in enumerate(glyphs.families())}
    assert len(order) == len(first)
    high, wide, name = 18, 18 * len(glyphs.CHARACTERS), 170
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * (name + wide + 12), lines * high), 255)
    draw = ImageDraw.Draw(sheet)
    for k, row in enumerate(rows):
        left, top = (k // lines) * (name + wide + 12), (k % lines) * high
        draw.text((left + 2, top + 3), f"{SHORT.get(row['split'], row['split'])} {row['id']}"[:30], fill=0)
        masks = glyphs.masks_of(np.full(len(glyphs.CHARACTERS), first[row["id"]]), np.arange(len(glyphs.CHARACTERS)))
        strip = 255 - 17 * masks.transpose(1, 0, 2).reshape(glyphs.SIDE, -1)
        sheet.paste(Image.fromarray(strip).resize((wide, high), Image.Resampling.BOX), (left + name, top))
    return np.asarray(sheet)


def pictures_sheet() -> np.ndarray:
    """(H, W, 3) uint8: a line a set, then finetuning and the pretraining mixture."""
    data, lines = glyphs.Glyphs(), []
    for entry in data.sets:
        some = data.eval_data(entry.name)
        step = max(1, len(some) // PICTURES)
        chosen = [some.images(i, i + 1)[0].numpy() for i in range(0, step * PICTURES, step)]
        lines.append(np.concatenate(chosen, axis=2))
    step = data.train_size // PICTURES
    lines.append(np.concatenate(list(data.train_images([(0, step * i) for i in range(PICTURES)], 0).numpy()), axis=2))
    keys = np.arange(1, 2 * PICTURES + 1, dtype=np.uint64) * np.uint64(7919)
    mixed = glyphs.mixture(len(keys), keys, 0.1)[0].numpy()
    lines += [np.concatenate(list(mixed[:PICTURES]), axis=2), np.concatenate(list(mixed[PICTURES:]), axis=2)]
    return np.concatenate(lines, axis=1).transpose(1, 2, 0)


def main() -> None:
    """Write all sheets."""
    from PIL import Image

    FOLDER.mkdir(parents=True, exist_ok=True)
    for style in ("text", "monospace", "handwriting", "display"):
        grey = Image.fromarray(families_sheet(style)).quantize(8)
        grey.save(FOLDER / f"{style}.png", optimize=True)
    Image.fromarray(pictures_sheet()).quantize(128).save(FOLDER / "pictures.png", optimize=True)
    for file in sorted(FOLDER.glob("*.png")):
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
