"""A shift of one's own beside the sets of another dataset: a folder of class folders, or what the hub's library reads.

    folder:<path>        <path>/<class>/..., with the class names in <path>/classes.txt or ../classes.txt (one line a
                         class: folder name, tab, class name); without either, a folder's name is its class name
    huggingface:<name>   a dataset of the hub or a YAML file (`hub`); of its splits the one called `id` there

Groups are those of <path>/groups.txt or ../groups.txt (one line an image: its path below that file's folder, tab,
group), or of the column that the YAML file names; a shift that has them is judged by its worst group.

Classes are matched with the dataset's by name, or by what its files call them (ImageNet: the wnid), whatever the
order. A shift may lack classes; all columns of the dataset count in it, or those alone of which it has an image, where
a suite says so (`classes: {<shift>: present}`): logits are then cut before softmax, as for ImageNet-R and -A. The same
may be said of the dataset's own shifts. A class that the dataset has not, or a name that stands for two of its classes,
is refused.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import hub_splits, overlaps
from .card import USUAL, DataError, Dataset, DatasetCard, EvalData, EvalSet, Metric
from .decoding import Decode
from .folder import ID_FOLDERS, OF_GROUPS, read_classes, read_groups, refuse_left, take_groups
from .hub import Hub
from .hub_splits import HubPictures
from .image_folders import Tree, composed, kinds_text, own_place, scan
from .image_sets import CutToPresent, ImageSet, Pictures, TreePictures
from .own_data import OwnData

_UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class OwnShift:
    """Images of one's own with the names of their classes."""

    source: str
    """As it was given, for messages."""
    names: tuple[str, ...]
    """Class names, by label."""
    pictures: Pictures
    labels: np.ndarray
    """(N,) int64 positions in `names`."""
    digests: np.ndarray
    """(N, 32) uint8: sha256 of the bytes of each image."""
    groups: list[str] | None = None
    """The group of each image, "" for none; None without groups."""

    @property
    def content(self) -> str:
        """sha256 over the names and bytes of the images."""
        digest = hashlib.sha256(json.dumps([self.pictures.name(i) for i in range(len(self.labels))]).encode())
        digest.update(self.digests.tobytes())
        return digest.hexdigest()


def of_folder(source: str, path: Path) -> OwnShift:
    """The images in the class folders of a path; DataError where there are none."""
    if not path.is_dir():
        raise DataError(
            f"{source}: there is no folder {path}; give the path that holds the class folders, or name the folder that "
            "has it with --data or ROBUSTFT_DATA."
        )
    if (path / "train").is_dir():
        sets = [p.name for p in sorted(path.iterdir()) if p.is_dir() and p.name != "train"]
        one = next((name for name in sets if name not in ID_FOLDERS), next(iter(sets), "id_test"))
        raise DataError(f"{source}: is a whole dataset; a shift is one of its folders, as {source.rstrip('/')}/{one}.")
    tree = scan(path)
    if len(tree) == 0:
        kinds = f" but of a kind that is not read ({kinds_text(tree.unread)})" if tree.unread else ""
        fix = "convert them to PNG" if kinds else "fill the folder, or name another"
        raise DataError(f"{source}: no images in class folders under {path}{kinds}; {fix}.")
    listed = next((file for folder in (path, path.parent) if (file := folder / "classes.txt").is_file()), None)
    known = {composed(k): name for k, name in read_classes(listed, source).items()} if listed else {}
    strange = [tree.classes[c] for c in np.unique(tree.class_of) if known and composed(tree.classes[c]) not in known]
    if strange:
        raise DataError(f"{source}: {listed} has no line for the folder {strange[0]!r}; add one.")
    names = tuple(known.get(composed(folder), folder) for folder in tree.classes)
    labels = tree.class_of.astype(np.int64)
    return OwnShift(source, names, TreePictures(tree), labels, tree.contents(source), _groups(source, path, tree))


def _groups(source: str, path: Path, tree: Tree) -> list[str] | None:
    """The group of each image by the groups.txt in a folder, or by the one beside it, which may name other folders."""
    if (path / "groups.txt").is_file():
        before, listed = "", read_groups(path / "groups.txt", source)
    else:
        before, every = f"{composed(path.name)}/", read_groups(path.parent / "groups.txt", source)
        listed = {image: group for image, group in every.items() if image.startswith(before)}
    groups = take_groups(listed, before, tree, source)
    refuse_left(listed, source)
    return groups


def of_hub(source: str, hub: Hub) -> OwnShift:
    """The split `id` of a dataset that the hub's library reads; the others are not loaded."""
    pictures, names, labels, groups = hub.id_alone()
    return OwnShift(source, names, pictures, labels, pictures.contents(), groups)


def positions(shift: OwnShift, data: Dataset) -> np.ndarray:
    """(len(shift.names),) int64: the class of the dataset that each name means, -1 where no image has it.

    Raises:
        DataError: a name of which there are images is none of the dataset's, or stands for several of its classes.
    """
    card, ids = data.card, data.class_ids
    exact = _index(card.class_names, ids)
    folded = _index(map(_fold, card.class_names))
    found = np.full(len(shift.names), -1, dtype=np.int64)
    for label in np.unique(shift.labels):
        name = shift.names[label]
        meant = sorted(exact.get(name) or folded.get(_fold(name)) or ())
        if len(meant) != 1:
            raise DataError(_mismatch(shift, name, card, meant))
        found[label] = meant[0]
    return found


def _fold(name: str) -> str:
    return " ".join(composed(name).casefold().replace("_", " ").split())


def _index(*lists: Iterable[str]) -> dict[str, set[int]]:
    """Name -> the positions at which it stands in any of the lists."""
    index: dict[str, set[int]] = {}
    for names in lists:
        for i, name in enumerate(names):
            index.setdefault(name, set()).add(i)
    return index


def _mismatch(shift: OwnShift, name: str, card: DatasetCard, meant: Sequence[int]) -> str:
    where = f"{shift.source}: the class {name!r}"
    if meant:
        return (
            f"{where} stands for {len(meant)} classes of {card.name}, numbers {' and '.join(map(str, meant))}; give it "
            "the name, or the folder name, that only one of them has."
        )
    near = get_close_matches(name, card.class_names, 1)
    hint = f", which has {near[0]!r}" if near else ""
    return (
        f"{where} is none of the {len(card.class_names)} classes of {card.name}{hint}; name it as there, or leave its "
        "images out."
    )


class WithShifts(OwnData):
    """A dataset with further shifts, or with shifts cut to the classes that they have; all else is the dataset's own.

    Args:
        data: the dataset.
        shifts: name of the set -> its images.
        size: side of the shifts' pictures in pixels.
        decode: how they are made, see `pixels`.
        present: shifts, the dataset's or further ones, whose logits are cut to the classes that they have.

    Raises:
        DataError: a name is taken, or what is to be cut is no shift.
    """

    def __init__(
        self,
        data: Dataset,
        shifts: Mapping[str, OwnShift],
        size: int,
        decode: Decode,
        present: Sequence[str] = (),
    ) -> None:
        self.data, self.shifts, self.size, self.decode = data, dict(shifts), size, decode
        self.expected, self.withholds, self.resizing = data.expected, data.withholds, data.resizing
        self._own = data if isinstance(data, OwnData) else None
        taken = {"train", *(entry.name for entry in data.card.sets)} & set(shifts)
        if taken:
            raise DataError(f"shifts: {sorted(taken)[0]!r} is a set of {data.card.name} already; give another name.")
        known = [*data.card.names("shift"), *shifts]
        wrong = [name for name in present if name not in known]
        if wrong:
            raise DataError(
                f"classes: {wrong[0]!r} must be a shift of {data.card.name}; it may be {', '.join(known) or 'none'}."
            )
        self.cut = tuple(present)

    @cached_property
    def card(self) -> DatasetCard:
        """The dataset's, with further sets; its fingerprint also covers their classes and content.

        DataError where one is the same images as another set.
        """
        card, sets = self.data.card, []
        parts: list[str | list[str | int | list[int]]] = [card.fingerprint]
        for name, shift in self.shifts.items():
            classes = np.unique(self._classes[name]).tolist()
            where = f"{len(classes)} of {len(card.class_names)} classes"
            count = "these columns" if name in self.cut else "all columns"
            about = f"{shift.source}, {len(shift.labels)} images of {where}, {count} count"
            metric: Metric = "accuracy" if shift.groups is None else OF_GROUPS
            about += "" if shift.groups is None else ", by group"
            sets.append(EvalSet(name, "shift", about, _UNKNOWN, _UNKNOWN, metric))
            parts.append([name, self._classes[name].tolist(), shift.content, self.size])
            parts += [] if shift.groups is None else [["groups", *shift.groups]]
        if self.cut:
            # Of registered sets the name is enough: their version says which images they have, and no file is read.
            of_name = {name: self._own is None and name not in self.shifts for name in self.cut}
            cut = {name: [] if of_name[name] else self.present(name) for name in sorted(self.cut)}
            # Pictures of a cut set were once brought to size in CLIP's way whatever the backbone's: those are others.
            again = [] if self.resizing == USUAL else ["resized"]
            parts.append(["classes present", json.dumps(cut), *again])
        overlaps.refuse_folders_of_others(card.name, self._own_trees, self.trees)
        pictures = {name: shift.pictures for name, shift in self.shifts.items()}
        tables = {name: table for name, table in pictures.items() if isinstance(table, HubPictures)}
        hub_splits.refuse_same_rows(card.name, {**(self.data.pictures if isinstance(self.data, Hub) else {}), **tables})
        overlaps.refuse_copies(card.name, self.parts, self.shared)
        fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        before = [
            replace(entry, measures=f"{entry.measures}, the columns of its classes count")
            if entry.name in self.cut
            else entry
            for entry in card.sets
        ]
        return replace(card, sets=(*before, *sets), fingerprint=fingerprint)

    @property
    def trees(self) -> dict[str, Tree]:
        """Set -> its folder's images, of the dataset if it is one's own and of the further shifts."""
        return {**(self._own.trees if self._own else {}), **self._own_trees}

    @property
    def passed_over(self) -> dict[str, tuple[int, str]]:
        """The dataset's own, if it counts them, and those of the further shifts."""
        beside = {name: tree.passed for name, tree in self._own_trees.items() if tree.passed[0]}
        return {**(self._own.passed_over if self._own else {}), **beside}

    @property
    def _own_trees(self) -> dict[str, Tree]:
        found = {name: shift.pictures for name, shift in self.shifts.items()}
        return {name: pictures.tree for name, pictures in found.items() if isinstance(pictures, TreePictures)}

    @cached_property
    def parts(self) -> list[overlaps.Part]:
        """What each set holds whose bytes are known: those of one's own."""
        of_shifts = [
            overlaps.Part(name, shift.source, shift.digests, shift.pictures.name) for name, shift in self.shifts.items()
        ]
        return [*(self._own.parts if self._own else []), *of_shifts]

    @cached_property
    def shared(self) -> list[overlaps.Shared]:
        """The pairs of sets that share images."""
        return overlaps.shared(self.parts)

    @cached_property
    def _classes(self) -> dict[str, np.ndarray]:
        """Set -> (N,) int64 classes of the dataset."""
        return {name: positions(shift, self.data)[shift.labels] for name, shift in self.shifts.items()}

    def present(self, name: str) -> list[int]:
        """The classes that a set has an image of, by the card's numbers."""
        return sorted(set(self._whole(name).labels.tolist()))

    @property
    def counted(self) -> tuple[bool, str]:
        """The dataset's."""
        return self._own.counted if self._own else (True, "")

    @property
    def own_shifts(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.shifts)

    @property
    def found(self) -> int:
        """The dataset's."""
        return self.data.found

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The dataset's."""
        return self.data.class_ids

    def train_names(self) -> list[str] | None:
        """The dataset's."""
        return self.data.train_names()

    @property
    def train_size(self) -> int:
        """The dataset's."""
        return self.data.train_size

    def train_labels(self) -> np.ndarray:
        """The dataset's."""
        return self.data.train_labels()

    def train_files(self) -> Sequence[str]:
        """The dataset's."""
        return self.data.train_files()

    def train_images(self, items: Sequence[tuple[int, int]], seed: int) -> Tensor:
        """The dataset's."""
        return self.data.train_images(items, seed)

    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name; DataError where there is none."""
        whole = self._whole(name)
        if name not in self.cut:
            return whole
        classes = len(self.data.card.class_names)
        has = whole.project(torch.zeros(1, classes)).shape[1]
        if has != classes:
            raise DataError(
                f"classes: {name!r} is cut to {has} of {classes} classes by its own protocol already; leave it out."
            )
        return CutToPresent(whole)

    def _whole(self, name: str) -> EvalData:
        """The set before it is cut."""
        if name not in self.shifts:
            return self.data.eval_data(name)
        shift, labels = self.shifts[name], self._classes[name]
        about: dict[str, Any] = {"groups": shift.groups, "decode": self.decode, "resizing": self.resizing}
        return ImageSet(name, shift.pictures, labels, self.size, **about)


def load(source: str, root: str | os.PathLike[str] | None, start: str | os.PathLike[str] | None = None) -> OwnShift:
    """The images that `folder:<path>` or `huggingface:<name>` means; a path may stand below the root."""
    prefix, _, rest = source.partition(":")
    if prefix == "huggingface":
        return of_hub(source, Hub(rest, root=root, start=start))
    return of_folder(source, own_place(rest, root, start))
