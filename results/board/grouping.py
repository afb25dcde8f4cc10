"""From records to the rows of a board: grouping, means over seeds, and what is wrong with a row."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..records.records import RecordError, summarise, tuned_on
from ..records.schema import CLUSTERS
from ..statistics.seed_summary import mean_of_all
from . import absent_classes, interpolation_paths, provenances
from .chance import classes_of
from .curve import Curve
from .oracle import PathRuns, at_best_points, runs_of_paths
from .provenances import shares_name
from .row_marks import (
    Record,
    is_partial,
    is_replaced,
    is_transductive,
    marked,
    with_budgets,
)
from .rows import (
    ASIDE,
    FIXED,
    FORGOTTEN,
    GIVEN,
    GRID,
    MORE_METRICS,
    OLD_TASK,
    OOD_MEANS,
    ORACLE,
    PARTIAL,
    PUBLISHED,
    REFERENCE_METHOD,
    RETAINED,
    SCORE,
    TRANSDUCTIVE,
    Row,
    Section,
    settings_text,
    versions_text,
)

CHOSEN_BY_DEFAULT = ("method default", "recipe", "suite")  # sources of values that nobody chose for this run
FLOOR = "ece_expected"  # what the ECE of a set would be under perfect calibration; not in earlier records
LINEAGE = "ece_lineage_"  # with the batch that it is averaged over in the name; not in earlier records
AS_BEFORE = {"bn": "frozen", "train_limit": None, "allow_partial": False}
"""Fields that earlier records do not have, with what they mean there."""
OWN_VERSION = re.compile(r".+-[0-9a-f]{12}")
"""The version of one's own data: a name and the beginning of their fingerprint."""
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
    "given",
    "plugins",
}


@dataclass(frozen=True)
class _Table:
    """What all rows of one table share: set -> role, set -> own metric, the selection rules, and means over shifts."""

    roles: Mapping[str, str]
    own_metrics: Mapping[str, str]
    rules: Sequence[str]
    means: Mapping[str, tuple[str, ...]]


class BoardError(ValueError):
    """Records that must not stand in one table."""


def sections(groups: Mapping[str, Iterable[Record]], rules: Sequence[str]) -> tuple[Section, ...]:
    """One section per benchmark, version, recipe, data and number of shots; nothing is averaged across them.

    Args:
        groups: provenance -> its records.
    """
    tables: dict[_Key, dict[str, list[Record]]] = defaultdict(lambda: {name: [] for name in groups})
    for provenance, given in groups.items():
        for record in given:
            if record["kind"] == "run":
                tables[_table_of(record)][provenance].append(record)
    return tuple(section(tables[key], rules) for key in sorted(tables))


def section(groups: Mapping[str, Sequence[Record]], rules: Sequence[str]) -> Section:
    """The rows of one table.

    Args:
        groups: provenance -> its records.

    Raises:
        BoardError: the records are of more than one benchmark, version, recipe, data fingerprint or number of shots.
    """
    everything = [record for given in groups.values() for record in given]
    tables = sorted({_table_of(record) for record in everything})
    if len(tables) != 1:
        names = " and ".join("/".join(str(part) for part in table if part) for table in tables)
        raise BoardError(f"board: one table cannot hold {names}; make one table for each.")
    benchmark, version, recipe, fingerprint, shots = tables[0]
    layouts: dict[int, _Layout] = {}  # id of a record -> its sets, each with its role
    known: dict[_Layout, _Layout] = {}  # few, each kept once
    for record in everything:
        layout = tuple((name, metrics["role"]) for name, metrics in record["sets"].items())
        layouts[id(record)] = known.setdefault(layout, layout)
    roles = _roles((layouts[id(record)], record["run_id"]) for record in everything)
    groups = {
        provenance: [_in_its_roles(record, layouts[id(record)], roles) for record in given]
        for provenance, given in groups.items()
    }
    everything = [record for given in groups.values() for record in given]
    clusters = {name: starts for record in everything for name, starts in record["info"].get(CLUSTERS, {}).items()}
    own_metrics = _own_metrics(everything, roles)
    table = _Table(roles, own_metrics, rules, _means(everything, roles))

    made: list[provenances.Made] = []
    with_paths: dict[str, list[PathRuns]] = {}
    for provenance, given in groups.items():
        newest = provenances.newest_versions(groups, provenance)
        plugins = provenances.newest_plugins(groups, provenance)
        settings: dict[str, list[Record]] = defaultdict(list)
        for record in given:
            settings[_group_of(record, rules)].append(record)
        pairs = [(row, settings[key]) for key in sorted(settings) for row in _rows(settings[key], provenance, table)]
        best: dict[str, list[Record]] = defaultdict(list)
        paths = runs_of_paths(given, own_metrics)
        for record in at_best_points(paths):
            best[_group_of(record, rules)].append(record)
        pairs += [(_oracle_row(best[key], provenance, table), best[key]) for key in sorted(best)]
        expected = _expected_seeds([row for row, _ in pairs])
        made += [(marked(row, behind, roles, expected.of(row), newest, plugins), behind) for row, behind in pairs]
        # All runs of a path are of one version of their method and of their plug-ins.
        firsts = ((path, path.runs[0]) for path in paths)
        with_paths[provenance] = [
            path
            for path, first in firsts
            if first["method_version"] == newest[first["method"]] and not is_replaced(first, plugins)
        ]
    rows = with_budgets(provenances.joined(made, groups))
    if OLD_TASK in roles:
        rows = [_with_forgetting(row, rows) for row in rows]
    rows = [replace(row, clusters=clusters) for row in rows]
    found = Section(
        benchmark,
        version,
        recipe,
        fingerprint,
        next((name for name, role in roles.items() if role == "id"), None),
        tuple(name for name, role in roles.items() if role == "shift"),
        tuple(name for name, role in roles.items() if role == "diagnostic"),
        tuple(provenances.told_apart_by_weights(_told_apart(rows), groups)),
        own_metrics=tuple(sorted(own_metrics.items())),
        doubts=tuple(sorted({doubt for record in everything for doubt in _doubts(record)} - {""})),
        classes=classes_of(everything, fingerprint, tuple(roles)),
        retention=_retention(everything),
        absent=absent_classes.of_records(everything, roles),
        means=table.means,
        shots=shots or None,
        iid=tuple(name for name, role in roles.items() if role == "iid"),
        clusters={name: len(starts) for name, starts in clusters.items() if name in roles},
    )
    return replace(found, paths=tuple(provenances.joined_curves(list(_paths(with_paths, found)), groups)))


def _doubts(record: Record) -> tuple[str, ...]:
    """What must be known of a record's weights and data, and of classes that captions cannot tell apart."""
    info, named = record.get("info", {}), OWN_VERSION.fullmatch(record["benchmark_version"])
    by_size = "the data are known by the names and sizes of their files, as earlier versions of this package did it"
    doubts = (info.get("weights_doubt", ""), info.get("same_captions", ""))
    return (*doubts, by_size) if named and "fingerprint_of" not in info else doubts


def _paths(groups: Mapping[str, Sequence[PathRuns]], section: Section) -> Iterable[Curve]:
    for provenance, paths in groups.items():
        yield from interpolation_paths.of_runs(paths, provenance)
    yield from interpolation_paths.of_rows(section)


def _with_forgetting(row: Row, rows: Sequence[Row]) -> Row:
    """The row with its forgetting rate: accuracy on the old task before finetuning minus after (Figure 3)."""
    column = f"acc/{OLD_TASK}"
    starts = [other for other in rows if other.is_reference_method and other.backbone == row.backbone]
    # That of its own group first, and of that the one on the same images.
    start = min(
        starts,
        key=lambda other: (not shares_name(other.provenance, row.provenance), _limit(other) != _limit(row)),
        default=None,
    )
    before = None if start is None else start.mean(column)
    if row.is_reference_method or before is None:
        return row
    forgotten = {seed: before - after for seed, after in row.values.get(column, {}).items()}
    return replace(row, values={**row.values, FORGOTTEN: forgotten})


def _limit(row: Row) -> Any:
    """How many images of a set its runs saw; None for all."""
    return row.settings.get("limit")


@dataclass(frozen=True)
class _Seeds:
    """Seeds that every ranked row should have, and those that every row of a grid should have."""

    ranked: set[int]
    grid: set[int]

    def of(self, row: Row) -> set[int]:
        return self.grid if row.kind == GRID else self.ranked


def _expected_seeds(rows: Sequence[Row]) -> _Seeds:
    several = [row for row in rows if row.varies]
    return _Seeds(
        {seed for row in several if row.rules for seed in row.seeds},
        {seed for row in several if row.kind == GRID for seed in row.seeds},
    )


_Key = tuple[str, str, str, str, int]


def _table_of(record: Record) -> _Key:
    spec = record["spec"]
    data = str(spec.get("fingerprint", "")), spec.get("shots") or 0
    return record["benchmark"], record["benchmark_version"], record["recipe"], *data


def _settings(record: Record) -> dict[str, Any]:
    """Every field that all seeds of a row must share, hyperparameters beside the others."""
    spec = AS_BEFORE | record["spec"]
    if "plugins" in spec:
        spec = {**spec, "plug-in": ", ".join(spec["plugins"])}
    settings = {key: value for key, value in spec.items() if key not in NOT_SETTINGS} | dict(spec.get("hyper", {}))
    given = spec.get("given")
    return settings | ({GIVEN: _read_as(given)} if given else {})


def _read_as(given: Mapping[str, Any]) -> str:
    """How a checkpoint was read; which one it is, each seed of a row says for itself."""
    head = "head of its text tower" if given["kind"] == "clip" else "head given"
    parts = [head, "" if given["normalise"] else "raw features"]
    return ", ".join(filter(None, [*parts, f"positions {given['resampled']}" if given["resampled"] else ""]))


def _group_of(record: Record, rules: Sequence[str]) -> str:
    model = [record["method"], record["method_version"], record["backbone"], record["backbone_weights"]]
    kinds = [_kind_of(record), _is_fixed(record)]
    return json.dumps([model, _rules_of(record, rules), kinds, _settings(record)], sort_keys=True)


def _rules_of(record: Record, rules: Sequence[str]) -> list[str]:
    if is_partial(record):
        return []  # a rehearsal, or data that are not complete
    # Zero-shot has nothing to select; it is the reference row under every rule.
    if record["method"] == REFERENCE_METHOD:
        return list(rules)
    if _kind_of(record):
        return []
    return [rule for rule in rules if rule in record["selection"]["rules"]]


def _kind_of(record: Record) -> str:
    """Published values, settings of a grid and what adapts to a set are never ranked, whatever else is said of them."""
    if record["method"] == REFERENCE_METHOD:
        return ""
    if PUBLISHED in record["selection"]["rules"]:
        return PUBLISHED
    if is_of_grid(record):
        return GRID
    return TRANSDUCTIVE if is_transductive(record) else ""


def is_of_grid(record: Record) -> bool:
    """Whether a study's grid gave any of its values."""
    return any(source.startswith("grid of ") for source in record["sources"].values())


def _is_fixed(record: Record) -> bool:
    return FIXED in record["selection"]["rules"] and not _kind_of(record) and not is_partial(record)


_Layout = tuple[tuple[str, str], ...]
"""(name, role) of each set of a record."""


def _roles(layouts: Iterable[tuple[_Layout, str]]) -> dict[str, str]:
    """Set name -> role, in the order of the fullest record, whatever the order of the records.

    Args:
        layouts: that of each record, and its run id.
    """
    first: dict[_Layout, str] = {}
    for layout, run_id in layouts:
        first[layout] = min(run_id, first.get(layout, run_id))
    roles: dict[str, str] = {}
    for layout in sorted(first, key=lambda layout: (-len(layout), first[layout])):
        for name, role in layout:
            known = roles.setdefault(name, role)
            if {known, role} == {"iid", "shift"}:
                roles[name] = "iid"  # what is finetuned on was once called a shift, too
            elif known != role:
                raise BoardError(f"board: set {name} is {known} in one record and {role} in another.")
    return {name: role for name, role in roles.items() if role != "validation"}


def _in_its_roles(record: Record, layout: _Layout, roles: Mapping[str, str]) -> Record:
    """The record with the roles that its table's sets have."""
    if all(roles.get(name, role) == role for name, role in layout):
        return record
    moved = {name: {**metrics, "role": roles.get(name, metrics["role"])} for name, metrics in record["sets"].items()}
    return {**{key: record[key] for key in record}, "sets": moved}


def _rows(records: Sequence[Record], provenance: str, table: _Table) -> Iterable[Row]:
    """The row of one setting; a setting that is also the fixed one has two: as it was tuned, and as it was fixed."""
    row = _row(records, provenance, table)
    if not _is_fixed(records[0]):
        yield row
        return
    if row.rules:
        yield row
    parameters = [path["parameter"]] if (path := records[0].get("path")) else []
    at = {key: row.settings[key] for key in parameters if key in row.settings}
    tuned = {key: value for key, value in row.tuned.items() if key not in at}
    point, chosen = _point_text(at) or FIXED, {**row.chosen, **at}
    yield replace(row, kind=FIXED, rules=tuple(table.rules), point=point, tuned=tuned, chosen=chosen)


def _oracle_row(records: Sequence[Record], provenance: str, table: _Table) -> Row:
    row = _row(records, provenance, replace(table, rules=()))
    at = {key: row.settings[key] for key, source in records[0]["sources"].items() if source == ORACLE}
    return replace(row, kind=ORACLE, point=_point_text(at), runs={})


def _point_text(at: Mapping[str, Any]) -> str:
    """alpha 0.5"""
    return settings_text(at).replace("=", " ")


def _row(records: Sequence[Record], provenance: str, table: _Table) -> Row:
    of_seed: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        of_seed[record["seed"]].append(record)
    by_seed = {seed: several[0] if len(several) == 1 else min(several, key=_first) for seed, several in of_seed.items()}
    pooled = any(":" in name for name in records[0]["spec"].get("inputs", {}))
    if records[0]["method"] == REFERENCE_METHOD or pooled:
        # Seeds change nothing, or are all in the one run: n = 1 and no deviation.
        by_seed = {min(by_seed): by_seed[min(by_seed)]}
    first = by_seed[min(by_seed)]
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for seed, record in by_seed.items():
        sets = record["sets"]
        found = {**_columns(sets, table.roles), **_scores(sets, table), **_dynamics(record), **_retained(record)}
        for column, value in found.items():
            values[column][seed] = value
    settings = _settings(first)
    chosen = {
        key: settings[key]
        for key, source in first["sources"].items()
        if key in settings and not source.startswith(CHOSEN_BY_DEFAULT)
    }
    tuned = {key: value for key, value in chosen.items() if first["sources"][key].startswith("tuned")}
    kind = _kind_of(first)
    of_grid = {key for key, source in first["sources"].items() if source.startswith("grid of ")} if kind == GRID else ()
    selections = [record["selection"] for record in by_seed.values()]
    elsewhere = "" if (other := tuned_on(first)) == first["backbone"] else f" on {other}"
    return Row(
        method=first["method"],
        method_version=first["method_version"],
        backbone=first["backbone"],
        provenance=provenance,
        rules=tuple(_rules_of(first, table.rules)),
        seeds=tuple(sorted(by_seed)),
        values={column: dict(sorted(values[column].items())) for column in sorted(values)},
        tuned=dict(sorted(tuned.items())),
        chosen=dict(sorted(chosen.items())),
        settings=settings,
        tuning=tuple(sorted({f"{s['tuning']}{elsewhere}" for s in selections if s.get("tuning")})),
        trials=max(s.get("trials", 0) for s in selections),
        evaluated=_evaluated(first),
        kind=kind,
        varied={key: chosen[key] for key in sorted(of_grid) if key in chosen},
        pooled=pooled,
        runs={seed: by_seed[seed]["run_id"] for seed in sorted(by_seed)},
    )


def _first(record: Record) -> tuple[str, str, str]:
    """Sort key: of two records of one run the first that finished counts."""
    return record["finished"], record["run_id"], json.dumps(dict(record), sort_keys=True)


def _evaluated(record: Record) -> int:
    """The trials that trained nothing. Earlier records do not count them: each value of a path that was searched."""
    evaluated = record["selection"].get("evaluated")
    path = record.get("path")
    if evaluated is not None or not path:
        return evaluated or 0
    return len(path["points"]) if record["sources"].get(path["parameter"], "").startswith("tuned") else 0


def _own_metrics(records: Sequence[Record], roles: Mapping[str, str]) -> dict[str, str]:
    """Set -> the metric that its protocol names, where it is not accuracy; earlier records name none."""
    found: dict[str, str] = {}
    for record in records:
        for name, metric in record.get("info", {}).get("own_metrics", {}).items():
            if name in roles and found.setdefault(name, metric) != metric:
                raise BoardError(f"board: set {name} is judged by {found[name]} in one record and {metric} in another.")
    return found


def _means(records: Sequence[Record], roles: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Name -> the shifts of a mean that the suite of today names, of shifts alone."""
    found = {name: tuple(sets) for record in records for name, sets in record.get(OOD_MEANS, {}).items()}
    return {name: sets for name, sets in found.items() if all(roles.get(each) == "shift" for each in sets)}


def _scores(sets: Mapping[str, Mapping[str, Any]], table: _Table) -> dict[str, float]:
    """What a run scores on the sets that are not judged by accuracy, and means over shifts of which none is missing."""
    own = table.own_metrics
    found = {f"{metric}/{name}": sets[name][metric] for name, metric in own.items() if metric in sets.get(name, {})}
    shifts = [name for name, role in table.roles.items() if role == "shift"]
    mean = mean_of_all(sets.get(name, {}).get(own.get(name, "accuracy")) for name in shifts)
    if mean is not None and set(shifts) & set(own):
        found[SCORE] = mean
    for key, names in table.means.items():
        partial = mean_of_all(sets.get(name, {}).get(own.get(name, "accuracy")) for name in names)
        if partial is not None:
            found[PARTIAL + key] = partial
    return found


def _columns(sets: Mapping[str, Mapping[str, Any]], roles: Mapping[str, str]) -> dict[str, float]:
    """Column -> value of one run; a mean over shifts only if none is missing."""
    values: dict[str, float] = {}
    of_role: dict[str, list[Mapping[str, Any]]] = {"id": [], "shift": []}
    for name, metrics in sets.items():
        if metrics["role"] in of_role:
            of_role[metrics["role"]].append(metrics)
        if name in roles:
            values[f"acc/{name}"], values[f"ece/{name}"] = metrics["accuracy"], metrics["ece"]
            if "worst_group_accuracy" in metrics:
                values[f"worst_group_accuracy/{name}"] = metrics["worst_group_accuracy"]
    try:
        summary = summarise(sets)
    except RecordError as error:
        raise BoardError(f"board: {error}") from error
    has_every_shift = all(name in sets for name, role in roles.items() if role == "shift")
    if not has_every_shift:
        summary = {key: value for key, value in summary.items() if not key.endswith("_ood_mean")}
    summary.pop("nll_validation", None)
    for metrics in of_role["id"]:
        if metrics.get(FLOOR) is not None:
            values["ece_floor_id"] = metrics[FLOOR]
    means = {
        "ece_floor_ood_mean": mean_of_all(
            sets.get(name, {}).get(FLOOR) for name, role in roles.items() if role == "shift"
        ),
        "ece_lineage_id": mean_of_all(map(_lineage, of_role["id"])),
        "ece_lineage_ood_mean": mean_of_all(map(_lineage, of_role["shift"])),
    }
    measured = set().union(*of_role["id"], *of_role["shift"])
    for metric in filter(measured.__contains__, MORE_METRICS):  # in one order, whatever a set's is
        if has_every_shift:
            means[f"{metric}_ood_mean"] = mean_of_all([one.get(metric) for one in of_role["shift"]])
        means[f"{metric}_id"] = mean_of_all([one.get(metric) for one in of_role["id"]])
    values |= {name: mean for name, mean in means.items() if mean is not None}
    # A record holds null where the likelihood is infinite.
    return values | {key: math.inf if value is None else value for key, value in summary.items()}


def _lineage(metrics: Mapping[str, Any]) -> float | None:
    """The calibration error of a set as the lineage's code computes it; None where it is not there."""
    return next((metrics[key] for key in metrics if key.startswith(LINEAGE)), None)


def _dynamics(record: Record) -> dict[str, float]:
    """gap/25 ... gap/100: teacher-student gap after that percentage of the steps, where it is defined."""
    rows = record.get("info", {}).get("dynamics", []) if record["kind"] == "run" else []
    return {f"gap/{round(100 * row['fraction'])}": row["gap"] for row in rows if row.get("gap") is not None}


def _retained(record: Record) -> dict[str, float]:
    """The accuracy on each retention set, and their unweighted mean; nothing of a run that has none."""
    found = {name: metrics["accuracy"] for name, metrics in record.get("retention", {}).items()}
    mean = mean_of_all(found.values())
    return {} if mean is None else {RETAINED: mean, **{f"{RETAINED}/{name}": value for name, value in found.items()}}


def _retention(records: Sequence[Record]) -> dict[str, int]:
    """Retention set -> its classes; which there are is in the fingerprint, so that all records of a table agree."""
    every = {name: kept["classes"] for record in records for name, kept in record.get("retention", {}).items()}
    return dict(sorted(every.items()))


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Give a label to unranked rows (what was chosen, or varied) and to others that differ in settings alone."""
    labelled: list[Row] = []
    alike: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row.method, row.backbone, row.provenance, row.kind].append(row)
    for row in rows:
        shown = dict(row.varied)
        if not row.rules and row.kind not in ASIDE:
            shown = dict(row.chosen)
        for other in alike[row.method, row.backbone, row.provenance, row.kind]:
            beside = set(other.rules) & set(row.rules) or row.kind in ASIDE
            if other is not row and other.varied == row.varied and beside:
                keys = row.settings.keys() | other.settings.keys()
                shown |= {
                    key: row.settings.get(key) for key in keys if row.settings.get(key) != other.settings.get(key)
                }
        labelled.append(replace(row, label=settings_text(_readable(shown))))
    return _still_alike(labelled)


def _still_alike(rows: Sequence[Row]) -> list[Row]:
    """Rows of one table that have one name after all, as two versions of a method, also name what differs."""
    alike: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row.name, row.backbone, row.provenance, row.kind].append(row)
    labelled = []
    for row in rows:
        more: dict[str, Any] = {}
        for other in alike[row.name, row.backbone, row.provenance, row.kind]:
            one_table = set(other.rules) & set(row.rules) or not (other.rules or row.rules)
            if other is not row and one_table:
                mine, theirs = ({**each.settings, "version": each.method_version} for each in (row, other))
                more |= {key: mine.get(key) for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
        label = ", ".join(filter(None, (row.label, settings_text(_readable(more)))))
        labelled.append(replace(row, label=label))
    return labelled


def _readable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a hash, as many digits as tell two apart."""
    hashes = {key: value for key, value in values.items() if key in ("weights", "fingerprint")}
    short = {key: str(value).rpartition(":")[2][:8] for key, value in hashes.items()}
    if "plug-in" in values:
        short["plug-in"] = versions_text(str(values["plug-in"]).split(", "))
    return {**values, **short}
