"""ObjectNet's maps to ImageNet, read from the files that come with its images.

`mappings/` says which label each of the 313 folders has, which ImageNet labels an ObjectNet label means (113 have any,
some several), and which ImageNet index a label is. Classes are the 113 folders in sorted order; a class's logit is the
largest of its ImageNet logits.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .card import DataError
from .projection import Projection

CLASSES = 113
IMAGENET_IDS = 125
BORDER = 2
"""Pixels of red border on each side that are cut away before anything else."""

_FOLDERS = "folder_to_objectnet_label.json"
_MEANINGS = "objectnet_to_imagenet_1k.json"
_LABELS = "imagenet_to_label_2012_v2"
_ORDER = "pytorch_to_imagenet_2012_id.json"


@dataclass(frozen=True, slots=True)
class Maps:
    """Folders of the 113 classes in class order, all folders, and each class's ImageNet columns."""

    folders: tuple[str, ...]
    all_folders: frozenset[str]
    projection: Projection


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except OSError:
        raise DataError(
            f"objectnet: no file {folder / name}; unpack ObjectNet's mappings folder beside its images."
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"objectnet: {folder / name} is no text; unpack the mappings again.") from None


def _read_table(folder: Path, name: str) -> dict[str, Any]:
    try:
        table = json.loads(_read(folder, name))
    except json.JSONDecodeError as error:
        raise DataError(f"objectnet: {folder / name} is no JSON ({error}); unpack the mappings again.") from None
    if not isinstance(table, dict):
        raise DataError(f"objectnet: {folder / name} is no table; unpack the mappings again.")
    return table


def read_maps(folder: Path) -> Maps:
    """The maps in `folder`, ObjectNet's `mappings`.

    Raises:
        DataError: a file is missing, or does not give 113 classes over 125 ImageNet indices.
    """
    label_of = _read_table(folder, _FOLDERS)
    meanings = _read_table(folder, _MEANINGS)
    # ImageNet's own numbering is not the sorted order of wnids that everybody's columns have.
    column_of = {line: int(column) for column, line in _read_table(folder, _ORDER).items()}
    # By line number: one label stands on two lines.
    lines_of: dict[str, list[int]] = {}
    for number, line in enumerate(_read(folder, _LABELS).splitlines()):
        lines_of.setdefault(line.strip(), []).append(number)
    columns: dict[str, tuple[int, ...]] = {}
    for name in sorted(name for name, label in label_of.items() if label in meanings):
        labels = meanings[label_of[name]].split("; ")
        unclear = [label for label in labels if len(lines_of.get(label, ())) != 1]
        if unclear:
            raise DataError(
                f"objectnet: {folder / _LABELS} has {len(lines_of.get(unclear[0], ()))} lines {unclear[0]!r}, "
                f"the label of {name!r}; expected one; unpack the mappings again."
            )
        lines = [lines_of[label][0] for label in labels]
        if not column_of.keys() >= set(lines):
            raise DataError(
                f"objectnet: {folder / _ORDER} lacks the ImageNet index of {name!r}; unpack the mappings again."
            )
        columns[name] = tuple(column_of[line] for line in lines)
    used = {column for several in columns.values() for column in several}
    if (len(columns), len(used)) != (CLASSES, IMAGENET_IDS):
        raise DataError(
            f"objectnet: the maps in {folder} give {len(columns)} classes over {len(used)} ImageNet classes, expected "
            f"{CLASSES} over {IMAGENET_IDS}; unpack the mappings again."
        )
    return Maps(tuple(columns), frozenset(label_of), Projection(tuple(columns.values())))
