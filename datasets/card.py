"""What a dataset says of itself, and what every dataset can do.

There is no `datasets/__init__.py`, on purpose: Hugging Face's library is also called `datasets`. A folder without that
file loses against an installed package of the same name, so `import datasets` finds theirs even with the repository
root on `sys.path`, and ours is `robustft.datasets`. Files that ship with a dataset are found from `__file__`.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

Role = Literal["id", "shift", "validation", "diagnostic"]


class DataError(ValueError):
    """The data asked for does not exist, or is not what it must be; one sentence."""


@dataclass(frozen=True, slots=True)
class EvalSet:
    """One evaluation set: its role and, for a shift, what it measures."""

    name: str
    role: Role
    measures: str
    in_pretraining: str
    """Whether the factor that sets this set apart occurs in pretraining."""
    in_finetuning: str
    """Whether it occurs in the finetuning images."""


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """Name, version, classes, prompts and sets; `fingerprint` is a sha256 over everything that numbers depend on."""

    name: str
    version: str
    summary: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    """Templates with one "{}": the captions of finetuning and of every head."""
    sets: tuple[EvalSet, ...]
    fingerprint: str

    def names(self, role: Role) -> tuple[str, ...]:
        """Names of the sets with this role, in card order."""
        return tuple(s.name for s in self.sets if s.role == role)


class EvalData(Protocol):
    """An evaluation set in fixed order: same images, same order, on every machine and for every method."""

    name: str
    labels: np.ndarray
    sample_ids: list[str]
    unit_ids: list[str]

    def __len__(self) -> int: ...

    def images(self, start: int, stop: int) -> torch.Tensor:
        """uint8 (stop - start, 3, H, W)."""


class Dataset(Protocol):
    """Training images and evaluation sets behind a card."""

    card: DatasetCard
    train_size: int

    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""

    def train_images(self, items: list[tuple[int, int]], seed: int) -> torch.Tensor:
        """uint8 (B, 3, H, W) for [(epoch, index)]; a function of (seed, epoch, index) alone."""

    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name; DataError where the card has none."""
