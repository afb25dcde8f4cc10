"""`folder:<path>`: anybody's own images and his own shift, without code.

    <path>/classes.txt                  one line a class, in class order: folder name, tab, class name
    <path>/prompts.txt                  optional: one template a line with one "{}"; default "a photo of a {}."
    <path>/groups.txt                   optional: one line an image: <folder>/<class>/<file>, tab, group
    <path>/train/<class>/...            finetuning
    <path>/validation/<class>/...       optional (or `val`): every choice is made here
    <path>/id_test/<class>/...          in-distribution test (or `test`)
    <path>/<any other name>/<class>/... a shift each

Images lie in the class folders themselves: what lies in folders inside of them is passed over, and counted.
Groups are of whole sets: of one that groups.txt names, it names every image. A shift with groups is judged by its worst
one; beside the accuracy of id and validation the worst group is computed, too. Those of train are read and not used.

Without a validation folder, a tenth of each class of train is withheld by hash, and the card says so. A shift may lack
classes, but may have no others; all columns count in it. The data's version is a fingerprint of every byte that is
there (`contents`), so the same images in another place are the same data, and other images under the same names are
other data. No folder may stand for two sets, and no set may be a copy of another (`overlaps`).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from . import overlaps
from .card import DataError, DatasetCard, EvalSet, Metric, is_set_name, is_template
from .decoding import Decode
from .image_folders import Tree, composed, expanded, kinds_text, relabel, scan, subfolders
from .image_sets import ImageSet, TrainsOnPictures, TreePictures, withhold_tenth
from .own_data import OwnData

DEFAULT_PROMPTS = ("a photo of a {}.",)
VALIDATION_FOLDERS = ("validation", "val")
ID_FOLDERS = ("id_test", "test")
OF_GROUPS: Metric = "worst_group_accuracy"
_UNKNOWN = "not known"


class Folder(TrainsOnPictures, OwnData):
    """Images in class folders below one path.

    Args:
        path: the folder described above.
        size: side of the pictures in pixels.
        decode: how they are made, see `pixels`.

    Raises:
        DataError: the folder or its classes.txt, train or id_test is missing, or they do not fit together.
    """

    randomness = "folder-v1"

    def __init__(self, path: str | os.PathLike[str], *, size: int = 224, decode: Decode = "exact") -> None:
        self.path, self.size, self.decode = expanded(path).resolve(), size, decode
        self.name = f"folder:{self.path.name}"
        if not self.path.is_dir():
            raise DataError(
                f"folder:{path}: there is no such folder; give the path that holds train and classes.txt, or name the "
                "folder that has it with --data or ROBUSTFT_DATA."
            )
        self._classes = read_classes(self.path / "classes.txt", self.name)
        self._prompts = self._read_prompts()
        self._group_of = read_groups(self.path / "groups.txt", self.name)
        below = subfolders(self.path)
        of_id = self._one_of(ID_FOLDERS, below)
        if "train" not in below or of_id is None:
            raise DataError(f"{self.name}: {self.path} needs the folders train and id_test, found {below or 'none'}.")
        self._id = of_id
        self._own_validation = self._one_of(VALIDATION_FOLDERS, below)
        self.withholds = self._own_validation is None
        self._shifts = [name for name in below if name not in {"train", self._id, self._own_validation}]
        wrong = [name for name in self._shifts if name in ("validation", "id") or not is_set_name(name)]
        if wrong:
            raise DataError(f"{self.name}: {wrong[0]!r} cannot be the name of a shift; rename the folder.")

    def _one_of(self, names: Iterable[str], below: list[str]) -> str | None:
        found = [name for name in names if name in below]
        if len(found) > 1:
            raise DataError(f"{self.name}: {' and '.join(found)} mean the same; keep one of the folders.")
        return found[0] if found else None

    def _read_prompts(self) -> tuple[str, ...]:
        if not (self.path / "prompts.txt").exists():
            return DEFAULT_PROMPTS
        return read_prompts(self.path / "prompts.txt", self.name)

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The names of the class folders."""
        return tuple(self._classes)

    @cached_property
    def card(self) -> DatasetCard:
        """The card; its fingerprint is one of classes, prompts and the files' names and bytes.

        DataError where two sets are the same images.
        """
        overlaps.refuse_same_folders(self.name, {self._called(role): tree for role, tree in self.trees.items()})
        overlaps.refuse_copies(self.name, self.parts, self.shared)
        rule = "" if self._own_validation else "; 10 % of train by hash is the validation set"
        sets = [EvalSet("validation", "validation", f"every choice is made here{rule}", _UNKNOWN, "yes, other images"),
                EvalSet("id", "id", f"the folder {self._id}", _UNKNOWN, "yes, other images")]  # fmt: skip
        for name in self._shifts:
            by_group = name in self._grouped
            about, metric = (
                f"the folder {name}{', by group' if by_group else ''}",
                OF_GROUPS if by_group else "accuracy",
            )
            sets.append(EvalSet(name, "shift", about, _UNKNOWN, _UNKNOWN, metric))
        names, fingerprint = tuple(self._classes.values()), self._fingerprint()
        version, summary = f"{self.path.name}-{fingerprint[:12]}", f"own images, {len(names)} classes{rule}"
        return DatasetCard(self.name, version, summary, names, self._prompts, tuple(sets), fingerprint)

    def _fingerprint(self) -> str:
        known = [
            self._classes,
            self._prompts,
            self.size,
            self.randomness,
            *([self._group_of] if self._group_of else []),
        ]
        digest = hashlib.sha256(json.dumps(known).encode())
        for role, tree in self.trees.items():
            about = role if role in ("train", "id", "validation") else f"shift:{role}"
            for i, content in enumerate(self._contents[role]):
                digest.update(json.dumps([about, tree.name(i), content.tobytes().hex()]).encode())
        return digest.hexdigest()

    def _called(self, role: str) -> str:
        """The folder of a role."""
        return {"id": self._id, "validation": self._own_validation or "train"}.get(role, role)

    @cached_property
    def _grouped(self) -> dict[str, list[str]]:
        """Folder -> the group of each of its images, of the folders that groups.txt names.

        DataError where it names an image that is not there, or some images of a folder and not all.
        """
        left, found = dict(self._group_of), {}
        for folder, (tree, _) in self._sets.items():
            groups = take_groups(left, f"{folder}/", tree, self.name)
            if groups is not None:
                found[folder] = groups
        refuse_left(left, self.name)
        return found

    @property
    def trees(self) -> dict[str, Tree]:
        """Role -> the images of its folder: train, id, validation where it has a folder, and each shift."""
        roles = ["train", "id", *(["validation"] if self._own_validation else []), *self._shifts]
        return {role: self._sets[self._called(role)][0] for role in roles}

    @cached_property
    def _contents(self) -> dict[str, np.ndarray]:
        """Role -> (N, 32) uint8 sha256 of its files."""
        return {role: tree.contents(f"{self.name}, {role}") for role, tree in self.trees.items()}

    @cached_property
    def parts(self) -> list[overlaps.Part]:
        """What each set holds, train without what is withheld from it."""
        found = []
        for role, tree in self.trees.items():
            parts = {role: np.ones(len(tree), dtype=bool)}
            if role == "train" and self.withholds:
                parts = {"train": ~self._withheld, "validation": self._withheld}
            for name, kept in parts.items():
                rows, folder = np.flatnonzero(kept), self._called(role)
                names = TreePictures(tree.take(rows)).name
                found.append(overlaps.Part(name, folder, self._contents[role][rows], names, self.withholds))
        return found

    @cached_property
    def shared(self) -> list[overlaps.Shared]:
        """The pairs of sets that share images."""
        return overlaps.shared(self.parts)

    @cached_property
    def _sets(self) -> dict[str, tuple[Tree, np.ndarray]]:
        """Images and labels of each folder."""
        sets = {}
        for name in ("train", self._id, self._own_validation, *self._shifts):
            if name is None:
                continue
            tree = scan(self.path / name)
            labels = relabel(tree, self.name, list(self._classes), "add a line to classes.txt, or take them away")
            if len(tree) == 0:
                kinds = f" but of a kind that is not read ({kinds_text(tree.unread)})" if tree.unread else ""
                fix = "convert them to PNG or remove the folder" if kinds else "fill or remove it"
                raise DataError(f"{self.name}: no images in class folders under {tree.folder}{kinds}; {fix}.")
            sets[name] = tree, labels
        lacking = set(range(len(self._classes))) - set(sets["train"][1].tolist())
        if lacking:
            first = list(self._classes)[min(lacking)]
            inside = sets["train"][0].folder / first
            below = subfolders(inside) if inside.is_dir() else []
            fix = f"move those of its folder {below[0]!r} into it" if below else "add one or drop it"
            if first in sets["train"][0].lost:
                kinds = kinds_text(sets["train"][0].unread)
                fix = f"images there are of a kind that is not read ({kinds}): convert them to PNG"
            raise DataError(f"{self.name}: class folder {first!r} of classes.txt has no training image; {fix}.")
        return sets

    @property
    def passed_over(self) -> dict[str, tuple[int, str]]:
        """Folder -> how many entries in it are no images of a class, and the first; those without any left out."""
        return {name: tree.passed for name, (tree, _) in self._sets.items() if tree.passed[0]}

    @cached_property
    def _withheld(self) -> np.ndarray:
        """(training images on disk,) bool. A class with one image keeps it."""
        tree, labels = self._sets["train"]
        if self._own_validation:
            return np.zeros(len(tree), dtype=bool)
        names = [tree.name(i) for i in range(len(tree))]
        return withhold_tenth(names, labels, self.name)

    @cached_property
    def _trained(self) -> tuple[TreePictures, np.ndarray]:
        tree, labels = self._sets["train"]
        rows = np.flatnonzero(~self._withheld)
        return TreePictures(tree.take(rows)), labels[rows]

    def eval_data(self, name: str) -> ImageSet:
        """The evaluation set of that name; DataError where there is none."""
        folder = self._called(name)
        if name not in {"id", "validation", *self._shifts}:
            raise DataError(f"{self.name} has no set {name!r}; it has validation, id, {', '.join(self._shifts)}.")
        (tree, labels), groups = self._sets[folder], self._grouped.get(folder)
        if folder == "train":
            rows = np.flatnonzero(self._withheld)
            tree, labels = tree.take(rows), labels[rows]
            groups = None if groups is None else [groups[row] for row in rows]
        return self.image_set(name, TreePictures(tree), labels, groups=groups)


def read_prompts(path: Path, name: str) -> tuple[str, ...]:
    """The templates of a prompts.txt; DataError, begun with `name`, where a line is none."""
    prompts = tuple(_lines(path, name))
    wrong = next((prompt for prompt in prompts if not is_template(prompt)), None)
    if not prompts:
        raise DataError(f"{name}: prompts.txt is empty; write lines with one {{}} for the class, or take it away.")
    if wrong is not None:
        raise DataError(f"{name}: each line of prompts.txt needs one {{}} for the class name; found {wrong!r}.")
    return prompts


def read_groups(path: Path, where: str) -> dict[str, str]:
    """Image -> group of a groups.txt, {} where there is none; DataError, begun with `where`, on what is none."""
    groups: dict[str, str] = {}
    for line in _lines(path, where) if path.exists() else ():
        match [part.strip() for part in line.split("\t")]:
            case [image, group] if image and group and composed(image) not in groups:
                groups[composed(image)] = group
            case _:
                raise DataError(
                    f"{where}: groups.txt needs lines of folder/class/file, tab, group, each image once; found "
                    f"{line!r}."
                )
    return groups


def take_groups(left: dict[str, str], before: str, tree: Tree, where: str) -> list[str] | None:
    """Takes the group of each image of a folder out of `left`; None where it names no image of it.

    Args:
        left: image -> group, as `read_groups` gives it.
        before: what stands before the names of the folder's images there: "" or "<folder>/".
        where: begins messages.

    Raises:
        DataError: it names some images of the folder and not all.
    """
    names = [before + composed(tree.name(i)) for i in range(len(tree))]
    lacking = [name for name in names if name not in left]
    if len(lacking) == len(names):
        return None
    if lacking:
        raise DataError(
            f"{where}: groups.txt names {len(names) - len(lacking)} of {len(names)} images of {tree.folder.name}, and "
            f"not {lacking[0]!r}; give each image of a folder its group, or none."
        )
    return [left.pop(name) for name in names]


def refuse_left(left: Mapping[str, str], where: str) -> None:
    """DataError where a groups.txt named something that was no image."""
    if left:
        raise DataError(f"{where}: groups.txt names {next(iter(left))!r}, which is no image of a set; correct it.")


def read_classes(path: Path, where: str) -> dict[str, str]:
    """Folder -> class name of a classes.txt, in its order; DataError, begun with `where`, on what is none."""
    lines = _lines(path, where)
    rows: list[tuple[str, str]] = []
    for line in lines:
        match [part.strip() for part in line.split("\t")]:
            case [folder, name] if folder and name:
                rows.append((folder, name))
            case _:
                raise DataError(f"{where}: classes.txt needs lines of folder, tab, class name; found {line!r}.")
    folders = [composed(folder) for folder, _ in rows]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None or len(rows) < 2:
        found = f"{twice!r} twice" if twice else f"{len(rows)} class{'es' * (len(rows) != 1)}"
        raise DataError(f"{where}: classes.txt needs two or more folders, each once; found {found}.")
    return dict(rows)


def _lines(path: Path, where: str) -> list[str]:
    """Lines of a text file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a form feed or U+2028 ends no line
    except FileNotFoundError:
        raise DataError(f"{where}: no file {path}; write one line a class: folder name, tab, class name.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: {path} cannot be read ({error}); write it in UTF-8.") from None
    return [line.strip() for line in lines if line.strip()]
