"""ImageNet, finetuned on and in-distribution, and its five shifts (spec.md 2.1 to 2.6).

Below the data root (first name that exists; the others are layouts of earlier code):

    ILSVRC2012/train/<wnid>                     imagenet/train, imagenet-1k/train
    ILSVRC2012/val_dirs/<wnid>                  ILSVRC2012/val, imagenet/val_in_folder, imagenet/val, imagenet-1k/val
    imagenetv2-matched-frequency-format-val/<0..999>
    imagenet-r/<wnid>   imagenet-a/<wnid>   sketch/<wnid>   objectnet-1.0/images/<name> with objectnet-1.0/mappings

Of every class, the 26 training images whose "<wnid>/<file>" has the smallest sha256 are withheld as ID validation:
the size that model soups use, by a rule instead of a list, so that it can be checked without the images. The ID test
set is ImageNet's validation set, as everywhere in this line of work.
"""

import hashlib
import json
import os
from functools import cached_property

from .card import DatasetCard, EvalSet
from .shipped import imagenet_names, imagenet_prompts, imagenet_subset, imagenet_synsets
from .trees import Source

VERSION = "imagenet-v1"
WITHHELD_PER_CLASS = 26
CLASSES = 1000

_IMAGENET = "ILSVRC2012 (ImageNet-1k) from image-net.org"
SOURCES = {
    "train": Source("imagenet train", ("ILSVRC2012/train", "imagenet/train", "imagenet-1k/train"),
                    1_281_167, CLASSES, f"the training images of {_IMAGENET}, one folder a wnid"),
    "imagenet": Source("imagenet", ("ILSVRC2012/val_dirs", "ILSVRC2012/val", "imagenet/val_in_folder", "imagenet/val",
                                    "imagenet-1k/val"),
                       50_000, CLASSES, f"the validation images of {_IMAGENET}, sorted into one folder a wnid"),
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


class ImageNet:
    """ImageNet-1k with ID validation withheld from training, and five shifts.

    Args:
        root: the data root; None takes the environment's.
        allow_partial: run on a tree that lacks images; what was found is in `found`. Folders of unknown classes are
            refused all the same.
        withhold: False trains on all images; then there is no validation set to choose anything on.
        size: side of the pictures in pixels.
    """

    name = "imagenet"

    def __init__(
        self, root: str | os.PathLike | None = None, *, allow_partial: bool = False, withhold: bool = True,
        size: int = 224,
    ) -> None:  # fmt: skip
        self.root, self.allow_partial, self.withhold, self.size = root, allow_partial, withhold, size
        self.expected = SOURCES["train"].images

    @cached_property
    def card(self) -> DatasetCard:
        """The card; needs no image. Its fingerprint covers names, prompts, protocol and counts, not pixels."""
        sets = (VALIDATION, *SETS) if self.withhold else SETS
        about = self.name, VERSION, self._summary(), imagenet_names(), imagenet_prompts(), sets
        protocol = {
            "synsets": imagenet_synsets(),
            "columns": {which: imagenet_subset(which) for which in ("r", "a")},
            "withheld": f"{WITHHELD_PER_CLASS} smallest sha256 of wnid/file a class" if self.withhold else "none",
            "images": {name: source.images for name, source in SOURCES.items()},
            "views": f"bicubic, centre crop {self.size}; random resized crop 0.9 to 1, no flip",
            "objectnet": "maximum over ImageNet ids, border of 2 pixels cut",
        }
        parts = [VERSION, self.name, about[3], about[4], [s.name for s in sets], protocol]
        return DatasetCard(*about, fingerprint=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())

    def _summary(self) -> str:
        held = f"{WITHHELD_PER_CLASS} images a class (smallest sha256 of wnid/file) withheld as ID validation"
        return f"ImageNet-1k, five shifts; {held if self.withhold else 'all of train is trained on, no ID validation'}"

    @cached_property
    def train_size(self) -> int:
        """Images trained on: as they should be; in a partial tree, as they are."""
        if self.allow_partial:
            return len(self.train_labels())
        return self.expected - (WITHHELD_PER_CLASS * CLASSES if self.withhold else 0)


class ImageNetFullTrain(ImageNet):
    """ImageNet as the papers train on it: all of train, and so no validation set."""

    name = "imagenet_full_train"

    def __init__(self, root: str | os.PathLike | None = None, *, allow_partial: bool = False, size: int = 224) -> None:
        super().__init__(root, allow_partial=allow_partial, withhold=False, size=size)
