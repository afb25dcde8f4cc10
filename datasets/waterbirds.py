"""Waterbirds: land and water birds on backgrounds that go with the bird in 95 % of the training images.

Below the data root, as its archive unpacks (or as `wilds` names it), with `metadata.csv` inside:

    waterbird_complete95_forest2water2/metadata.csv     columns img_filename, y (1: waterbird), place (1: water), split
    waterbird_complete95_forest2water2/<species>/...

A group is bird and background. The test images, whose backgrounds do not depend on the bird, are the shift, judged by
the worst group. Departures: of each group of train, two tenths by hash are held out, one for every choice and one as
the in-distribution test, because nothing else has the training images' distribution. The published validation images
are balanced like the test images: to choose on them would be to look at the shift, so they are not used.
"""

import csv
from functools import cached_property

import numpy as np

from .card import DataError, EvalSet
from .image_folders import Source
from .image_sets import lowest_by_hash
from .listed import ListedData, Split

CLASSES = ("landbird", "waterbird")
PLACES = ("land", "water")
GROUPS = tuple(f"{bird} on {place}" for bird in CLASSES for place in PLACES)
TRAIN_GROUPS = (3498, 184, 56, 1057)
"""Images of each group of train (wilds: wilds/datasets/waterbirds_dataset.py, from which it weights its mean)."""
TEST = 5794
"""Test images: 2255, 2255, 642 and 642 of the groups, as the code that goes with the paper lists them."""
HELD_OUT = sum(round(size / 10) for size in TRAIN_GROUPS)
_SPLITS = {"train": "0", "test": "2"}
_UNKNOWN = "the pretraining images are not public"


class Waterbirds(ListedData):
    """Waterbirds with two tenths of train held out; see above."""

    name, version = "waterbirds", "waterbirds-v1"
    summary = "land and water birds on backgrounds that mostly go with them; backgrounds that do not, worst group"
    class_names = CLASSES
    prompts = ("a photo of a {}.",)
    split_sizes = {"train": sum(TRAIN_GROUPS), "test": TEST}
    trained = sum(TRAIN_GROUPS) - 2 * HELD_OUT
    protocol = "two tenths of each group of train by sha256 of the path: the first validation, the second id"
    sets = (
        EvalSet("validation", "validation", "a tenth of each group of train, by hash; every choice is made here",
                _UNKNOWN, "yes, other images", "accuracy", HELD_OUT),
        EvalSet("id", "id", "another tenth of each group of train, by hash", _UNKNOWN, "yes, other images", "accuracy",
                HELD_OUT),
        EvalSet("test", "shift", "backgrounds that do not depend on the bird, by bird and background", _UNKNOWN,
                "in 5 % of the images", "worst_group_accuracy", TEST),
    )  # fmt: skip
    source = Source(
        "waterbirds",
        ("waterbird_complete95_forest2water2", "waterbirds_v1.0", "waterbirds", "wilds/waterbirds_v1.0"),
        sum(TRAIN_GROUPS) + TEST,
        len(CLASSES),
        "waterbird_complete95_forest2water2.tar.gz from nlp.stanford.edu/data/dro (Sagawa et al. 2020)",
    )

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        path = self.folder / "metadata.csv"
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.name}: {path} cannot be read ({error}); unpack the archive again.") from None
        for row in rows:
            known = {"y": "01", "place": "01", "split": "012"}
            wrong = next((key for key, values in known.items() if (row.get(key) or " ") not in values), None)
            if wrong or not row.get("img_filename"):
                raise DataError(
                    f"{self.name}: {path} needs {wrong or 'img_filename'} in each line, got {dict(row)}; unpack the "
                    "archive again."
                )
        return rows

    def read_split(self, name: str) -> Split:
        """The rows of metadata.csv that are of a split."""
        rows = [row for row in self._rows if row["split"] == _SPLITS[name]]
        files = np.array([row["img_filename"].encode() for row in rows], dtype=bytes)
        labels = np.array([int(row["y"]) for row in rows], dtype=np.int64)
        groups = np.array([GROUPS[2 * int(row["y"]) + int(row["place"])] for row in rows], dtype=object)
        return Split(files, labels, groups)

    def part(self, name: str) -> tuple[str, np.ndarray]:
        """Of train what is left, or a tenth; all of test."""
        if name == "test":
            return "test", np.ones(len(self.split("test").files), dtype=bool)
        first, second = self._held_out
        return "train", {"validation": first, "id": second}.get(name, ~(first | second))

    @cached_property
    def _held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """(images of train on disk,) bool twice: of each group a tenth, and the next tenth in the order of hashes."""
        train = self.split("train")
        names = [file.decode() for file in train.files]
        assert train.groups is not None
        groups = np.unique(train.groups.astype(str), return_inverse=True)[1]
        first = lowest_by_hash(names, groups, lambda size: round(size / 10))
        both = lowest_by_hash(names, groups, lambda size: 2 * round(size / 10))
        return first, both & ~first
