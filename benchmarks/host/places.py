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


class Place(click.Path):
    """The type of every option and argument that is a path."""

    def __init__(self, **more: Any) -> None:
        super().__init__(path_type=Path, **more)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, with the home folder in place of `~`."""
        name = param.opts[0] if param is not None else "path"
        return super().convert(expanded(value, name if name.startswith("-") else name.upper()), param, ctx)


def settle_variables() -> None:
    """Make what VARIABLES name whole paths, so that workers and jobs, wherever they start, find the same folders."""
    for name in VARIABLES:
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(expanded(os.environ[name], name))
