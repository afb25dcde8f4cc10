"""A small part of a dataset, for a rehearsal: every step of the real run, on few images.

One image of each class comes before a second of any, because sets lie on the disk class by class.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .card import Dataset, DatasetCard, EvalData


def few_of_each(labels: np.ndarray, limit: int) -> np.ndarray:
    """(min(N, limit),) int64 rising positions: the first image of each class, then the second of each, and so on.

    Example: of labels 0, 0, 0, 1, 1, 2 the first four by turns are 0, 3, 5 and 1, given as 0, 1, 3, 5.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(labels[order])) + 1] if len(order) else order
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[np.argsort(turn, kind="stable")[:limit]])


class PartOfSet(EvalData):
    """An evaluation set of at most `limit` images of another one."""

    def __init__(self, whole: EvalData, limit: int) -> None:
        self.name, self._whole, self._rows = whole.name, whole, few_of_each(whole.labels, limit)
        self.labels = whole.labels[self._rows]
        self.sample_ids = [whole.sample_ids[i] for i in self._rows]
        self.unit_ids = [whole.unit_ids[i] for i in self._rows]
        self.groups = None if whole.groups is None else [whole.groups[i] for i in self._rows]
        self.expected = min(limit, len(whole) + whole.missing)

    def images(self, start: int, stop: int) -> Tensor:
        """uint8 (stop - start, 3, H, W)."""
        return torch.cat([self._whole.images(i, i + 1) for i in map(int, self._rows[start:stop])])

    def project(self, logits: Tensor) -> Tensor:
        """As the whole set does."""
        return self._whole.project(logits)


class Rehearsal(Dataset):
    """A dataset with fewer images.

    Args:
        train_limit: at most this many to train on, and in each validation set.
        limit: at most this many in every other evaluation set; None is all.
    """

    def __init__(self, whole: Dataset, train_limit: int, limit: int | None) -> None:
        self._whole, self._train_limit, self._limit = whole, train_limit, limit
        self.retention = whole.retention

    @property
    def card(self) -> DatasetCard:
        """The whole dataset's."""
        return self._whole.card

    @property
    def train_size(self) -> int:
        """Images trained on."""
        return min(self._train_limit, self._whole.train_size)

    @cached_property
    def _rows(self) -> np.ndarray:
        return few_of_each(self._whole.train_labels(), self._train_limit)

    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""
        return self._whole.train_labels()[self._rows]

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> Tensor:
        """uint8 (B, 3, H, W) for [(epoch, index)]: the pictures that the whole dataset makes of these images."""
        rows = self._rows
        return self._whole.train_images([(epoch, int(rows[index])) for epoch, index in items], seed)

    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name, or part of it; DataError where there is none."""
        limit = self._train_limit if name in self.card.names("validation") else self._limit
        whole = self._whole.eval_data(name)
        return whole if limit is None else PartOfSet(whole, limit)
