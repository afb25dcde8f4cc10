"""What the datasets on disk share: evaluation sets and training pictures made from image files."""

import hashlib
import io
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .card import USUAL, DataError, Dataset, EvalData, Resizing
from .decoding import Decode, crop_draws, cut_border, eval_view, random_view, read
from .image_folders import Tree
from .projection import Projection
from .randomness import derive, stable_key


class Pictures(Protocol):
    """Images by position. Crosses to worker processes, so it holds names, not pixels or open files."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """The sample id of image i: its path below the set's folder, or its place in the set."""

    def path(self, i: int) -> str:
        """The file of image i, or its shard, as it is read; "" where it is in no file that is read here."""

    def open(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8: image i in RGB; DataError that names it when it cannot be read."""


@dataclass(frozen=True, slots=True)
class TreePictures:
    """The images of a tree of class folders."""

    tree: Tree
    border: int = 0
    """Pixels to cut off each side, before anything else."""

    def __len__(self) -> int:
        return len(self.tree)

    def name(self, i: int) -> str:
        """`<class folder>/<file>`."""
        return self.tree.name(i)

    def path(self, i: int) -> str:
        """Its file, or shard."""
        return self.tree.path(i)

    def open(self, i: int) -> np.ndarray:
        """Image i in RGB, without its border."""
        pixels, name = _open(self.tree, i)
        return cut_border(pixels, self.border, name)


@dataclass(frozen=True, slots=True)
class TreesPictures:
    """The images of several trees, one after the other."""

    places: tuple[str, ...]
    """What stands before the names of a tree's images."""
    trees: tuple[Tree, ...]
    starts: np.ndarray
    """(len(trees) + 1,) first position of each tree, and the number of images."""

    @classmethod
    def of(cls, places: Sequence[str], trees: Sequence[Tree]) -> "TreesPictures":
        """Those of `trees`, each under its place."""
        return cls(tuple(places), tuple(trees), np.r_[0, np.cumsum([len(tree) for tree in trees])])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _at(self, i: int) -> tuple[int, int]:
        tree = int(np.searchsorted(self.starts, i, side="right")) - 1
        return tree, i - int(self.starts[tree])

    def name(self, i: int) -> str:
        """`<place>/<class folder>/<file>`."""
        tree, row = self._at(i)
        return f"{self.places[tree]}/{self.trees[tree].name(row)}"

    def path(self, i: int) -> str:
        """Its file, or shard."""
        tree, row = self._at(i)
        return self.trees[tree].path(row)

    def open(self, i: int) -> np.ndarray:
        """Image i in RGB."""
        tree, row = self._at(i)
        return _open(self.trees[tree], row)[0]


def _open(tree: Tree, i: int) -> tuple[np.ndarray, str]:
    """(H, W, 3) uint8: image i of a tree in RGB, and what it is called in messages."""
    path = tree.path(i)
    if tree.shards is None:
        return read(path, path), path
    name = f"{path}: {tree.name(i)}"
    return read(io.BytesIO(tree.shards.content(i)), name), name


@dataclass(frozen=True, slots=True)
class Picked:
    """Some of another collection's pictures."""

    pictures: Pictures
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        """The other collection's name."""
        return self.pictures.name(int(self.rows[i]))

    def path(self, i: int) -> str:
        """The other collection's file."""
        return self.pictures.path(int(self.rows[i]))

    def open(self, i: int) -> np.ndarray:
        """The other collection's image."""
        return self.pictures.open(int(self.rows[i]))


def files_of(pictures: Pictures) -> list[str]:
    """The file or shard of each image; [] where they are in none that is read here."""
    paths = [pictures.path(i) for i in range(len(pictures))]
    return paths if all(paths) else []


def tree_of(pictures: Pictures) -> Tree | None:
    """The class folders that images lie in, each in one file or in shards; None where they lie in no such."""
    return pictures.tree if isinstance(pictures, TreePictures) else None


class ImageSet(EvalData):
    """An evaluation set of image files, in the order of `pictures`.

    Args:
        name: the set's name on the card.
        pictures: the images.
        labels: (N,) class indices, of the set's own classes where there is a projection.
        size: side of the pictures in pixels.
        found: images found; default, the number of pictures. For a part of a split, the whole split's.
        expected: how many there should be; None where nobody knows.
        unit_ids: what each sample came from, where samples belong together; default, each is its own.
        groups: a group's name per sample, "" for none.
        projection: from logits over the card's classes to the set's own.
        decode, resizing: how the pictures are made, see `decoding`.
    """

    def __init__(
        self,
        name: str,
        pictures: Pictures,
        labels: np.ndarray,
        size: int,
        *,
        found: int | None = None,
        expected: int | None = None,
        unit_ids: list[str] | None = None,
        groups: list[str] | None = None,
        projection: Projection | None = None,
        decode: Decode = "exact",
        resizing: Resizing = USUAL,
    ) -> None:
        self.name, self.labels, self.size = name, labels.astype(np.int64), size
        self._found, self.expected = found, expected
        self.sample_ids = [pictures.name(i) for i in range(len(pictures))]
        self.unit_ids = self.sample_ids if unit_ids is None else unit_ids
        self.groups = groups
        self.projection = projection
        self._pictures, self._decode, self._resizing = pictures, decode, resizing

    @property
    def found(self) -> int:
        """Images on the disk: as the constructor was given them, else all of the set."""
        return len(self) if self._found is None else self._found

    def files(self) -> list[str]:
        """The file or shard of each image."""
        return files_of(self._pictures)

    @property
    def tree(self) -> Tree | None:
        """The class folders that its images lie in; None where they lie in no such."""
        return tree_of(self._pictures)

    def images(self, start: int, stop: int) -> Tensor:
        """uint8 (stop - start, 3, size, size), the evaluation view."""
        rows = range(start, min(stop, len(self)))
        out = np.empty((len(rows), 3, self.size, self.size), dtype=np.uint8)
        for row, i in zip(out, rows, strict=True):
            row[:] = eval_view(self._pictures.open(i), self.size, self.sample_ids[i], self._decode, self._resizing)
        return torch.from_numpy(out)

    def project(self, logits: Tensor) -> Tensor:
        """(B, K) logits over the set's own classes; unchanged where these are the card's."""
        return logits if self.projection is None else self.projection(logits)


class CutToPresent(EvalData):
    """A set with logits over the classes that it has an image of, in their order, and labels that count these."""

    def __init__(self, whole: EvalData) -> None:
        self.name, self.whole, self.expected = whole.name, whole, whole.expected
        self.sample_ids, self.unit_ids, self.groups = whole.sample_ids, whole.unit_ids, whole.groups
        present, labels = np.unique(whole.labels, return_inverse=True)
        self.labels, self._kept = labels.astype(np.int64), Projection.subset(present.tolist())

    @property
    def found(self) -> int:
        """The whole set's."""
        return self.whole.found

    def images(self, start: int, stop: int) -> Tensor:
        """The whole set's."""
        return self.whole.images(start, stop)

    def files(self) -> Sequence[str]:
        """The whole set's."""
        return self.whole.files()

    def project(self, logits: Tensor) -> Tensor:
        """(B, K) logits over the classes that are there, of those that the whole set has."""
        return self._kept(self.whole.project(logits))


def folders_of(data: EvalData) -> Tree | None:
    """The class folders that a set's images lie in; None where they lie in no such."""
    whole = data.whole if isinstance(data, CutToPresent) else data
    return whole.tree if isinstance(whole, ImageSet) else None


class TrainsOnPictures(Dataset):
    """What a dataset of image files does alike, for a class that says which pictures it has."""

    size: int
    decode: Decode = "exact"
    """How the pictures are made, of training and of evaluation sets, beside `resizing`; see `decoding`."""
    randomness: str
    """Names the stream of random numbers: another name, other crops."""

    @property
    @abstractmethod
    def _trained(self) -> tuple[Pictures, np.ndarray]:
        """Pictures and (N,) int64 labels; made once and before workers start, so they inherit the list."""

    def image_set(self, name: str, pictures: Pictures, labels: np.ndarray, **about: Any) -> ImageSet:
        """An evaluation set whose pictures have this dataset's size and are made in its way; `about` as in ImageSet."""
        return ImageSet(name, pictures, labels, self.size, decode=self.decode, resizing=self.resizing, **about)

    @cached_property
    def train_size(self) -> int:
        """Images trained on."""
        return len(self.train_labels())

    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""
        return self._trained[1]

    def train_names(self) -> list[str]:
        """The sample id of each training image."""
        pictures = self._trained[0]
        return [pictures.name(i) for i in range(len(pictures))]

    def train_files(self) -> list[str]:
        """The file or shard of each training image."""
        return files_of(self._trained[0])

    @property
    def train_tree(self) -> Tree | None:
        """The class folders that its training images lie in; None where they lie in no such."""
        return tree_of(self._trained[0])

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> Tensor:
        """uint8 (B, 3, size, size) for [(epoch, index)]; a function of (seed, epoch, index) alone."""
        epochs, indices = (np.array(column, dtype=np.int64) for column in zip(*items, strict=True))
        keys = derive(stable_key(self.randomness, "train", seed), indices, epochs)
        out = np.empty((len(items), 3, self.size, self.size), dtype=np.uint8)
        for row, index, draws in zip(out, indices, crop_draws(keys), strict=True):
            row[:] = random_view(self._trained[0].open(int(index)), self.size, draws, self.decode, self.resizing)
        return torch.from_numpy(out)


def lowest_by_hash(names: Sequence[str], groups: np.ndarray, count: Callable[[int], int]) -> np.ndarray:
    """(N,) bool: of each group, the `count(its size)` names with the smallest sha256.

    A rule that says which images are held out wherever they are, and that does not change for the others when one
    image is missing.
    """
    digests = np.array(
        [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names], dtype="S32"
    )
    order = np.lexsort((digests, groups))
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0]) if len(order) else np.array([], dtype=np.int64)
    chosen = np.zeros(len(names), dtype=bool)
    for start, stop in zip(starts, np.r_[starts[1:], len(order)], strict=False):
        chosen[order[start : start + count(int(stop - start))]] = True
    return chosen


def withhold_tenth(names: Sequence[str], labels: np.ndarray, where: str) -> np.ndarray:
    """(N,) bool: a tenth of each class, by hash, at least one of a class of two; DataError when that is no image."""
    withheld = lowest_by_hash(names, labels, lambda size: max(1, round(size / 10)) if size > 1 else 0)
    if not withheld.any():
        raise DataError(f"{where}: a tenth of train is no image; add images or a validation set.")
    return withheld
