"""What a dataset says of itself, and what every dataset can do.

There is no `datasets/__init__.py`, on purpose: Hugging Face's library is also called `datasets`. A folder without that
file loses against an installed package of the same name, so `import datasets` finds theirs even with the repository
root on `sys.path`, and ours is `robustft.datasets`. Files that ship with a dataset are found from `__file__`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

Role = Literal["id", "iid", "shift", "validation", "diagnostic"]
"""`iid`: other images of what is finetuned on. Shown beside the ID set, and in no mean over shifts."""
Metric = Literal["accuracy", "macro_f1", "worst_group_accuracy"]


Resizing = tuple[str, str]
"""How pictures of files are brought to size: open_clip's resize_mode, shortest, longest or squash, and interpolation,
bicubic or bilinear."""
USUAL: Resizing = ("shortest", "bicubic")
"""CLIP's."""


class DataError(ValueError):
    """The data asked for does not exist, or is not what it must be; one sentence."""


class MissingData(DataError):
    """Nothing of a set is on this machine; one sentence that says what to get from whom."""


def is_template(text: str) -> bool:
    """Whether `text.format(name)` puts the name in exactly one place: one "{}" and no other brace."""
    return text.count("{}") == 1 and not set("{}") & set(text.replace("{}", ""))


def is_set_name(text: str) -> bool:
    """Whether a set may have this name: it is also that of a file, and stands in tables."""
    return text.isprintable() and text == text.strip() and "/" not in text and not text.startswith(".")


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
    metric: Metric = "accuracy"
    """The set's own metric, a fraction: top-1; F1 averaged over the classes that occur among the labels; or the lowest
    accuracy of any non-empty group of `EvalData.groups`."""
    expected: int | None = None
    """Images of the complete set; None where the code makes them or the number is not known before they are read."""
    clusters: tuple[str, ...] = ()
    """Where the set's source images come from few sources (writers, hospitals): the first unit id of each, in the order
    of the ids. Such images are no independent draws: tests and intervals take a source as one unit."""

    def __post_init__(self) -> None:
        if self.role == "shift" and self.in_finetuning.partition(",")[0].strip() == "yes":
            raise DataError(
                f"set {self.name}: role must not be 'shift' where in_finetuning is {self.in_finetuning!r}, for then it "
                "shifts nothing and no OOD mean may hold it; give it the role 'iid', or say what finetuning lacks."
            )


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


class EvalData(ABC):
    """An evaluation set in fixed order: same images, same order, on every machine and for every method."""

    name: str
    labels: np.ndarray
    """(N,) int64 class indices, of the set's own classes where `project` leads to such."""
    sample_ids: list[str]
    unit_ids: list[str]
    """What each sample was taken from."""
    groups: list[str] | None = None
    """A name per sample, for worst-group and per-group accuracy; "" is a sample of no group. None: no groups."""
    expected: int | None = None
    """Images of the complete set; None where nobody knows."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, start: int, stop: int) -> "torch.Tensor":
        """uint8 (stop - start, 3, H, W)."""

    @property
    def found(self) -> int:
        """Images there are on the disk of all that `expected` counts."""
        return len(self)

    def files(self) -> Sequence[str]:
        """The file of each image, or its shard; () where images are in none that this package reads.

        What it names can be copied to a node's own disk (`staging`); all else is read where it is.
        """
        return ()

    @property
    def missing(self) -> int:
        """Images of the complete set that are not on the disk."""
        return 0 if self.expected is None else max(0, self.expected - self.found)

    def project(self, logits: "torch.Tensor") -> "torch.Tensor":
        """(B, K) logits over the set's own classes, from (B, C) over the card's; called once, before softmax, argmax
        and every metric (`projection.Projection`). By default all C columns count."""
        return logits


@dataclass(frozen=True)
class RetentionSet:
    """A set of other classes than those that are finetuned on: what a finetuned model still knows of them."""

    name: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    """Templates with one "{}", of which and the class names the head is built."""
    content: str
    """Hash of images and labels."""
    data: Callable[[], EvalData]
    """Reads it; labels are positions in `class_names`. Crosses to worker processes with the dataset: no lambda."""


class Dataset(ABC):
    """Training images and evaluation sets behind a card.

    `card` and `train_size` need no file of registered data, so that runs can be planned where the images are not.
    """

    expected: int | None = None
    """Training images of the complete dataset, withheld ones among them; None where nobody knows."""
    withholds: bool = False
    """Whether the validation set is a part of train that a rule by hash withholds: it then has no list but this one."""
    resizing: Resizing = USUAL
    """How its pictures are brought to size, if they are made from files; `catalogue.get` sets it for a backbone."""
    retention: tuple[RetentionSet, ...] = ()
    """What a suite asks of finetuned models beside the card's sets (`catalogue.with_retention`)."""

    @property
    @abstractmethod
    def card(self) -> DatasetCard:
        """What the dataset says of itself."""

    @property
    @abstractmethod
    def train_size(self) -> int:
        """Images trained on."""

    @abstractmethod
    def train_labels(self) -> np.ndarray:
        """(train_size,) int64."""

    @abstractmethod
    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> "torch.Tensor":
        """uint8 (B, 3, H, W) for [(epoch, index)]; a function of (seed, epoch, index) alone."""

    @abstractmethod
    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name; DataError where the card has none."""

    @property
    def found(self) -> int:
        """Training images there are on the disk, withheld ones among them."""
        return len(self.train_labels())

    @property
    def class_ids(self) -> tuple[str, ...]:
        """What its files call the classes (ImageNet: the wnid), in class order; () where they have no such names."""
        return ()

    def train_names(self) -> list[str] | None:
        """The sample id of each training image; None where images have no names that could be missing."""
        return None

    def train_files(self) -> Sequence[str]:
        """As `EvalData.files`, of the training images."""
        return ()

    def as_retention(self, name: str) -> RetentionSet:
        """One of its sets as a question beside another dataset, by this one's class names and prompts.

        Raises:
            DataError: it has no such set.
        """
        card = self.card
        if name not in {entry.name for entry in card.sets}:
            known = ", ".join(entry.name for entry in card.sets)
            raise DataError(f"retention: {card.name} has no set {name!r}; it has {known}.")
        return RetentionSet(name, card.class_names, card.prompts, card.fingerprint, partial(self.eval_data, name))
