"""One JSON record a run: its schema, writing and gathering. A correction is a new record."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .atomic import OutputError, create_atomic, to_json, write_atomic, write_json_atomic

__all__ = [
    "OutputError",
    "Record",
    "RecordError",
    "gather",
    "gather_reference",
    "publish_record",
    "read_record",
    "record_json",
    "summarise",
    "validate",
    "write_atomic",
    "write_json_atomic",
]

SCHEMA = 1
NAME = "record.json"
PATH_NAME = "path.json"
"""The points of a path, beside the record that they would make larger than LARGEST."""
LARGEST = 16_000
"""Bytes of a record that is written for a run: a page."""
REFERENCE = Path(__file__).parent / "reference"
"""Committed runs, results/reference/<benchmark>/records/<run id>.json."""

Role = Literal["id", "shift", "validation", "diagnostic"]


class RecordError(ValueError):
    """A record that cannot be read or believed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SetResult(_Part):
    """Metrics of one evaluation set: fractions, unrounded. Further metrics as `scores.score` gives them."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    role: Role
    n_expected: int = Field(ge=1)
    n: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    ece: float = Field(ge=0, le=1)
    nll: float | None = Field(ge=0)
    """Nats; null where a label got probability 0, so that the mean is infinite."""
    brier: float = Field(ge=0, le=2)
    macro_f1: float = Field(ge=0, le=1)

    @field_validator("nll", mode="before")
    @classmethod
    def _infinite_is_null(cls, value: Any) -> Any:
        return None if value == math.inf else value

    @model_validator(mode="after")
    def _not_too_many(self) -> SetResult:
        if self.n > self.n_expected:
            raise ValueError(f"n is {self.n}, more than n_expected, {self.n_expected}")
        return self


class Selection(_Part):
    """Which selection rules chose this run's setting; none for a setting given by hand."""

    rules: list[str]
    tuning: str | None = None
    trials: int = Field(default=0, ge=0)
    evaluated: int | None = Field(default=None, ge=0)
    """Of the trials, those that trained nothing: values along a path. Earlier records have no such key."""


class Environment(_Part):
    """Where the run happened."""

    model_config = ConfigDict(extra="allow", frozen=True)

    commit: str | None = None
    dirty: bool | None = None


class Cost(_Part):
    """What the run took: seconds, images per second, bytes, images."""

    model_config = ConfigDict(extra="allow", frozen=True)

    images_seen: int | None = None


class PointResult(_Part):
    """Metrics of one set at one point of a path: fractions, unrounded; the likelihood as in `SetResult`."""

    accuracy: float = Field(ge=0, le=1)
    ece: float = Field(ge=0, le=1)
    nll: float | None = Field(ge=0)

    @field_validator("nll", mode="before")
    @classmethod
    def _infinite_is_null(cls, value: Any) -> Any:
        return None if value == math.inf else value


class Point(_Part):
    """One value of a path's parameter, and what the run would have come to with it."""

    value: float
    sets: dict[str, PointResult]


class PathResult(_Part):
    """The whole line that a post-hoc method can stop at (WiSE-FT: alpha), evaluated in the run."""

    parameter: str = Field(min_length=1)
    points: list[Point] = Field(min_length=1)
    """By rising value, all on the same sets."""

    @model_validator(mode="after")
    def _is_one_line(self) -> PathResult:
        values = [point.value for point in self.points]
        if values != sorted(set(values)):
            raise ValueError(f"values must rise, got {values}")
        return self


class Record(_Part):
    """A finished run or trial, with what it takes to be trusted and repeated."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["run", "trial"]
    run_id: str = Field(min_length=1)
    benchmark: str
    benchmark_version: str
    method: str
    method_version: int
    backbone: str
    backbone_weights: str
    seed: int
    recipe: str
    spec: dict[str, Any]
    sources: dict[str, str]
    selection: Selection
    environment: Environment
    cost: Cost
    sets: dict[str, SetResult] = Field(min_length=1)
    temperature: float | None = Field(default=None, gt=0)
    """Divides logits for `ece_scaled`; fitted on the ID validation set. A record without it has no such key."""
    summary: dict[str, float | None]
    info: dict[str, Any] = {}
    """What the method chose, and `dynamics`: teacher against student during the run, a row for each quarter."""
    path: PathResult | None = None
    """Of methods that have one; a record without it has no such key."""
    finished: str

    @field_validator("summary", mode="before")
    @classmethod
    def _infinite_is_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: None if item == math.inf else item for key, item in value.items()}

    @model_validator(mode="after")
    def _path_is_on_the_sets_of_the_run(self) -> Record:
        for point in self.path.points if self.path else []:
            if point.sets.keys() != self.sets.keys():
                raise ValueError(f"path: point {point.value} is on other sets than the run")
        return self

    @model_validator(mode="after")
    def _summary_follows_from_the_sets(self) -> Record:
        want = summarise({name: vars(result) for name, result in self.sets.items()})
        for key, value in self.summary.items():
            if key not in want:
                continue
            # 1e-9: only the order of a sum over sets may differ.
            if (value is None) != (want[key] is None) or (value and abs(value - want[key]) > 1e-9):
                raise ValueError(f"summary.{key} is {value}, but the sets give {want[key]}")
        return self


def summarise(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The numbers that a board ranks by, from the per-set metrics of one run.

    Args:
        sets: name -> metrics, with at least role, accuracy, ece and nll.

    Returns:
        acc_id, ece_id, nll_id of the set with role "id"; acc_ood_mean and ece_ood_mean, means over the sets
        with role "shift", each set counting the same whatever its size; nll_validation. A key is left out
        where its sets are missing.

    Raises:
        RecordError: more than one set has the role "id".
    """

    def named(role: str) -> list[Mapping[str, Any]]:
        return [metrics for metrics in sets.values() if metrics["role"] == role]

    summary: dict[str, float | None] = {}
    id_sets, shifts, validation = named("id"), named("shift"), named("validation")
    if len(id_sets) > 1:
        raise RecordError(f"sets: {len(id_sets)} sets have the role 'id', a benchmark has one.")
    if id_sets:
        summary |= {f"{short}_id": id_sets[0][key] for short, key in _SHORT.items()}
    if shifts:
        summary["acc_ood_mean"] = math.fsum(s["accuracy"] for s in shifts) / len(shifts)
        summary["ece_ood_mean"] = math.fsum(s["ece"] for s in shifts) / len(shifts)
    if len(validation) == 1:
        summary["nll_validation"] = validation[0]["nll"]
    return {key: None if value == math.inf else value for key, value in summary.items()}


_SHORT = {"acc": "accuracy", "ece": "ece", "nll": "nll"}


def publish_record(folder: Path, record: Mapping[str, Any], guard: Callable[[], None] | None = None) -> bool:
    """Write a run's record.json unless there is one; the first writer wins.

    Args:
        folder: the run folder.
        record: content; checked against the schema first.
        guard: called just before the file appears; it raises if this process may no longer write here.

    Returns:
        True if this call made the record, False if one was there.

    Raises:
        RecordError: the record does not fit the schema.
        OutputError: the file system refuses.
    """
    path = Path(folder) / NAME
    content = validate(record, str(path))
    text = record_json(path, content)
    if len(text) > LARGEST and "path" in content:
        side = path.with_name(PATH_NAME)
        create_atomic(side, _lines(side, content["path"]), guard)
        text = record_json(path, content | {"path": {**content["path"], "points": PATH_NAME}})
    return create_atomic(path, text, guard)


def record_json(path: Path | str, record: Mapping[str, Any]) -> bytes:
    """Indented JSON; each point of a path is one line, or a record of 11 points would be too large for a page.

    Args:
        path: only names the file in an error.
        record: as `validate` returns it.
    """
    points = (record.get("path") or {}).get("points")
    if not isinstance(points, list):
        return to_json(path, record)
    text = to_json(path, {**record, "path": None}).decode()
    before, found, after = text.rpartition('"path": null')
    return (before + found[:-4] + _lines(path, record["path"]).decode().rstrip().replace("\n", "\n ") + after).encode()


def _lines(path: Path | str, line: Mapping[str, Any]) -> bytes:
    """A path as indented JSON, but each point is one line."""
    text = to_json(path, {**line, "points": []}).decode()
    points = [json.dumps(point, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for point in line["points"]]
    before, found, after = text.rpartition('"points": []')
    return (before + found[:-1] + "\n  " + ",\n  ".join(points) + "\n ]" + after).encode()


def validate(record: Any, where: str = "record") -> dict[str, Any]:
    """The record as plain data, checked against the schema.

    Raises:
        RecordError: one sentence with the file, the key, what is wrong and what to do.
    """
    schema = record.get("schema") if isinstance(record, Mapping) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise RecordError(f"{where}: schema {schema} is newer than {SCHEMA}, the one known here; update robustft.")
    try:
        model = Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "record"
        message = first["msg"].removeprefix("Value error, ")
        raise RecordError(f"{where}: {key}: {message}; remove the run folder to run it again.") from error
    return _plain(model)


def _plain(model: Record) -> dict[str, Any]:
    content = model.model_dump(by_alias=True)
    for key in ("path", "temperature"):
        if content[key] is None:
            del content[key]
    if content["selection"]["evaluated"] is None:
        del content["selection"]["evaluated"]
    return content


def read_record(path: Path) -> dict[str, Any]:
    """One record, checked against the schema.

    Raises:
        RecordError: missing, damaged, or not this schema.
    """
    try:
        return _plain(Record.model_validate_json(_read(Path(path))))  # twice as fast as by way of json
    except ValidationError:
        pass  # its path may lie beside it; else `validate` says what is wrong in our own words
    content = _read_json(Path(path))
    line = content.get("path") if isinstance(content, dict) else None
    if isinstance(line, dict) and line.get("points") == PATH_NAME:
        content["path"] = _read_json(Path(path).with_name(PATH_NAME))
    return validate(content, str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}.") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise RecordError(f"{path}: is no JSON ({error}); remove the run folder to run it again.") from error


def gather(root: Path, report: Callable[[str], None] = warnings.warn) -> list[dict[str, Any]]:
    """All records below a folder of runs, in the order of their paths.

    Args:
        root: searched as root/**/record.json; a folder that does not exist holds no records.
        report: told one sentence for each record that cannot be read; that record is left out.
    """
    return _read_all(record_paths(root), report)


def record_paths(root: Path) -> list[Path]:
    """Every record.json below a folder of runs, sorted."""
    paths: list[Path] = []
    for folder, below, files in os.walk(root):
        if NAME in files:
            paths.append(Path(folder) / NAME)
        if NAME in files or "spec.json" in files:
            below.clear()  # a run folder: its weights and checkpoints hold no records
    return sorted(paths)


def gather_reference(
    benchmark: str | None = None, root: Path = REFERENCE, report: Callable[[str], None] = warnings.warn
) -> list[dict[str, Any]]:
    """The committed reference records, of one benchmark or of all; they never count as finished runs."""
    return _read_all(sorted(Path(root).glob(f"{benchmark or '*'}/records/*.json")), report)


def _read_all(paths: list[Path], report: Callable[[str], None]) -> list[dict[str, Any]]:
    records = []
    with _no_collection():
        for path in paths:
            try:
                records.append(read_record(path))
            except RecordError as error:
                report(str(error))
    return records


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Looking for garbage among ever more records, of which none is, would take half of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
