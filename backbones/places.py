"""Where backbones of one's own lie: their names are kept in runs and records, their paths beside a plan alone.

`local-dir:PATH`, a folder as open_clip's `local-dir:` reads it, is the backbone `local-dir:FOLDER`; `MODEL:PATH`, a
weights file of a model of open_clip, is `MODEL:FILE`. What a name stands for is remembered in this process.
"""

from pathlib import Path

from .errors import BackboneError

_known: dict[str, Path] = {}


def remember(name: str, path: Path) -> str:
    """Makes known what a backbone's name stands for; returns the name.

    Raises:
        BackboneError: it stands for another place already.
    """
    path = path.absolute()
    other = _known.setdefault(name, path)
    if other != path:
        raise BackboneError(
            f"backbone {name}: {path} and {other} have one name, and so would their runs; rename one of them."
        )
    return name


def place_of(name: str) -> Path | None:
    """The folder or file that a backbone of one's own is; None where nobody has said it."""
    return _known.get(name)


def found(name: str, place: str) -> Path:
    """The folder or file of a name: as remembered, else seen from the current folder, and then remembered.

    Args:
        name: of the backbone.
        place: what it says of where it is.

    Raises:
        BackboneError: there is none.
    """
    path = _known.get(name)
    if path is None and Path(place).exists():
        path = _known[remember(name, Path(place))]
    if path is None or not path.exists():
        where = f" at {path}" if path else f" here; write its path, as {name.partition(':')[0]}:PATH"
        raise BackboneError(f"backbone {name}: is not there{where}.")
    return path
