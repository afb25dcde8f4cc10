"""The best point of a path by the shifts themselves: what no method may know, shown beside and never ranked."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..records.compact_record import Packed
from ..statistics.seed_summary import mean_of_all

Record = Mapping[str, Any]


def at_best_points(records: Iterable[Record], own_metrics: Mapping[str, str] = MappingProxyType({})) -> list[Record]:
    """The records of every path as they would be at its best value.

    A path is all records of one method version on one backbone that differ in the seed and in the path's parameter
    alone; so the runs of several rules count once, where they read the same input. Its value is one for all seeds:
    the one whose OOD mean is largest in the mean over seeds, and of equal ones the smallest.

    Args:
        records: finished runs of one benchmark, from one place; those without a path, and those on part of the images,
            are left out, and those that adapt to a set.
        own_metrics: set -> the metric that it is judged by; accuracy where it is not named. Records whose points lack
            it are left out too.

    Returns:
        Records with the metrics, and the parameter, of that value, and without the path; the parameter's source is
        "oracle", no selection rule stands in them, and `trials` is the number of values that were looked at.
    """
    found: list[Record] = []
    shared: dict[Any, Any] = {}
    for runs in runs_of_paths(records):
        value = best_value(runs, own_metrics)
        found += [] if value is None else [Packed(_moved(record, value), shared) for record in runs]
    return found


def runs_of_paths(records: Iterable[Record]) -> list[list[Record]]:
    """The runs of every path, one a seed, in the order of the seeds.

    Those on part of the images are left out, and those that adapt to a set, as on the boards.
    """
    paths: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: (r["finished"], r["run_id"])):
        spec = record["spec"]
        whole = spec.get("limit") is None and not spec.get("allow_partial") and not record.get("transductive")
        if whole and "path" in record:
            paths[_path_of(record)].setdefault(record["seed"], record)
    return [[paths[key][seed] for seed in sorted(paths[key])] for key in sorted(paths)]


def best_value(runs: Sequence[Record], own_metrics: Mapping[str, str] = MappingProxyType({})) -> float | None:
    """The value of the largest OOD mean over all runs; None if the runs share no value, or there is no shift."""
    means: dict[float, list[float]] = defaultdict(list)
    for record in runs:
        shifts = [name for name, metrics in record["sets"].items() if metrics["role"] == "shift"]
        for point in record["path"]["points"] if shifts else []:
            mean = mean_of_all(point["sets"][name].get(own_metrics.get(name, "accuracy")) for name in shifts)
            if mean is not None:
                means[point["value"]].append(mean)
    shared = {value: math.fsum(seeds) / len(seeds) for value, seeds in means.items() if len(seeds) == len(runs)}
    # Below 1e-9, means differ by rounding only.
    return min(shared, key=lambda value: (-round(shared[value], 9), value), default=None)


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
        **{key: record[key] for key in record if key != "path"},
        "spec": {**spec, "hyper": {**spec.get("hyper", {}), parameter: value}},
        "sources": {**record["sources"], parameter: "oracle"},
        "selection": {"rules": [], "tuning": None, "trials": len(points)},
        "sets": sets,
    }
