"""Folders as a caller names them."""

import os
from pathlib import Path

from ..host.places import expanded

StrPath = str | os.PathLike[str]
DEFAULT_RUNS = "runs"


def root_of(runs: StrPath | None) -> Path:
    """The root of all run folders: as given, or as the commands take it where nothing is given."""
    return expanded(os.environ.get("ROBUSTFT_RUNS") or DEFAULT_RUNS if runs is None else runs, "runs")
