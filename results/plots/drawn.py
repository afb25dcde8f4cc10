"""Pictures that were drawn before: each is drawn once, and again only where what it shows, or our code, has changed.

A file of the folder holds one picture behind a line that says what it was drawn from. It is replaced in one step, so
that a process that is killed leaves the old picture or the new one; a damaged file is drawn again, and the folder may
be removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from ..records import manifest
from ..records.atomic import OutputError, write_atomic
from .figure_data import Material
from .style import formats

CACHE = ".cache"
"""Name of the folder, beside those of the benchmarks' figures."""
PUBLISHED = Path(__file__).parents[1] / "published"


@dataclass(frozen=True)
class Album:
    """The pictures that were drawn for one benchmark.

    Attributes:
        folder: of all figures; None keeps nothing and finds nothing.
        digest: as `digest` gives it; pictures of another one are as good as none.
    """

    folder: Path | None
    benchmark: str
    digest: str

    def find(self, name: str, png: bool) -> dict[str, bytes] | None:
        """Suffix -> content of a figure; None unless every file that is asked for was drawn before, and is whole."""
        found = {}
        for suffix, path in self._paths(name, formats(png)).items():
            try:
                head, _, content = path.read_bytes().partition(b"\n")
            except OSError:
                return None
            if head != self._head(content):
                return None
            found[suffix] = content
        return found or None

    def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """Keep the files of a figure in place of older ones; where the file system refuses, they are drawn again."""
        with contextlib.suppress(OutputError):
            for suffix, path in self._paths(name, files).items():
                write_atomic(path, self._head(files[suffix]) + b"\n" + files[suffix])

    def _paths(self, name: str, suffixes: Iterable[str]) -> dict[str, Path]:
        """Suffix -> where that file of a figure is kept; nothing where no folder is."""
        if self.folder is None:
            return {}
        return {suffix: self.folder / CACHE / self.benchmark / f"{name}{suffix}" for suffix in suffixes}

    def _head(self, content: bytes) -> bytes:
        return f"{self.digest} {hashlib.sha256(content).hexdigest()}".encode()


def digest(material: Material) -> str:
    """sha256 of all that the figures of one benchmark can depend on.

    The records with the selection that they have today, by content; the files beside them (samples, layers) by name,
    size and time; the code that draws, the papers' numbers, and the libraries.
    """
    found = hashlib.sha256(f"{_code()}\n{material.baselines}\n".encode())
    groups = {"local": material.local, "reference": material.reference, "control": material.controls}
    for provenance, records in groups.items():
        for text in sorted(json.dumps(dict(record), sort_keys=True) for record in records):
            found.update(f"{provenance} {text}\n".encode())
    for name, path in material.side_files():
        try:
            about = path.stat()
        except OSError:
            continue  # as if it were not there: for a drawing it is not
        found.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return found.hexdigest()


@cache
def _code() -> str:
    """Of what draws: our modules, what they read beside records, matplotlib and numpy."""
    digest = hashlib.sha256(manifest.code().encode())
    for path in sorted(PUBLISHED.glob("*.csv")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for package in ("matplotlib", "numpy"):
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    return digest.hexdigest()
