"""Where backbones of one's own lie: their names are kept in runs and records, their paths beside a plan alone.

`local-dir:PATH`, a folder as open_clip's `local-dir:` reads it, is the backbone `local-dir:FOLDER`; `MODEL:PATH`, a
weights file of a model of open_clip, is `MODEL:FILE`. What a name stands for is remembered in this process.
"""

import os
from pathlib import Path

from .errors import BackboneError
from .registered import FROM_FOLDER, FROM_HUB

WEIGHTS_VARIABLE = "ROBUSTFT_WEIGHTS"
"""Names a folder of weights files, each with the name of a backbone, that are taken in place of the registered ones,
and in which a backbone of one's own is found again that was moved."""

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""Of weights files."""

_known: dict[str, Path] = {}
"""As a person wrote them in this process."""
_planned: dict[str, Path] = {}
"""As they stand beside a plan."""


def is_file_name(name: str) -> bool:
    """Whether MODEL:REST names a weights file of one's own."""
    return ":" in name and name.endswith(SUFFIXES) and not name.startswith((FROM_HUB, FROM_FOLDER))


def remember(name: str, path: Path) -> str:
    """Makes known what a backbone's name stands for; returns the name.

    Raises:
        BackboneError: it stands for another place already, and what was there still is.
    """
    path, other = path.absolute(), _known.get(name)
    if other is not None and other.exists() and not other.samefile(path):
        raise BackboneError(
            f"backbone {name}: is the name of {other} and of {path}, and so would be that of their runs; rename one of "
            "the two."
        )
    _known[name] = path
    return name


def remember_planned(name: str, path: Path) -> None:
    """Makes known where a backbone was when a run was planned; what a person wrote, or moved, goes before."""
    _planned[name] = path.absolute()


def was_said(name: str) -> bool:
    """Whether a person or a plan has said where it is."""
    return name in _known or name in _planned


def place_of(name: str) -> Path | None:
    """The folder or file that a backbone of one's own is; None where nobody has said it.

    The first that is there: what was written in this process, its namesake in the folder that WEIGHTS_VARIABLE names,
    and where it was when the run was planned.
    """
    said = [path for path in (_known.get(name), _moved(name), _planned.get(name)) if path is not None]
    return next((path for path in said if path.exists()), said[0] if said else None)


def _moved(name: str) -> Path | None:
    """What has the name of a backbone of one's own in the folder that WEIGHTS_VARIABLE names; None of a MODEL:TAG."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    if not folder or not (name.startswith(FROM_FOLDER) or is_file_name(name)):
        return None
    path = Path(os.path.expanduser(folder), name.partition(":")[2]).absolute()
    return path if path.exists() else None


def name_of(file: Path) -> str | None:
    """The backbone of one's own, MODEL:FILE, that a weights file is; None where it is none."""
    return next((name for name in (*_known, *_planned) if file.is_file() and place_of(name) == file), None)


def found(name: str, place: str) -> Path:
    """The folder or file of a name: as `place_of`, else seen from the current folder, and then remembered.

    Args:
        name: of the backbone.
        place: what it says of where it is.

    Raises:
        BackboneError: there is none.
    """
    path = place_of(name)
    if path is None and Path(place).exists():
        path = _known[remember(name, Path(place))]
    if path is None:
        raise BackboneError(
            f"backbone {name}: is not there here; write its path, as {name.partition(':')[0]}:PATH, or {remedy(name)}."
        )
    if not path.exists():
        raise BackboneError(f"backbone {name}: is not there at {path}; put it back, or {remedy(name)}.")
    return path


def remedy(name: str) -> str:
    """Where a backbone of one's own that was moved is looked for, as the end of a sentence."""
    return f"name with {WEIGHTS_VARIABLE} the folder that has it as {name.partition(':')[2]}"
