"""Datasets by name."""

from difflib import get_close_matches

from .card import DataError, Dataset


def names() -> list[str]:
    """Registered datasets."""
    return ["digits", "forgetting"]


def get(name: str) -> Dataset:
    """The dataset of that name; DataError with the nearest right name where there is none."""
    if name == "digits":
        from .digits import Digits

        return Digits()
    if name == "forgetting":
        from .forgetting import Forgetting

        return Forgetting()
    near = get_close_matches(name, names(), 1)
    hint = f"; did you mean {near[0]!r}" if near else ""
    raise DataError(f"unknown dataset {name!r}{hint}? Known: {', '.join(names())}.")
