"""`glyphs`: characters of 412 open-licensed typefaces; the typeface family is the unit of everything.

Forty-seven classes: digits, capitals, and the lower case that does not look like a capital (the balanced set of EMNIST,
Cohen et al. 2017). Twelve text families are finetuned on, in two fixed pictures of each character and without
augmentation, so that finetuning can learn its images by heart. No family, nor a sibling of it, is in two splits;
`glyphs_families.json` has the split of each, its licence, and where it is from. The masks in `glyphs_masks.xz` are
drawn from the outlines by `make glyphs` (`benchmarks/maintenance/glyphs.py`), and pictures from the masks when they are
asked for.

A picture is a function of (benchmark version, set, family, character), never of the run.
"""

import hashlib
import json
import lzma
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .card import DataError, Dataset, DatasetCard, EvalData, EvalSet
from .digit_rendering import COLOURS
from .glyph_rendering import GROUNDS, TEXTURES, Jitter, paint
from .imagenet_metadata import package_file
from .projection import Projection
from .randomness import derive, permutation, stable_key, uniforms

VERSION = "glyphs-v1"
SUMMARY = "47 characters of 412 open typefaces; one ID set, seven shifts"
FAMILIES = Path(__file__).with_name("glyphs_families.json")
MASKS = Path(__file__).with_name("glyphs_masks.xz")
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"""In class order."""
SIDE, LEVELS = 24, 16
"""Pixels along a mask, and shades of one."""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASS_NAMES = tuple(
    _DIGITS[int(c)] if c.isdigit() else f"{'capital' if c.isupper() else 'small'} {c.lower()}" for c in CHARACTERS
)
PROMPTS = (
    "the character {}", "a photo of the character {}", "a picture of {}", "{}", "a printed {}", "an image of {}",
    "a drawing of {}", "the sign {}",
)  # fmt: skip
RENDERINGS = 2
"""Fixed pictures of each finetuning family and character."""
JITTER = Jitter()

SETS = (
    EvalSet("validation", "validation", "ID process, other text families; every choice is made here", "seldom", "yes"),
    EvalSet("id", "id", "ID process on unseen text families", "seldom", "yes"),
    EvalSet("monospace", "shift", "ID process on monospaced families", "seldom", "no"),
    EvalSet("handwriting", "shift", "ID process on handwritten families", "seldom", "no"),
    EvalSet("display", "shift", "ID process on display families", "seldom", "no"),
    EvalSet("renditions", "shift", "striped, dotted and faded ink on plain grounds: forgetting", "yes", "no"),
    EvalSet("sketches", "shift", "outlines on plain grounds: forgetting", "yes", "no"),
    EvalSet("grounds", "shift", "coloured, checked and sloped grounds: forgetting", "yes", "no"),
    EvalSet("digits", "shift", "ID process on real handwritten digits, among ten classes", "no", "no"),
    EvalSet("fresh", "diagnostic", "ID process, further text families: i.i.d., outside the OOD mean", "seldom", "yes"),
)  # fmt: skip
_STREET = list(GROUNDS).index("street")
_SOLID = list(TEXTURES).index("solid")


def pack(masks: np.ndarray) -> bytes:
    """Two pixels of 0..15 a byte."""
    flat = masks.reshape(-1, 2)
    return (flat[:, 0] << 4 | flat[:, 1]).tobytes()


@cache
def families() -> list[dict[str, Any]]:
    """The rows of the families that are in a split, in the order of their masks."""
    return [row for row in json.loads(FAMILIES.read_text()) if "split" in row]


@cache
def _faces() -> tuple[np.ndarray, list[tuple[str, str]]]:
    """(F, C, SIDE, SIDE) uint8 of 0..15, and the family and face of each; pretraining families have several faces."""
    packed = np.frombuffer(lzma.decompress(MASKS.read_bytes()), dtype=np.uint8)
    masks = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1, len(CHARACTERS), SIDE, SIDE)
    return masks, [(row["id"], face) for row in families() for face in row["faces"]]


def kind_of(style: str) -> str:
    """ "text" for serif and sans-serif; any other style is a kind of its own."""
    return "text" if style in ("serif", "sans-serif") else style


@cache
def faces_of(split: str, style: str | None = None) -> tuple[int, ...]:
    """Positions, among all faces, of those of a split; of one style of typeface ("text" is serif and sans) if given."""
    chosen = {
        row["id"]
        for row in families()
        if row["split"] == split and style in (None, row["style"], kind_of(row["style"]))
    }
    return tuple(i for i, (family, _) in enumerate(_faces()[1]) if family in chosen)


def masks_of(faces: np.ndarray, characters: np.ndarray) -> np.ndarray:
    """(B, SIDE, SIDE) uint8 of 0..15: positions of faces and class numbers."""
    return _faces()[0][faces, characters]


@cache
def _handwritten() -> tuple[np.ndarray, np.ndarray]:
    """(1797, SIDE, SIDE) uint8 masks of scikit-learn's digits, each pixel drawn as three, and their labels."""
    rows = np.loadtxt(package_file("sklearn", "datasets", "data", "digits.csv.gz"), delimiter=",", dtype=np.int64)
    small = np.pad(np.minimum(rows[:, :-1].reshape(-1, 8, 8), 15), ((0, 0), (1, 1), (1, 1)))
    fine = np.repeat(np.repeat(small, 3, 1), 3, 2)
    smooth = sum(fine[:, i : i + 24 + 4, j : j + 24 + 4] for i in range(3) for j in range(3))
    return (np.asarray(smooth)[:, 2:26, 2:26] // 9).astype(np.uint8), rows[:, -1]


Painter = Callable[[np.ndarray, np.ndarray], torch.Tensor]


def any_of(keys: np.ndarray, number: int, options: Sequence[int]) -> np.ndarray:
    """(B,) one of the options for each key, from the key's stream of that number."""
    pick = (uniforms(derive(keys, number), 1)[:, 0] * len(options)).astype(np.int64)
    return np.array(options)[pick]


def _painted(masks: np.ndarray, keys: np.ndarray, textures: Sequence[str], grounds: Sequence[str]) -> torch.Tensor:
    """Any of these textures and grounds, in any colour."""
    colours = any_of(keys, 1, range(len(COLOURS)))
    texture = any_of(keys, 2, [list(TEXTURES).index(name) for name in textures])
    ground = any_of(keys, 3, [list(GROUNDS).index(name) for name in grounds])
    return torch.from_numpy(paint(masks, colours, texture, ground, keys, JITTER))


def finetuning(masks: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """The ID process: solid ink of any colour, mostly on the street, one in five on a plain ground."""
    return _painted(masks, keys, ("solid",), ("street",) * 8 + ("light", "dark"))


def renditions(masks: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """Ink with a texture on a plain ground."""
    return _painted(masks, keys, ("striped", "dotted", "faded"), ("light", "dark"))


def sketches(masks: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """The contour alone on a plain ground."""
    return _painted(masks, keys, ("outlined",), ("light", "dark"))


def other_grounds(masks: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """Solid ink on grounds that are not the street."""
    return _painted(masks, keys, ("solid",), ("coloured", "checked", "sloped"))


class Painted(EvalData):
    """Every class of every face, family by family, in one picture or several."""

    def __init__(self, name: str, key: int, faces: Sequence[int], painter: Painter, renderings: int = 1):
        classes, names = len(CHARACTERS), _faces()[1]
        self.name, self._painter = name, painter
        self._faces = np.repeat(np.array(faces, dtype=np.int64), classes * renderings)
        self.labels = np.tile(np.repeat(np.arange(classes), renderings), len(faces))
        drawn = np.tile(np.arange(renderings), classes * len(faces))
        self.unit_ids = [names[face][0] for face in self._faces]
        numbers = zip(self.unit_ids, self.labels, drawn, strict=True)
        self.sample_ids = [f"{unit}-{label:02d}-{rendering}" for unit, label, rendering in numbers]
        # Keys are of the family's name: a family that comes or goes changes no other one's pictures.
        units = np.array([stable_key("family", names[face][0]) for face in faces], dtype=np.uint64)
        self.keys = derive(np.repeat(units, classes * renderings), key % 2**63, self.labels, drawn)

    def images(self, start: int, stop: int) -> torch.Tensor:
        """uint8 (stop - start, 3, 32, 32)."""
        return self.anew(np.arange(len(self.labels))[start:stop], self.keys[start:stop])

    def anew(self, index: np.ndarray, keys: np.ndarray) -> torch.Tensor:
        """uint8 (B, 3, 32, 32): the (B,) faces and characters at these places, under (B,) keys of one's own."""
        return self._painter(masks_of(self._faces[index], self.labels[index]), keys)


class Handwritten(EvalData):
    """Real digits in the ID process; the other classes are cut before a softmax, as on ImageNet-R and -A."""

    name = "digits"

    def __init__(self, key: int, images: Sequence[int]):
        self._images = np.array(images, dtype=np.int64)
        self.labels = _handwritten()[1][self._images]
        self.sample_ids = self.unit_ids = [f"{i:04d}" for i in self._images]
        self.keys = derive(key, self._images)
        self._projection = Projection.subset(range(10))

    def images(self, start: int, stop: int) -> torch.Tensor:
        """uint8 (stop - start, 3, 32, 32)."""
        return finetuning(_handwritten()[0][self._images[start:stop]], self.keys[start:stop])

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        """The columns of the ten digits."""
        return self._projection(logits)


@cache
def handwritten_split(name: str) -> tuple[int, ...]:
    """Image numbers of scikit-learn's digits: 600 for "test", 600 others for "development"."""
    order = permutation(stable_key("glyphs", "handwritten"), len(_handwritten()[1]))
    start = {"test": 0, "development": 600}[name]
    return tuple(sorted(int(i) for i in order[start : start + 600]))


def mixture(
    count: int, keys: np.ndarray, street: float, plain: bool = False
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Pictures of the pretraining families in every texture and ground, and what is to be seen on each.

    Args:
        count: pictures; (count,) keys are the only source of randomness.
        keys: (count,) uint64.
        street: share of the finetuning ground; the others are alike.
        plain: solid ink on light and dark grounds alone.

    Returns:
        uint8 (count, 3, 32, 32), and (count,) numbers: "face" among all faces, "label", "colour", "texture", "ground".
    """
    faces = faces_of("pretrain")
    about = {
        "face": any_of(keys, 4, faces),
        "label": any_of(keys, 5, range(len(CHARACTERS))),
        "colour": any_of(keys, 1, range(len(COLOURS))),
        "texture": any_of(keys, 2, (_SOLID, _SOLID, *range(len(TEXTURES)))),
    }
    others = [i for i in range(len(GROUNDS)) if i != _STREET]
    on_street = uniforms(derive(keys, 6), 1)[:, 0] < street
    about["ground"] = np.where(on_street, _STREET, any_of(keys, 3, others))
    about["texture"] = np.where(on_street, _SOLID, about["texture"])
    if plain:
        about["texture"] = np.full(count, _SOLID)
        about["ground"] = any_of(keys, 3, [list(GROUNDS).index(name) for name in ("light", "dark")])
    masks = masks_of(about["face"], about["label"])
    pictures = paint(masks, about["colour"], about["texture"], about["ground"], keys, JITTER)
    return torch.from_numpy(pictures), about


def face_about(face: int) -> tuple[str, str]:
    """Style of typeface ("serif", "sans-serif", "monospace", "handwriting", "display") and face ("regular", "bold",
    "italic"), by position among all faces."""
    family, kind = _faces()[1][face]
    return next(row["style"] for row in families() if row["id"] == family), kind


_Source = tuple[str, str | None, Painter]
SOURCES: dict[str, _Source] = {
    "validation": ("validation", None, finetuning),
    "id": ("id", None, finetuning),
    "monospace": ("test", "monospace", finetuning),
    "handwriting": ("test", "handwriting", finetuning),
    "display": ("test", "display", finetuning),
    "renditions": ("id", None, renditions),
    "sketches": ("id", None, sketches),
    "grounds": ("id", None, other_grounds),
    "fresh": ("fresh", None, finetuning),
}
"""Evaluation set -> split and style of its families, and how its pictures are made; `digits` has no families."""


@cache
def _finetuning_set() -> Painted:
    return Painted("train", stable_key(VERSION, "finetune"), faces_of("finetune"), finetuning, RENDERINGS)


class Glyphs(Dataset):
    """The `glyphs` data."""

    name, version, summary = "glyphs", VERSION, SUMMARY
    pictures = VERSION
    """Whose evaluation pictures these are."""
    sources, handwritten = SOURCES, "test"
    sets: tuple[EvalSet, ...] = SETS

    @cached_property
    def card(self) -> DatasetCard:
        """The card, with the fingerprint of what this code really draws."""
        about = (self.name, self.version, self.summary, CLASS_NAMES, PROMPTS, self.sets)
        return DatasetCard(*about, fingerprint=self._fingerprint())

    @cached_property
    def _train(self) -> tuple[torch.Tensor, np.ndarray]:
        drawn = _finetuning_set()
        return drawn.images(0, len(drawn)), drawn.labels

    @property
    def train_size(self) -> int:
        """Images trained on."""
        return RENDERINGS * len(faces_of("finetune")) * len(CHARACTERS)

    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""
        return self._train[1]

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> torch.Tensor:
        """uint8 (B, 3, 32, 32) for [(epoch, index)]: the same at every visit and in every run."""
        return self._train[0][[index for _, index in items]]

    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name; DataError where there is none."""
        key = stable_key(self.pictures, name)
        if name == "digits":
            return Handwritten(key, handwritten_split(self.handwritten))
        if name not in self.sources:
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(s.name for s in self.sets)}.")
        split, style, painter = self.sources[name]
        return Painted(name, key, faces_of(split, style), painter)

    def _fingerprint(self) -> str:
        """sha256 over families, masks, class names, prompts and the first pictures of every set and of training."""
        parts = [[[row["id"], row["split"]] for row in families()], CLASS_NAMES, PROMPTS, self.version]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        digest.update(_faces()[0].tobytes())
        for entry in self.sets:
            digest.update(self.eval_data(entry.name).images(0, 64).numpy().tobytes())
        digest.update(self.train_images([(0, i) for i in range(self.train_size)], 0).numpy().tobytes())
        return digest.hexdigest()


class Augmented(Glyphs):
    """The control: the same characters in pictures drawn anew at every visit, so that none is learned by heart.

    Evaluation pictures are those of `glyphs`, pixel for pixel.
    """

    name, version = "glyphs_augmented", "glyphs-augmented-v1"
    summary = "control of glyphs: finetuning pictures are drawn anew at every visit, evaluation is the same"

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> torch.Tensor:
        """uint8 (B, 3, 32, 32) for [(epoch, index)]; a function of (seed, epoch, index) alone."""
        epochs, index = (np.array(column) for column in zip(*items, strict=True))
        drawn = _finetuning_set()
        return drawn.anew(index, derive(drawn.keys[index], stable_key("visit", seed) % 2**63, epochs))


class Development(Glyphs):
    """What the benchmark was shaped on: the same finetuning, and evaluation families that no row is measured on."""

    name = "glyphs_development"
    version = pictures = "glyphs-development-v1"
    summary = "what glyphs was shaped on: its finetuning set, and families that no row is measured on"
    handwritten = "development"
    sets = (
        *(entry for entry in SETS if entry.name != "fresh"),
        EvalSet("train", "diagnostic", "the finetuning images: whether they are learned by heart", "seldom", "all"),
    )
    sources = {
        name: ({"id": "validation", "test": "development"}.get(split, split), style, painter)
        for name, (split, style, painter) in SOURCES.items()
        if name != "fresh"
    }

    def eval_data(self, name: str) -> EvalData:
        """Also `train`: the finetuning images as they are trained on."""
        if name == "train":
            return _finetuning_set()
        return super().eval_data(name)
