"""ImageNet with one more shift: ImageNet-C, fifteen corruptions of its validation images at five severities.

Below the data root, beside what `imagenet` needs:

    imagenet-c/<corruption>/<severity>/<wnid>/<image>     also ImageNet-C or imagenet_c, and with the archives' families
                                                          (noise, blur, weather, digital) above the corruptions

The set has every image of all 75, corruption by corruption and by rising severity, so its accuracy is the mean over
corruptions and severities: 1 minus the unnormalised mean corruption error, which is not divided by AlexNet's. ECE and
likelihood are over all images at once. A sample's id is its path; what it was taken from is the validation image, so
that statistics resample the 50,000 source images and not their copies. Its group is the corruption. The four extra
corruptions (speckle noise, Gaussian blur, spatter, saturate) are for validation and left out.

Source: Hendrycks & Dietterich 2019; names and folders, hendrycks/robustness:ImageNet-C/test.py.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from .card import DataError, DatasetCard, EvalSet, MissingData
from .image_folders import Source, Tree, relabel, scan
from .image_sets import ImageSet, TreesPictures
from .imagenet import CLASSES, ImageNet
from .imagenet_metadata import imagenet_synsets

VERSION, SET = "imagenet-c-v1", "imagenet_c"
CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""Family, which is also an archive -> its corruptions."""
SEVERITIES = (1, 2, 3, 4, 5)
IMAGES = 50_000
CELLS = sum(map(len, CORRUPTIONS.values())) * len(SEVERITIES)
_SUPPLIER = "ImageNet-C from Dan Hendrycks' archives noise, blur, weather and digital (zenodo.org/record/2235448)"


class ImageNetC(ImageNet):
    """`imagenet`, trained alike, with ImageNet-C as a sixth shift."""

    name = "imagenet_c"

    def _made_card(self) -> DatasetCard:
        card = super()._made_card()
        corrupted = EvalSet(
            SET, "shift", "the validation images under 15 corruptions at 5 severities: mean over all 75",
            "the pretraining images are not public", "no", expected=CELLS * IMAGES,
        )  # fmt: skip
        about = [card.fingerprint, VERSION, CORRUPTIONS, SEVERITIES, IMAGES]
        return replace(
            card,
            version=VERSION,
            summary=f"{card.summary}, with ImageNet-C as a sixth",
            sets=(*card.sets, corrupted),
            fingerprint=hashlib.sha256(json.dumps(about).encode()).hexdigest(),
        )

    def eval_data(self, name: str) -> ImageSet:
        """The evaluation set of that name; DataError where there is none, or it is not what it should be."""
        return self._corrupted() if name == SET else super().eval_data(name)

    def _corrupted(self) -> ImageSet:
        base = Source(SET, ("imagenet-c", "ImageNet-C", "imagenet_c"), CELLS * IMAGES, CLASSES, _SUPPLIER)
        found, known = base.find(self.root), imagenet_synsets()
        cells: dict[str, tuple[Tree, np.ndarray]] = {}
        for family, corruptions in CORRUPTIONS.items():
            for corruption in corruptions:
                for severity in SEVERITIES:
                    cell = f"{corruption}/{severity}"
                    source = Source(f"{SET} {cell}", (cell, f"{family}/{cell}"), IMAGES, CLASSES, _SUPPLIER)
                    tree = self._cell(source, found)
                    if tree is None:
                        continue
                    labels = relabel(tree, source.name, known)
                    source.check(tree, labels, known, self.allow_partial)
                    cells[cell] = tree, labels
        if not cells:
            raise MissingData(f"{SET}: no corruption in {found}; get {_SUPPLIER}.")
        trees = tuple(tree for tree, _ in cells.values())
        self._check_same_images(tuple(cells), trees)
        units: dict[str, str] = {}  # of each source image one text, that all its copies share
        names = (tree.name(i) for tree in trees for i in range(len(tree)))
        groups = [cell.partition("/")[0] for cell, (tree, _) in cells.items() for _ in range(len(tree))]
        every = np.concatenate([labels for _, labels in cells.values()])
        unit_ids = [units.setdefault(name, name) for name in names]
        about = {"expected": CELLS * IMAGES, "unit_ids": unit_ids, "groups": groups}
        return self.image_set(SET, TreesPictures.of(tuple(cells), trees), every, **about)

    def _cell(self, source: Source, base: Path) -> Tree | None:
        """The images of a corruption at a severity; None where it is not there and may be missing."""
        try:
            return scan(source.find(base))
        except MissingData:
            if not self.allow_partial:
                raise
            return None

    def _check_same_images(self, cells: tuple[str, ...], trees: tuple[Tree, ...]) -> None:
        """DataError where two cells are not of the same images: a mean over corruptions would be of other things."""
        first = trees[0]
        for cell, tree in zip(cells, trees, strict=True):
            same = (tree.classes, tree.files.tolist()) == (first.classes, first.files.tolist())
            if not same and not self.allow_partial:
                raise DataError(
                    f"{SET}: {cell} has other images than {cells[0]}; unpack the archive again, or pass "
                    "--allow-partial to run on what is there."
                )
