"""A mistake is one error with one sentence, whichever part of the package has found it."""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ..errors import UserError, is_mistake

P = ParamSpec("P")
T = TypeVar("T")
ARGUMENTS = {
    "method": "methods",
    "backbone": "backbones",
    "set": "settings",
    "seed": "seeds",
    "data": "ROBUSTFT_DATA",
    "allow-partial": "allow_partial",
}
"""What arguments of functions are called that have another name as options of a command."""


def one_error(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: what any part of the package raises for a mistake comes out as `UserError`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            if not is_mistake(error):
                raise
            raise UserError(as_argument(" ".join(str(error).split()))) from error

    return call


def as_argument(sentence: str) -> str:
    """A sentence about options of a command, about the arguments of that meaning; commands in it stay as they are."""

    def named(found: re.Match[str]) -> str:
        return ARGUMENTS.get(found[1], found[1])

    parts = sentence.split("`")
    parts[::2] = [re.sub(r"(?<!\S)--([a-z-]+)", named, part) for part in parts[::2]]
    return "`".join(parts)
