"""Hashes of the records and samples that a board is made from, so that nobody changes one of them unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from .atomic import write_json_atomic

NAME = "manifest.json"
EVIDENCE = ("runs", "records", "predictions", "samples.parquet")
"""What is hashed, beside pictures; other files of a folder are made from it."""


def write(folder: Path, provenance: str) -> None:
    """Hash what lies in the folder now; `provenance` says as which rows it stands on a board, local or reference."""
    write_json_atomic(folder / NAME, {"schema": 1, "provenance": provenance, "sha256": hashes(folder)})
    write_pictures(folder)


def write_pictures(folder: Path) -> None:
    """Hash its pictures, if there are any, and say which matplotlib drew them; what is said of the rest stays."""
    found = picture_hashes(folder)
    if found:
        content = json.loads((folder / NAME).read_bytes())
        content["pictures"] = {"matplotlib": metadata.version("matplotlib"), "sha256": found}
        write_json_atomic(folder / NAME, content)


def hashes(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256, of every file of EVIDENCE."""
    return _hashes(folder, (path for name in EVIDENCE for path in [folder / name, *(folder / name).rglob("*")]))


def picture_hashes(folder: Path) -> dict[str, str]:
    """Name -> sha256, of every SVG and PNG in the folder itself."""
    return _hashes(folder, (path for suffix in ("svg", "png") for path in folder.glob(f"*.{suffix}")))


def _hashes(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    files = sorted(path for path in paths if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
