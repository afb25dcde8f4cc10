"""Methods as lines in the ID/OOD plane: along alpha, or over a sweep of the learning rate, and OOD at matched ID."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .board import ASIDE, FIXED, GRID, Row, settings_text
from .oracle import lines
from .statistics import mean_sd

Record = Mapping[str, Any]
COLUMNS = ("acc_id", "acc_ood_mean", "ece_id", "ece_ood_mean")


@dataclass(frozen=True)
class Stop:
    """A point of a path, as fractions; None where the shifts are missing.

    Attributes:
        means: column -> mean over seeds.
        runs: seed -> (ID accuracy, OOD mean) of its run.
    """

    value: float
    seeds: int
    means: Mapping[str, float | None]
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

    def at_id(self, accuracy: float) -> float | None:
        """OOD mean where the path has this ID accuracy, as fractions.

        Linear between neighbouring stops; the better where the path passes it twice, and None beyond its ends.
        """
        return _crossing([(s.means["acc_id"], s.means["acc_ood_mean"]) for s in self.stops], accuracy)

    def gaps(self, runs: Mapping[int, tuple[float, float]]) -> list[float]:
        """OOD mean of each run minus that of this path's own run of the same seed, where that has its ID accuracy.

        Args:
            runs: seed -> (ID accuracy, OOD mean).

        Returns:
            A fraction a seed; empty unless the path has a run of each seed and each reaches that ID accuracy.
        """
        found = []
        for seed, (identity, ood) in runs.items():
            there = _crossing([s.runs.get(seed, (None, None)) for s in self.stops], identity)
            found += [] if there is None else [ood - there]
        return found if len(found) == len(runs) else []


def _crossing(line: Sequence[tuple[float | None, float | None]], accuracy: float) -> float | None:
    """OOD mean of a line of (ID accuracy, OOD mean) at this ID accuracy; None beyond its ends."""
    points = [(x, y) for x, y in line if x is not None and y is not None]
    found = [y for x, y in points if x == accuracy]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if min(x0, x1) < accuracy < max(x0, x1):
            found.append(y0 + (y1 - y0) * (accuracy - x0) / (x1 - x0))
    return max(found, default=None)


def by_seed(row: Row) -> dict[int, tuple[float, float]]:
    """Seed -> (ID accuracy, OOD mean) of a row, of the seeds that have both."""
    identity, ood = (row.values.get(column, {}) for column in ("acc_id", "acc_ood_mean"))
    return {seed: (identity[seed], ood[seed]) for seed in sorted(identity.keys() & ood.keys())}


def of_records(records: Iterable[Record], provenance: str) -> list[Path]:
    """Paths that runs have walked themselves (WiSE-FT), at the values that all their seeds share."""
    found = []
    for runs in lines(records):
        parameter = runs[0]["path"]["parameter"]
        at: dict[float, dict[int, Mapping[str, float | None]]] = defaultdict(dict)
        for record in runs:
            sets = record["sets"]
            for point in record["path"]["points"]:
                at[point["value"]][record["seed"]] = _means(sets, point["sets"])
        stops = tuple(_stop(value, at[value]) for value in sorted(at) if len(at[value]) == len(runs))
        if len(stops) > 1:
            spec = runs[0]["spec"]
            rest = {**spec, **spec.get("hyper", {}), "_": [runs[0]["method_version"], runs[0]["backbone_weights"]]}
            found.append((runs[0]["method"], runs[0]["backbone"], parameter, rest, stops))
    return _labelled(found, provenance)


def of_rows(rows: Sequence[Row]) -> list[Path]:
    """Paths over the learning rate: complete rows of a method that differ in nothing else."""
    groups: dict[str, dict[float, Row]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row.kind, row.rules, row.label)):
        whole = not set(row.marks) & {"sets", "partial", "stale", "twice"}
        if "lr" not in row.settings or row.kind in set(ASIDE) - {GRID} | {FIXED} or not whole or row.pooled:
            continue
        rest = {key: value for key, value in row.settings.items() if key != "lr"}
        key = json.dumps([row.method, row.method_version, row.backbone, row.provenance, rest], sort_keys=True)
        groups[key].setdefault(row.settings["lr"], row)
    found: dict[str, list[tuple]] = defaultdict(list)
    for key in sorted(groups):
        swept = groups[key]
        if len(swept) > 1:
            stops = tuple(
                Stop(lr, len(row.seeds), {c: row.cell(c)[0] for c in COLUMNS}, by_seed(row))
                for lr, row in sorted(swept.items())
            )
            row = next(iter(swept.values()))
            rest = {name: value for name, value in row.settings.items() if name != "lr"}
            found[row.provenance].append((row.method, row.backbone, "lr", rest, stops))
    return [path for provenance in sorted(found) for path in _labelled(found[provenance], provenance)]


def _labelled(found: Sequence[tuple], provenance: str) -> list[Path]:
    """Paths of the same name get what they differ in."""
    paths = []
    for method, backbone, parameter, rest, stops in found:
        same = [other[3] for other in found if other[:3] == (method, backbone, parameter)]
        leave = {parameter, "seed", "hyper", "inputs", "_"}
        keys = {k for other in same for k in rest.keys() | other.keys() if rest.get(k) != other.get(k)} - leave
        label = settings_text({key: rest.get(key) for key in keys})
        paths.append(Path(method, backbone, provenance, parameter, label, stops))
    return paths


def _means(sets: Mapping[str, Mapping[str, Any]], at: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """The columns of one run at one point."""
    identity = next((name for name, metrics in sets.items() if metrics["role"] == "id"), None)
    shifts = [name for name, metrics in sets.items() if metrics["role"] == "shift"]
    found: dict[str, float | None] = {}
    for short, metric in (("acc", "accuracy"), ("ece", "ece")):
        found[f"{short}_id"] = at[identity][metric] if identity else None
        found[f"{short}_ood_mean"] = math.fsum(at[name][metric] for name in shifts) / len(shifts) if shifts else None
    return found


def _stop(value: float, runs: Mapping[int, Mapping[str, float | None]]) -> Stop:
    means = {}
    for column in COLUMNS:
        values = [run[column] for run in runs.values()]
        means[column] = None if None in values else mean_sd(values)[0]
    return Stop(value, len(runs), means, {seed: (run["acc_id"], run["acc_ood_mean"]) for seed, run in runs.items()})
