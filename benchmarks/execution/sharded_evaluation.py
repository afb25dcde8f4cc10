"""An evaluation set shared between the processes of one run: each sees some batches, and all end with every sample.

Whole batches are dealt out, so that each is computed exactly as one process alone would compute it. What a process has
found it writes to a file; when all have written, each puts the files together in the set's order.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ...methods.training.parallel import World
from ...results.records.atomic import write_atomic
from ...results.records.predictions import PredictionError

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Share:
    """Which batches are this process's, and how it meets the others."""

    rank: int = 0
    size: int = 1
    folder: Path | None = None
    """Where parts are written; on a disk that all processes see."""
    meet: Callable[[int], int] = int
    """Returns the largest of the processes' values when all have called it."""

    @classmethod
    def of(cls, world: World, folder: Path) -> "Share":
        """The share of this process of a run."""
        return cls(world.rank, world.size, folder, world.largest)

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all have to ask."""
        return bool(self.meet(int(flag)))

    def merge(self, name: str, own: Columns, count: int) -> Columns:
        """What all processes have found of a set, in its order.

        Args:
            name: of the set.
            own: columns of this process's samples, numbers only; `position` is each sample's place in the set.
            count: samples of the set.

        Raises:
            PredictionError: a sample is missing or there twice, or a part cannot be read.
        """
        if self.size > 1:
            write_atomic(self._part(name, self.rank), _npz(own))
            self.meet(0)
        parts = [own if rank == self.rank else _read_npz(self._part(name, rank)) for rank in range(self.size)]
        merged = in_order(name, parts, count)
        if self.size > 1:
            self.meet(0)  # all have read
            self._part(name, self.rank).unlink(missing_ok=True)
        return merged

    def total(self, name: str, own: np.ndarray) -> np.ndarray:
        """The sum of what all processes have found of a set, whole numbers; errors as `merge`."""
        if self.size == 1:
            return own
        write_atomic(self._part(name, self.rank), _npz({"total": own}))
        self.meet(0)
        found = [own if rank == self.rank else _read_npz(self._part(name, rank))["total"] for rank in range(self.size)]
        self.meet(0)  # all have read
        self._part(name, self.rank).unlink(missing_ok=True)
        return np.sum(found, axis=0)

    def _part(self, name: str, rank: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.{rank}-of-{self.size}.npz"


def in_order(name: str, parts: list[Columns], count: int) -> Columns:
    """Columns of some parts of a set, sorted by `position`, which is left out; each of `count` samples exactly once."""
    parts = [part for part in parts if len(part["position"])] or parts[:1]
    position = np.concatenate([part["position"] for part in parts])
    order = np.argsort(position, kind="stable")
    if not np.array_equal(position[order], np.arange(count)):
        seen = np.bincount(position, minlength=count)
        wrong = int(np.flatnonzero(seen != 1)[0])
        raise PredictionError(
            f"set {name}: every sample must be evaluated once, but sample {wrong} was {seen[wrong]} times; "
            "run it again with one process."
        )
    return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0] if key != "position"}


def _npz(columns: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **columns)
    return buffer.getvalue()


def _read_npz(path: Path) -> Columns:
    try:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, BadZipFile) as error:
        raise PredictionError(f"{path}: cannot be read ({error}); run it again.") from None
