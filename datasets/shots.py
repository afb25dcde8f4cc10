"""Whether each class has the images that few shots need; how they are drawn is in `subset`."""

import numpy as np

from .card import DataError, Dataset


def to_choose_on(shots: int) -> int:
    """Validation images of each class beside few shots: as many, and at most four.

    Source: CoOp's splits, KaiyangZhou/CoOp:datasets/oxford_pets.py and its like.
    """
    return min(shots, 4)


def rarest(data: Dataset) -> tuple[str, int]:
    """The first class that has the fewest training images, and how many."""
    names = data.card.class_names
    counts = np.bincount(data.train_labels(), minlength=len(names))
    return names[int(counts.argmin())], int(counts.min())


def check_shots(data: Dataset, shots: int) -> None:
    """DataError where a class has fewer training images than there are shots."""
    name, count = rarest(data)
    if count < shots:
        raise DataError(few_text(name, count, shots, data.card.name))


def few_text(name: str, count: int, shots: int, dataset: str) -> str:
    """The sentence on a class that has fewer images than there are shots."""
    return (
        f"shots: must be at most {count}, the training images of class {name!r} of {dataset}, got {shots}; lower it, "
        "or add images."
    )
