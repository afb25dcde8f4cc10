"""Per-sample predictions of one run on one evaluation set, as a small parquet file.

Enough to recompute every metric (`scores.score`), to pair methods sample by sample, and to resample by source image,
without the model. The ID validation set also keeps its logits, on which a run's temperature is fitted. The points of
a path lie in a file beside it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from ..metrics.metrics import sample_columns
from .atomic import write_atomic

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),  # one image as shown
        ("unit_id", pa.string()),  # the source image: renderings of it are one unit
        ("label", pa.int32()),
        ("prediction", pa.int32()),
        ("confidence", pa.float32()),  # probability of the prediction
        ("p_label", pa.float32()),  # probability of the label
        ("sum_p2", pa.float32()),  # sum over classes of p**2; Brier = sum_p2 - 2 p_label + 1
        ("confidence_scaled", pa.float32()),  # of the prediction, after temperature scaling
        ("group", pa.string()),  # for worst-group accuracy; "" is a sample of no group
    ]
)
"""Besides these, `logits`: a list of C half-precision numbers. Not every set has the last three."""
NEEDED = ("sample_id", "unit_id", "label", "p_label")
PATH_SCHEMA = pa.schema([SCHEMA.field(name) for name in ("label", "prediction", "confidence", "p_label")])
_FLOATS = [field.name for field in SCHEMA if field.type == pa.float32()]
_KINDS = {name: ("f", 1 + 1e-6) for name in _FLOATS} | dict.fromkeys(("label", "prediction"), ("iu", math.inf))
"""Column -> kinds of numpy's types, and the largest value."""
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class PredictionError(ValueError):
    """Predictions that cannot be written or read."""


def columns(
    probabilities: ArrayLike, labels: ArrayLike, sample_ids: Sequence[str], unit_ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """Ids, labels and `metrics.sample_columns` of (N, C) probabilities, rounded as in a file."""
    found = {"label": np.asarray(labels), **sample_columns(np.asarray(probabilities, dtype=np.float64), labels)}
    return {
        "sample_id": np.asarray(sample_ids, dtype=object),
        "unit_id": np.asarray(unit_ids, dtype=object),
        **{name: values.astype(np.float32 if name in _FLOATS else np.int32) for name, values in found.items()},
    }


def write(path: Path, columns: Mapping[str, Sequence | np.ndarray], guard: Callable[[], None] | None = None) -> None:
    """Write columns of equal length, atomically; same columns, same bytes.

    Args:
        path: the parquet file.
        columns: some or all of SCHEMA, those of NEEDED among them, and (N, C) logits; rounded to the file's precision.
        guard: called just before the file appears; it raises if this process may no longer write here.

    Raises:
        PredictionError: a column is unknown, missing, of another length, or holds NaN.
        OutputError: the file system refuses.
    """
    unknown = sorted(set(columns) - {*SCHEMA.names, "logits"})
    missing = [name for name in NEEDED if name not in columns]
    if unknown or missing:
        raise PredictionError(f"{path}: columns: unknown {unknown}, missing {missing}; known are {SCHEMA.names}.")
    arrays = _arrays(path, columns, SCHEMA)
    if "logits" in columns:
        logits = np.asarray(columns["logits"], dtype=np.float16)
        arrays["logits"] = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1])
    _write(path, arrays, guard)


def write_path(
    path: Path,
    parameter: str,
    points: Mapping[float, Mapping[str, np.ndarray]],
    guard: Callable[[], None] | None = None,
) -> None:
    """Write what a set's samples come to at each point of a path, point after point, samples in the set's order.

    Args:
        path: the parquet file.
        parameter: name of the column that says which point a row belongs to ("alpha").
        points: value -> columns of PATH_SCHEMA.
        guard, errors: as in `write`.
    """
    joined = {name: np.concatenate([columns[name] for columns in points.values()]) for name in PATH_SCHEMA.names}
    sizes = [len(columns["label"]) for columns in points.values()]
    at = pa.array(np.repeat(np.array(list(points), dtype=np.float64), sizes))
    _write(path, {parameter: at, **_arrays(path, joined, PATH_SCHEMA)}, guard)


def _arrays(path: Path, columns: Mapping[str, Any], schema: pa.Schema) -> dict[str, pa.Array]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise PredictionError(f"{path}: columns differ in length: {lengths}.")
    arrays = {}
    for field in schema:
        if field.name not in columns:
            continue
        values = columns[field.name]
        if field.name in _FLOATS:
            values = np.asarray(values, dtype=np.float32)
            if np.isnan(values).any():
                raise PredictionError(f"{path}: {field.name} holds NaN; the run has diverged.")
        arrays[field.name] = pa.array(values, type=field.type)
    return arrays


def _write(path: Path, arrays: Mapping[str, pa.Array], guard: Callable[[], None] | None) -> None:
    plain = {"sample_id", "logits", *_FLOATS}  # other columns repeat a few values
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(dict(arrays)),
        buffer,
        compression="zstd",
        compression_level=9,
        use_dictionary=[name for name in arrays if name not in plain],
        column_encoding={"sample_id": "DELTA_BYTE_ARRAY"}
        | {name: "BYTE_STREAM_SPLIT" for name in _FLOATS if name in arrays},
        write_statistics=False,
    )
    write_atomic(path, buffer.getvalue(), guard)


def read(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file; ids as object arrays, logits (N, C).

    Raises:
        PredictionError: missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would import pandas and all of datasets of many files
            table = file.read()
        columns = {name: _as_numpy(table.column(name)) for name in table.column_names}
    except FileNotFoundError:
        raise PredictionError(
            f"{path}: is missing; copy it from where the run was made, or remove the run folder to run it again."
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise PredictionError(f"{path}: cannot be read ({error}); run it again.") from error
    if "logits" in columns and np.isnan(columns["logits"]).any():
        raise PredictionError(f"{path}: is damaged: logits hold NaN; run it again.")
    for name in columns.keys() & _KINDS.keys():
        kind, largest = _KINDS[name]
        values = columns[name]
        # NaN is in no range. A float32 may be a little more than 1.
        if values.dtype.kind not in kind or (len(values) and not (values.min() >= 0 and values.max() <= largest)):
            what = "probabilities, 0 to 1" if kind == "f" else "classes, 0, 1, 2, ..."
            raise PredictionError(f"{path}: is damaged: {name} must hold {what}, and does not; run it again.")
    return columns


def _as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """As `to_numpy`, which would import pandas; lists of C numbers as (N, C), text as objects."""
    values = column.combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return np.from_dlpack(values.flatten()).reshape(len(values), -1).copy()
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return np.from_dlpack(values).copy()
    return np.array(values.to_pylist(), dtype=object)


def read_path(path: Path, parameter: str) -> dict[float, dict[str, np.ndarray]]:
    """What `write_path` wrote: value -> columns.

    Raises:
        PredictionError: missing or damaged, or of another parameter.
    """
    columns = read(path)
    if parameter not in columns:
        raise PredictionError(f"{path}: has no column {parameter!r}, only {', '.join(columns)}; run it again.")
    at = columns.pop(parameter)
    return {float(value): {name: rest[at == value] for name, rest in columns.items()} for value in np.unique(at)}


def nll(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) float64 -log p(label), nats; at most 103.3, because p_label is kept in float32."""
    return -np.log(np.maximum(columns["p_label"].astype(np.float64), _SMALLEST))


def mean_nll(columns: Mapping[str, np.ndarray]) -> float:
    """Mean of `nll`, nats; the order of samples does not matter."""
    return math.fsum(nll(columns)) / len(columns["p_label"])
