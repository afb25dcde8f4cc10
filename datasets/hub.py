"""`huggingface:<name>`: a dataset of the Hugging Face hub, or files that its library reads, as ID or as shift.

The name is a dataset on the hub with the usual columns and splits (`huggingface:ylecun/mnist`), or a YAML file that
says what is what (`huggingface:own.yaml`):

    dataset: ylecun/mnist         # a name on the hub, or a folder with Parquet files or images (relative to this file)
    revision: 77f3279...          # a commit of the hub, in full; without it the newest that is there
    config: mnist                 # where the dataset has several
    image: image                  # columns
    label: label
    groups: place                 # optional: a column that names each image's group; for shifts, their metric
    train: train                  # splits
    id: test
    validation: null              # without one, 10 % of train by hash
    shifts:                       # name: split, or a dataset of its own with any of the keys above but validation
      sketches: {dataset: other/sketches, split: test}    # class_names: names of its integers, where it has none
    class_names: [zero, one]      # default: the names of the label column; in its order
    prompts: ["a photo of the number {}."]

In a folder of Parquet files, splits of names of one's own are found as `data/<split>-00000-of-00001.parquet`.
A shift's labels are matched by the names of its label column, text or `class_names` of its own; bare integers beside
training labels with names are refused. Pixels are read by this package's own code, so they are those of the same files
in a folder. Nothing is fetched with HF_HUB_OFFLINE=1; no code from the hub is run.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import contents, hub_splits, overlaps, plain_yaml
from .card import DataError, DatasetCard, EvalSet, MissingData, is_set_name, is_template
from .decoding import Decode
from .folder import OF_GROUPS
from .hub_columns import are_numbers, check_names_of_files, encoded, group_names, label_names
from .hub_splits import HubPictures
from .image_folders import SUFFIXES, Tree, expanded, own_place, scan
from .image_sets import ImageSet, Picked, TrainsOnPictures, withhold_tenth
from .own_data import OwnData

DEFAULT_PROMPTS = ("a photo of a {}.",)
_UNKNOWN = "not known"
PATIENCE_SECONDS = 10


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Shift(_Model):
    """A shift: a split, of the same dataset unless it names another. What it leaves out is as in the main part."""

    groups: str | None = None

    split: str
    dataset: str | None = None
    revision: str | None = None
    config: str | None = None
    image: str | None = None
    label: str | None = None
    class_names: list[str] | None = None
    """Of its integers, in their order, where its label column has no names."""


@dataclass(frozen=True, slots=True)
class Split:
    """A split, and what it is read from: nothing left out."""

    split: str
    dataset: str
    image: str
    label: str
    revision: str | None
    config: str | None
    class_names: list[str] | None = None
    groups: str | None = None


class Columns(_Model):
    """Which dataset, columns and splits; the keys of the YAML file."""

    dataset: str
    revision: str | None = None
    config: str | None = None
    image: str = "image"
    label: str = "label"
    groups: str | None = None
    """Column of each image's group. A split without it has no groups; one of the test sets must have it."""
    train: str = "train"
    id: str = "test"
    validation: str | None = None
    shifts: dict[str, Shift | str] = Field(default_factory=dict)
    class_names: list[str] | None = None
    prompts: list[str] = Field(default_factory=lambda: list(DEFAULT_PROMPTS), min_length=1)


Loaded = tuple[HubPictures, list[str] | None, list[Any], list[str] | None]
"""Pictures, names of the label column (None without), raw labels, and the group of each image (None without)."""


class Hub(TrainsOnPictures, OwnData):
    """A dataset that Hugging Face's library loads.

    Args:
        name: a dataset on the hub, or the path of a YAML file.
        size: side of the pictures in pixels.
        decode: how they are made, see `pixels`.
        root, start: where a relative path is looked for, see `trees.own_place`.

    Raises:
        DataError: the file is not what it must be, or the data are neither in the cache nor within reach.
    """

    randomness = "huggingface-v1"

    def __init__(
        self, name: str, *, size: int = 224, decode: Decode = "exact",
        root: str | os.PathLike[str] | None = None, start: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        self.size, self.decode, self.base = size, decode, expanded(start or "")
        if name.endswith((".yaml", ".yml")):
            path = own_place(name, root, start)
            self.columns, self.base, short = _parse(path), path.parent, path.stem
        else:
            self.columns, short = Columns(dataset=name), name
        self.name, self.withholds = f"huggingface:{short}", not self.columns.validation
        wrong = next((prompt for prompt in self.columns.prompts if not is_template(prompt)), None)
        if wrong is not None:
            raise DataError(f"{self.name}: each prompt needs one {{}} for the class name; found {wrong!r}.")
        taken = [n for n in self.columns.shifts if n in ("train", "id", "validation") or not is_set_name(n)]
        if taken:
            raise DataError(f"{self.name}: {taken[0]!r} cannot be the name of a shift; rename it.")

    @cached_property
    def card(self) -> DatasetCard:
        """The card; its fingerprint is one of names, prompts, labels and the bytes of the stored images.

        DataError where two sets are the same images.
        """
        hub_splits.refuse_same_rows(self.name, self.pictures)
        overlaps.refuse_copies(self.name, self.parts, self.shared)
        rule = "" if self.columns.validation else "; 10 % of train by hash is the validation set"
        sets = [EvalSet("validation", "validation", f"every choice is made here{rule}", _UNKNOWN, "yes, other images"),
                EvalSet("id", "id", f"the split {self.columns.id}", _UNKNOWN, "yes, other images")]  # fmt: skip
        for name in self.columns.shifts:
            shift = self._shift(name)
            by_group, about = self._groups(name) is not None, f"{shift.dataset}, split {shift.split}"
            about, metric = about + (", by group" if by_group else ""), OF_GROUPS if by_group else "accuracy"
            sets.append(EvalSet(name, "shift", about, _UNKNOWN, _UNKNOWN, metric))
        if self.columns.groups and not any(self._groups(entry.name) for entry in sets):
            raise DataError(
                f"{self.name}: groups must be a column of a test set, got {self.columns.groups!r}, which none has; "
                "correct the file."
            )
        names, fingerprint = self._class_names, self._fingerprint()
        version = f"{self.name.partition(':')[2].replace('/', '-')}-{fingerprint[:12]}"
        revision = f" at {self.columns.revision}" if self.columns.revision else ""
        summary = f"{self.columns.dataset}{revision}, {len(names)} classes{rule}"
        return DatasetCard(self.name, version, summary, names, tuple(self.columns.prompts), tuple(sets), fingerprint)

    def eval_data(self, name: str) -> ImageSet:
        """The evaluation set of that name; DataError where there is none."""
        if name == "validation" and not self.columns.validation:
            (pictures, labels), rows = self._loaded["train"], np.flatnonzero(self._withheld)
            groups = self._groups("train")
            of_rows = None if groups is None else [groups[row] for row in rows]
            return self.image_set(name, Picked(pictures, rows), labels[rows], groups=of_rows)
        if name == "train" or name not in self._loaded:
            known = ["validation", *(n for n in self._loaded if n not in {"train", "validation"})]
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(known)}.")
        return self.image_set(name, *self._loaded[name], groups=self._groups(name))

    def _groups(self, name: str) -> list[str] | None:
        """The group of each stored image of a set or of train, "" where the column is empty; None without column."""
        if name == "validation" and not self.columns.validation:
            name = "train"
        return self._raw[name][3]

    def stored(self, name: str) -> tuple[HubPictures, np.ndarray]:
        """Pictures and (N,) int64 labels of `train` or a set as they are stored, nothing withheld."""
        return self._loaded[name]

    def id_alone(self) -> tuple[HubPictures, tuple[str, ...], np.ndarray, list[str] | None]:
        """The split `id`, no other one loaded: pictures, class names, (N,) int64 positions in them, and groups.

        DataError where the file names a column of groups that the split has not.
        """
        pictures, stored, raw, groups = self._load(self._of_main_part(self.columns.id))
        if self.columns.groups and groups is None:
            raise DataError(
                f"{self.name}: groups must be a column of the split {self.columns.id}, got {self.columns.groups!r}; "
                "correct the file."
            )
        names = self._names(stored)
        return pictures, names, self._positions(pictures, stored, raw, stored, names), groups

    def _of_main_part(self, split: str) -> Split:
        c = self.columns
        return Split(split, c.dataset, c.image, c.label, c.revision, c.config, groups=c.groups)

    def _shift(self, name: str) -> Split:
        """A shift with everything that it left out filled in."""
        given, c = self.columns.shifts[name], self.columns
        shift = Shift(split=given) if isinstance(given, str) else given
        elsewhere = shift.dataset is not None
        return Split(
            split=shift.split, dataset=shift.dataset or c.dataset, image=shift.image or c.image,
            revision=shift.revision or (None if elsewhere else c.revision), label=shift.label or c.label,
            config=shift.config or (None if elsewhere else c.config), class_names=shift.class_names,
            groups=shift.groups or c.groups,
        )  # fmt: skip

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        return self._names(self._stored_names)

    def _names(self, stored: list[str] | None) -> tuple[str, ...]:
        """Class names: those of YAML, else those of the label column; DataError where neither has any."""
        given, label = self.columns.class_names, self.columns.label
        if given is not None:
            return tuple(self._given(given, stored, f"{self.name}: class_names", label))
        if stored is None:
            raise DataError(f"{self.name}: column {label!r} has no class names; give class_names in YAML.")
        return tuple(stored)

    def _given(self, given: list[str], stored: list[str] | None, where: str, column: str) -> list[str]:
        """The names that YAML gives to the classes of a column; DataError where it has another number of them."""
        if stored is not None and len(given) != len(stored):
            raise DataError(
                f"{where} has {len(given)} names, column {column!r} has {len(stored)} classes; give one name a class, "
                "in the column's order."
            )
        return given

    @cached_property
    def _stored_names(self) -> list[str] | None:
        """Names of the classes in the training labels' own feature."""
        return self._raw["train"][1]

    @cached_property
    def _raw(self) -> dict[str, Loaded]:
        """What is stored of every set and of train."""
        c = self.columns
        wanted = {"train": c.train, "id": c.id, **({"validation": c.validation} if c.validation else {})}
        parts = {name: self._of_main_part(split) for name, split in wanted.items()}
        parts |= {name: self._shift(name) for name in c.shifts}
        return {name: self._load(part) for name, part in parts.items()}

    def _load(self, part: Split) -> Loaded:
        import datasets

        local = self.base / expanded(part.dataset)
        source = str(local.resolve()) if local.exists() else part.dataset  # by whichever link it was named
        place = f"{self.name}: {part.dataset}, {part.split}"
        cache = None
        if local.is_dir():
            # The library takes files of the same date for the same, and would give those that it read before.
            cache = Path(datasets.config.HF_DATASETS_CACHE, "local", contents.state_of(Path(source)))
        elif part.revision and not local.exists():
            # Without network the library takes the newest that it finds in its cache, whichever revision is asked for.
            cache = Path(datasets.config.HF_DATASETS_CACHE, "revisions", quote(part.revision, safe=""))
        with _one_sentence(place, None if local.exists() else part):
            rows = datasets.load_dataset(
                source, part.config, split=part.split, revision=part.revision, cache_dir=cache and str(cache)
            )
        for key, column in (("image", part.image), ("label", part.label)):
            if column not in rows.column_names:
                raise DataError(
                    f"{place}: no column {column!r}; it has {', '.join(rows.column_names)}; set {key} in YAML."
                )
        names = label_names(rows, part.label, place)
        if local.is_dir():
            check_names_of_files(local, part.config, part.split, part.label, names)
        if part.class_names is not None:
            names = self._given(part.class_names, names, f"{place}: class_names", part.label)
        pictures = HubPictures(encoded(rows, part.image, place), part.image, place, part.split)
        return pictures, names, list(rows[part.label]), group_names(rows, part.groups)

    @cached_property
    def _loaded(self) -> dict[str, tuple[HubPictures, np.ndarray]]:
        """Pictures and (N,) int64 labels, positions in the card's class names, of every set and of train."""
        loaded = {
            name: (pictures, self._positions(pictures, names, raw, self._stored_names, self._class_names))
            for name, (pictures, names, raw, _) in self._raw.items()
        }
        trained = set(loaded["train"][1].tolist())
        for pictures, labels in loaded.values():
            never = set(labels.tolist()) - trained
            if never:
                name, train = self._class_names[min(never)], self.columns.train
                raise DataError(
                    f"{pictures.place}: the class {name!r} has no image in {train}; add some, or leave its rows out."
                )
        return loaded

    def _positions(
        self,
        pictures: HubPictures,
        names: list[str] | None,
        raw: list[Any],
        stored: list[str] | None,
        classes: tuple[str, ...],
    ) -> np.ndarray:
        """(N,) int64 positions in `classes` of the raw labels of a column whose classes have `names`, if it has any.

        `stored` are the names in the column that the classes come from: they, too, name the classes.
        """
        known = stored or list(classes)
        if len(raw) == 0:
            raise DataError(f"{pictures.place}: no rows; leave the split out.")
        text = any(isinstance(label, str) for label in raw)
        if text or not are_numbers(names) and names != stored:
            if not text:
                class_names = names or []
                self._check_range(pictures, raw, len(class_names))
                raw = [class_names[label] for label in raw]
            position = {name: i for given in (classes, known) for i, name in enumerate(given)}
            if min(len(set(known)), len(set(classes))) < len(known):
                raise DataError(f"{pictures.place}: classes cannot be matched by name, one name stands twice.")
            raw = [position.get(label, label) for label in raw]
        elif are_numbers(names) and not are_numbers(stored):
            raise DataError(
                f"{pictures.place}: its labels are bare integers, and the training labels have the names "
                f"{', '.join(known[:5])}{', ...' if len(known) > 5 else ''}, so which is which is not known; give "
                "class_names to the shift in YAML, or cast its label column to datasets.ClassLabel(names=[...])."
            )
        self._check_range(pictures, raw, len(known))
        return np.array(raw, dtype=np.int64)

    def _check_range(self, pictures: HubPictures, labels: list[Any], classes: int) -> None:
        """DataError where a label is no integer below the number of classes; None is one of them."""
        wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < classes]
        if wrong:
            raise DataError(
                f"{pictures.place}: the label {wrong[0]!r} is none of the {classes} classes; leave such rows out, "
                "or correct class_names."
            )

    @cached_property
    def _withheld(self) -> np.ndarray:
        """(rows of train,) bool."""
        pictures, labels = self._loaded["train"]
        if self.columns.validation:
            return np.zeros(len(labels), dtype=bool)
        return withhold_tenth([pictures.name(i) for i in range(len(labels))], labels, self.name)

    @cached_property
    def _trained(self) -> tuple[Picked, np.ndarray]:
        pictures, labels = self._loaded["train"]
        rows = np.flatnonzero(~self._withheld)
        return Picked(pictures, rows), labels[rows]

    def _fingerprint(self) -> str:
        about = [self._class_names, self.columns.prompts, self.size, self.randomness]
        digest = hashlib.sha256(json.dumps(about).encode())
        for name, (_, labels) in self._loaded.items():
            digest.update(json.dumps([name, labels.tolist()]).encode())
            digest.update(self._contents[name].tobytes())
            groups = self._groups(name)
            if groups is not None:
                digest.update(json.dumps(["groups", groups]).encode())
        return digest.hexdigest()

    @cached_property
    def _contents(self) -> dict[str, np.ndarray]:
        """Set, or train -> (N, 32) uint8 sha256 of its stored images."""
        return {name: pictures.contents() for name, (pictures, _) in self._loaded.items()}

    @property
    def pictures(self) -> dict[str, HubPictures]:
        """Set, or train -> its pictures, nothing withheld."""
        return {name: pictures for name, (pictures, _) in self._loaded.items()}

    @cached_property
    def trees(self) -> dict[str, Tree]:
        """Set, or train -> the class folders of a whole split of image files, for what is said of those not read."""
        found = {}
        for name, (pictures, _) in self._loaded.items():
            paths = pictures.files() if pictures.split.isidentifier() else []
            folders = {path.parent.parent for path in paths}
            if len(folders) == 1:
                read = {path.suffix.lower() for path in paths}  # by that library, which lists more kinds
                found[name] = scan(folders.pop(), (*SUFFIXES, *sorted(read - {""})))
        return found

    @cached_property
    def parts(self) -> list[overlaps.Part]:
        """What each set holds, train without what is withheld from it."""
        found = []
        for name, (pictures, _) in self._loaded.items():
            kept = {name: np.ones(len(pictures), dtype=bool)}
            if name == "train" and self.withholds:
                kept = {"train": ~self._withheld, "validation": self._withheld}
            for part, mask in kept.items():
                rows = np.flatnonzero(mask)
                names = Picked(pictures, rows).name
                found.append(overlaps.Part(part, pictures.split, self._contents[name][rows], names, self.withholds))
        return found

    @cached_property
    def shared(self) -> list[overlaps.Shared]:
        """The pairs of sets that share images."""
        return overlaps.shared(self.parts)


def _parse(path: Path) -> Columns:
    if not path.is_file():
        raise DataError(f"huggingface:{path}: there is no such file; give the YAML that names dataset and columns.")
    try:
        content = plain_yaml.read_mapping(path)
    except plain_yaml.YamlError as error:
        raise DataError(f"huggingface:{path.name}: {error}") from None
    try:
        return Columns.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where, text = ".".join(map(str, first["loc"])), first["type"] == "string_type"
        found = f", got {first['input']!r}; put it in quotes" if text else "; correct the file"
        raise DataError(f"{path}: {where or 'the file'}: {first['msg']}{found}.") from None


@contextmanager
def _one_sentence(place: str, part: Split | None) -> Iterator[None]:
    """Turns what the library raises for data that are not there into a DataError, whose cause is the hub's answer.

    Args:
        place: dataset and split, for messages.
        part: what is loaded; None for files on this machine.
    """
    import datasets
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        datasets.logging.set_verbosity_error()  # that there is no network is no news
    try:
        yield
    except ConnectionError as error:
        offline = " with HF_HUB_OFFLINE=1" if HF_HUB_OFFLINE else ""
        raise MissingData(
            f"{place}: not in the cache, and the hub cannot be reached{offline}; fetch it with `robustft doctor "
            "--prefetch SUITE` where there is network, or name a folder on this machine."
        ) from error
    except Exception as error:  # of several network libraries too
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        fix = "correct dataset, config, revision or split"
        if part is None and "split" in reason:
            fix += ", or name the split's files data/<split>-00000-of-00001.parquet"
        raise DataError(f"{place}: cannot be loaded ({reason}); {fix}.") from (
            _refusal(part) if part is not None and not HF_HUB_OFFLINE else None
        ) or error


def _refusal(part: Split) -> Exception | None:
    """What the hub says about a dataset that could not be loaded, which the library does not pass on; None: nothing."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(part.dataset, revision=part.revision, timeout=PATIENCE_SECONDS)
    except HfHubHTTPError as error:
        return error
    except Exception:  # of one of several network libraries
        return None
    return None
