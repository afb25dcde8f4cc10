"""What a uniform guess scores on each set: the accuracy below which a number says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .rows import Section

CLASSES = "classes"
"""Key of a record's info: set -> how many classes a prediction is one of. Records of before have no such key."""
COMMITTED = {
    "645be685591f4524e3b985f20e396aff8ebe74b6c22e80ca1e683e1ee10f4b4e": 10,  # digits
}
"""Data fingerprint -> classes of each of its sets, for committed records of before."""


def classes_of(records: Iterable[Mapping[str, Any]], fingerprint: str, names: Sequence[str]) -> dict[str, int]:
    """Set -> its classes, of those sets of one table for which somebody knows; nothing is guessed from labels.

    Args:
        records: all of the table. fingerprint: of their data. names: of the sets.
    """
    found: dict[str, int] = dict.fromkeys(names, COMMITTED[fingerprint]) if fingerprint in COMMITTED else {}
    for record in records:
        found |= record.get("info", {}).get(CLASSES, {})
    return {name: found[name] for name in names if name in found}


def sentence(section: Section) -> str:
    """What a uniform guess has, in percent, on every set and in the mean over shifts; empty where nobody knows.

    Of accuracy alone: what a guess has in macro F1 depends on how often each class occurs, and the worst of several
    groups lies below its expectation, by how much depends on their sizes.
    """
    every = [name for name in (section.id_set, *section.iid, *section.shifts) if name]
    names = [name for name in every if name in section.classes]
    if not names:
        return ""
    only = " Other scores have no such level." if section.own_metrics else ""
    counts = {section.classes[name] for name in names}
    if len(counts) == 1 and len(names) == len(every):
        (count,) = counts
        return f"Chance accuracy (a uniform guess): {_percent(1 / count)} on every set ({count} classes).{only}"
    levels = [f"{'ID' if name == section.id_set else name} {_percent(1 / section.classes[name])}" for name in names]
    if section.shifts and set(section.shifts) <= set(names):
        mean = sum(1 / section.classes[name] for name in section.shifts) / len(section.shifts)
        levels.append(f"OOD mean {_percent(mean)}")
    return f"Chance accuracy (a uniform guess among the classes of a set): {', '.join(levels)}.{only}"


def _percent(share: float) -> str:
    """10.0 as in a cell, and 0.012 where a cell's digit would be 0."""
    return f"{100 * share:.1f}" if share >= 0.001 else f"{100 * share:.2g}"
