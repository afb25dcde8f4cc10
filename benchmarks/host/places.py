"""Folders and files as a user names them: `~` is the home folder, in every option and every variable."""

import os
from pathlib import Path
from typing import Any

import click

from ..errors import UserError

VARIABLES = ("ROBUSTFT_RUNS", "ROBUSTFT_DATA", "ROBUSTFT_WEIGHTS")
"""Each names a folder."""


def expanded(path: str | os.PathLike[str], where: str) -> Path:
    """A path with the home folder in place of a leading `~`, which a shell leaves alone in `--runs=~/x`.

    Raises:
        UserError: begun with `where`; nobody knows that home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{where}: begins with a home folder that is not known on this machine, got '{path}'; write the whole path."
        ) from None


def refuse_file(path: Path, where: str) -> None:
    """UserError, begun with `where`, on a file where a folder is wanted; one that is not there yet may be made."""
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if there.exists() and not there.is_dir():
        got = f"the file '{path}'" if there == path else f"'{path}', and '{there}' is a file"
        raise UserError(f"{where}: must be a folder, got {got}; name a folder, which may be a new one.")


class Place(click.Path):
    """The type of every option and argument that is a path.

    Args:
        folder: whether it is one of a folder, which need not be there.
    """

    def __init__(self, folder: bool = False, **more: Any) -> None:
        super().__init__(path_type=Path, **more)
        self.folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, with the home folder in place of `~`."""
        name = param.opts[0] if param is not None else "path"
        where = name if name.startswith("-") else name.upper()
        path = expanded(value, where)
        if self.folder:
            refuse_file(path, where)
        return super().convert(path, param, ctx)


def settle_variables() -> None:
    """Make what VARIABLES name whole paths, so that workers and jobs, wherever they start, find the same folders."""
    for name in VARIABLES:
        if os.environ.get(name):
            path = expanded(os.environ[name], name)
            if name != "ROBUSTFT_WEIGHTS":  # of which the backbones say which folder was meant
                refuse_file(path, name)
            os.environ[name] = os.path.abspath(path)
