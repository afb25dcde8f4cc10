"""What a run's folder takes on a disk, from architecture and sizes of the sets: for estimates before any run."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .spec import RunSpec

if TYPE_CHECKING:
    from ...backbones.cost import Cost
    from ...datasets.card import DatasetCard
    from ...methods.base import Method

FLOAT = 4
"""Bytes of a number of weights, moments and teacher: float32 whatever the precision of the training."""
CHECKPOINTS = 3
"""Two are kept, and the next one is written whole before the older of them goes."""
SAMPLE_BYTES = 32
"""Of a sample's ids, label, prediction and four probabilities in a parquet file: 30 where none repeats."""
LOGIT_BYTES = 2
"""Half precision, of each class of the validation set."""
POINT_BYTES = 16
"""Of a sample at a point of a path: label, prediction and two probabilities."""
RECORD_BYTES = 16_000
"""The largest record of the committed reference has 15 kB."""
BESIDE_BYTES = 100_000
"""Curves, metrics of each class, plan, state and log, at most where all is well."""
BESIDE_FILES = ("spec.json", "place.json", "state.json", "log", "record.json")


@dataclass(frozen=True)
class Size:
    """Of one run, by estimate."""

    kept: int
    """Bytes of the finished run, kept as `--keep final` does."""
    passing: int
    """Bytes of checkpoints while it is trained, at most; 0 where nothing is."""
    inodes: int
    """Files and folders of the finished run."""


def towers(method: "type[Method[Any, Any]]", spec: RunSpec) -> int:
    """How many towers a run trains: 0, 1 or 2."""
    from ...methods.two_tower import TwoTowerMethod

    both = issubclass(method, TwoTowerMethod) and spec.trainable == "all"
    return 0 if not method.trained else 2 if both else 1


def has_teacher(method: "type[Method[Any, Any]]") -> bool:
    """Whether a copy of the student is trained along, or stays beside it."""
    from ...methods.base import Method

    return method.teacher is not Method.teacher


def seen(card: "DatasetCard", spec: RunSpec) -> dict[str, int]:
    """Set -> images that a run is evaluated on; 0 where the card does not know."""
    sets = [entry for entry in card.sets if spec.kind == "run" or entry.role == "validation"]
    return {entry.name: min(entry.expected or 0, spec.limit or entry.expected or 0) for entry in sets}


def predictors(method: "type[Method[Any, Any]]", spec: RunSpec) -> int:
    """How many are shown every image: the run's own, and those along its path."""
    from ...methods.wise_ft import ALPHAS

    return 1 + (len(ALPHAS) if method.path and spec.kind == "run" else 0)


def of_run(spec: RunSpec, method: "type[Method[Any, Any]]", cost: "Cost", card: "DatasetCard") -> Size:
    """What a run will take.

    Args:
        cost: of its backbone.
        card: of what it is evaluated on.
    """
    classes, sets, trained = len(card.class_names), seen(card, spec), towers(method, spec)
    text = cost.parameters - cost.image_parameters if trained == 2 else 0
    tower = cost.image_parameters + classes * (cost.embed_dim + 1)
    kept = FLOAT * (tower + (text if spec.kind == "run" else 0)) + RECORD_BYTES + BESIDE_BYTES
    kept += sum(sets.values()) * (SAMPLE_BYTES + POINT_BYTES * (predictors(method, spec) - 1))
    kept += LOGIT_BYTES * classes * sum(sets[name] for name in card.names("validation") if name in sets)
    copies = 3 + has_teacher(method)  # student, both moments, teacher
    passing = CHECKPOINTS * FLOAT * copies * (cost.parameters if trained == 2 else tower) if trained else 0
    return Size(kept, passing, inodes(spec, method, sets))


def inodes(spec: RunSpec, method: "type[Method[Any, Any]]", sets: Collection[str]) -> int:
    """Files and folders: the run's own, `weights`, `predictions`, and what lies in them."""
    files = len(BESIDE_FILES) + 3  # curves, final weights, and what is said of them
    files += spec.kind == "run" and towers(method, spec) == 2  # the text tower
    files += spec.kind == "run"  # metrics of each class
    files += len(sets) * (2 if predictors(method, spec) > 1 else 1)
    return files + 3
