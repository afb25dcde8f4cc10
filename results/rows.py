"""From records to the rows of a board: grouping, means over seeds, and what is wrong with a row."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .records import RecordError, summarise
from .statistics import mean_sd

REFERENCE_METHOD = "zero_shot"  # a reference row: first, never ranked, no training randomness
MARKS = {"dirty": "*", "seeds": "†", "sets": "‡", "partial": "§", "stale": "¶"}
OLD_TASK, FORGOTTEN = "original", "acc_forgotten"  # the forgetting study's set, and what a run lost of it
CHOSEN_BY_DEFAULT = ("method default", "recipe", "suite")  # sources of values that nobody chose for this run
NOT_SETTINGS = {
    "seed",
    "inputs",
    "benchmark",
    "method",
    "method_version",
    "backbone",
    "recipe",
    "kind",
    "hyper",
}

Record = Mapping[str, Any]


class BoardError(ValueError):
    """Records that must not stand in one table."""


@dataclass(frozen=True)
class Row:
    """One method on one backbone, from one place, over its seeds. Fractions (NLL: nats), unrounded."""

    method: str
    method_version: int
    backbone: str
    provenance: str  # "local" or "reference"
    rules: tuple[str, ...]  # selection rules that chose this setting; none for the unranked table
    seeds: tuple[int, ...]
    values: Mapping[str, Mapping[int, float]]  # column -> seed -> value
    tuned: Mapping[str, Any]  # what tuning chose
    chosen: Mapping[str, Any]  # what tuning or the user chose
    settings: Mapping[str, Any]  # every field of the spec that all its runs share
    tuning: tuple[str, ...]
    trials: int
    marks: Mapping[str, str] = field(default_factory=dict)  # kind of mark -> reason
    label: str = ""  # tells rows apart that would look the same

    @property
    def is_reference_method(self) -> bool:
        return self.method == REFERENCE_METHOD

    @property
    def complete(self) -> bool:
        """Every expected seed and set, on all data: only such a row may be the best."""
        return not set(self.marks) & {"seeds", "sets", "partial", "stale"}

    @property
    def name(self) -> str:
        return f"{self.method} [{self.label}]" if self.label else self.method

    def cell(self, column: str) -> tuple[float | None, float | None, int]:
        """Mean, standard deviation and number of seeds; nothing is filled in for a missing seed."""
        values = self.values.get(column, {})
        if not values:
            return None, None, 0
        if any(math.isinf(value) for value in values.values()):
            return math.inf, None, len(values)
        mean, sd = mean_sd([values[seed] for seed in sorted(values)])
        return mean, sd, len(values)


@dataclass(frozen=True)
class Section:
    """All rows of one benchmark version and recipe."""

    benchmark: str
    version: str
    recipe: str
    fingerprint: str
    id_set: str | None
    shifts: tuple[str, ...]
    diagnostics: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def backbones(self) -> list[str]:
        return sorted({row.backbone for row in self.rows}, key=natural)

    def table(self, rule: str, backbone: str) -> list[Row]:
        """Zero-shot first, then complete rows by falling OOD mean, then incomplete ones."""
        rows = [row for row in self.rows if row.backbone == backbone and rule in row.rules]
        return sorted(rows, key=self._order)

    def unranked(self) -> list[Row]:
        rows = [row for row in self.rows if not row.rules]
        return sorted(rows, key=lambda row: (natural(row.backbone), row.method, row.provenance, row.label))

    def _order(self, row: Row) -> tuple[Any, ...]:
        ood, identity = row.cell("acc_ood_mean")[0], row.cell("acc_id")[0]
        return (
            not row.is_reference_method,
            not row.complete,
            -(ood if ood is not None else -1.0),
            -(identity if identity is not None else -1.0),
            row.method,
            row.provenance,
            row.label,
        )


def sections(records: Iterable[Record], reference: Iterable[Record], rules: Sequence[str]) -> tuple[Section, ...]:
    """One section per benchmark, version, recipe and data fingerprint; nothing is averaged across them."""
    groups: dict[tuple[str, ...], dict[str, list[Record]]] = defaultdict(lambda: {"local": [], "reference": []})
    for provenance, given in (("local", records), ("reference", reference)):
        for record in given:
            if record["kind"] == "run":
                groups[_table_of(record)][provenance].append(record)
    return tuple(section(**groups[key], rules=rules) for key in sorted(groups))


def section(local: Sequence[Record], reference: Sequence[Record], rules: Sequence[str]) -> Section:
    """The rows of one table.

    Raises:
        BoardError: the records are of more than one benchmark, version, recipe or data fingerprint.
    """
    everything = [*local, *reference]
    tables = sorted({_table_of(record) for record in everything})
    if len(tables) != 1:
        names = " and ".join("/".join(part for part in table if part) for table in tables)
        raise BoardError(f"board: one table cannot hold {names}; make one table for each.")
    benchmark, version, recipe, fingerprint = tables[0]
    roles = _roles(everything)
    newest: dict[str, int] = {}
    for record in everything:
        newest[record["method"]] = max(record["method_version"], newest.get(record["method"], 0))

    rows: list[Row] = []
    for provenance, given in (("local", local), ("reference", reference)):
        groups: dict[str, list[Record]] = defaultdict(list)
        for record in given:
            groups[_group_of(record, rules)].append(record)
        keys = sorted(groups)
        made = [_row(groups[key], provenance, roles, rules) for key in keys]
        seeds = {s for row in made if row.rules and not row.is_reference_method for s in row.seeds}
        rows += [_marked(row, groups[key], roles, seeds, newest) for key, row in zip(keys, made, strict=True)]
    if OLD_TASK in roles:
        rows = [_with_forgetting(row, rows) for row in rows]
    return Section(
        benchmark,
        version,
        recipe,
        fingerprint,
        next((name for name, role in roles.items() if role == "id"), None),
        tuple(name for name, role in roles.items() if role == "shift"),
        tuple(name for name, role in roles.items() if role == "diagnostic"),
        tuple(_told_apart(rows)),
    )


def _with_forgetting(row: Row, rows: Sequence[Row]) -> Row:
    """The row with its forgetting rate: accuracy on the old task before finetuning minus after (Figure 3)."""
    column = f"acc/{OLD_TASK}"
    before = [other.cell(column)[0] for other in rows if other.is_reference_method and other.backbone == row.backbone]
    if row.is_reference_method or not before or before[0] is None:
        return row
    forgotten = {seed: before[0] - after for seed, after in row.values.get(column, {}).items()}
    return replace(row, values={**row.values, FORGOTTEN: forgotten})


def natural(text: str) -> list[tuple[int, Any]]:
    """Sort key under which p8 comes before p16."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def _table_of(record: Record) -> tuple[str, str, str, str]:
    fingerprint = str(record["spec"].get("fingerprint", ""))
    return record["benchmark"], record["benchmark_version"], record["recipe"], fingerprint


def _settings(record: Record) -> dict[str, Any]:
    """Every field that all seeds of a row must share, hyperparameters beside the others."""
    spec = record["spec"]
    return {key: value for key, value in spec.items() if key not in NOT_SETTINGS} | dict(spec.get("hyper", {}))


def _group_of(record: Record, rules: Sequence[str]) -> str:
    identity = [record["method"], record["method_version"], record["backbone"], record["backbone_weights"]]
    return json.dumps([identity, _rules_of(record, rules), _settings(record)], sort_keys=True)


def _rules_of(record: Record, rules: Sequence[str]) -> list[str]:
    if record["spec"].get("limit") is not None:
        return []  # a rehearsal on part of the images
    # Zero-shot has nothing to select; it is the reference row under every rule.
    if record["method"] == REFERENCE_METHOD:
        return list(rules)
    return [rule for rule in rules if rule in record["selection"]["rules"]]


def _roles(records: Sequence[Record]) -> dict[str, str]:
    """Set name -> role, in the order of the fullest record, whatever the order of the records."""
    roles: dict[str, str] = {}
    for record in sorted(records, key=lambda r: (-len(r["sets"]), r["run_id"])):
        for name, metrics in record["sets"].items():
            if roles.setdefault(name, metrics["role"]) != metrics["role"]:
                raise BoardError(f"board: set {name} is {roles[name]} in one record and {metrics['role']} in another.")
    return {name: role for name, role in roles.items() if role != "validation"}


def _row(records: Sequence[Record], provenance: str, roles: Mapping[str, str], rules: Sequence[str]) -> Row:
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: (r["finished"], r["run_id"], json.dumps(r, sort_keys=True))):
        by_seed.setdefault(record["seed"], record)  # of two records of one run, the first that finished
    if records[0]["method"] == REFERENCE_METHOD:
        by_seed = {min(by_seed): by_seed[min(by_seed)]}  # seeds change nothing: n = 1 and no deviation
    first = by_seed[min(by_seed)]
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for seed, record in by_seed.items():
        for column, value in _columns(record["sets"], roles).items():
            values[column][seed] = value
    settings = _settings(first)
    chosen = {
        key: settings[key]
        for key, source in first["sources"].items()
        if key in settings and not source.startswith(CHOSEN_BY_DEFAULT)
    }
    tuned = {key: value for key, value in chosen.items() if first["sources"][key].startswith("tuned")}
    selections = [record["selection"] for record in by_seed.values()]
    return Row(
        method=first["method"],
        method_version=first["method_version"],
        backbone=first["backbone"],
        provenance=provenance,
        rules=tuple(_rules_of(first, rules)),
        seeds=tuple(sorted(by_seed)),
        values={column: dict(sorted(values[column].items())) for column in sorted(values)},
        tuned=dict(sorted(tuned.items())),
        chosen=dict(sorted(chosen.items())),
        settings=settings,
        tuning=tuple(sorted({s["tuning"] for s in selections if s.get("tuning")})),
        trials=max(s.get("trials", 0) for s in selections),
    )


def _columns(sets: Mapping[str, Mapping[str, Any]], roles: Mapping[str, str]) -> dict[str, float]:
    """Column -> value of one run; a mean over shifts only if none is missing."""
    values = {f"acc/{name}": metrics["accuracy"] for name, metrics in sets.items() if name in roles}
    try:
        summary = summarise(sets)
    except RecordError as error:
        raise BoardError(f"board: {error}") from error
    if any(role == "shift" and name not in sets for name, role in roles.items()):
        summary = {key: value for key, value in summary.items() if not key.endswith("_ood_mean")}
    summary.pop("nll_validation", None)
    # A record holds null where the likelihood is infinite.
    return values | {key: math.inf if value is None else value for key, value in summary.items()}


def _marked(
    row: Row,
    records: Sequence[Record],
    roles: Mapping[str, str],
    expected_seeds: set[int],
    newest: Mapping[str, int],
) -> Row:
    used = [record for record in records if record["seed"] in row.seeds]
    marks: dict[str, str] = {}
    if any(record["environment"].get("dirty") for record in used):
        marks["dirty"] = "made with uncommitted changes"
    missing = sorted(expected_seeds - set(row.seeds))
    if row.rules and missing and not row.is_reference_method:
        few = f"{len(row.seeds)} of {len(expected_seeds)} seeds"
        marks["seeds"] = f"{few}, missing {', '.join(map(str, missing))}"
    absent = sorted({name for name in roles for record in used if name not in record["sets"]}, key=natural)
    if absent:
        marks["sets"] = f"not every run has {', '.join(absent)}; empty cells and means leave those runs out"
    short = {
        name
        for record in used
        for name, metrics in record["sets"].items()
        if name in roles and (metrics["n"] < metrics["n_expected"] or record["spec"].get("limit") is not None)
    }
    if short:
        marks["partial"] = f"part of the images only: {', '.join(name for name in roles if name in short)}"
    rules = row.rules
    if row.method_version < newest[row.method]:
        marks["stale"] = f"version {row.method_version} of a method that is at version {newest[row.method]}"
        rules = ()
    return replace(row, marks=marks, rules=rules)


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Give a label to unranked rows (what was chosen) and to ranked ones that differ in settings alone."""
    labelled = []
    for row in rows:
        shown = dict(row.chosen) if not row.rules else {}
        for other in rows:
            same_place = (other.method, other.backbone, other.provenance) == (
                row.method,
                row.backbone,
                row.provenance,
            )
            if other is not row and same_place and set(other.rules) & set(row.rules):
                keys = row.settings.keys() | other.settings.keys()
                shown |= {
                    key: row.settings.get(key) for key in keys if row.settings.get(key) != other.settings.get(key)
                }
        labelled.append(replace(row, label=settings_text(shown)))
    return labelled


def settings_text(values: Mapping[str, Any]) -> str:
    """lr=0.001, lambda_sd=0.5; the learning rate first."""
    keys = sorted(values, key=lambda key: (key != "lr", key))
    return ", ".join(
        f"{key}={values[key]:g}" if isinstance(values[key], float) else f"{key}={values[key]}" for key in keys
    )
