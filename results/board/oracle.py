"""The best point of a path by the shifts themselves: what no method may know, shown beside and never ranked."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..records.compact_record import Packed
from ..statistics.seed_summary import mean_of_all

Record = Mapping[str, Any]


Scores = tuple[float | None, float | None]
"""ID score and OOD mean of a run at one point."""


@dataclass(frozen=True)
class PathRuns:
    """The runs of one path, one a seed, in the order of the seeds.

    A path is all records of one method version on one backbone that differ in the seed and in the path's parameter
    alone; so the runs of several rules count once, where they read the same input.

    Attributes:
        parameter: what the path is over.
        at: value -> seed -> what its run scores there.
    """

    runs: Sequence[Record]
    parameter: str
    at: Mapping[float, Mapping[int, Scores]]

    @property
    def best(self) -> float | None:
        """The value of the largest OOD mean over all runs; None if the runs share no value, or there is no shift."""
        means: dict[float, float] = {}
        for value, by_seed in self.at.items():
            mean = mean_of_all(ood for _, ood in by_seed.values())
            if mean is not None and len(by_seed) == len(self.runs):
                means[value] = mean
        # Below 1e-9, means differ by rounding only.
        return min(means, key=lambda value: (-round(means[value], 9), value), default=None)


def at_points(record: Record, own_metrics: Mapping[str, str]) -> list[tuple[float, Scores]]:
    """Each value of a record's path, with ID score and OOD mean there.

    Earlier records have no score but accuracy there.

    Args:
        own_metrics: set -> the metric that it is judged by; accuracy where it is not named.
    """
    roles = {name: metrics["role"] for name, metrics in record["sets"].items()}
    id_sets, shifts = (
        [(name, own_metrics.get(name, "accuracy")) for name in roles if roles[name] == role] for role in ("id", "shift")
    )

    def mean(sets: Mapping[str, Mapping[str, float]], scores: Sequence[tuple[str, str]]) -> float | None:
        return mean_of_all([sets[name].get(score) for name, score in scores])

    points = record["path"]["points"]
    return [(point["value"], (mean(point["sets"], id_sets), mean(point["sets"], shifts))) for point in points]


def at_best_points(paths: Iterable[PathRuns]) -> list[Record]:
    """The records of every path as they would be at its best value.

    That is one for all seeds: the one whose OOD mean is largest in the mean over seeds, and of equal ones the
    smallest. Paths whose points lack the metric that a set is judged by are left out.

    Returns:
        Records with the metrics, and the parameter, of that value, and without the path; the parameter's source is
        "oracle", no selection rule stands in them, and `trials` is the number of values that were looked at.
    """
    found: list[Record] = []
    shared: dict[Any, Any] = {}
    for path in paths:
        value = path.best
        found += [] if value is None else [Packed(_moved(record, value), shared) for record in path.runs]
    return found


def runs_of_paths(records: Iterable[Record], own_metrics: Mapping[str, str] = MappingProxyType({})) -> list[PathRuns]:
    """The runs of every path.

    Those on part of the images are left out, and those that adapt to a set, as on the boards.

    Args:
        records: finished runs of one benchmark, from one place; those without a path are left out.
        own_metrics: as of `at_points`.
    """
    paths: dict[str, dict[int, Record]] = defaultdict(dict)
    at: dict[str, dict[float, dict[int, Scores]]] = defaultdict(lambda: defaultdict(dict))
    for record in sorted(records, key=lambda r: (r["finished"], r["run_id"])):
        if "path" not in record:
            continue
        spec, seed = record["spec"], record["seed"]
        if spec.get("limit") is None and not spec.get("allow_partial") and not record.get("transductive"):
            key = _path_of(record)
            if seed not in paths[key]:
                paths[key][seed] = record
                for value, scores in at_points(record, own_metrics):  # now: its path is the largest part of a record
                    at[key][value][seed] = scores
    return [_path_runs(paths[key], at[key]) for key in sorted(paths)]


def _path_runs(runs: Mapping[int, Record], at: Mapping[float, Mapping[int, Scores]]) -> PathRuns:
    """The runs of one path, by seed, in the order of the seeds."""
    seeds = sorted(runs)
    in_order = {value: {seed: found[seed] for seed in seeds if seed in found} for value, found in at.items()}
    return PathRuns([runs[seed] for seed in seeds], str(runs[seeds[0]]["path"]["parameter"]), in_order)


def _path_of(record: Record) -> str:
    spec, parameter = record["spec"], record["path"]["parameter"]
    same = {key: value for key, value in spec.items() if key not in ("seed", "inputs", "hyper")}
    hyper = {key: value for key, value in spec.get("hyper", {}).items() if key != parameter}
    model = [record["method"], record["method_version"], record["backbone"], record["backbone_weights"]]
    return json.dumps([*model, parameter, same, hyper], sort_keys=True)


def _moved(record: Record, value: float) -> dict[str, Any]:
    path, spec = record["path"], record["spec"]
    parameter, points = path["parameter"], path["points"]
    at = next(point["sets"] for point in points if point["value"] == value)
    kept = ("role", "n_expected", "n")
    sets = {name: {key: metrics[key] for key in kept} | at[name] for name, metrics in record["sets"].items()}
    return {
        **{key: record[key] for key in record if key not in ("path", "spec", "sources", "selection", "sets")},
        "spec": {**spec, "hyper": {**spec.get("hyper", {}), parameter: value}},
        "sources": {**record["sources"], parameter: "oracle"},
        "selection": {"rules": [], "tuning": None, "trials": len(points)},
        "sets": sets,
    }
