"""The files of this package that a run may read, and their hash: the same for a clone and for a wheel of it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("benchmarks", "methods", "datasets", "backbones", "results")
ITSELF = "robustft"
"""The folder of a clone with what the package itself has, beside the five that are its parts."""
PACKAGE = Path(__file__).resolve().parents[2]
READ_OF_RESULTS = ("page", "published")
"""Where `results` has files other than modules that are read. Beside them are the committed reference, which no run
reads, and in a clone the boards and pictures of whoever works there."""


def files(root: Path = PACKAGE) -> Iterator[tuple[str, Path]]:
    """(Name below robustft once it is installed, file) of what runs may read, in a fixed order."""
    clone = root / ITSELF
    for path in sorted((clone if clone.is_dir() else root).glob("*.py")):
        yield path.name, path
    for name in FOLDERS:
        for folder, below, found in os.walk(root / name):
            below[:] = sorted(entry for entry in below if entry != "__pycache__" and not entry.startswith("."))
            for entry in sorted(found):
                path = Path(folder) / entry
                installed = path.relative_to(root)
                if not entry.startswith(".") and _is_read(installed.parts):
                    yield installed.as_posix(), path


def _is_read(parts: tuple[str, ...]) -> bool:
    suffix = Path(parts[-1]).suffix
    if suffix in (".pyc", ".pyo"):
        return False
    return suffix == ".py" or parts[0] != "results" or parts[1] in READ_OF_RESULTS


def is_clone() -> bool:
    """Whether the package lies in a clone, which its owner may write to, and not among installed packages."""
    return (PACKAGE / "pyproject.toml").exists()


def content_hash(root: Path = PACKAGE) -> str:
    """16 hexadecimal digits that depend on names and content of the files alone."""
    digest = hashlib.sha256()
    for name, path in files(root):
        digest.update(name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
