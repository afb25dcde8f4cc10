"""`mnist_forgetting`: the paper's toy study (TRACER section 5.1.2, Figure 3) on MNIST itself.

Pretrain on grey digits, finetune on coloured ones: 0-4 red and 5-9 blue at 95 %, the other way round else. A digit's
colour is drawn once, so the coloured data are a fixed set as in the paper, and nothing is augmented. A tenth of MNIST's
training images, by hash, is ID validation and is left out of pretraining too; MNIST's test images are the ID test in
colour and `original` in grey. The shades of red and blue and the prompts' words are this package's choice.

The images come from the Hugging Face hub (ylecun/mnist), or from a folder `mnist` below the data root that holds the
same Parquet files.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from .card import DataError, Dataset, DatasetCard, EvalData, EvalSet
from .decoding import Decode, eval_view
from .hub import Hub
from .image_folders import ROOT_VARIABLE, expanded
from .image_sets import lowest_by_hash
from .randomness import derive, stable_key, uniforms

VERSION = "mnist-forgetting-v1"
ON_THE_HUB = "ylecun/mnist"
SIDE = 28
CORRELATION = 0.95
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = ("the digit {}", "a photo of the digit {}", "the number {}")
RED, BLUE = (255, 0, 0), (0, 0, 255)
TRAIN_CLASSES = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
"""Images of each digit among MNIST's 60,000 for training."""
TEST_SIZE = 10_000
VALIDATION_SIZE = sum(round(size / 10) for size in TRAIN_CLASSES)
SETS = (
    EvalSet("validation", "validation", "coloured digits, a tenth of train by hash; every choice is made here", "no",
            "yes, other images", expected=VALIDATION_SIZE),
    EvalSet("id", "id", "the new task: coloured digits", "no", "yes, other images", expected=TEST_SIZE),
    EvalSet("original", "shift", "the old task: grey digits; what is lost here is forgotten", "yes, other images", "no",
            expected=TEST_SIZE),
)  # fmt: skip


def coloured(grey: np.ndarray, labels: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """uint8 (B, 3, S, S) of (B, S, S) grey digits: red for 0-4 and blue for 5-9, exchanged with 5 % of the keys."""
    keeps = uniforms(keys, 1)[:, 0] < CORRELATION
    colours = np.where(((labels < 5) == keeps)[:, None], RED, BLUE)  # (B, 3)
    return torch.from_numpy((grey[:, None] * (colours[:, :, None, None] // 255)).astype(np.uint8))


def plain(grey: np.ndarray) -> torch.Tensor:
    """uint8 (B, 3, S, S) of (B, S, S): the same in every channel."""
    return torch.from_numpy(np.repeat(grey[:, None], 3, axis=1))


class Part(EvalData):
    """An evaluation set in memory."""

    def __init__(self, name: str, split: str, pictures: torch.Tensor, labels: np.ndarray, rows: np.ndarray) -> None:
        self.name, self._pictures, self.labels = name, pictures, labels
        self.sample_ids = [f"{split}/{row:05d}" for row in rows]
        self.unit_ids = self.sample_ids

    def images(self, start: int, stop: int) -> torch.Tensor:
        """uint8 (stop - start, 3, S, S)."""
        return self._pictures[start:stop]


class MNISTForgetting(Dataset):
    """MNIST in grey, which is what a backbone is pretrained on, and in colour.

    Args:
        root: the data root, in which a folder `mnist` is taken instead of the hub; None takes the environment's.
        allow_partial: take files with other numbers of images than MNIST has.
        size: side of the pictures in pixels; MNIST's own is 28.
        decode: how they are made, see `pixels`.
    """

    name = "mnist_forgetting"
    expected = sum(TRAIN_CLASSES)

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, allow_partial: bool = False, size: int = SIDE,
        decode: Decode = "exact",
    ) -> None:  # fmt: skip
        self.root, self.allow_partial, self.size, self.decode = root, allow_partial, size, decode

    @cached_property
    def card(self) -> DatasetCard:
        """The card; needs no image. Its fingerprint covers names, prompts and rules, not pixels."""
        parts = [VERSION, CLASS_NAMES, PROMPTS, CORRELATION, RED, BLUE, TRAIN_CLASSES, TEST_SIZE, self.size]
        fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        summary = "the forgetting study on MNIST: pretrained on grey, finetuned on coloured digits"
        return DatasetCard(self.name, VERSION, summary, CLASS_NAMES, PROMPTS, SETS, fingerprint)

    @cached_property
    def train_size(self) -> int:
        """Images trained on: as they should be; in a partial copy, as they are."""
        return len(self.train_labels()) if self.allow_partial else self.expected - VALIDATION_SIZE

    @property
    def found(self) -> int:
        """Training images there are, the withheld ones among them."""
        return len(self._split("train")[1])

    @cached_property
    def _hub(self) -> Hub:
        base = self.root if self.root is not None else os.environ.get(ROOT_VARIABLE)
        local = expanded(base) / "mnist" if base else None
        return Hub(str(local) if local is not None and local.is_dir() else ON_THE_HUB, size=self.size)

    def _split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, S, S) uint8 and (N,) int64 of `train` or `test`; DataError where it is not MNIST's."""
        if name not in self._splits:
            pictures, labels = self._hub.stored({"train": "train", "test": "id"}[name])
            counts = np.bincount(labels, minlength=len(CLASS_NAMES)).tolist()
            expected = list(TRAIN_CLASSES) if name == "train" else TEST_SIZE
            if (counts if name == "train" else len(labels)) != expected and not self.allow_partial:
                raise DataError(
                    f"{self.name}: expected MNIST's {sum(TRAIN_CLASSES) if name == 'train' else TEST_SIZE} {name} "
                    f"images, found {len(labels)} with {counts} of each digit; get {ON_THE_HUB} from the hub again, or "
                    "pass --allow-partial to run on what is there."
                )
            views = [
                eval_view(pictures.open(i), self.size, pictures.name(i), self.decode)[0] for i in range(len(labels))
            ]
            self._splits[name] = np.stack(views), labels
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    @cached_property
    def _withheld(self) -> np.ndarray:
        """(training images,) bool."""
        _, labels = self._split("train")
        names = [f"train/{row:05d}" for row in range(len(labels))]
        return lowest_by_hash(names, labels, lambda size: round(size / 10))

    @cached_property
    def _coloured(self) -> dict[str, torch.Tensor]:
        """Each split in colour."""
        made = {}
        for name in ("train", "test"):
            grey, labels = self._split(name)
            keys = derive(stable_key(VERSION, "colour", name), np.arange(len(labels)))
            made[name] = coloured(grey, labels, keys)
        return made

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.flatnonzero(~self._withheld)

    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""
        return self._split("train")[1][self._rows]

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> torch.Tensor:
        """uint8 (B, 3, S, S) for [(epoch, index)]: coloured digits, the same in every epoch and for every seed."""
        return self._coloured["train"][self._rows[[index for _, index in items]]]

    def original_images(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 (B, 3, S, S): training images in grey, which is what pretraining sees."""
        return plain(self._split("train")[0][self._rows[indices]])

    def eval_data(self, name: str) -> Part:
        """The evaluation set of that name; DataError where there is none, or MNIST is not complete."""
        if name == "validation":
            rows = np.flatnonzero(self._withheld)
            part = Part(name, "train", self._coloured["train"][rows], self._split("train")[1][rows], rows)
        elif name in ("id", "original"):
            grey, labels = self._split("test")
            pictures = plain(grey) if name == "original" else self._coloured["test"]
            part = Part(name, "test", pictures, labels, np.arange(len(labels)))
        else:
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(entry.name for entry in SETS)}.")
        part.expected = next(entry.expected for entry in SETS if entry.name == name)
        return part
