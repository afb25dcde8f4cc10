"""Datasets by name."""

from collections.abc import Callable
from difflib import get_close_matches

from .card import DataError, Dataset


def _digits() -> Dataset:
    from .digits import Digits

    return Digits()


def _digits_uncorrelated() -> Dataset:
    from .digits import Uncorrelated

    return Uncorrelated()


def _forgetting() -> Dataset:
    from .forgetting import Forgetting

    return Forgetting()


_MAKERS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "digits_uncorrelated": _digits_uncorrelated,
    "forgetting": _forgetting,
}


def names() -> list[str]:
    """Registered datasets."""
    return list(_MAKERS)


def get(name: str) -> Dataset:
    """The dataset of that name; DataError with the nearest right name where there is none."""
    if name in _MAKERS:
        return _MAKERS[name]()
    near = get_close_matches(name, names(), 1)
    hint = f"; did you mean {near[0]!r}" if near else ""
    raise DataError(f"unknown dataset {name!r}{hint}? Known: {', '.join(names())}.")
