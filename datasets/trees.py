"""Where images lie on disk: the data root, folders with one subfolder a class, and how many images there should be."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .card import DataError, MissingData

ROOT_VARIABLE = "ROBUSTFT_DATA"
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files with another ending (README, checksums) are no images and are passed over."""


def data_root(root: str | os.PathLike | None) -> Path:
    """The folder that holds all datasets: `root`, or the environment's; DataError where neither says."""
    chosen = root if root is not None else os.environ.get(ROOT_VARIABLE, "")
    if not str(chosen):
        raise DataError(f"no data root; set {ROOT_VARIABLE} to the folder that holds the datasets, or pass --data.")
    return Path(chosen).expanduser()


@dataclass(frozen=True, slots=True)
class Source:
    """A set of images that someone downloads: where it is looked for, how much it holds and who gives it out."""

    name: str
    folders: tuple[str, ...]
    """Accepted places below the data root; the first that exists is taken."""
    images: int
    classes: int
    supplier: str
    """What to download and from whom."""

    def find(self, root: str | os.PathLike | None) -> Path:
        """The folder on this machine; MissingData with what to download where there is none."""
        base = data_root(root)
        found = next((base / folder for folder in self.folders if (base / folder).is_dir()), None)
        if found is None:
            also = f" (nor as {', '.join(self.folders[1:])})" if len(self.folders) > 1 else ""
            raise MissingData(
                f"{self.name}: no folder {base / self.folders[0]}{also}; get {self.supplier}; unpack it "
                f"there, or set {ROOT_VARIABLE} to the folder that holds it."
            )
        return found

    def check(self, folder: Path, labels: np.ndarray, known: Sequence[str], allow_partial: bool) -> None:
        """DataError unless every image and class is there, or `allow_partial` and at least one image is.

        Args:
            folder: where they were looked for.
            labels: (N,) positions in `known` of the images found.
            known: names of the class folders.
        """
        present = set(np.unique(labels).tolist())
        if not present:
            raise MissingData(f"{self.name}: no images in class folders under {folder}; get {self.supplier}.")
        if (len(labels), len(present)) != (self.images, self.classes) and not allow_partial:
            missing = next((f", none in {name}" for i, name in enumerate(known) if i not in present), "")
            raise DataError(
                f"{self.name}: expected {self.images} images in {self.classes} classes under {folder}, found "
                f"{len(labels)} in {len(present)}{missing}; unpack the archive again, or pass --allow-partial to run "
                "on what is there."
            )


@dataclass(frozen=True, slots=True)
class Tree:
    """The images below `folder/<class>/`, sorted by class folder and file name."""

    folder: Path
    classes: tuple[str, ...]
    """Names of the class folders, empty ones among them, sorted."""
    class_of: np.ndarray
    """(N,) int64 positions in `classes`."""
    files: np.ndarray
    """(N,) file names in UTF-8 bytes: one array, because a million Python strings would be copied by every worker."""

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        """`<class folder>/<file>` of image i; with "/" on every system."""
        return f"{self.classes[self.class_of[i]]}/{os.fsdecode(self.files[i])}"

    def take(self, rows: np.ndarray) -> "Tree":
        """The images at these positions, in this order."""
        return Tree(self.folder, self.classes, self.class_of[rows], self.files[rows])


def scan(folder: Path) -> Tree:
    """Lists the images of a folder of class folders; opens none of them. Hidden entries are passed over."""
    with os.scandir(folder) as entries:
        classes = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    listed: list[list[bytes]] = []
    for name in classes:
        with os.scandir(folder / name) as entries:
            files = (e.name for e in entries if not e.name.startswith("."))
            listed.append(sorted(os.fsencode(f) for f in files if f.lower().endswith(SUFFIXES)))
    class_of = np.repeat(np.arange(len(classes)), [len(files) for files in listed])
    return Tree(Path(folder), tuple(classes), class_of, np.array([f for files in listed for f in files], dtype=bytes))


def relabel(tree: Tree, source: str, known: Sequence[str]) -> np.ndarray:
    """(N,) int64 labels: the position of each image's class folder in `known`.

    Raises:
        DataError: a class folder that is not in `known`.
    """
    position = {name: i for i, name in enumerate(known)}
    strange = [name for name in tree.classes if name not in position]
    if strange:
        raise DataError(
            f"{source}: {tree.folder} has {len(strange)} folders that are none of its classes, first {strange[0]!r}; "
            "this is another dataset, or another variant of it."
        )
    return np.array([position[name] for name in tree.classes], dtype=np.int64)[tree.class_of]
