"""Which rows of which table a split of the hub's library is, so that no row stands in two sets."""

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import contents
from .card import DataError
from .decoding import read


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
            count = f"{twice} row{'s' * (twice > 1)}"
            raise DataError(f"{where}: {name} has {count} twice, by the split {split!r}; name each once.")
    for (one, first), (two, second) in itertools.combinations(rows.items(), 2):
        common = _common(itertools.product(first, second))
        if common:
            a, b = sets[one].split, sets[two].split
            split = f"the split {a!r}" if a == b else f"the splits {a!r} and {b!r}"
            fix = "let the slices not overlap" if "[" in a + b else f"give {two} a split of its own"
            count = f"{common} row{'s' * (common > 1)}"
            raise DataError(f"{where}: {one} and {two} have {count} in common, by {split}; {fix}.")


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


@dataclass(frozen=True, slots=True)
class HubPictures:
    """The image column of a split."""

    rows: Any
    """A `datasets.Dataset` of undecoded images; memory-mapped, so workers share it."""
    column: str
    place: str
    """Dataset and split, for messages."""
    split: str
    """As it was asked for."""

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        """The row's number."""
        return f"{i:07d}"

    def path(self, i: int) -> str:
        """None of its own: what the library reads lies in its cache, or wherever the rows say."""
        return ""

    def open(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8: row i in RGB."""
        stored, name = self.rows[i][self.column], f"{self.place}, row {i}"
        if not stored or (stored.get("bytes") is None and stored.get("path") is None):
            raise DataError(f"{name}: column {self.column!r} is empty; leave the row out.")
        return read(io.BytesIO(stored["bytes"]) if stored.get("bytes") is not None else stored["path"], name)

    def files(self) -> list[Path]:
        """The files that the images are in; none where they are stored in a table."""
        import pyarrow.compute as compute

        stored = self.rows.data.column(self.column)
        data, paths = (compute.struct_field(stored, name) for name in ("bytes", "path"))
        return [] if data.null_count < len(self) else [Path(path) for path in paths.to_pylist() if path]

    def contents(self) -> np.ndarray:
        """(N, 32) uint8: sha256 of each stored image; of one that lies beside the table, of its file."""
        import pyarrow.compute as compute

        stored = self.rows.data.column(self.column)
        data, paths = (compute.struct_field(stored, name) for name in ("bytes", "path"))
        beside = [i for i, found in enumerate(data.is_valid().to_pylist()) if not found]
        files = [file["filename"] for file in self.rows.cache_files]
        values = lambda: (b"" if value is None else value for part in data.chunks for value in _buffers(part))  # noqa: E731
        digests = contents.of_rows(len(self), values, files, f"{self.split} {self.column}", self.place)
        names = [paths[i].as_py() for i in beside]
        there = [i for i, name in zip(beside, names, strict=True) if name]
        if there:
            digests[there] = contents.of_files(Path(), [name for name in names if name], self.place)
        return digests


def _buffers(part: Any) -> Iterator[memoryview | None]:
    return (memoryview(value.as_buffer()) if value.is_valid else None for value in part)
