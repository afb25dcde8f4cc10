"""Hashes of the records and samples that a board is made from, so that nobody changes one of them unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from .atomic import write_json_atomic

NAME = "manifest.json"
TUNED = "tuned.json"
"""The tuned values by which a bundle's runs were chosen: method -> backbone -> entry of the suite's tuned file."""
EVIDENCE = ("runs", TUNED, "records.jsonl.zst", "predictions.parquet", "samples.parquet")
"""What is hashed, beside pictures; other files of a folder are made from it."""
PICTURES = (".svg", ".svgz", ".png")
"""How their names end; an .svgz is an SVG under gzip."""


def write(folder: Path, provenance: str, name: str = "") -> None:
    """Hash what lies in the folder now, and the code that made it.

    Args:
        provenance: as which rows it stands on a board, local or reference.
        name: what the group is called whose runs these are, where it said so.
    """
    named = {"name": name} if name else {}
    content = {"schema": 1, "provenance": provenance, **named, "code": code(), "sha256": hashes(folder)}
    write_json_atomic(folder / NAME, content)
    write_pictures(folder)


def write_pictures(folder: Path) -> None:
    """Hash its pictures, if there are any, and say which matplotlib drew them; what is said of the rest stays."""
    found = picture_hashes(folder)
    if found:
        content = json.loads((folder / NAME).read_bytes())
        content["pictures"] = {"matplotlib": metadata.version("matplotlib"), "sha256": found}
        write_json_atomic(folder / NAME, content)


@cache
def code() -> str:
    """sha256 of the modules that make the pages: only the same ones write the same text."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256, of every file of EVIDENCE."""
    return _hashes(folder, (path for name in EVIDENCE for path in [folder / name, *(folder / name).rglob("*")]))


def picture_hashes(folder: Path) -> dict[str, str]:
    """Name -> sha256, of every picture in the folder itself."""
    return _hashes(folder, (path for suffix in PICTURES for path in folder.glob(f"*{suffix}")))


def _hashes(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    files = sorted(path for path in paths if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
