"""Methods as lines in the ID/OOD plane: along alpha, or over a sweep of the learning rate, and OOD at matched ID."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..statistics.seed_summary import mean_of_all
from .oracle import lines
from .rows import ASIDE, FIXED, GRID, TRANSDUCTIVE, Row, Section, settings_text

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Stop:
    """A point of a path, by the scores that the sets are judged by, as fractions; None where they are missing.

    Attributes:
        identity, ood: ID score and OOD mean, means over seeds.
        runs: seed -> (ID score, OOD mean) of its run.
    """

    value: float
    seeds: int
    identity: float | None
    ood: float | None
    runs: Mapping[int, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Path:
    """Where a method on a backbone can stop.

    Attributes:
        parameter: "alpha", "lr".
        label: what else was set, where two paths differ in that alone.
        stops: by rising value, at least two.
    """

    method: str
    backbone: str
    provenance: str
    parameter: str
    label: str
    stops: tuple[Stop, ...]

    @property
    def name(self) -> str:
        return f"{self.method} over {self.parameter}" + (f" [{self.label}]" if self.label else "")

    def at_id(self, score: float) -> float | None:
        """OOD mean where the path has this ID score, as fractions.

        Linear between neighbouring stops; the better where the path passes it twice, and None beyond its ends.
        """
        return _crossing([(s.identity, s.ood) for s in self.stops], score)

    def gaps(self, runs: Mapping[int, tuple[float, float]]) -> list[float]:
        """OOD mean of each run minus that of this path's own run of the same seed, where that has its ID score.

        Args:
            runs: seed -> (ID score, OOD mean).

        Returns:
            A fraction a seed; empty unless the path has a run of each seed and each reaches that ID score.
        """
        found = []
        for seed, (identity, ood) in runs.items():
            there = _crossing([s.runs.get(seed, (None, None)) for s in self.stops], identity)
            found += [] if there is None else [ood - there]
        return found if len(found) == len(runs) else []


@dataclass(frozen=True)
class _Unlabelled:
    """A path, and every setting by which it may differ from others of its name."""

    path: Path
    rest: Mapping[str, Any]


def _crossing(line: Sequence[tuple[float | None, float | None]], score: float) -> float | None:
    """OOD mean of a line of (ID score, OOD mean) at this ID score; None beyond its ends."""
    points = [(x, y) for x, y in line if x is not None and y is not None]
    found = [y for x, y in points if x == score]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if min(x0, x1) < score < max(x0, x1):
            found.append(y0 + (y1 - y0) * (score - x0) / (x1 - x0))
    return max(found, default=None)


def by_seed(section: Section, row: Row) -> dict[int, tuple[float, float]]:
    """Seed -> (ID score, OOD mean) of a row, of the seeds that have both."""
    identity, ood = (row.values.get(column, {}) for column in (section.id_column, section.ood_column))
    return {seed: (identity[seed], ood[seed]) for seed in sorted(identity.keys() & ood.keys())}


def of_records(section: Section, records: Iterable[Record], provenance: str) -> list[Path]:
    """Paths that runs have walked themselves (WiSE-FT), at the values that all their seeds share."""
    found = []
    for runs in lines(records):
        parameter = runs[0]["path"]["parameter"]
        at: dict[float, dict[int, tuple[float | None, float | None]]] = defaultdict(dict)
        for record in runs:
            sets = record["sets"]
            for point in record["path"]["points"]:
                at[point["value"]][record["seed"]] = at_point(section, sets, point["sets"])
        stops = tuple(_stop(value, at[value]) for value in sorted(at) if len(at[value]) == len(runs))
        if len(stops) > 1:
            spec = runs[0]["spec"]
            rest = {**spec, **spec.get("hyper", {}), "_": [runs[0]["method_version"], runs[0]["backbone_weights"]]}
            path = Path(runs[0]["method"], runs[0]["backbone"], provenance, parameter, "", stops)
            found.append(_Unlabelled(path, rest))
    return _labelled(found)


def of_rows(section: Section) -> list[Path]:
    """Paths over the learning rate: complete rows of a method that differ in nothing else."""
    groups: dict[str, dict[float, Row]] = defaultdict(dict)
    for row in sorted(section.rows, key=lambda row: (row.kind, row.rules, row.label)):
        whole = not set(row.marks) & {"sets", "partial", "stale", "twice", TRANSDUCTIVE}
        if "lr" not in row.settings or row.kind in set(ASIDE) - {GRID} | {FIXED} or not whole or row.pooled:
            continue
        rest = {key: value for key, value in row.settings.items() if key != "lr"}
        key = json.dumps([row.method, row.method_version, row.backbone, row.provenance, rest], sort_keys=True)
        groups[key].setdefault(row.settings["lr"], row)
    found: dict[str, list[_Unlabelled]] = defaultdict(list)
    for key in sorted(groups):
        swept = groups[key]
        if len(swept) > 1:
            stops = tuple(
                Stop(
                    lr,
                    len(row.seeds),
                    row.mean(section.id_column),
                    row.mean(section.ood_column),
                    by_seed(section, row),
                )
                for lr, row in sorted(swept.items())
            )
            row = next(iter(swept.values()))
            rest = {name: value for name, value in row.settings.items() if name != "lr"}
            path = Path(row.method, row.backbone, row.provenance, "lr", "", stops)
            found[row.provenance].append(_Unlabelled(path, rest))
    return [path for provenance in sorted(found) for path in _labelled(found[provenance])]


def _labelled(found: Sequence[_Unlabelled]) -> list[Path]:
    """Paths of the same name get what they differ in."""
    paths = []
    for path, rest in ((each.path, each.rest) for each in found):
        same = [other.rest for other in found if other.path.name == path.name and other.path.backbone == path.backbone]
        leave = {path.parameter, "seed", "hyper", "inputs", "_"}
        keys = {k for other in same for k in rest.keys() | other.keys() if rest.get(k) != other.get(k)} - leave
        paths.append(replace(path, label=settings_text({key: rest.get(key) for key in keys})))
    return paths


def at_point(
    section: Section, sets: Mapping[str, Mapping[str, Any]], at: Mapping[str, Mapping[str, float]]
) -> tuple[float | None, float | None]:
    """ID score and OOD mean of one run at one point; earlier records have no score but accuracy there."""

    def mean(role: str) -> float | None:
        names = [name for name, metrics in sets.items() if metrics["role"] == role]
        return mean_of_all(at[name].get(section.score(name)) for name in names)

    return mean("id"), mean("shift")


def _stop(value: float, runs: Mapping[int, tuple[float | None, float | None]]) -> Stop:
    means = [mean_of_all(values) for values in zip(*runs.values(), strict=True)]
    return Stop(value, len(runs), means[0], means[1], dict(runs))
