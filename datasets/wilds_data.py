"""iWildCam, FMoW and Camelyon17 of WILDS, through the `wilds` package (spec.md 2.8 and 2.9).

The package reads metadata and splits; accuracy by group is computed by whoever evaluates, from `groups`, because the
package's own needs an extra compiled library. Training is on `train`, choices on `id_val`.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .card import DatasetCard, EvalSet

_NAMES = json.loads(Path(__file__).with_name("wilds_names.json").read_text(encoding="utf-8"))
"""iWildCam's English names, lower case, by label (mlfoundations/wise-ft: iwildcam_metadata/labels.csv; some occur
twice); FMoW's 62 categories as the package lists them."""
_UNKNOWN = "the pretraining images are not public"


@dataclass(frozen=True, slots=True)
class Part:
    """One split of the package as a set of the card."""

    set: EvalSet
    split: str
    half: int | None = None
    """Of a split that is cut in two by slide: 0 selects, 1 reports."""


class WildsData:
    """One WILDS dataset.

    Args:
        root: the data root; `<name>_v<version>` is looked for in it and in its subfolder `wilds`.
        allow_partial: run on a copy that lacks images; what was found is in `found`.
        size: side of the pictures in pixels.
    """

    name: str
    release: str
    summary: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    parts: tuple[Part, ...]
    split_sizes: dict[str, int]
    """Images of each split of the package that is used, `train` among them."""
    protocol: str

    def __init__(self, root: str | os.PathLike | None = None, *, allow_partial: bool = False, size: int = 224) -> None:
        self.root, self.allow_partial, self.size = root, allow_partial, size
        self.expected = self.split_sizes["train"]

    @cached_property
    def card(self) -> DatasetCard:
        """The card; needs no image. Its fingerprint covers names, prompts, protocol and counts, not pixels."""
        version, sets = f"{self.name}-v{self.release}-1", tuple(part.set for part in self.parts)
        cut = [[p.set.name, p.set.metric, p.split, p.half] for p in self.parts]
        views = f"bicubic, centre crop {self.size}; random resized crop 0.9 to 1, no flip"
        parts = [version, self.class_names, self.prompts, cut, self.split_sizes, self.protocol, views]
        fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return DatasetCard(self.name, version, self.summary, self.class_names, self.prompts, sets, fingerprint)

    @cached_property
    def train_size(self) -> int:
        """Images trained on: as they should be; in a partial copy, as they are."""
        return len(self.train_labels()) if self.allow_partial else self.expected


class IWildCam(WildsData):
    """Animals at camera traps; the shift is to traps that training never saw. Macro-F1."""

    name, release = "iwildcam", "2.0"
    summary = "182 animals at camera traps, other traps as the shift (WILDS)"
    class_names = tuple(_NAMES["iwildcam"])
    prompts = ("a photo of {}.", "{} in the wild.")
    split_sizes = {"train": 129_809, "id_val": 7_314, "id_test": 8_154, "test": 42_791}
    protocol = "names lower case"
    parts = (
        Part(EvalSet("validation", "validation", "traps of training, other days; every choice is made here", _UNKNOWN,
                     "yes, other images", "macro_f1", 7_314), "id_val"),
        Part(EvalSet("id", "id", "traps of training, other days", _UNKNOWN, "yes, other images", "macro_f1", 8_154),
             "id_test"),
        Part(EvalSet("ood", "shift", "48 traps that training never saw", _UNKNOWN, "no", "macro_f1", 42_791), "test"),
    )  # fmt: skip


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
    protocol = "groups are regions; Other is in no group"
    parts = (
        Part(EvalSet("validation", "validation", "before 2013; every choice is made here", _UNKNOWN,
                     "yes, other images", "accuracy", 11_483), "id_val"),
        Part(EvalSet("id", "id", "before 2013", _UNKNOWN, "yes, other images", "accuracy", 11_327), "id_test"),
        Part(EvalSet("ood", "shift", "2016 and later, by region", _UNKNOWN, "no", "worst_group_accuracy", 22_108),
             "test"),
    )  # fmt: skip


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
    parts = (
        Part(EvalSet("validation", "validation", "hospitals of training, half of the slides; every choice is made here",
                     _UNKNOWN, "yes, other patches"), "id_val", 0),
        Part(EvalSet("id", "id", "hospitals of training, the other slides", _UNKNOWN, "yes, other patches"),
             "id_val", 1),
        Part(EvalSet("ood", "shift", "hospital 2, which training never saw", _UNKNOWN, "no", expected=85_054), "test"),
        Part(EvalSet("hospital_1", "diagnostic", "hospital 1, also unseen; outside the OOD mean", _UNKNOWN, "no",
                     expected=34_904), "val"),
    )  # fmt: skip
