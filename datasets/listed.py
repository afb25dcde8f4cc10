"""Datasets whose splits are lists of files: which images a split has, and which of them are on this disk."""

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .card import DataError, DatasetCard, EvalSet, MissingData
from .decoding import Decode, read
from .image_folders import Source
from .image_sets import ImageSet, TrainsOnPictures


@dataclass(frozen=True, slots=True)
class ListedPictures:
    """Image files by their paths below one folder."""

    folder: Path
    files: np.ndarray
    """(N,) paths in UTF-8 bytes: one array, because a million Python strings would be copied by every worker."""

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        """The file's path below the folder."""
        return os.fsdecode(self.files[i])

    def path(self, i: int) -> str:
        """Its file."""
        return f"{self.folder}/{self.name(i)}"

    def open(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8: image i in RGB."""
        return read(self.path(i), self.path(i))


def on_disk(folder: Path, files: Iterable[str]) -> np.ndarray:
    """(N,) bool: which of these paths below a folder are there.

    Every folder is listed once, because asking for each file takes long on a cluster.
    """
    names = [file.rpartition("/") for file in files]
    listed = {place: set(_list(folder / place)) for place in {place for place, _, _ in names}}
    return np.array([name in listed[place] for place, _, name in names], dtype=bool)


def _list(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class Split:
    """The images of a list."""

    files: np.ndarray
    """(N,) paths below the dataset's folder, in UTF-8 bytes."""
    labels: np.ndarray
    """(N,) int64."""
    groups: np.ndarray | None = None
    """(N,) names, where the list has groups."""

    def take(self, rows: np.ndarray) -> "Split":
        """The images at these positions."""
        return Split(self.files[rows], self.labels[rows], None if self.groups is None else self.groups[rows])


class ListedData(TrainsOnPictures):
    """A dataset that a class describes by its lists.

    Args:
        root: the data root; None takes the environment's.
        allow_partial: run on a copy that lacks images; what was found is in `found`.
        size: side of the pictures in pixels.
        decode: how they are made, see `decoding`.
    """

    name: str
    version: str
    summary: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    sets: tuple[EvalSet, ...]
    split_sizes: Mapping[str, int]
    """Images of each list, those that are trained on and withheld from first."""
    protocol: str
    """What numbers depend on beside the above."""
    trained: int
    """Images trained on in a complete copy."""
    source: Source

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, allow_partial: bool = False, size: int = 224,
        decode: Decode = "exact",
    ) -> None:  # fmt: skip
        self.root, self.allow_partial, self.size, self.decode = root, allow_partial, size, decode
        self.randomness, self.withholds = self.version, True
        self.expected = next(iter(self.split_sizes.values()))
        self._read: dict[str, Split] = {}

    @cached_property
    def card(self) -> DatasetCard:
        """The card; needs no image. Its fingerprint covers names, prompts, protocol and counts, not pixels."""
        sets = [[entry.name, entry.role, entry.metric, entry.expected] for entry in self.sets]
        views = f"bicubic, centre crop {self.size}; random resized crop 0.9 to 1, no flip"
        parts = [self.version, self.class_names, self.prompts, sets, dict(self.split_sizes), self.protocol, views]
        fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return DatasetCard(
            self.name, self.version, self.summary, self.class_names, self.prompts, self.sets, fingerprint
        )

    @cached_property
    def train_size(self) -> int:
        """Images trained on: as they should be; in a partial copy, as they are."""
        return len(self.train_labels()) if self.allow_partial else self.trained

    @property
    def found(self) -> int:
        """Training images on disk, withheld ones among them; `expected` is how many there should be."""
        return len(self.split(next(iter(self.split_sizes))).files)

    @cached_property
    def folder(self) -> Path:
        """The dataset's folder; MissingData where it is not there."""
        return self.source.find(self.root)

    @abstractmethod
    def read_split(self, name: str) -> Split:
        """A list as it was published; DataError where it is not there, or is none."""

    @abstractmethod
    def part(self, name: str) -> tuple[str, np.ndarray]:
        """The list that `train` or a set is a part of, and (N,) bool which of its images on disk."""

    def split(self, name: str) -> Split:
        """The images of a list that are on disk; DataError where some are not, unless told to go on."""
        if name not in self._read:
            listed, expected = self.read_split(name), self.split_sizes[name]
            there = on_disk(self.folder, map(os.fsdecode, listed.files))
            if (len(there), int(there.sum())) != (expected, expected) and not self.allow_partial:
                missing = listed.files[~there]
                first = f", {os.fsdecode(missing[0])} is missing" if len(missing) else ""
                raise DataError(
                    f"{self.name}: expected {expected} images of {name} in {self.folder}, found {int(there.sum())} of "
                    f"{len(there)} that are listed{first}; unpack the archive again, or pass --allow-partial to run on "
                    "what is there."
                )
            self._read[name] = listed.take(np.flatnonzero(there))
        return self._read[name]

    def _part(self, name: str) -> Split:
        """The images of `train` or a set."""
        listed, kept = self.part(name)
        return self.split(listed).take(np.flatnonzero(kept))

    def eval_data(self, name: str) -> ImageSet:
        """The evaluation set of that name; DataError where there is none, or it is not complete."""
        entry = next((entry for entry in self.sets if entry.name == name), None)
        if entry is None:
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(s.name for s in self.sets)}.")
        part = self._part(name)
        if len(part.files) == 0:
            raise MissingData(f"{self.name}: {name} has no images in {self.folder}; get {self.source.supplier}.")
        groups = None if part.groups is None else part.groups.tolist()
        pictures = ListedPictures(self.folder, part.files)
        return self.image_set(name, pictures, part.labels, expected=entry.expected, groups=groups)

    @cached_property
    def _trained(self) -> tuple[ListedPictures, np.ndarray]:
        part = self._part("train")
        return ListedPictures(self.folder, part.files), part.labels
