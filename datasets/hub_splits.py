"""Which rows of which table a split of the hub's library is, so that no row stands in two sets."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from .card import DataError

if TYPE_CHECKING:
    from .hub import HubPictures


def refuse_same_rows(where: str, sets: Mapping[str, "HubPictures"]) -> None:
    """DataError where two sets, or train and a set, have rows of one split in common, or one has a row twice.

    Args:
        sets: name, or train -> its pictures.
    """
    rows = {name: list(_intervals(pictures)) for name, pictures in sets.items()}
    for name, intervals in rows.items():
        twice = _common(itertools.combinations(intervals, 2))
        if twice:
            split = sets[name].split
            raise DataError(f"{where}: {name} has {twice} rows twice, by the split {split!r}; name each once.")
    for (one, first), (two, second) in itertools.combinations(rows.items(), 2):
        common = _common(itertools.product(first, second))
        if common:
            a, b = sets[one].split, sets[two].split
            split = f"the split {a!r}" if a == b else f"the splits {a!r} and {b!r}"
            fix = "let the slices not overlap" if "[" in a + b else f"give {two} a split of its own"
            raise DataError(f"{where}: {one} and {two} have {common} rows in common, by {split}; {fix}.")


Interval = tuple[tuple[str, str], int, int]
"""Place and name of a split, first row, row after the last."""


def _common(pairs: Iterable[tuple[Interval, Interval]]) -> int:
    """How many rows stand in both intervals of a pair, in all."""
    return sum(max(0, min(a[2], b[2]) - max(a[1], b[1])) for a, b in pairs if a[0] == b[0])


def _intervals(pictures: "HubPictures") -> Iterator[Interval]:
    """The parts that a split is made of."""
    import datasets

    splits = pictures.rows.info.splits or {}
    sizes = {name: split.num_examples for name, split in splits.items()}
    folders = sorted({os.path.dirname(os.path.realpath(file["filename"])) for file in pictures.rows.cache_files})
    text = pictures.split
    if not folders or not sizes:
        return  # in memory: nobody knows of which rows; the bytes of the images still tell
    if text == "all":
        text = "+".join(sizes)
    try:
        parts = datasets.ReadInstruction.from_spec(text).to_absolute(sizes)
    except (ValueError, AssertionError):
        return
    for part in parts:
        yield (folders[0], part.splitname), part.from_ or 0, sizes[part.splitname] if part.to is None else part.to
