"""`folder:<path>`: anybody's own images and his own shift, without code.

    <path>/classes.txt                  one line a class, in class order: folder name, tab, class name
    <path>/prompts.txt                  optional: one template a line with one "{}"; default "a photo of a {}."
    <path>/train/<class>/...            finetuning
    <path>/validation/<class>/...       optional (or `val`): every choice is made here
    <path>/id_test/<class>/...          in-distribution test (or `test`)
    <path>/<any other name>/<class>/... a shift each

Images lie in the class folders themselves: what lies in folders inside of them is passed over, and counted.
Without a validation folder, a tenth of each class of train is withheld by hash, and the card says so. A shift may lack
classes, but may have no others; all columns count in it. The data's version is a fingerprint of what is there, so the
same images in another place are the same data, and a changed set is other data.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from .card import DataError, DatasetCard, EvalSet, is_set_name, is_template
from .image_sets import ImageSet, TrainsOnPictures, TreePictures, withhold_tenth
from .pixels import Decode
from .trees import Tree, relabel, scan, size_of, subfolders

DEFAULT_PROMPTS = ("a photo of a {}.",)
VALIDATION_FOLDERS = ("validation", "val")
ID_FOLDERS = ("id_test", "test")
_UNKNOWN = "not known"


class Folder(TrainsOnPictures):
    """Images in class folders below one path.

    Args:
        path: the folder described above.
        size: side of the pictures in pixels.
        decode: how they are made, see `pixels`.
        hash_bytes: fingerprint every byte of every image instead of its name and size; reads all of them once.

    Raises:
        DataError: the folder or its classes.txt, train or id_test is missing, or they do not fit together.
    """

    randomness = "folder-v1"

    def __init__(
        self, path: str | os.PathLike, *, size: int = 224, decode: Decode = "exact", hash_bytes: bool = False
    ) -> None:
        self.path, self.size, self.decode = Path(path).expanduser().resolve(), size, decode
        self.hash_bytes = hash_bytes
        self.name = f"folder:{self.path.name}"
        if not self.path.is_dir():
            raise DataError(f"folder:{path}: there is no such folder; give the path that holds train and classes.txt.")
        self._classes = read_classes(self.path / "classes.txt", self.name)
        self.class_ids = tuple(self._classes)
        self._prompts = self._read_prompts()
        below = subfolders(self.path)
        self._id = self._one_of(ID_FOLDERS, below)
        if "train" not in below or self._id is None:
            raise DataError(f"{self.name}: {self.path} needs the folders train and id_test, found {below or 'none'}.")
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
        prompts = tuple(_lines(self.path / "prompts.txt", self.name))
        wrong = next((prompt for prompt in prompts if not is_template(prompt)), None)
        if wrong is not None or not prompts:
            raise DataError(
                f"{self.name}: each line of prompts.txt needs one {{}} for the class name; found {wrong!r}."
            )
        return prompts

    @cached_property
    def card(self) -> DatasetCard:
        """The card; its fingerprint is one of classes, prompts and the files' names and sizes."""
        rule = "" if self._own_validation else "; 10 % of train by hash is the validation set"
        sets = [EvalSet("validation", "validation", f"every choice is made here{rule}", _UNKNOWN, "yes, other images"),
                EvalSet("id", "id", f"the folder {self._id}", _UNKNOWN, "yes, other images")]  # fmt: skip
        sets += [EvalSet(name, "shift", f"the folder {name}", _UNKNOWN, _UNKNOWN) for name in self._shifts]
        names, fingerprint = tuple(self._classes.values()), self._fingerprint()
        version, summary = f"{self.path.name}-{fingerprint[:12]}", f"own images, {len(names)} classes{rule}"
        return DatasetCard(self.name, version, summary, names, self._prompts, tuple(sets), fingerprint)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([self._classes, self._prompts, self.size, self.randomness]).encode())
        roles = {"train": "train", "id": self._id, "validation": self._own_validation}
        roles |= {f"shift:{name}": name for name in self._shifts}
        for role, folder in roles.items():
            tree = self._sets[folder][0] if folder else None
            for i in range(len(tree) if tree else 0):
                path = tree.folder / tree.name(i)
                content = hashlib.sha256(path.read_bytes()).hexdigest() if self.hash_bytes else size_of(path)
                digest.update(json.dumps([role, tree.name(i), content]).encode())
        return digest.hexdigest()

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
                raise DataError(f"{self.name}: no images in class folders under {tree.folder}; fill or remove it.")
            sets[name] = tree, labels
        lacking = set(range(len(self._classes))) - set(sets["train"][1].tolist())
        if lacking:
            first = list(self._classes)[min(lacking)]
            inside = sets["train"][0].folder / first
            below = subfolders(inside) if inside.is_dir() else []
            raise DataError(
                f"{self.name}: class folder {first!r} of classes.txt has no training image; "
                + (f"move those of its folder {below[0]!r} into it." if below else "add one or drop it.")
            )
        return sets

    @property
    def passed_over(self) -> dict[str, tuple[int, str]]:
        """Folder -> how many entries in it are no images of a class, and the first; those without any left out."""
        return {name: tree.passed for name, (tree, _) in self._sets.items() if tree.passed[0]}

    def doubles(self) -> list[tuple[str, str]]:
        """(image of another folder, one of train with the same bytes), paths below the path; reads equal sizes only."""
        sizes: dict[int, list[str]] = {}
        for folder, (tree, _) in self._sets.items():
            for i in range(len(tree)):
                sizes.setdefault(size_of(tree.folder / tree.name(i)), []).append(f"{folder}/{tree.name(i)}")
        found = []
        for paths in sizes.values():
            trained: dict[bytes, str] = {}  # train is the first of the sets
            for path in paths if len(paths) > 1 else ():
                content = hashlib.sha256((self.path / path).read_bytes()).digest()
                if path.startswith("train/"):
                    trained.setdefault(content, path)
                elif content in trained:
                    found.append((path, trained[content]))
        return found

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
        folder = {"id": self._id, "validation": self._own_validation or "train"}.get(name, name)
        if name not in {"id", "validation", *self._shifts}:
            raise DataError(f"{self.name} has no set {name!r}; it has validation, id, {', '.join(self._shifts)}.")
        tree, labels = self._sets[folder]
        if folder == "train":
            tree, labels = tree.take(np.flatnonzero(self._withheld)), labels[self._withheld]
        return self.image_set(name, TreePictures(tree), labels)


def read_classes(path: Path, where: str) -> dict[str, str]:
    """Folder -> class name of a classes.txt, in its order; DataError, begun with `where`, on what is none."""
    rows = [tuple(part.strip() for part in line.split("\t")) for line in _lines(path, where)]
    wrong = next((row for row in rows if len(row) != 2 or not all(row)), None)
    if wrong is not None:
        raise DataError(f"{where}: classes.txt needs lines of folder, tab, class name; found {wrong}.")
    folders = [folder for folder, _ in rows]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None or len(rows) < 2:
        found = f"{twice!r} twice" if twice else f"{len(rows)} classes"
        raise DataError(f"{where}: classes.txt needs two or more folders, each once; found {found}.")
    return dict(rows)


def _lines(path: Path, where: str) -> list[str]:
    """Lines of a text file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{where}: no file {path}; write one line a class: folder name, tab, class name.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: {path} cannot be read ({error}); write it in UTF-8.") from None
    return [line.strip() for line in lines if line.strip()]
