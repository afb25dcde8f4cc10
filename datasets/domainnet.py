"""DomainNet: 345 classes in six domains; trained on photographs, tested on five other ways to draw a thing.

Below the data root, the cleaned version with its own lists:

    domainnet/<domain>/<class>/<image>            also domain_net or DomainNet
    domainnet/<domain>_train.txt, _test.txt       also in domainnet/txt or domainnet/splits; a line: path, space, label

Trained on is `real_train.txt`, without the tenth that has the smallest sha256 of the path, which is what choices are
made on; the in-distribution test is `real_test.txt`, the shifts are the test lists of the other domains. Lists are as
published: nothing is drawn anew. Class numbers are those of the lists, checked line by line against the class folders.

Sources: classes in the order of the lists and counts of each list, tensorflow/datasets:tensorflow_datasets/
image_classification/domainnet/domainnet.py and docs/catalog/domainnet.md (the cleaned version); Peng et al. 2019.
"""

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from .card import DataError, EvalSet, MissingData
from .image_folders import Source
from .image_sets import lowest_by_hash
from .listed import ListedData, Split

FOLDERS: tuple[str, ...] = tuple(json.loads(Path(__file__).with_name("domainnet_names.json").read_text("utf-8")))
"""Class folders, by class number."""
TRAIN = 120_906
TESTS = {
    "real": 52_041,
    "clipart": 14_604,
    "infograph": 15_582,
    "painting": 21_850,
    "quickdraw": 51_750,
    "sketch": 20_916,
}
"""Domain -> images of its test list."""
WITHHELD = round(TRAIN / 10)
SUPPLIER = (
    "the cleaned version of DomainNet (ai.bu.edu/M3SDA: the zip of each domain, of clipart and painting those in "
    "groundtruth/) with its lists <domain>_train.txt and <domain>_test.txt"
)
_UNKNOWN = "the pretraining images are not public"
_MEASURES = {
    "clipart": "clip art",
    "infograph": "infographics, in which the thing stands among text and charts",
    "painting": "paintings",
    "quickdraw": "strokes of a drawing game",
    "sketch": "sketches",
}


class DomainNet(ListedData):
    """DomainNet from real photographs to the five other domains."""

    name, version = "domainnet", "domainnet-v1"
    summary = "345 classes, real photographs; clip art, infographics, paintings, quick drawings and sketches as shifts"
    class_names = tuple(folder.replace("_", " ") for folder in FOLDERS)
    prompts = ("a photo of a {}.",)
    split_sizes = {"real_train": TRAIN, **{f"{domain}_test": size for domain, size in TESTS.items()}}
    trained = TRAIN - WITHHELD
    protocol = "a tenth of real_train by sha256 of the path is validation; tests are the published lists"
    sets = (
        EvalSet("validation", "validation", "a tenth of real_train, by hash; every choice is made here", _UNKNOWN,
                "yes, other images", expected=WITHHELD),
        EvalSet("real", "id", "photographs, the test list", _UNKNOWN, "yes, other images", expected=TESTS["real"]),
        *(EvalSet(domain, "shift", about, _UNKNOWN, "no", expected=TESTS[domain])
          for domain, about in _MEASURES.items()),
    )  # fmt: skip
    source = Source("domainnet", ("domainnet", "domain_net", "DomainNet"), TRAIN + sum(TESTS.values()), 345, SUPPLIER)

    def read_split(self, name: str) -> Split:
        """A list as it was published; DataError where a line is none, or names another class than its folder."""
        places = [self.folder / sub / f"{name}.txt" for sub in ("", "txt", "splits")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise MissingData(f"{self.name}: no list {places[0]} (nor in txt or splits beside it); get {SUPPLIER}.")
        files, labels = [], []
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
            file, _, number = line.rpartition(" ")
            folder, label = file.split("/")[1:2], int(number) if number.isdigit() else -1
            if not (0 <= label < len(FOLDERS)) or folder != [FOLDERS[label]]:
                raise DataError(
                    f"{self.name}: {path} has the line {line!r}, which should be domain/class/image, space, number of "
                    "the class; take the list from where the images are from."
                )
            files.append(file.encode())
            labels.append(label)
        return Split(np.array(files, dtype=bytes), np.array(labels, dtype=np.int64))

    def part(self, name: str) -> tuple[str, np.ndarray]:
        """Of real_train the withheld tenth or what is left; of other lists all."""
        if name in ("train", "validation"):
            return "real_train", self._withheld if name == "validation" else ~self._withheld
        return f"{name}_test", np.ones(len(self.split(f"{name}_test").files), dtype=bool)

    @cached_property
    def _withheld(self) -> np.ndarray:
        """(images of real_train on disk,) bool; of a partial copy a tenth of what is there."""
        names = [file.decode() for file in self.split("real_train").files]
        return lowest_by_hash(names, np.zeros(len(names), dtype=np.int64), lambda size: round(size / 10))
