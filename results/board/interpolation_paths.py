"""The curves of methods in the ID/OOD plane: along alpha, or over a sweep of the learning rate."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..statistics.seed_summary import mean_of_all
from .curve import Curve, Stop
from .oracle import PathRuns, Scores
from .rows import ASIDE, FIXED, GRID, TRANSDUCTIVE, Row, Section, settings_text

Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Unlabelled:
    """A curve, and every setting by which it may differ from others of its name."""

    curve: Curve
    rest: Mapping[str, Any]


def by_seed(section: Section, row: Row) -> dict[int, tuple[float, float]]:
    """Seed -> (ID score, OOD mean) of a row, of the seeds that have both."""
    id_score, ood = (row.values.get(column, {}) for column in (section.id_column, section.ood_column))
    return {seed: (id_score[seed], ood[seed]) for seed in sorted(id_score.keys() & ood.keys())}


def of_runs(paths: Iterable[PathRuns], provenance: str) -> list[Curve]:
    """The curves of runs that evaluate a path themselves (WiSE-FT), at the values that all their seeds share."""
    found = []
    for path in paths:
        runs, at = path.runs, path.at
        run_ids = {record["seed"]: record["run_id"] for record in runs}
        stops = tuple(_stop(value, at[value], run_ids) for value in sorted(at) if len(at[value]) == len(runs))
        if len(stops) > 1:
            spec = runs[0]["spec"]
            rest = {**spec, **spec.get("hyper", {}), "_": [runs[0]["method_version"], runs[0]["backbone_weights"]]}
            curve = Curve(
                runs[0]["method"], runs[0]["backbone"], provenance, path.parameter, "", stops, of_one_run=True
            )
            found.append(_Unlabelled(curve, rest))
    return _labelled(found)


def of_rows(section: Section) -> list[Curve]:
    """Curves over the learning rate: complete rows of a method that differ in nothing else."""
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
                    row.runs,
                )
                for lr, row in sorted(swept.items())
            )
            row = next(iter(swept.values()))
            rest = {name: value for name, value in row.settings.items() if name != "lr"}
            curve = Curve(row.method, row.backbone, row.provenance, "lr", "", stops)
            found[row.provenance].append(_Unlabelled(curve, rest))
    return [curve for provenance in sorted(found) for curve in _labelled(found[provenance])]


def _labelled(found: Sequence[_Unlabelled]) -> list[Curve]:
    """Curves of the same name get what they differ in."""
    curves = []
    for curve, rest in ((each.curve, each.rest) for each in found):
        same = [each.rest for each in found if (each.curve.name, each.curve.backbone) == (curve.name, curve.backbone)]
        leave = {curve.parameter, "seed", "hyper", "inputs", "_"}
        keys = {k for other in same for k in rest.keys() | other.keys() if rest.get(k) != other.get(k)} - leave
        curves.append(replace(curve, label=settings_text({key: rest.get(key) for key in keys})))
    return curves


def _stop(value: float, runs: Mapping[int, Scores], run_ids: Mapping[int, str]) -> Stop:
    means = [mean_of_all(values) for values in zip(*runs.values(), strict=True)]
    return Stop(value, len(runs), means[0], means[1], dict(runs), run_ids)
