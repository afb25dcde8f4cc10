"""Classes of which a set has no image: its numbers are over the others, though a prediction may be any of them.

Of one's own data, and of shifts of one's own beside other data, a run says so in its record; a registered set that is a
subset of classes by its protocol (`EvalData.project`) is not meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ABSENT = "absent_classes"
"""Key of a record's info: set -> {of: how many classes there are, names: those without an image, cut: true where logits
are cut to the others}."""
_SHOWN = 4
"""Classes that a sentence names."""


def text(name: str, of: int, names: Sequence[str], cut: bool = False) -> str:
    """id has 2 of 3 classes: cat has no image

    Args:
        cut: whether a prediction may only be one of those that it has.
    """
    shown, more = list(names[:_SHOWN]), len(names) - _SHOWN
    if more > 0:
        shown.append(f"{more} more")
    listed = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
    return f"{name} has {of - len(names)} of {of} classes: {listed} {'has' if len(names) == 1 else 'have'} no image" + (
        "; logits are cut to those that it has" if cut else ""
    )


def of_records(records: Iterable[Mapping[str, Any]], names: Iterable[str]) -> tuple[str, ...]:
    """A sentence, without its full stop, on each set of a table that lacks classes; earlier records do not say.

    Args:
        records: all of the table, which are on the same data. names: of its sets.
    """
    found: dict[str, Any] = {}
    for record in records:
        found |= record.get("info", {}).get(ABSENT, {})
    order = dict.fromkeys([*(name for name in names if name in found), *sorted(found)])
    return tuple(text(name, found[name]["of"], found[name]["names"], found[name].get("cut", False)) for name in order)
