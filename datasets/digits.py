"""`digits`: real handwriting, shaped like the ImageNet robustness study, inside scikit-learn and this folder.

The 1,797 8 x 8 images are the test part of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin and
Kaynak, 1998), which scikit-learn bundles. The file is fourteen fills of one form of 130 digits, one after the other
(`recover_blocks`); UCI's notes speak of thirteen writers, so one of them may have filled two forms. The three blocks
that are least like any other block are held out whole as unseen writers, so that a writer of two forms, if there is
one, is unlikely to be on both sides.

Splits are disjoint by image and committed (`digits_splits.json`). A training picture is a function of (run seed, epoch,
image); an evaluation picture of (benchmark version, set, image, rendering), never of the run.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch

from .card import DataError, Dataset, DatasetCard, EvalData, EvalSet, RetentionSet
from .digit_rendering import COLOURS, SIZE, STYLES, Jitter, draw
from .imagenet_metadata import package_file
from .randomness import derive, permutation, stable_key, uniforms

VERSION = "digits-v1"
SUMMARY = "scikit-learn's 1,797 handwritten digits, drawn in colours and styles; an ID and an i.i.d. set, four shifts"
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = (
    "the digit {}", "a photo of the digit {}", "a picture of the number {}", "the number {}",
    "a handwritten {}", "an image of the number {}", "a drawing of the digit {}", "a {}",
)  # fmt: skip
RENDERINGS = 4
"""Fixed pictures of each evaluation image."""
COLOUR_CORRELATION = 0.95
"""Probability that a finetuning digit has its class's colour: 0-4 red, 5-9 blue (the paper's toy study)."""
SPLIT_SIZES = {"test": 600, "fresh": 240, "validation": 120, "finetune": 200}
"""Images a split; what is left is `pretrain`, and three whole blocks are `writers`."""
JITTER = Jitter()
_SPLITS = Path(__file__).with_name("digits_splits.json")
_RED, _BLUE = list(COLOURS).index("red"), list(COLOURS).index("blue")

PRETRAIN_STYLES = {"plain": 0.20, "negative": 0.16, "striped": 0.16, "shaded": 0.16, "sketch": 0.16, "street": 0.16}
"""Share of each style in the pretraining mixture."""
RENDITION_STYLES = ("striped", "shaded")

SETS = (
    EvalSet("validation", "validation", "ID process; every choice is made here", "16 %, any colour", "yes"),
    EvalSet("id", "id", "ID process, test images", "16 %, any colour", "yes"),
    EvalSet("fresh", "iid", "new images from the ID process and the writers of finetuning", "16 %, any colour",
            "yes"),
    EvalSet("renditions", "shift", "hatched and shaded digits in any colour: forgetting", "yes", "no"),
    EvalSet("sketches", "shift", "pencil contours: forgetting", "yes", "no"),
    EvalSet("reversed", "shift", "ID process with the colours exchanged: the colour shortcut", "16 %, any colour",
            "5 % of the images"),
    EvalSet("writers", "shift", "ID process on handwriting of unseen writers: natural variation", "no", "no",
            clusters=("0516", "0906", "1545")),
    EvalSet("pretraining_mixture", "diagnostic", "the pretraining mixture; outside the OOD mean", "yes", "in part"),
)  # fmt: skip


@cache
def _archive() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) uint8 glyphs of 0..16 and (1797,) int64 labels.

    The file that `sklearn.datasets.load_digits` reads: a row is a glyph and its label. Importing scikit-learn takes as
    long as planning a sweep.
    """
    rows = np.loadtxt(package_file("sklearn", "datasets", "data", "digits.csv.gz"), delimiter=",", dtype=np.int64)
    return rows[:, :-1].reshape(-1, 8, 8).astype(np.uint8), rows[:, -1]


def recover_blocks(labels: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each fill of the form.

    Every fill begins by counting 0-9 three times, before the form's irregular part "0955650"; a few digits are
    missing here and there. A block starts at the first digit of the first of these counts.
    """
    text = "".join(map(str, labels))
    starts = []
    irregular = text.find("0955650")
    while irregular >= 0:
        counts = text[max(0, irregular - 30) : irregular]
        match = SequenceMatcher(None, "0123456789" * 3, counts, autojunk=False).get_matching_blocks()
        begin = next(m for m in match if m.size >= 5)
        starts.append(max(0, irregular - 30) + begin.b)
        irregular = text.find("0955650", irregular + 1)
    return list(zip(starts, [*starts[1:], len(labels)], strict=True))


def make_splits() -> dict[str, list[int]]:
    """The committed splits, made again from the archive: held-out blocks, then a stratified draw by hash."""
    glyphs, labels = _archive()
    blocks = recover_blocks(labels)
    means = np.stack([
        np.stack([glyphs[a:b][labels[a:b] == c].mean(0, dtype=np.float64) for c in range(10)]) for a, b in blocks
    ])  # fmt: skip
    gap = np.sqrt(((means[:, None] - means[None]) ** 2).sum((3, 4))).mean(2)
    np.fill_diagonal(gap, np.inf)
    held_out = np.sort(np.argsort(-gap.min(1), kind="stable")[:3])
    splits: dict[str, list[int]] = {"writers": [i for k in held_out for i in range(*blocks[k])]}
    rest = np.setdiff1d(np.arange(len(labels)), splits["writers"])
    rest = rest[permutation(stable_key("digits", "splits"), len(rest))]
    # The k-th image of every class comes before the (k+1)-th of any, so that each split is balanced over classes.
    turn = np.array([(labels[rest[:i]] == labels[rest[i]]).sum() for i in range(len(rest))])
    rest = rest[np.argsort(turn, kind="stable")]
    start = 0
    for name, size in (*SPLIT_SIZES.items(), ("pretrain", len(rest))):
        splits[name] = sorted(int(i) for i in rest[start : start + size])
        start += size
    return splits


@cache
def splits() -> dict[str, list[int]]:
    """Image numbers (position in scikit-learn's file) of each split, as committed."""
    return json.loads(_SPLITS.read_text())


def archive_labels() -> np.ndarray:
    """(1797,) int64 labels of all images, by image number."""
    return _archive()[1]


def paint(images: np.ndarray, colours: np.ndarray, styles: np.ndarray | str, keys: np.ndarray) -> torch.Tensor:
    """uint8 (B, 3, 32, 32): image numbers in colours (indices into COLOURS) and styles, from (B,) keys."""
    styles = np.broadcast_to(styles, images.shape)
    out = np.empty((len(images), 3, SIZE, SIZE), dtype=np.uint8)
    for style in STYLES:
        rows = np.flatnonzero(styles == style)
        if len(rows):
            out[rows] = draw(_archive()[0][images[rows]], colours[rows], style, keys[rows], JITTER)
    return torch.from_numpy(out)


def _any_colours(keys: np.ndarray) -> np.ndarray:
    return (uniforms(derive(keys, 1), 1)[:, 0] * len(COLOURS)).astype(np.int64)


def coloured(images: np.ndarray, keys: np.ndarray, correlation: float = COLOUR_CORRELATION) -> torch.Tensor:
    """The ID process: `street` pictures; 0-4 red, 5-9 blue with probability `correlation`, else exchanged."""
    keeps = uniforms(derive(keys, 1), 1)[:, 0] < correlation
    return paint(images, np.where((archive_labels()[images] < 5) == keeps, _RED, _BLUE), "street", keys)


def mixture(images: np.ndarray, keys: np.ndarray, plain: bool = False) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """The pretraining mixture: pictures, and colour and style numbers (B,) for captions; `plain` is one style."""
    cumulative = np.cumsum(list(PRETRAIN_STYLES.values()))
    style = np.searchsorted(cumulative / cumulative[-1], uniforms(derive(keys, 2), 1)[:, 0], side="right")
    style = np.zeros_like(style) if plain else style
    colours = _any_colours(keys)
    return paint(images, colours, np.array(list(PRETRAIN_STYLES))[style], keys), colours, style


def _renditions(images: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    pick = (uniforms(derive(keys, 2), 1)[:, 0] * len(RENDITION_STYLES)).astype(np.int64)
    return paint(images, _any_colours(keys), np.array(RENDITION_STYLES)[pick], keys)


PAINTERS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], torch.Tensor]]] = {
    "validation": ("validation", coloured),
    "id": ("test", coloured),
    "fresh": ("fresh", coloured),
    "renditions": ("test", _renditions),
    "sketches": ("test", lambda images, keys: paint(images, _any_colours(keys), "sketch", keys)),
    "reversed": ("test", lambda images, keys: coloured(images, keys, 1 - COLOUR_CORRELATION)),
    "writers": ("writers", coloured),
    "pretraining_mixture": ("test", lambda images, keys: mixture(images, keys)[0]),
}
"""Evaluation set -> the split it draws from and how its pictures are made from image numbers and keys."""


STYLE_NAMES = {
    "plain": "plain", "negative": "inverted", "striped": "striped", "shaded": "shaded", "sketch": "pencil",
    "street": "noisy",
}  # fmt: skip
"""One of the words that the captions of pretraining have for each style."""
WITH_COLOUR = tuple(style for style in PRETRAIN_STYLES if style != "sketch")
"""A sketch is grey, and its caption names no colour."""


def _any_styles(keys: np.ndarray, styles: Sequence[str]) -> np.ndarray:
    return (uniforms(derive(keys, 2), 1)[:, 0] * len(styles)).astype(np.int64)


def _in_styles(styles: Sequence[str], images: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """Any of these styles, in any colour."""
    return paint(images, _any_colours(keys), np.array(styles)[_any_styles(keys, styles)], keys)


RETENTION: dict[str, tuple[tuple[str, ...], Sequence[str], Callable[[np.ndarray], np.ndarray]]] = {
    "colours": (tuple(COLOURS), WITH_COLOUR, _any_colours),
    "styles": (
        tuple(STYLE_NAMES[style] for style in PRETRAIN_STYLES),
        tuple(PRETRAIN_STYLES),
        lambda keys: _any_styles(keys, tuple(PRETRAIN_STYLES)),
    ),
}
"""Name -> class names, styles of its pictures, and labels from keys: what pretraining named beside the digit, and
finetuning does not. All draw from the split `test`."""
RETENTION_PROMPTS = tuple(f"a {{}} {digit}" for digit in CLASS_NAMES)
"""As captions of pretraining: the word before the digit, whatever the digit."""


class RenderedSet(EvalData):
    """An evaluation set: RENDERINGS pictures of each image of a split, image by image."""

    def __init__(self, name: str, version: str, split: str, painter: Callable[[np.ndarray, np.ndarray], torch.Tensor]):
        self.name, self._painter = name, painter
        images = np.array(splits()[split])
        self._images = np.repeat(images, RENDERINGS)
        renderings = np.tile(np.arange(RENDERINGS), len(images))
        self.keys = derive(stable_key(version, split, name), self._images, renderings)
        self.labels = archive_labels()[self._images]
        self.sample_ids, self.unit_ids = map(list, _names(split, RENDERINGS))

    def images(self, start: int, stop: int) -> torch.Tensor:
        """uint8 (stop - start, 3, 32, 32)."""
        return self._painter(self._images[start:stop], self.keys[start:stop])


@cache
def _names(split: str, renderings: int) -> tuple[list[str], list[str]]:
    """Of each picture of a set: its own, "0123-2", and its image's, "0123"."""
    images = splits()[split]
    return [f"{i:04d}-{r}" for i in images for r in range(renderings)], [
        f"{i:04d}" for i in images for _ in range(renderings)
    ]


def _retention_data(name: str, version: str) -> RenderedSet:
    """The pictures of RETENTION."""
    _, styles, labels_of = RETENTION[name]
    made = RenderedSet(name, version, "test", partial(_in_styles, styles))
    made.labels = labels_of(made.keys)
    return made


class Digits(Dataset):
    """The `digits` data."""

    name, version, summary = "digits", VERSION, SUMMARY
    prompts: tuple[str, ...] = PROMPTS
    sets: tuple[EvalSet, ...] = SETS
    painters = PAINTERS
    correlation = COLOUR_CORRELATION

    def __init__(self) -> None:
        self._train = np.array(splits()["finetune"])

    @cached_property
    def card(self) -> DatasetCard:
        """The card, with the fingerprint of what this code really draws."""
        about = (self.name, self.version, self.summary, CLASS_NAMES, self.prompts, self.sets)
        return DatasetCard(*about, fingerprint=self._fingerprint())

    @property
    def train_size(self) -> int:
        """Images trained on."""
        return len(self._train)

    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""
        return archive_labels()[self._train]

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> torch.Tensor:
        """uint8 (B, 3, 32, 32) for [(epoch, index)]; a function of (seed, epoch, index) alone."""
        epochs, index = (np.array(column) for column in zip(*items, strict=True))
        images = self._train[index]
        return coloured(images, derive(stable_key(self.version, "finetune", seed), images, epochs), self.correlation)

    def eval_data(self, name: str) -> RenderedSet:
        """The evaluation set of that name; DataError where there is none."""
        if name not in self.painters:
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(self.painters)}.")
        return RenderedSet(name, self.version, *self.painters[name])

    def as_retention(self, name: str) -> RetentionSet:
        """Also those of RETENTION, which are no sets of the card: their classes are not the digits."""
        if name not in RETENTION:
            try:
                return super().as_retention(name)
            except DataError as error:
                raise DataError(f"{str(error).rstrip('.')}, and {', '.join(RETENTION)}.") from None
        names, read = RETENTION[name][0], partial(_retention_data, name, self.version)
        first = read()
        digest = hashlib.sha256(first.images(0, 64).numpy().tobytes() + first.labels.tobytes())
        return RetentionSet(name, names, RETENTION_PROMPTS, digest.hexdigest(), read)

    def _fingerprint(self) -> str:
        """sha256 over splits, class names, prompts and the first pictures of every set and of one training epoch."""
        parts = [splits(), CLASS_NAMES, self.prompts, self.version, self.correlation]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for name in self.painters:
            digest.update(self.eval_data(name).images(0, 64).numpy().tobytes())
        digest.update(self.train_images([(0, i) for i in range(32)], seed=0).numpy().tobytes())
        return digest.hexdigest()


class Uncorrelated(Digits):
    """Control: finetuning pictures whose colour says nothing of the label; same images, same evaluation sets."""

    name, correlation = "digits_uncorrelated", 0.5
    summary = "control of digits: finetuning colours at random"
