"""Every number of a record again, from what is kept of each sample: no model, no images, no GPU.

Files keep float32, so that means of logarithms and squares come back to TOLERANCE; accuracies, F1 and ECEs are exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from ..metrics import calibration, set_metrics
from ..records import predictions, rounding
from ..records.predictions import PredictionError
from ..records.reference import ReferencePredictions

TOLERANCE = 1e-6
"""Of a mean of float32 numbers, relative where it is above 1."""

RETAINED = "retention/"
"""Before the name of a retention set, which a set of the run may have too; no set has a "/"."""

NEEDED = ("label", "prediction", "confidence", "p_label")

Columns = dict[str, np.ndarray]
Record = Mapping[str, Any]


class Files(Protocol):
    """Where the samples of one run are."""

    @property
    def gives(self) -> Collection[str] | None:
        """The metrics of a set that follow from what is kept; None: all."""

    def columns(self, name: str) -> Columns | None:
        """Of an evaluation set; None where they are not kept. PredictionError where they cannot be read."""

    def path(self, name: str, parameter: str) -> dict[float, Columns] | None:
        """Of a set at every point of the run's path; None where they are not kept."""

    def retained(self, name: str) -> Columns | None:
        """Of a retention set; None where they are not kept."""


@dataclass(frozen=True)
class FolderFiles:
    """<folder>/<set>.parquet, <folder>/<set>.path.parquet and <folder>/<set>.retained.parquet."""

    folder: Path
    gives: ClassVar[Collection[str] | None] = None

    def columns(self, name: str) -> Columns:
        return predictions.read(self.folder / f"{name}.parquet")

    def path(self, name: str, parameter: str) -> dict[float, Columns] | None:
        file = self.folder / f"{name}.path.parquet"
        return predictions.read_path(file, parameter) if file.exists() else None

    def retained(self, name: str) -> Columns:
        return predictions.read(self.folder / f"{name}.retained.parquet")


class ReferenceFiles:
    """The test sets of a run in a reference, as `publish` writes it; no validation set, no path."""

    gives: ClassVar[Collection[str] | None] = rounding.GIVEN

    def __init__(self, kept: ReferencePredictions, run_id: str) -> None:
        self._sets, self._of_run = kept.sets, kept.read(run_id)

    def columns(self, name: str) -> Columns | None:
        if name not in self._sets:
            return None
        samples = dict(self._sets[name])
        rows = samples.pop("rows")
        return samples | {key: values[rows] for key, values in self._of_run.items()}

    def path(self, name: str, parameter: str) -> None:
        return None

    def retained(self, name: str) -> None:
        return None


@dataclass(frozen=True)
class Number:
    """One number of a record, and what the samples give for it."""

    set: str
    metric: str
    recorded: float | None
    """None: the record does not have it; infinite where it says null."""
    rescored: float | None
    """None: what it follows from is not kept."""

    @property
    def differs(self) -> bool:
        """Whether both are there and do not agree."""
        a, b = self.recorded, self.rescored
        if a is None or b is None or a == b:
            return False
        return not math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def rescore(record: Record, files: Files, more: bool = True) -> Iterator[Number]:
    """All numbers of a record's sets, retention sets, temperature and path, each with what the samples give.

    Args:
        more: also give metrics that are newer than the record.

    Raises:
        PredictionError: a file is missing or damaged.
    """
    for name, metrics in record["sets"].items():
        columns = files.columns(name)
        found = {} if columns is None else rescore_set(name, metrics, columns, more, files.gives)
        recorded = _flat({key: value for key, value in metrics.items() if key not in ("role", "n_expected")})
        for key in {**recorded, **found}:
            yield Number(name, key, recorded.get(key), found.get(key))
        if columns is not None and "logits" in columns:
            temperature = calibration.fit_temperature(columns["logits"], columns["label"])
            yield Number(name, "temperature", record.get("temperature"), temperature)
    for name, metrics in record.get("retention", {}).items():
        columns = files.retained(name)
        found = {} if columns is None else rescore_set(f"{name}.retained", metrics, columns, more)
        recorded = _flat({key: value for key, value in metrics.items() if key not in ("classes", "n_expected")})
        for key in {**recorded, **found}:
            yield Number(RETAINED + name, key, recorded.get(key), found.get(key))
    yield from _along(record, files)


def rescore_set(
    name: str, metrics: Mapping[str, Any], columns: Columns, more: bool = True, given: Collection[str] | None = None
) -> dict[str, float]:
    """Metric -> value of one set, groups as group_accuracy/<name>.

    Args:
        name: of the set.
        metrics: what the record has of it: the batch of its lineage error is taken over.
        columns: its samples.
        more: also what is newer than the record.
        given: the metrics that follow from such samples; None: all.

    Raises:
        PredictionError: a column that every metric needs is not there.
    """
    missing = [key for key in NEEDED if key not in columns]
    if missing:
        raise PredictionError(f"{name}.parquet: has no column {', '.join(missing)}; run it again.")
    sizes = [int(found[1]) for key in metrics if (found := re.fullmatch(r"ece_lineage_10bins_b(\d+)", key))]
    batch = sizes[0] if sizes else set_metrics.BATCH_SIZE
    if given is None:
        scored = _flat(set_metrics.score(columns, name, batch, more or "mce" in metrics))
    else:
        scored = set_metrics.some(columns, [key for key in given if more or key in metrics])
    if _underflows(columns):
        scored.pop("nll", None)
        scored.pop("brier", None)
    return scored


def with_rescored(record: Record, numbers: list[Number]) -> dict[str, Any]:
    """The record with every metric of its sets that its samples give in place of the recorded one."""
    sets = {name: dict(metrics) for name, metrics in record["sets"].items()}
    kept = {name: dict(metrics) for name, metrics in record.get("retention", {}).items()}
    every = sets | {RETAINED + name: metrics for name, metrics in kept.items()}
    for number in numbers:
        if number.set in every and number.metric in every[number.set] and number.rescored is not None:
            every[number.set][number.metric] = number.rescored
    return {**record, "sets": sets, **({"retention": kept} if kept else {})}


def completed(record: Record, files: Files, metrics: Collection[str]) -> Record:
    """The record with those of these metrics that its sets lack, where their samples give them: of earlier records.

    What is recorded stays as it is, and what no sample gives stays out.
    """
    sets, changed = dict(record["sets"]), False
    for name, found in record["sets"].items():
        lacking = [
            metric for metric in metrics if metric not in found and (files.gives is None or metric in files.gives)
        ]
        try:
            columns = files.columns(name) if lacking else None
        except PredictionError:
            continue
        if columns is not None and all(key in columns for key in NEEDED):
            lost = ("nll", "brier") if _underflows(columns) else ()
            sets[name] = {**found, **set_metrics.some(columns, [key for key in lacking if key not in lost])}
            changed = True
    return {**record, "sets": sets} if changed else record


def unchecked(numbers: Iterable[Number]) -> str:
    """What the samples of a run, or of many, do not tell: how many recorded numbers, and which; empty where none.

    A set without any samples is named, and of the others the metrics that their files are too old for.
    """
    kept = list(numbers)
    whole = {number.set for number in kept if number.rescored is not None}
    missing = [number for number in kept if number.recorded is not None and number.rescored is None]
    names = {
        "points of paths" if " at " in number.set else number.metric if number.set in whole else number.set
        for number in missing
    }
    return f"{len(missing):,} numbers without samples ({', '.join(sorted(names))})" if missing else ""


def _along(record: Record, files: Files) -> Iterator[Number]:
    line = record.get("path")
    if not line:
        return
    for name in record["sets"]:
        kept = files.path(name, line["parameter"])
        of_groups = kept is not None and any("worst_group_accuracy" in point["sets"][name] for point in line["points"])
        columns = files.columns(name) if of_groups else None
        groups = columns.get("group") if columns is not None else None
        for point in line["points"]:
            value = point["value"]
            if kept is not None and value not in kept:
                raise PredictionError(f"set {name}: no samples at {line['parameter']}={value}; run it again.")
            found = {} if kept is None else set_metrics.basic(kept[value])
            if kept is not None and groups is not None:
                found |= set_metrics.by_group(kept[value], groups)
            if kept is not None and _underflows(kept[value]):
                found.pop("nll")
            for key, recorded in _flat(point["sets"][name]).items():
                yield Number(f"{name} at {line['parameter']}={value:g}", key, recorded, found.get(key))


def _underflows(columns: Columns) -> bool:
    """Whether a label's probability is too small for float32, so that its logarithm is lost."""
    return bool((columns["p_label"] == 0).any())


def _flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": inner for name, inner in value.items()}
        else:
            flat[key] = math.inf if value is None else value
    return flat
