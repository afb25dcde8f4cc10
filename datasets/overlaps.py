"""Images that are in two sets: which cases are refused, and which are only reported.

Refused is what is a mistake by construction: one folder, split or slice in two roles, a set all of whose images are
trained on or choose, two test sets that are the same images. What two sets share beside that is counted, by the bytes
of the files: a run says it in its record, and a board at its rows.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .card import DataError
from .image_folders import Tree


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one set, or of train."""

    name: str
    """train, or the set's on the card."""
    place: str
    """Its folder or split, for messages."""
    digests: np.ndarray
    """(N, 32) uint8: sha256 of each image."""
    image: Callable[[int], str]
    """The name of image i."""
    withheld: bool = False
    """Of train and validation: whether a rule by hash parts them."""

    def __len__(self) -> int:
        return len(self.digests)

    def keys(self) -> np.ndarray:
        """(N,) values that are the same where the images are; zeros that are cut off at the end change nothing."""
        return np.ascontiguousarray(self.digests).view("S32").ravel()


@dataclass(frozen=True, slots=True)
class Shared:
    """How many images of a set are also in an earlier one."""

    name: str
    other: str
    """train, or the earlier set."""
    images: int
    of: int
    example: tuple[str, str]
    """The first of them, in the set and in the other."""
    whole: bool
    """Whether each image of one of the two is in the other one."""
    same: bool
    """Whether each image of both is."""
    withheld: bool
    """Whether they are train and what a rule by hash withholds from it: train holds images twice."""

    def text(self) -> str:
        """3 of 18 images of id are also in train"""
        return f"{self.images} of {self.of} images of {self.name} are also in {self.other}"


def shared(parts: Sequence[Part]) -> list[Shared]:
    """The pairs of parts that share images, by their bytes."""
    order = {"train": 0, "validation": 1, "id": 2}
    parts = sorted(parts, key=lambda part: order.get(part.name, 3))
    if not parts:
        return []
    _, numbers = np.unique(np.concatenate([part.keys() for part in parts]), return_inverse=True)
    ends = np.cumsum([len(part) for part in parts])
    ids = {part.name: found for part, found in zip(parts, np.split(numbers, ends[:-1]), strict=True)}
    found = []
    for other, part in itertools.combinations(parts, 2):
        inside = _in(ids[part.name], ids[other.name], len(numbers))
        if not inside.any():
            continue
        first = int(np.flatnonzero(inside)[0])
        there = int(np.flatnonzero(ids[other.name] == ids[part.name][first])[0])
        example = f"{part.place}/{part.image(first)}", f"{other.place}/{other.image(there)}"
        back = bool(_in(ids[other.name], ids[part.name], len(numbers)).all())
        whole, count = bool(inside.all()), int(inside.sum())
        withheld = part.withheld and {part.name, other.name} == {"train", "validation"}
        found.append(Shared(part.name, other.name, count, len(part), example, whole or back, whole and back, withheld))
    return found


def _in(some: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Which of some numbers below count are among others; `np.isin` would sort a million for each pair of sets."""
    there = np.zeros(count, dtype=bool)
    there[others] = True
    return there[some]


def refuse_copies(where: str, parts: Sequence[Part], found: Sequence[Shared]) -> None:
    """DataError where all of a set is trained on or chooses, or where two test sets are the same images."""
    by_name = {part.name: part for part in parts}
    for pair in found:
        one, two = by_name[pair.name], by_name[pair.other]
        if pair.withheld or not (pair.same or pair.whole and two.name in ("train", "validation")):
            continue
        lesser, greater = (one, two) if pair.images == pair.of else (two, one)
        what = "the same images as" if pair.same else "all of them also images of"
        raise DataError(
            f"{where}: {_named(lesser)} and {_named(greater)} must hold different images, but those of {lesser.name} "
            f"are {what} {greater.name}; {_remedy(one.name, two.name)}."
        )


def refuse_same_folders(where: str, trees: Mapping[str, Tree]) -> None:
    """DataError where a folder, or a class folder, is that of two sets, by itself or through a link.

    Args:
        trees: name of the set or its folder -> its images.
    """
    seen: dict[str, str] = {}
    for name, tree in trees.items():
        base = os.path.realpath(tree.folder)
        for place, below in ((base, ""), *((os.path.realpath(tree.folder / c), f"/{c}") for c in tree.classes)):
            other = seen.setdefault(place, f"{name}{below}")
            if other != f"{name}{below}":
                raise DataError(
                    f"{where}: {name}{below} and {other} are one folder, {place}; give each set images of its own, or "
                    "drop one of them."
                )


def refuse_folders_of_others(where: str, own: Mapping[str, Tree], sets: Mapping[str, Tree]) -> None:
    """DataError where a further shift has a folder, or a class folder, of another set."""
    for one, (two, tree) in itertools.product(own, sets.items()):
        if one != two:
            refuse_same_folders(where, {two: tree, one: own[one]})


def _named(part: Part) -> str:
    return part.name if part.place == part.name else f"{part.name} ({part.place})"


def _remedy(one: str, two: str) -> str:
    if two == "train":
        return f"what is trained on says nothing as {one}: take the copies out of train, or give other images"
    if two == "validation":
        return f"what is chosen by says nothing as {one}: give validation other images, or leave it out"
    return f"one set may not count twice: drop {one}, or give other images"
