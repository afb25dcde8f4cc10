"""ImageNet, finetuned on and in-distribution, and its five shifts.

Below the data root (first name that exists; the others are layouts of earlier code):

    ILSVRC2012/train/<wnid>                     imagenet/train, imagenet-1k/train, ILSVRC/Data/CLS-LOC/train
    ILSVRC2012/val_dirs/<wnid>                  ILSVRC2012/val, imagenet/val_in_folder, imagenet/val, imagenet-1k/val,
                                                ILSVRC/Data/CLS-LOC/val
    imagenetv2-matched-frequency-format-val/<0..999>
    imagenet-r/<wnid>   imagenet-a/<wnid>   sketch/<wnid>   objectnet-1.0/images/<name> with objectnet-1.0/mappings

Each of these folders may hold shards in place of class folders (`shards`), with the same samples and bits. Train and
validation are also found as imagenet-1k/data/*.parquet and imagenet-1k-wds/*.tar, as the hub gives them out.

Of every class, the 26 training images whose "<wnid>/<file>" has the smallest sha256 are withheld as ID validation:
the size that model soups use. It is a rule and not a list that ships with the package, because a list could not be
checked against images that are not here; the first run writes the list beside the runs. The ID test set is ImageNet's
validation set, as everywhere in this line of work.
"""

import hashlib
import json
import os
from functools import cached_property
from typing import Any

import numpy as np

from .card import DataError, DatasetCard, EvalSet
from .decoding import Decode
from .image_folders import Source, Tree, relabel
from .image_sets import ImageSet, TrainsOnPictures, TreePictures, lowest_by_hash
from .imagenet_metadata import imagenet_names, imagenet_prompts, imagenet_subset, imagenet_synsets
from .objectnet import BORDER, read_maps
from .projection import Projection

VERSION = "imagenet-v1"
WITHHELD_PER_CLASS = 26
CLASSES = 1000

_SYNSETS = imagenet_synsets()
_IMAGENET = "ILSVRC2012 (ImageNet-1k) from image-net.org"
SOURCES = {
    "train": Source("imagenet train", ("ILSVRC2012/train", "imagenet/train", "imagenet-1k/train",
                                       "ILSVRC/Data/CLS-LOC/train"),
                    1_281_167, CLASSES, f"the training images of {_IMAGENET}, one folder a wnid",
                    ("imagenet-1k/data/train-*.parquet", "imagenet-1k-wds/imagenet1k-train-*.tar"), _SYNSETS),
    "imagenet": Source("imagenet", ("ILSVRC2012/val_dirs", "ILSVRC2012/val", "imagenet/val_in_folder", "imagenet/val",
                                    "imagenet-1k/val", "ILSVRC/Data/CLS-LOC/val"),
                       50_000, CLASSES, f"the validation images of {_IMAGENET}, sorted into one folder a wnid",
                       ("imagenet-1k/data/validation-*.parquet", "imagenet-1k-wds/imagenet1k-validation-*.tar"),
                       _SYNSETS),
    "imagenet_v2": Source("imagenet_v2", ("imagenetv2-matched-frequency-format-val", "imagenet-v2"),
                          10_000, CLASSES, "ImageNetV2, matched-frequency variant, from its authors (modestyachts)"),
    "imagenet_r": Source("imagenet_r", ("imagenet-r",), 30_000, 200, "ImageNet-R from Dan Hendrycks' archive"),
    "imagenet_a": Source("imagenet_a", ("imagenet-a",), 7_500, 200, "ImageNet-A from Dan Hendrycks' archive"),
    "imagenet_sketch": Source("imagenet_sketch", ("sketch", "imagenet-sketch"),
                              50_889, CLASSES, "ImageNet-Sketch from its author (HaohanWang)"),
    "objectnet": Source("objectnet", ("objectnet-1.0/images",), 18_574, 113, "ObjectNet 1.0 from objectnet.dev"),
}  # fmt: skip
"""Where the images of each set are; ObjectNet's counts are of the 113 classes that ImageNet has too."""

_UNKNOWN = "the pretraining images are not public"


def _shift(name: str, measures: str) -> EvalSet:
    return EvalSet(name, "shift", measures, _UNKNOWN, "no", expected=SOURCES[name].images)


VALIDATION = EvalSet(
    "validation", "validation", "26 training images of each class, by hash; every choice is made here", _UNKNOWN,
    "yes, other images", expected=WITHHELD_PER_CLASS * CLASSES,
)  # fmt: skip
SETS = (
    EvalSet("imagenet", "id", "ImageNet's validation images", _UNKNOWN, "yes, other images", expected=50_000),
    _shift("imagenet_v2", "new images, collected like ImageNet's (matched frequency)"),
    _shift("imagenet_r", "art, cartoons, toys and other renditions; 200 classes"),
    _shift("imagenet_a", "photos that an older network got wrong; 200 classes"),
    _shift("imagenet_sketch", "black and white sketches"),
    _shift("objectnet", "household objects in unusual poses and rooms; 113 classes, best of their ImageNet classes"),
)


class ImageNet(TrainsOnPictures):
    """ImageNet-1k with ID validation withheld from training, and five shifts.

    Args:
        root: the data root; None takes the environment's.
        allow_partial: run on a tree that lacks images; what was found is in `found`. Folders of unknown classes are
            refused all the same.
        withhold: False trains on all images; then there is no validation set to choose anything on.
        size: side of the pictures in pixels.
        decode: how they are made, see `pixels`.
    """

    name, randomness = "imagenet", VERSION
    expected = SOURCES["train"].images

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The wnid of each class: what a name that stands for two classes can be replaced with."""
        return imagenet_synsets()

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, allow_partial: bool = False, withhold: bool = True,
        size: int = 224, decode: Decode = "exact",
    ) -> None:  # fmt: skip
        self.root, self.allow_partial, self.withholds = root, allow_partial, withhold
        self.size, self.decode = size, decode

    @cached_property
    def card(self) -> DatasetCard:
        """The card; needs no image. Its fingerprint covers names, prompts, protocol and counts, not pixels."""
        return self._made_card()

    def _made_card(self) -> DatasetCard:
        sets = (VALIDATION, *SETS) if self.withholds else SETS
        about = self.name, VERSION, self._summary(), imagenet_names(), imagenet_prompts(), sets
        protocol = {
            "synsets": imagenet_synsets(),
            "columns": {which: imagenet_subset(which) for which in ("r", "a")},
            "withheld": f"{WITHHELD_PER_CLASS} smallest sha256 of wnid/file a class" if self.withholds else "none",
            "images": {name: source.images for name, source in SOURCES.items()},
            "views": f"bicubic, centre crop {self.size}; random resized crop 0.9 to 1, no flip",
            "objectnet": "maximum over ImageNet ids, border of 2 pixels cut",
        }
        parts = [VERSION, self.name, about[3], about[4], [s.name for s in sets], protocol]
        return DatasetCard(*about, fingerprint=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())

    def _summary(self) -> str:
        held = f"{WITHHELD_PER_CLASS} images a class (smallest sha256 of wnid/file) withheld as ID validation"
        return f"ImageNet-1k, five shifts; {held if self.withholds else 'all of train is trained on, no ID validation'}"

    @cached_property
    def train_size(self) -> int:
        """Images trained on: as they should be; in a partial tree, as they are."""
        if self.allow_partial:
            return len(self.train_labels())
        return self.expected - (WITHHELD_PER_CLASS * CLASSES if self.withholds else 0)

    @property
    def found(self) -> int:
        """Training images on disk, the withheld ones among them; `expected` is how many there should be."""
        return len(self._train[0])

    def eval_data(self, name: str) -> ImageSet:
        """The evaluation set of that name.

        Raises:
            DataError: there is no such set, its folder is missing, or what is in it is not what it should be.
        """
        if name not in {s.name for s in self.card.sets}:
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(s.name for s in self.card.sets)}.")
        if name == "validation":
            tree, labels = self._train
            pictures = TreePictures(tree.take(np.flatnonzero(self._withheld)))
            return self.image_set(name, pictures, labels[self._withheld], expected=VALIDATION.expected)
        if name == "objectnet":
            return self._objectnet()
        which = {"imagenet_r": "r", "imagenet_a": "a"}.get(name)
        columns = imagenet_subset(which) if which else range(CLASSES)
        # ImageNetV2's folders are class numbers. Sorted as text they would be 0, 1, 10, 100, ...: another order.
        known = [str(c) if name == "imagenet_v2" else imagenet_synsets()[c] for c in columns]
        tree, labels = self._checked(SOURCES[name], known)
        projection = Projection.subset(columns) if which else None
        expected = SOURCES[name].images
        return self.image_set(name, TreePictures(tree), labels, expected=expected, projection=projection)

    def _checked(self, source: Source, known: list[str]) -> tuple[Tree, np.ndarray]:
        """All images of a source and their labels, positions in `known`; DataError where they are not complete."""
        tree = source.scan(self.root)
        labels = relabel(tree, source.name, known)
        source.check(tree, labels, known, self.allow_partial)
        return tree, labels

    @cached_property
    def _train(self) -> tuple[Tree, np.ndarray]:
        return self._checked(SOURCES["train"], list(imagenet_synsets()))

    @cached_property
    def _withheld(self) -> np.ndarray:
        """(images on disk,) bool. Of a class with few images (a partial tree) at most half is withheld."""
        tree, labels = self._train
        if not self.withholds:
            return np.zeros(len(tree), dtype=bool)
        names = [tree.name(i) for i in range(len(tree))]
        return lowest_by_hash(names, labels, lambda size: min(WITHHELD_PER_CLASS, size // 2))

    @cached_property
    def _trained(self) -> tuple[TreePictures, np.ndarray]:
        """Pictures and labels that are trained on; made with the labels, so that workers inherit the file list."""
        tree, labels = self._train
        rows = np.flatnonzero(~self._withheld)
        return TreePictures(tree.take(rows)), labels[rows]

    def _objectnet(self) -> ImageSet:
        source = SOURCES["objectnet"]
        tree = source.scan(self.root)
        maps = read_maps(tree.folder.parent / "mappings")
        known = [*maps.folders, *sorted(maps.all_folders - set(maps.folders))]
        everything = relabel(tree, source.name, known)
        kept = np.flatnonzero(everything < len(maps.folders))
        tree, labels = tree.take(kept), everything[kept]
        source.check(tree, labels, maps.folders, self.allow_partial)
        pictures = TreePictures(tree, BORDER)
        return self.image_set(source.name, pictures, labels, expected=source.images, projection=maps.projection)


class ImageNetFullTrain(ImageNet):
    """ImageNet as the papers train on it: all of train, and so no validation set."""

    name = "imagenet_full_train"

    def __init__(self, root: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__(root, withhold=False, **options)
