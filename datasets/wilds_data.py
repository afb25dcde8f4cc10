"""iWildCam, FMoW and Camelyon17 of WILDS, through the `wilds` package.

The package reads metadata and splits; accuracy by group is computed by whoever evaluates, from `groups`, because the
package's own needs an extra compiled library. Training is on `train`, choices on `id_val`.
"""

import hashlib
import json
import os
import sys
import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from .card import DataError, DatasetCard, EvalSet, MissingData
from .decoding import Decode, read
from .image_folders import Source
from .image_sets import ImageSet, TrainsOnPictures
from .listed import on_disk
from .torchvision_ops import declare_missing_operators

_NAMES = json.loads(Path(__file__).with_name("wilds_names.json").read_text(encoding="utf-8"))
"""iWildCam's English names, lower case, by label (mlfoundations/wise-ft: iwildcam_metadata/labels.csv; some occur
twice); FMoW's 62 categories as the package lists them."""
_UNKNOWN = "the pretraining images are not public"


def import_wilds() -> ModuleType:
    """The `wilds` package, without the request that it makes when it is imported.

    It asks the network for its newest version in a thread that the interpreter waits for at exit, unless the package
    `outdated` is missing; so that one is missing while `wilds` is imported.
    """
    if "wilds" not in sys.modules:
        before, limit = sys.modules.get("outdated"), Image.MAX_IMAGE_PIXELS
        hidden: dict[str, Any] = {"outdated": None}
        sys.modules.update(hidden)
        declare_missing_operators()  # wilds imports torchvision
        try:
            import_module("wilds")
            # The module of FMoW lifts Pillow's limit on the size of images for the whole process.
            import_module("wilds.datasets.fmow_dataset")
        except (ImportError, RuntimeError) as error:
            raise DataError(f"wilds: cannot be imported ({error}); install robustft[wilds].") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            sys.modules.pop("outdated")
            if before is not None:
                sys.modules["outdated"] = before
    return sys.modules["wilds"]


@dataclass(frozen=True, slots=True)
class WildsPictures:
    """Some images of a dataset of the package, by its row numbers."""

    package: Any
    rows: np.ndarray
    files: np.ndarray
    """(all rows,) paths below the dataset's folder, for names and messages."""

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        """The file's path below the dataset's folder."""
        return str(self.files[self.rows[i]])

    def path(self, i: int) -> str:
        """Its file."""
        return f"{self.package.data_dir}/{self.name(i)}"

    def open(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8: image i in RGB (the package leaves iWildCam's as they are)."""
        return read(self.path(i), self.path(i))


@dataclass(frozen=True, slots=True)
class Part:
    """One split of the package as a set of the card."""

    set: EvalSet
    split: str
    half: int | None = None
    """Of a split that is cut in two by slide: 0 selects, 1 reports."""


class WildsData(TrainsOnPictures):
    """One WILDS dataset.

    Args:
        root: the data root; `<name>_v<version>` is looked for in it and in its subfolder `wilds`.
        allow_partial: run on a copy that lacks images; what was found is in `found`.
        size: side of the pictures in pixels.
        decode: how they are made, see `pixels`.
    """

    name: str
    release: str
    summary: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    sets: tuple[Part, ...]
    split_sizes: dict[str, int]
    """Images of each split of the package that is used, `train` among them."""
    protocol: str
    megabytes: int
    """Size of the download."""
    expected: int

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, allow_partial: bool = False, size: int = 224,
        decode: Decode = "exact",
    ) -> None:  # fmt: skip
        self.root, self.allow_partial, self.size, self.decode = root, allow_partial, size, decode
        self.expected = self.split_sizes["train"]
        self.randomness = f"{self.name}-v{self.release}-1"

    @cached_property
    def card(self) -> DatasetCard:
        """The card; needs no image. Its fingerprint covers names, prompts, protocol and counts, not pixels."""
        version, sets = self.randomness, tuple(part.set for part in self.sets)
        cut = [[p.set.name, p.set.metric, p.split, p.half] for p in self.sets]
        views = f"bicubic, centre crop {self.size}; random resized crop 0.9 to 1, no flip"
        parts = [version, self.class_names, self.prompts, cut, self.split_sizes, self.protocol, views]
        fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return DatasetCard(self.name, version, self.summary, self.class_names, self.prompts, sets, fingerprint)

    @cached_property
    def train_size(self) -> int:
        """Images trained on: as they should be; in a partial copy, as they are."""
        return len(self.train_labels()) if self.allow_partial else self.expected

    @property
    def source(self) -> Source:
        """Where the dataset is looked for and who gives it out."""
        folder = f"{self.name}_v{self.release}"
        supplier = f"{folder} ({self.megabytes / 1000:.1f} GB) from the WILDS benchmark's CodaLab bundles"
        return Source(self.name, (folder, f"wilds/{folder}"), sum(self.split_sizes.values()), len(self.class_names),
                      supplier)  # fmt: skip

    @property
    def found(self) -> int:
        """Training images on disk; `expected` is how many there should be."""
        return len(self._rows("train"))

    def eval_data(self, name: str) -> ImageSet:
        """The evaluation set of that name; DataError where there is none, or it is not complete."""
        part = next((p for p in self.sets if p.set.name == name), None)
        if part is None:
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(p.set.name for p in self.sets)}.")
        split = self._rows(part.split)
        rows = split if part.half is None else self.halves(split)[part.half]
        if len(rows) == 0:
            raise MissingData(f"{self.name}: {name} has no images in {self._folder}; get {self.source.supplier}.")
        return self.image_set(
            name, WildsPictures(self._package, rows, self._files), self._labels[rows], found=len(split),
            expected=self.split_sizes[part.split], unit_ids=self.units(rows), groups=self.groups(rows),
        )  # fmt: skip

    def units(self, rows: np.ndarray) -> list[str] | None:
        """What the images at these rows were taken from, where several come from one; None: each is its own."""
        return None

    def groups(self, rows: np.ndarray) -> list[str] | None:
        """The group of each image, "" for none; None: there are no groups."""
        return None

    def halves(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a split that select, and rows that report."""
        raise NotImplementedError

    def file_names(self) -> list[str]:
        """Path below the dataset's folder of every row of the package."""
        raise NotImplementedError

    def field(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) int64: a field of the package's metadata."""
        return self._package.metadata_array[:, self._package.metadata_fields.index(name)].numpy()[rows]

    @cached_property
    def _folder(self) -> Path:
        return self.source.find(self.root)

    @cached_property
    def _package(self) -> Any:
        release = self._folder / f"RELEASE_v{self.release}.txt"
        if not release.is_file():
            raise DataError(f"{self.name}: no file {release}; unpack the whole of {self.source.supplier}.")
        wilds = import_wilds()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about groupers that are not used and arrays that are not written to
                return wilds.get_dataset(
                    self.name, version=self.release, root_dir=str(self._folder.parent), download=False
                )
        except (AssertionError, LookupError, TypeError, ValueError, OSError) as error:
            raise DataError(
                f"{self.name}: the metadata in {self._folder} cannot be read ({type(error).__name__}: {error}); "
                "unpack the archive again."
            ) from None

    @cached_property
    def _labels(self) -> np.ndarray:
        labels = self._package.y_array.numpy().astype(np.int64)
        wrong = labels[(labels < 0) | (labels >= len(self.class_names))]
        if len(wrong):
            raise DataError(
                f"{self.name}: the metadata in {self._folder} has {len(wrong)} labels outside 0.."
                f"{len(self.class_names) - 1}, first {wrong[0]}; unpack the archive again."
            )
        return labels

    @cached_property
    def _files(self) -> np.ndarray:
        return np.array(self.file_names())

    @cached_property
    def _on_disk(self) -> np.ndarray:
        """(all rows,) bool."""
        return on_disk(self._folder, self._files)

    def _rows(self, split: str) -> np.ndarray:
        """Row numbers of a split's images that are on disk; DataError where some are not, unless told to go on."""
        package, expected = self._package, self.split_sizes[split]
        rows = np.flatnonzero(np.asarray(package.split_array) == package.split_dict[split])
        there = rows[self._on_disk[rows]]
        if len(there) != expected and not self.allow_partial:
            missing = rows[~self._on_disk[rows]]
            first = f", {self._files[missing[0]]} is missing" if len(missing) else ""
            raise DataError(
                f"{self.name}: expected {expected} images of split {split} in {self._folder}, found "
                f"{len(there)}{first}; unpack the archive again, or pass --allow-partial to run on what is there."
            )
        return there

    @cached_property
    def _trained(self) -> tuple[WildsPictures, np.ndarray]:
        rows = self._rows("train")
        return WildsPictures(self._package, rows, self._files), self._labels[rows]


class IWildCam(WildsData):
    """Animals at camera traps; the shift is to traps that training never saw. Macro-F1."""

    name, release = "iwildcam", "2.0"
    summary = "182 animals at camera traps, other traps as the shift (WILDS)"
    class_names = tuple(_NAMES["iwildcam"])
    prompts = ("a photo of {}.", "{} in the wild.")
    split_sizes = {"train": 129_809, "id_val": 7_314, "id_test": 8_154, "test": 42_791}
    protocol, megabytes = "names lower case", 11_957
    sets = (
        Part(EvalSet("validation", "validation", "traps of training, other days; every choice is made here", _UNKNOWN,
                     "yes, other images", "macro_f1", 7_314), "id_val"),
        Part(EvalSet("id", "id", "traps of training, other days", _UNKNOWN, "yes, other images", "macro_f1", 8_154),
             "id_test"),
        Part(EvalSet("ood", "shift", "48 traps that training never saw", _UNKNOWN, "no", "macro_f1", 42_791), "test"),
    )  # fmt: skip

    def units(self, rows: np.ndarray) -> list[str]:
        """The burst of pictures that one animal set off."""
        return [f"sequence {s}" for s in self.field("sequence", rows)]

    def file_names(self) -> list[str]:
        """All splits lie in one folder, `train`."""
        return [f"train/{name}" for name in self._package._input_array]


class FMoW(WildsData):
    """Use of land and buildings from above; the shift is to later years, scored by the worst region.

    Departure: of the 16 templates of earlier code, the two that write "an" before a vowel and spaces for underscores
    are left out, because a template here is one text for all classes; names keep their underscores, as in the other 14.
    """

    name, release = "fmow", "1.1"
    summary = "62 uses of land and buildings in satellite images, later years as the shift, worst region (WILDS)"
    class_names = tuple(_NAMES["fmow"])
    prompts = (
        "satellite photo of a {}.", "aerial photo of a {}.",
        *(f"{view} photo of a {{}} in {place}."
          for place in ("asia", "africa", "the americas", "europe", "oceania") for view in ("satellite", "aerial")),
        "a photo of a {}.", "{}.",
    )  # fmt: skip
    split_sizes = {"train": 76_863, "id_val": 11_483, "id_test": 11_327, "test": 22_108}
    protocol, megabytes = "groups are regions; Other is in no group", 53_893
    sets = (
        Part(EvalSet("validation", "validation", "before 2013; every choice is made here", _UNKNOWN,
                     "yes, other images", "accuracy", 11_483), "id_val"),
        Part(EvalSet("id", "id", "before 2013", _UNKNOWN, "yes, other images", "accuracy", 11_327), "id_test"),
        Part(EvalSet("ood", "shift", "2016 and later, by region", _UNKNOWN, "no", "worst_group_accuracy", 22_108),
             "test"),
    )  # fmt: skip

    def groups(self, rows: np.ndarray) -> list[str]:
        """Regions of the world; the package's own worst region leaves "Other" out too."""
        names = self._package._metadata_map["region"]
        return ["" if names[r] == "Other" else names[r] for r in self.field("region", rows)]

    def file_names(self) -> list[str]:
        """Numbered by the row of the metadata file, where the unused `seq` rows count."""
        return [f"images/rgb_img_{i}.png" for i in self._package.full_idxs]


class Camelyon17(WildsData):
    """Tumour tissue in lymph nodes; the shift is to a hospital that training never saw.

    The package has no ID test set, so its `id_val` is cut in two by slide: in each hospital, slides in the order of the
    sha256 of "camelyon17/<slide>" go by turns to `validation` and to `id`.
    """

    name, release = "camelyon17", "1.0"
    summary = "tumour in lymph node tissue, another hospital as the shift (WILDS)"
    class_names = ("lymph node", "lymph node containing metastatic tumor tissue")
    prompts = ("this is a photo of {}",)
    split_sizes = {"train": 302_436, "id_val": 33_560, "val": 34_904, "test": 85_054}
    protocol = "id_val cut by slide in each hospital, in turns by sha256 of camelyon17/<slide>; groups are hospitals"
    megabytes = 10_659
    sets = (
        Part(EvalSet("validation", "validation", "hospitals of training, half of the slides; every choice is made here",
                     _UNKNOWN, "yes, other patches"), "id_val", 0),
        Part(EvalSet("id", "id", "hospitals of training, the other slides", _UNKNOWN, "yes, other patches"),
             "id_val", 1),
        Part(EvalSet("ood", "shift", "hospital 2, which training never saw", _UNKNOWN, "no", expected=85_054), "test"),
        Part(EvalSet("hospital_1", "diagnostic", "hospital 1, also unseen; outside the OOD mean", _UNKNOWN, "no",
                     expected=34_904), "val"),
    )  # fmt: skip

    def units(self, rows: np.ndarray) -> list[str]:
        """The slide that a patch was cut from."""
        return [f"slide {s}" for s in self.field("slide", rows)]

    def groups(self, rows: np.ndarray) -> list[str]:
        """Hospitals, numbered as in the package: 0, 3 and 4 are trained on."""
        return [f"hospital {h}" for h in self.field("hospital", rows)]

    def halves(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slides of each hospital by turns, in the order of their hashes."""
        slides, hospitals = self.field("slide", rows), self.field("hospital", rows)
        reports = np.zeros(len(rows), dtype=bool)
        for hospital in np.unique(hospitals):
            of_hospital = {int(s) for s in slides[hospitals == hospital]}
            ordered = sorted(of_hospital, key=lambda slide: hashlib.sha256(f"camelyon17/{slide}".encode()).digest())
            reports |= (hospitals == hospital) & np.isin(slides, ordered[1::2])
        return rows[~reports], rows[reports]

    def file_names(self) -> list[str]:
        """A folder for each patient and node."""
        return list(self._package._input_array)
