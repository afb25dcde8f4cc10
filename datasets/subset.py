"""A small part of a dataset: for a rehearsal, every step of the real run on few images; or few shots of each class.

In a rehearsal one image of each class comes before a second of any, because sets lie on the disk class by class.
Few shots are drawn: of each class, the k training images whose name has the smallest sha256 beside the run's seed. So
all methods of a seed see the same images, those of fewer shots are among those of more, and another seed draws others.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .card import Dataset, DatasetCard, EvalData
from .image_sets import lowest_by_hash
from .shots import check_shots, to_choose_on


def few_of_each(labels: np.ndarray, limit: int) -> np.ndarray:
    """(min(N, limit),) int64 rising positions: the first image of each class, then the second of each, and so on.

    Example: of labels 0, 0, 0, 1, 1, 2 the first four by turns are 0, 3, 5 and 1, given as 0, 1, 3, 5.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(labels[order])) + 1] if len(order) else order
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[np.argsort(turn, kind="stable")[:limit]])


def few_shots(names: Sequence[str], labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rising positions of `shots` images of each class, of all of a class that has fewer.

    The rule: of each class, those whose "shots <seed> <name>" has the smallest sha256.

    Args:
        names: (N,) what tells the images apart, wherever they are.
        labels: (N,) classes.
    """
    return np.flatnonzero(lowest_by_hash([f"shots {seed} {name}" for name in names], labels, lambda size: shots))


def _taken(files: Sequence[str], rows: np.ndarray) -> list[str]:
    return [files[row] for row in rows] if files else []


class PartOfSet(EvalData):
    """An evaluation set of some of another one's images, at the rising positions `rows`."""

    def __init__(self, whole: EvalData, rows: np.ndarray, expected: int) -> None:
        self.name, self._whole, self._rows, self.expected = whole.name, whole, rows, expected
        self.labels = whole.labels[rows]
        self.sample_ids = [whole.sample_ids[i] for i in rows]
        self.unit_ids = [whole.unit_ids[i] for i in rows]
        self.groups = None if whole.groups is None else [whole.groups[i] for i in rows]

    def images(self, start: int, stop: int) -> Tensor:
        """uint8 (stop - start, 3, H, W)."""
        return torch.cat([self._whole.images(i, i + 1) for i in map(int, self._rows[start:stop])])

    def files(self) -> list[str]:
        """Of the whole set's files those of its images."""
        return _taken(self._whole.files(), self._rows)

    def project(self, logits: Tensor) -> Tensor:
        """As the whole set does."""
        return self._whole.project(logits)


class _Part(Dataset):
    """A dataset that trains on some of another one's images: the same pictures of them."""

    def __init__(self, whole: Dataset) -> None:
        self._whole = whole
        self.retention = whole.retention

    @property
    @abstractmethod
    def _rows(self) -> np.ndarray:
        """(train_size,) int64 rising positions in the whole dataset's training images."""

    @property
    def card(self) -> DatasetCard:
        """The whole dataset's."""
        return self._whole.card

    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""
        return self._whole.train_labels()[self._rows]

    def train_names(self) -> list[str] | None:
        """The whole dataset's names of these images."""
        names = self._whole.train_names()
        return None if names is None else [names[row] for row in self._rows]

    def train_files(self) -> list[str]:
        """Of the whole dataset's files those of these images."""
        return _taken(self._whole.train_files(), self._rows)

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> Tensor:
        """uint8 (B, 3, H, W) for [(epoch, index)]: the pictures that the whole dataset makes of these images."""
        rows = self._rows
        return self._whole.train_images([(epoch, int(rows[index])) for epoch, index in items], seed)


class Rehearsal(_Part):
    """A dataset with fewer images.

    Args:
        train_limit: at most this many to train on, and in each validation set.
        limit: at most this many in every other evaluation set; None is all.
    """

    def __init__(self, whole: Dataset, train_limit: int, limit: int | None) -> None:
        super().__init__(whole)
        self._train_limit, self._limit = train_limit, limit

    @property
    def train_size(self) -> int:
        """Images trained on."""
        return min(self._train_limit, self._whole.train_size)

    @cached_property
    def _rows(self) -> np.ndarray:
        return few_of_each(self._whole.train_labels(), self._train_limit)

    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name, or part of it; DataError where there is none."""
        limit = self._train_limit if name in self.card.names("validation") else self._limit
        whole = self._whole.eval_data(name)
        if limit is None:
            return whole
        return PartOfSet(whole, few_of_each(whole.labels, limit), min(limit, len(whole) + whole.missing))


class FewShots(_Part):
    """A dataset of which a run trains on `shots` images of each class, drawn by `few_shots`.

    Of each validation set `to_choose_on` of each class are left: with few shots there are no thousands of images to
    choose on. All other sets are whole.

    Args:
        seed: the run's.
    """

    def __init__(self, whole: Dataset, shots: int, seed: int) -> None:
        super().__init__(whole)
        self._shots, self._seed = shots, seed

    @property
    def train_size(self) -> int:
        """Images trained on."""
        return self._shots * len(self.card.class_names)

    @cached_property
    def _rows(self) -> np.ndarray:
        labels = self._whole.train_labels()
        check_shots(self._whole, self._shots)
        names = self._whole.train_names() or [str(i) for i in range(len(labels))]
        return few_shots(names, labels, self._shots, self._seed)

    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name, of validation a part; DataError where there is none."""
        whole = self._whole.eval_data(name)
        if name not in self.card.names("validation"):
            return whole
        rows = few_shots(whole.sample_ids, whole.labels, to_choose_on(self._shots), self._seed)
        return PartOfSet(whole, rows, len(rows))
