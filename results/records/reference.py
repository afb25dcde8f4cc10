"""The committed reference: where it is and how its predictions are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import predictions
from .records import REFERENCE


def read_reference_predictions(benchmark: str, run_id: str, reference: Path = REFERENCE) -> dict[str, np.ndarray]:
    """Columns set, sample_id, unit_id and label of a reference run, and those of KEPT that it has."""
    folder = Path(reference) / benchmark
    return predictions.read(folder / "samples.parquet") | predictions.read(folder / "predictions" / f"{run_id}.parquet")
