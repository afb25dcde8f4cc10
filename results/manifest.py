"""Hashes of the records and samples that a board is made from, so that nobody changes one of them unseen."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .atomic import write_json_atomic

NAME = "manifest.json"
EVIDENCE = ("runs", "records", "predictions", "samples.parquet")
"""What is hashed; other files of a folder are made from it."""


def write(folder: Path, provenance: str) -> None:
    """Hash what lies in the folder now; `provenance` says as which rows it stands on a board, local or reference."""
    write_json_atomic(folder / NAME, {"schema": 1, "provenance": provenance, "sha256": hashes(folder)})


def hashes(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256, of every file of EVIDENCE."""
    files = [path for name in EVIDENCE for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }
