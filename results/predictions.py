"""Per-sample outcomes of one run on one evaluation set, as a small parquet file.

Enough to recompute accuracy, ECE, NLL and Brier score, to pair methods sample by sample, and to resample by
source image, without the logits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

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
    ]
)
_FLOATS = [field.name for field in SCHEMA if field.type == pa.float32()]
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class PredictionError(ValueError):
    """Predictions that cannot be written or read."""


def columns(
    probabilities: ArrayLike, labels: ArrayLike, sample_ids: Sequence[str], unit_ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """All columns from (N, C) probabilities, (N,) labels and the ids of N samples."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int32)
    rows = np.arange(len(labels))
    prediction = probabilities.argmax(axis=1)
    return {
        "sample_id": np.asarray(sample_ids, dtype=object),
        "unit_id": np.asarray(unit_ids, dtype=object),
        "label": labels,
        "prediction": prediction.astype(np.int32),
        "confidence": probabilities[rows, prediction].astype(np.float32),
        "p_label": probabilities[rows, labels].astype(np.float32),
        "sum_p2": (probabilities**2).sum(axis=1).astype(np.float32),
    }


def write(path: Path, columns: Mapping[str, Sequence | np.ndarray], guard: Callable[[], None] | None = None) -> None:
    """Write columns of equal length, atomically; same columns, same bytes.

    Args:
        path: the parquet file.
        columns: some or all of SCHEMA; sample_id, unit_id, label and p_label must be there.
        guard: called just before the file appears; it raises if this process may no longer write here.

    Raises:
        PredictionError: a column is unknown, missing, of another length, or holds NaN.
        OutputError: the file system refuses.
    """
    unknown = sorted(set(columns) - set(SCHEMA.names))
    missing = [n for n in ("sample_id", "unit_id", "label", "p_label") if n not in columns]
    if unknown or missing:
        raise PredictionError(f"{path}: columns: unknown {unknown}, missing {missing}; known are {SCHEMA.names}.")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise PredictionError(f"{path}: columns differ in length: {lengths}.")
    fields = [field for field in SCHEMA if field.name in columns]
    for name in _FLOATS:
        if name in columns and np.isnan(np.asarray(columns[name])).any():
            raise PredictionError(f"{path}: {name} holds NaN; the run has diverged.")
    arrays = [pa.array(columns[field.name], type=field.type) for field in fields]
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(arrays, schema=pa.schema(fields)),
        buffer,
        compression="zstd",
        compression_level=9,
        use_dictionary=[n for n in ("unit_id", "label", "prediction") if n in columns],
        column_encoding={"sample_id": "DELTA_BYTE_ARRAY"}
        | {name: "BYTE_STREAM_SPLIT" for name in _FLOATS if name in columns},
        write_statistics=False,
    )
    write_atomic(path, buffer.getvalue(), guard)


def read(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file; ids as object arrays.

    Raises:
        PredictionError: missing or damaged.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise PredictionError(f"{path}: cannot be read ({error}); run it again.") from error
    return {name: table.column(name).to_numpy() for name in table.column_names}


def nll(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) float64 -log p(label), nats; at most 103.3, because p_label is kept in float32."""
    return -np.log(np.maximum(columns["p_label"].astype(np.float64), _SMALLEST))


def mean_nll(columns: Mapping[str, np.ndarray]) -> float:
    """Mean of `nll`, nats; the order of samples does not matter."""
    return math.fsum(nll(columns)) / len(columns["p_label"])
