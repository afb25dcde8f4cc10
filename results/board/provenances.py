"""Rows of several groups in one table: what two of them hold is shown once, and what they tell differently is said."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .curve import Curve
from .row_marks import Record, brings_method, current_plugins
from .rows import HOME, JOINT, Row, settings_text

Groups = Mapping[str, Sequence[Record]]
"""Provenance -> its records."""
Made = tuple[Row, Sequence[Record]]
"""A row, and the records that it was made from."""

NEARLY = 1e-4
"""By which an ECE or an NLL of one run may differ: more than what the rounding of a reference moves (3e-5)."""


def known_to(groups: Groups, provenance: str) -> list[Record]:
    """The records by which the newest version of a group's plug-ins is known: its own; of this machine, both kinds.

    Which of two groups' plug-ins of one name is the newer one nobody knows, so that neither makes the other's stale.
    """
    names = HOME if provenance in HOME else (provenance,)
    return [record for name in names for record in groups.get(name, ())]


def newest_versions(groups: Groups, provenance: str) -> dict[str, int]:
    """Method -> its newest version: over all groups, but of a plug-in's method over what `known_to` gives."""
    newest: dict[str, int] = {}
    ours = [record for given in groups.values() for record in given if not brings_method(record)]
    for record in (*ours, *filter(brings_method, known_to(groups, provenance))):
        newest[record["method"]] = max(record["method_version"], newest.get(record["method"], 0))
    return newest


def newest_plugins(groups: Groups, provenance: str) -> Mapping[tuple[str, str], Sequence[str]]:
    """`current_plugins` of what `known_to` gives."""
    return current_plugins(known_to(groups, provenance))


def joined(made: Sequence[Made], groups: Groups) -> list[Row]:
    """The rows, each that two groups hold once, under both names, and marked where another group has other numbers.

    Two groups hold a row where the records behind the one are among those behind the other, to the last byte.
    """
    if set(groups) <= set(HOME):
        return [row for row, _ in made]
    told = _Told(groups)
    behind = [frozenset(told.text(record) for record in records) for _, records in made]
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, (row, _) in enumerate(made):
        alike[row.method, row.backbone, row.kind, row.point, row.rules].append(i)
    copies: dict[int, list[int]] = {
        i: [] for i in range(len(made))
    }  # of the rows that stay -> those that they stand for
    for places in alike.values():
        for i in sorted(places, key=lambda i: (len(behind[i]), -i)):
            others = [j for j in places if j in copies and made[j][0].provenance != made[i][0].provenance]
            if whole := [j for j in others if behind[i] <= behind[j]]:
                stays = max(whole, key=lambda j: (len(behind[j]), -j))
                copies[stays] += [i, *copies.pop(i)]
    rows = []
    for i, others in copies.items():
        row, records = made[i]
        also = {made[j][0].provenance for j in others} - {row.provenance}
        owners = [row.provenance, *(name for name in groups if name in also)]
        marks = {kind: text for j in others if behind[j] == behind[i] for kind, text in made[j][0].marks.items()}
        marks |= row.marks
        if text := told.differently(row, records, owners):
            marks["rerun"] = text
        rows.append(replace(row, provenance=JOINT.join(owners), marks=marks))
    return rows


def joined_curves(curves: Sequence[Curve], groups: Groups) -> list[Curve]:
    """The curves, each that two groups hold once, under both names."""
    if set(groups) <= set(HOME):
        return list(curves)
    found: list[Curve] = []
    for curve in curves:
        place = next((i for i, other in enumerate(found) if _same(other, curve)), None)
        if place is None:
            found.append(curve)
        elif curve.provenance not in found[place].provenance.split(JOINT):
            provenance = JOINT.join((found[place].provenance, curve.provenance))
            found[place] = replace(found[place], provenance=provenance)
    return found


def _same(one: Curve, other: Curve) -> bool:
    """Whether they are one but for who tells of it; their points are unrounded, so that no two runs have the same."""
    return replace(one, provenance=other.provenance) == other


def shares_name(one: str, other: str) -> bool:
    """Whether two provenances name a group in common."""
    return not set(one.split(JOINT)).isdisjoint(other.split(JOINT))


def entries(groups: Groups) -> Iterator[tuple[str, Record]]:
    """(provenance, record) of every record, each that several groups hold once, under all their names."""
    if set(groups) <= set(HOME):
        yield from ((name, record) for name, given in groups.items() for record in given)
        return
    told = _Told(groups)
    names: dict[str, list[str]] = {}
    first: dict[str, Record] = {}
    for name, given in groups.items():
        for record in given:
            text = told.text(record)
            first.setdefault(text, record)
            if name not in names.setdefault(text, []):
                names[text].append(name)
    yield from ((JOINT.join(names[text]), record) for text, record in first.items())


class _Told:
    """What several groups say of each run."""

    def __init__(self, groups: Groups) -> None:
        self._of: dict[str, list[tuple[str, Record]]] = defaultdict(list)
        for name, given in groups.items():
            for record in given:
                self._of[record["run_id"]].append((name, record))

    @staticmethod
    def text(record: Record) -> str:
        """The whole record: two are one where these are equal."""
        return json.dumps({key: record[key] for key in record}, sort_keys=True)

    def differently(self, row: Row, records: Iterable[Record], owners: Sequence[str]) -> str:
        """Which groups have other numbers of the runs of a row, seed by seed; empty where none has."""
        found: dict[str, list[str]] = defaultdict(list)
        for record in sorted(records, key=lambda record: record["seed"]):
            if row.runs.get(record["seed"]) != record["run_id"]:
                continue
            for name, other in self._of[record["run_id"]]:
                if name not in owners and not set(HOME) >= {name, row.provenance}:
                    if apart := _apart(record, other):
                        found[name].append(f"seed {record['seed']} ({apart})")
        told = "; ".join(f"in {name}: {JOINT.join(seeds)}" for name, seeds in found.items())
        return f"the same runs have other numbers {told}" if told else ""


def _apart(one: Record, other: Record) -> str:
    """The largest difference of two records of one run, in accuracy if there is one; empty where there is none."""
    pairs = [(name, one["sets"][name], other["sets"][name]) for name in one["sets"] if name in other["sets"]]
    for metric, tolerance in (("accuracy", 1e-9), ("nll", NEARLY), ("ece", NEARLY)):
        gaps = {name: _gap(a[metric], b[metric]) for name, a, b in pairs}
        name = max(gaps, key=lambda name: gaps[name], default="")
        if gaps.get(name, 0.0) > tolerance:
            size = f"{100 * gaps[name]:.3g} points" if metric == "accuracy" else f"{gaps[name]:.3g}"
            return f"{metric if metric == 'accuracy' else metric.upper()} on {name} by {size}"
    return ""


def _gap(one: float | None, other: float | None) -> float:
    """Null is an infinite likelihood."""
    if one is None or other is None:
        return 0.0 if one == other else math.inf
    return abs(one - other)


def told_apart_by_weights(rows: Sequence[Row], groups: Groups) -> list[Row]:
    """Where groups had other weights under one name of a backbone, each of its rows says which in its label."""
    weights: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        weights[row.backbone].add(str(row.settings.get("weights")))
    if set(groups) <= set(HOME):
        return list(rows)
    labelled = []
    for row in rows:
        text = settings_text({"weights": str(row.settings.get("weights")).rpartition(":")[2][:8]})
        more = len(weights[row.backbone]) > 1 and text not in row.label
        labelled.append(replace(row, label=JOINT.join(filter(None, (row.label, text)))) if more else row)
    return labelled
