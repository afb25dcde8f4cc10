"""Makes the masks of the glyphs benchmark again, from the typefaces that the table records.

    make glyphs                                              fetch, draw, compare with what is committed (5 minutes)
    python -m robustft.benchmarks.maintenance.glyphs --from FOLDER    take packages that were fetched before
    python -m robustft.benchmarks.maintenance.glyphs --choose         apply rules and splits again and write both files

`datasets/glyphs_families.json` has a row for each family that was looked at: package and version, licence, the faces
with the sha256 of their files, its split, or why it is left out. Rules come first; what a rule does not see was thrown
out by eye, on sheets as the committed ones, and its row says "eye:" and why. Some of the faces that the packages call
sans-serif are for titles, and are "display" here; such a row has the package's word as "category".
"""

import argparse
import hashlib
import json
import lzma
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.glyphs import CHARACTERS, FAMILIES, MASKS, SIDE, pack
from ...datasets.randomness import permutation, stable_key
from . import glyph_outlines

FETCHED = "fetched"
"""A file of that name in the folder of packages says that all are there."""
LICENCES = ("OFL-1.1", "Apache-2.0", "UFL-1.0")
TEXT = ("sans-serif", "serif")
SPLITS = {
    "text": {"finetune": 12, "validation": 40, "id": 60, "fresh": 40},
    "monospace": {"pretrain": 4, "development": 4},
    "handwriting": {"test": 60, "development": 6},
    "display": {"test": 60, "development": 8},
}
"""Families a split by style; who is left goes to `pretrain`, and of monospace to `test`."""
CAPS_ONLY, INK, LEGIBLE, ALIKE = 0.9, (0.06, 0.5), 0.35, 0.95
"""Rules: a face is left out if the median correlation of its lower case with its own capitals reaches CAPS_ONLY, if its
mean ink lies outside INK, or if fewer than LEGIBLE of its characters have one of their own class as nearest neighbour
among all other families. Two families whose masks correlate above ALIKE are one."""
PARTS = re.compile(
    r"\b(sans|serif|mono|code|display|text|condensed|semi|extra|expanded|narrow|slab|rounded|sc|gwf|next|pro|new|neue|"
    r"relief|brush|stencil|one|flex|square|script|[0-9]+)\b"
)
"""What names a member of a superfamily: two names that are the same without these words are one."""
RELATED = (
    ("cousine", "arimo", "tinos", "liberation mono"), ("noto mono", "noto serif", "open sans"),
    ("ibm plex", "ia writer"), ("inconsolata", "ricty diminished"), ("caladea", "cambo"),
    ("public", "libre franklin"), ("bai jamjuree", "chakra petch"),
)  # fmt: skip
"""Superfamilies and descents that names do not tell."""
SCARCE = ("monospace", "handwriting", "display", "serif", "sans-serif")
"""Of a superfamily the family of the scarcest style stays, then the first by name."""


def table() -> list[dict[str, Any]]:
    """The committed rows."""
    return json.loads(FAMILIES.read_text())


def write_table(rows: Sequence[dict[str, Any]]) -> None:
    """One row a line, so that a change shows as one."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    FAMILIES.write_text(f"[\n{lines}\n]\n")


def fetch(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Installs the recorded versions of all packages below a folder, with npm and apt-get as they are set up here."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = {row["package"]: row["version"] for row in rows}
    npm = {name.removeprefix("npm:"): version for name, version in packages.items() if name.startswith("npm:")}
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": npm}))
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    subprocess.run(["npm", "install", *quiet], cwd=folder, check=True)
    debian = {name.removeprefix("debian:"): version for name, version in packages.items() if name.startswith("debian:")}
    subprocess.run(
        ["apt-get", "-q", "download", *(f"{name}={version}" for name, version in debian.items())],
        cwd=folder, check=True,
    )  # fmt: skip
    for name in debian:
        [archive] = folder.glob(f"{name}_*.deb")
        (folder / "debian" / name).mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", archive, folder / "debian" / name], check=True)
    (folder / FETCHED).touch()


def _place(row: dict[str, Any], folder: Path, file: str) -> Path:
    kind, _, name = row["package"].partition(":")
    return folder / ("node_modules" if kind == "npm" else "debian") / name / file


def draw(rows: Sequence[dict[str, Any]], folder: Path, check: bool = True) -> dict[tuple[str, str], np.ndarray]:
    """(id, face) -> (C, SIDE, SIDE) uint8 masks of every face in the table.

    Raises:
        SystemExit: a font file is not the recorded one.
    """
    masks = {}
    for row in rows:
        for face, about in row["faces"].items():
            path = _place(row, folder, about["file"])
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if check and found != about["sha256"]:
                raise SystemExit(f"{row['id']}: {about['file']} must have sha256 {about['sha256']}, got {found}.")
            about["sha256"] = found
            masks[row["id"], face], missing, _ = glyph_outlines.read(path, about.get("number", 0))
            if face == "regular":
                row["missing"] = "".join(missing)
    return masks


def _features(masks: np.ndarray) -> np.ndarray:
    flat = masks.reshape(*masks.shape[:-2], -1).astype(np.float64)
    flat = flat - flat.mean(-1, keepdims=True)
    return flat / np.sqrt((flat * flat).sum(-1, keepdims=True) + 1e-9)


def _look_alikes() -> np.ndarray:
    """(C, C) bool: pairs that no one can tell apart in some typeface; not held against a face."""
    same = np.eye(len(CHARACTERS), dtype=bool)
    for group in ("0OQD", "1IJLT", "2Z", "5S", "9gq", "8B", "6Gb", "UV", "fT", "4A", "hn"):
        at = [CHARACTERS.index(c) for c in group]
        same[np.ix_(at, at)] = True
    return same


def _legible(features: np.ndarray) -> np.ndarray:
    """(F,) share of characters whose nearest neighbour among all other families has their class."""
    families, classes, _ = features.shape
    alike, flat = _look_alikes(), features.reshape(families * classes, -1).astype(np.float32)
    right = np.zeros(families)
    for f in range(families):
        near = features[f].astype(np.float32) @ flat.T
        near[:, f * classes : (f + 1) * classes] = -2
        right[f] = alike[np.arange(classes), near.argmax(1) % classes].mean()
    return right


def examine(rows: Sequence[dict[str, Any]], masks: dict[tuple[str, str], np.ndarray]) -> None:
    """Writes into each row why it is left out, by the rules; what was thrown out by eye stays so."""
    regular = np.stack([masks[row["id"], "regular"] for row in rows])
    features = _features(regular)
    lower = [i for i, c in enumerate(CHARACTERS) if c.islower()]
    upper = [CHARACTERS.index(CHARACTERS[i].upper()) for i in lower]
    caps = np.median((features[:, lower] * features[:, upper]).sum(-1), axis=1)
    ink, legible = regular.mean((1, 2, 3)) / 15, _legible(features)
    for i, row in enumerate(rows):
        missing = row.pop("missing")
        row["legible"] = round(float(legible[i]), 2)
        if row.get("reason", "").startswith("eye:"):
            continue
        row.pop("reason", None)
        if row["licence"] not in LICENCES:
            row["reason"] = f"rule: licence {row['licence']}"
        elif missing:
            row["reason"] = f"rule: lacks {missing}"
        elif caps[i] >= CAPS_ONLY:
            row["reason"] = "rule: lower case drawn as capitals"
        elif not INK[0] <= ink[i] <= INK[1]:
            row["reason"] = f"rule: ink {ink[i]:.2f}"
        elif legible[i] < LEGIBLE:
            row["reason"] = f"rule: only {legible[i]:.2f} of its characters are read right"
    _keep_one_of_each(rows, features)


def _keep_one_of_each(rows: Sequence[dict[str, Any]], features: np.ndarray) -> None:
    """Of every superfamily, by name, by known descent or by likeness, one family stays."""
    kept = [i for i, row in enumerate(rows) if "reason" not in row]
    names = {i: " ".join(PARTS.sub(" ", rows[i]["id"].replace("-", " ")).split()) or rows[i]["id"] for i in kept}
    likeness = np.einsum("icd,jcd->ij", features[kept], features[kept]) / len(CHARACTERS)
    order = sorted(kept, key=lambda i: (SCARCE.index(rows[i]["style"]), rows[i]["id"]))
    stay: list[int] = []
    for i in order:
        for j in stay:
            by_descent = any({_words(rows[i]), _words(rows[j])} <= set(group) for group in RELATED)
            by_likeness = likeness[kept.index(i), kept.index(j)] > ALIKE
            if names[i] == names[j] or by_descent or by_likeness:
                rows[i]["reason"] = f"rule: of one superfamily with {rows[j]['id']}"
                break
        else:
            stay.append(i)


def _words(row: dict[str, Any]) -> str:
    """The name, as RELATED has it, without the word that tells its style."""
    whole = row["id"].replace("-", " ")
    known = {name for group in RELATED for name in group}
    return whole if whole in known else re.sub(r"\b(sans|mono|serif|text)\b", "", whole).strip()


def split(rows: Sequence[dict[str, Any]]) -> None:
    """Gives each family that stays its split, by hash."""
    for row in rows:
        row.pop("split", None)
    for style, sizes in SPLITS.items():
        chosen = [row for row in rows if "reason" not in row and (row["style"] in TEXT) == (style == "text")]
        chosen = [row for row in chosen if style == "text" or row["style"] == style]
        order = permutation(stable_key("glyphs", "splits", style), len(chosen))
        start = 0
        for name, size in sizes.items():
            for k in order[start : start + size]:
                chosen[k]["split"] = name
            start += size
        for k in order[start:]:
            chosen[k]["split"] = "test" if style == "monospace" else "pretrain"
    for row in rows:
        if row.get("split") != "pretrain":
            row["faces"] = {"regular": row["faces"]["regular"]}


def packed(rows: Sequence[dict[str, Any]], masks: dict[tuple[str, str], np.ndarray]) -> bytes:
    """What the mask file holds before it is compressed: the faces of all families that stay, in the table's order."""
    faces = [masks[row["id"], face] for row in rows if "split" in row for face in row["faces"]]
    return pack(np.stack(faces).reshape(-1, SIDE, SIDE))


def main() -> None:
    """Fetch, draw and compare; with --choose, write."""
    parser = argparse.ArgumentParser(description="Make the masks of the glyphs benchmark again.")
    parser.add_argument("--from", dest="folder", type=Path, default=Path("build/glyphs"), help="where packages are put")
    parser.add_argument("--choose", action="store_true", help="apply the rules and splits again")
    arguments = parser.parse_args()
    if not (arguments.folder / FETCHED).exists():
        for program in ("npm", "apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                parser.error(f"{program}: must be installed to fetch the typefaces; install it (a Debian machine).")
        fetch(table(), arguments.folder)
    rows = table()
    masks = draw(rows, arguments.folder, check=not arguments.choose)
    if arguments.choose:
        examine(rows, masks)
        split(rows)
        write_table(rows)
        MASKS.write_bytes(lzma.compress(packed(rows, masks), preset=9 | lzma.PRESET_EXTREME))
        print(f"wrote {FAMILIES.name} and {MASKS.name}: {MASKS.stat().st_size / 1e6:.1f} MB")
    elif packed(rows, masks) == lzma.decompress(MASKS.read_bytes()):
        print(f"{MASKS.name}: the masks are those that are committed, byte for byte")
    else:
        sys.exit(f"{MASKS.name}: the masks differ from those that are committed.")


if __name__ == "__main__":
    main()
