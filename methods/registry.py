"""Methods by name. A method file registers its class; `methods/__init__.py` lists the files."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .base import Method

M = TypeVar("M", bound="Method[Any, Any]")
_methods: dict[str, "type[Method[Any, Any]]"] = {}


class TakenName(ValueError):
    """Two methods of one name."""


class UnknownMethod(ValueError):
    """No method of that name; the message has the nearest right one."""


def register(name: str) -> "Callable[[type[M]], type[M]]":
    """Class decorator: makes a method known as `name`, which is also its file's name.

    A notebook's class takes the place of its earlier definition, as a cell that is run again does.

    Raises:
        TakenName: the message names both files.
    """
    key = _normalise(name)

    def add(method: "type[M]") -> "type[M]":
        known = _methods.get(key)
        if known is not None and not ("__main__" == known.__module__ == method.__module__):
            files = (_file(known), _file(method))
            raise TakenName(f"method {key!r} is registered twice, in {files[0]} and in {files[1]}; rename one.")
        method.name = key
        _methods[key] = method
        return method

    return add


def get(name: str) -> "type[Method[Any, Any]]":
    """The class of a method; "-" and "_" are the same.

    Raises:
        UnknownMethod: with the nearest right name.
    """
    key = _normalise(name)
    if key not in _methods:
        near = get_close_matches(key, _methods, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownMethod(f"unknown method {name!r}; {hint}Known: {', '.join(names())}.")
    return _methods[key]


def names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_methods)


def table() -> "dict[str, type[Method[Any, Any]]]":
    """Name -> class, as it is: what brings methods from outside puts them here and takes them away."""
    return _methods


def _file(method: "type[Method[Any, Any]]") -> str:
    """Where a class is defined, for a person."""
    try:
        return inspect.getsourcefile(method) or method.__module__
    except (OSError, TypeError):  # in a notebook
        return method.__module__


def _normalise(name: str) -> str:
    return name.strip().lower().replace("-", "_")
