"""The part of a dataset on this machine: images and classes of each set, found and expected, and damage."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from .card import DataError, Dataset, EvalData, MissingData
from .image_sets import TrainsOnPictures, folders_of
from .loaders import eval_batches
from .shards import ENDINGS

BATCH = 64
TRAIN = "train"
SHARDS = tuple(ENDINGS.values())


@dataclass(frozen=True, slots=True)
class Holding:
    """One set, or `train`."""

    name: str
    images: int | None = None
    """Found; None where nothing could be counted."""
    expected: int | None = None
    """None where nobody knows how many there should be."""
    classes: int | None = None
    of_classes: int | None = None
    problem: str = ""
    """One sentence on what is missing, wrong or damaged; "" for a set that is all there."""
    absent: bool = False
    """Whether nothing of it is on this machine."""
    used: int | None = None
    """Images of the set, where it is a part of those counted; None where it is all of them."""
    shards: int = 0
    """Shards that its images lie in."""
    compressed: int = 0
    """Images of which none can be read without many others (`shards`)."""


class _Train(EvalData):
    """The training images as a set in fixed order."""

    name = TRAIN

    def __init__(self, data: Dataset) -> None:
        self._data, self.labels = data, data.train_labels()

    def images(self, start: int, stop: int) -> torch.Tensor:
        return self._data.train_images([(0, i) for i in range(start, stop)], 0)


def holdings(strict: Dataset, partial: Dataset) -> Iterator[Holding]:
    """Train and every set of the card, counted; opens no image.

    Args:
        strict: refuses what is not complete.
        partial: the same data, taking what is there.
    """
    for name in (TRAIN, *(entry.name for entry in strict.card.sets)):
        try:
            yield _count(strict, name)
        except DataError as error:
            try:
                yield replace(_count(partial, name), problem=str(error))
            except DataError as reason:
                yield Holding(name, problem=str(error), absent=isinstance(reason, MissingData))


def _count(data: Dataset, name: str) -> Holding:
    columns = len(data.card.class_names)
    if name == TRAIN:
        labels, images, expected = data.train_labels(), data.found, data.expected
        files, tree = data.train_files(), data.train_tree if isinstance(data, TrainsOnPictures) else None
    else:
        found = data.eval_data(name)
        labels, images, expected = found.labels, found.found, found.expected
        files, tree = found.files(), folders_of(found)
        columns = found.project(torch.zeros(1, columns)).shape[1]
    used = len(labels) if len(labels) != images else None
    held = {file for file in files if file.lower().endswith(SHARDS)}
    compressed = tree.shards.compressed if tree is not None and tree.shards is not None else 0
    return Holding(
        name, images, expected, len(np.unique(labels)), columns, used=used, shards=len(held), compressed=compressed
    )


def first_unreadable(data: Dataset, name: str, workers: int = 0) -> str:
    """Decodes every image of a set once; the sentence on the first that cannot be read, or ""."""
    try:
        for _ in eval_batches(_Train(data) if name == TRAIN else data.eval_data(name), BATCH, workers):
            pass
    except DataError as error:
        return str(error)
    return ""
