"""What a record is: its schema, and the numbers that follow from its sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from .run_id import run_id

SCHEMA = 1
CLUSTERS = "clusters"
"""Key of a record's info: set -> the first unit id of each of the few sources that its images come from."""

Role = Literal["id", "iid", "shift", "validation", "diagnostic"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Likelihood = Annotated[float | None, Field(ge=0)]
"""Nats; null where a label got probability 0, so that the mean is infinite."""
_EXACT = ConfigDict(extra="forbid", allow_inf_nan=False)
_AND_MORE = ConfigDict(extra="allow", allow_inf_nan=False)


class RecordError(ValueError):
    """A record that cannot be read or believed."""


# Dictionaries, not models: a board reads ten thousand records, and a model each would double the time.


class SetResult(TypedDict):
    """Metrics of one evaluation set: fractions, unrounded. Further metrics as `scores.score` gives them."""

    __pydantic_config__ = _AND_MORE  # type: ignore[misc]

    role: Role
    n_expected: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    accuracy: Fraction
    ece: Fraction
    nll: Likelihood
    brier: Annotated[float, Field(ge=0, le=2)]
    macro_f1: Fraction


class RetainedResult(TypedDict):
    """Metrics of one retention set, whose classes are others than those of the run: as those of a set, without role."""

    __pydantic_config__ = _AND_MORE  # type: ignore[misc]

    classes: Annotated[int, Field(ge=2)]
    n_expected: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    accuracy: Fraction
    ece: Fraction
    nll: Likelihood


class Selection(TypedDict):
    """Which selection rules chose this run's setting; none for a setting given by hand."""

    __pydantic_config__ = _EXACT  # type: ignore[misc]

    rules: list[str]
    tuning: Annotated[str | None, Field(default=None)]
    trials: Annotated[int, Field(default=0, ge=0)]
    evaluated: NotRequired[Annotated[int, Field(ge=0)]]
    """Of the trials, those that trained nothing: values along a path. Earlier records have no such key."""


class Environment(TypedDict):
    """Where the run happened."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    commit: Annotated[str | None, Field(default=None)]
    dirty: Annotated[bool | None, Field(default=None)]


class Cost(TypedDict):
    """What the run took: seconds, images per second, bytes, images."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    images_seen: Annotated[int | None, Field(default=None)]


class PointResult(TypedDict):
    """Metrics of one set at one point of a path: fractions, unrounded."""

    __pydantic_config__ = _EXACT  # type: ignore[misc]

    accuracy: Fraction
    ece: Fraction
    nll: Likelihood
    macro_f1_labels: NotRequired[Fraction]
    """This, or the next, where the set is judged by it. Earlier records have neither."""
    worst_group_accuracy: NotRequired[Fraction]


class Point(TypedDict):
    """One value of a path's parameter, and what the run would have come to with it."""

    __pydantic_config__ = _EXACT  # type: ignore[misc]

    value: float
    sets: dict[str, PointResult]


class PathResult(TypedDict):
    """The whole line that a post-hoc method can stop at (WiSE-FT: alpha), evaluated in the run."""

    __pydantic_config__ = _EXACT  # type: ignore[misc]

    parameter: Annotated[str, Field(min_length=1)]
    points: Annotated[list[Point], Field(min_length=1)]
    """By rising value, all on the same sets."""


def _not_too_many(result: SetResult) -> SetResult:
    if result["n"] > result["n_expected"]:
        raise ValueError(f"n is {result['n']}, more than n_expected, {result['n_expected']}")
    return result


def _is_one_line(path: PathResult) -> PathResult:
    values = [point["value"] for point in path["points"]]
    if values != sorted(set(values)):
        raise ValueError(f"values must rise, got {values}")
    return path


class Record(TypedDict):
    """A finished run or trial, with what it takes to be trusted and repeated."""

    __pydantic_config__ = _EXACT  # type: ignore[misc]

    schema: Literal[1]
    kind: Literal["run", "trial"]
    run_id: Annotated[str, Field(min_length=1)]
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
    sets: Annotated[dict[str, Annotated[SetResult, AfterValidator(_not_too_many)]], Field(min_length=1)]
    temperature: NotRequired[Annotated[float, Field(gt=0)]]
    """Divides logits for `ece_scaled`; fitted on the ID validation set."""
    summary: dict[str, float | None]
    info: Annotated[dict[str, Any], Field(default_factory=dict)]
    """What the method chose, and `dynamics`: teacher against student during the run, a row for each quarter."""
    path: NotRequired[Annotated[PathResult, AfterValidator(_is_one_line)]]
    """Of methods that have one."""
    transductive: NotRequired[Literal[True]]
    """Only where predictions on a set depend on all images of the set: such a run is ranked beside no other."""
    retention: NotRequired[Annotated[dict[str, RetainedResult], Field(min_length=1)]]
    """Of a suite that asks for it, and a method whose text tower builds its head. No part of the summary."""
    finished: str


def _path_is_on_the_sets_of_the_run(record: Record) -> Record:
    for point in record["path"]["points"] if "path" in record else []:
        if point["sets"].keys() != record["sets"].keys():
            raise ValueError(f"path: point {point['value']} is on other sets than the run")
    return record


def _summary_follows_from_the_sets(record: Record) -> Record:
    want = summarise(record["sets"])
    for key, value in record["summary"].items():
        if key not in want:
            continue
        given = want[key]
        # 1e-9: only the order of a sum over sets may differ.
        same = value is given if value is None or given is None else abs(value - given) <= 1e-9
        if not same:
            raise ValueError(f"summary.{key} is {value}, but the sets give {given}")
    return record


_OF_THE_SPEC = {
    key: key for key in ("benchmark", "benchmark_version", "method", "method_version", "backbone", "seed", "recipe")
} | {"backbone_weights": "weights"}
"""Key of a record -> the key of its spec that says the same."""


def _says_what_its_spec_says(record: Record) -> Record:
    spec = record["spec"]
    if record["kind"] != spec.get("kind", "run"):
        raise ValueError(f"kind is {record['kind']!r}, but its spec says {spec.get('kind', 'run')!r}")
    for key, name in _OF_THE_SPEC.items():
        if record[key] != spec.get(name):  # type: ignore[literal-required]
            value = record[key]  # type: ignore[literal-required]
            raise ValueError(f"{key} is {value!r}, but its spec says {spec.get(name)!r}")
    if record["run_id"] != (expected := run_id(spec)):
        raise ValueError(f"run_id is {record['run_id']}, but its spec has the run id {expected}")
    return record


def summarise(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Accuracy, calibration error and likelihood of one run at a glance, from its metrics by set.

    Args:
        sets: name -> metrics, with at least role, accuracy, ece and nll.

    Returns:
        acc_id, ece_id, nll_id of the set with role "id"; acc_ood_mean and ece_ood_mean, means over the sets
        with role "shift", each set counting the same whatever its size (one with role "iid" shows what is finetuned
        on, and is in neither); nll_validation. A key is left out where its sets are missing.

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


_OF_DIGITS = (
    "645be685591f4524e3b985f20e396aff8ebe74b6c22e80ca1e683e1ee10f4b4e",
    "701199d288ca4c9d427d5b465c51f92321079490bdc708822962d44fa1177554",  # digits_uncorrelated
)
"""Fingerprints of data whose records were written before their card told i.i.d. sets from shifts, and clusters."""
_CLUSTERS = {"writers": ["0516", "0906", "1545"]}


def _as_its_card_says_today(record: Record) -> Record:
    """Of earlier records of digits: `fresh` was called a shift, and nothing was said of the three blocks of writers."""
    if record["spec"].get("fingerprint") not in _OF_DIGITS:
        return record
    found = record["sets"].get("fresh")
    if found is not None and found["role"] == "shift":
        found["role"] = "iid"
        means = summarise(record["sets"])
        record["summary"] = {key: means.get(key, value) for key, value in record["summary"].items()}
    if "writers" in record["sets"]:
        record["info"].setdefault(CLUSTERS, _CLUSTERS)
    return record


_WHOLE = TypeAdapter(
    Annotated[
        Record,
        AfterValidator(_says_what_its_spec_says),
        AfterValidator(_path_is_on_the_sets_of_the_run),
        AfterValidator(_summary_follows_from_the_sets),
        AfterValidator(_as_its_card_says_today),
    ]
)


def parse(text: bytes) -> Record | None:
    """The record that a JSON text holds, or None where `validate` must say what is wrong with it.

    Twice as fast as by way of `json`.
    """
    try:
        return _WHOLE.validate_json(text)
    except ValidationError:
        return None


def validate(record: Any, where: str = "record") -> Record:
    """The record as plain data, checked against the schema; an infinite likelihood becomes null.

    Raises:
        RecordError: one sentence with the file, the key, what is wrong and what to do.
    """
    schema = record.get("schema") if isinstance(record, Mapping) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise RecordError(f"{where}: schema {schema} is newer than {SCHEMA}, the one known here; update robustft.")
    try:
        return _WHOLE.validate_python(_as_written(record))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "record"
        message = first["msg"].removeprefix("Value error, ")
        raise RecordError(f"{where}: {key}: {message}; remove the run folder to run it again.") from error


def _as_written(record: Any) -> Any:
    """Null for an infinite likelihood; a path or a temperature that is null is left out."""
    if not isinstance(record, Mapping):
        return record
    kept = {key: value for key, value in record.items() if value is not None or key not in ("path", "temperature")}
    for key in {"sets", "summary", "path"} & kept.keys():
        kept[key] = _finite(kept[key])
    return kept


def _finite(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {
            key: None if value == math.inf and str(key).startswith("nll") else _finite(value)
            for key, value in part.items()
        }
    return [_finite(item) for item in part] if isinstance(part, list) else part
