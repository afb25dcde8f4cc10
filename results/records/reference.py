"""The committed reference: where it is, and how its predictions are read and written.

results/reference/<benchmark>/ holds of its runs
  records.jsonl.zst    a record a line (`records.gather_reference`)
  samples.parquet      set, sample_id, unit_id and label of every test sample, once for all runs, and for each backbone
                       `order/<backbone>`: which of them is the first, second, ... in rows of predictions.parquet
  predictions.parquet  a row for what one run, or several with the same outcomes, came to on them: `runs`, their ids,
                       their `backbone`, and the columns of `rounding.COLUMNS`
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from . import predictions, rounding
from .predictions import PredictionError
from .records import REFERENCE

SAMPLES = "samples.parquet"
PREDICTIONS = "predictions.parquet"
ORDER = "order/"
"""Before the name of a backbone: a column of the samples."""
_SCHEMA = pa.schema(
    [("runs", pa.string()), ("backbone", pa.string()), *((name, pa.binary()) for name in rounding.COLUMNS)]
)


class ReferencePredictions:
    """The samples of one reference, and what each run came to; a file is opened when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """Columns set, sample_id, unit_id and label.

        Raises:
            PredictionError: missing or damaged.
        """
        return {name: values for name, values in self._samples.items() if not name.startswith(ORDER)}

    @cached_property
    def orders(self) -> dict[str, np.ndarray]:
        """Backbone -> (N,) int32 the order of samples in the rows of its runs. PredictionError as `samples`."""
        found = {name.removeprefix(ORDER): at for name, at in self._samples.items() if name.startswith(ORDER)}
        for places in found.values():
            if not np.array_equal(np.sort(places), np.arange(len(places))):
                raise self._damaged(ValueError("an order is not one of the samples"), SAMPLES)
        return found

    @cached_property
    def _samples(self) -> dict[str, np.ndarray]:
        if not (self.folder / SAMPLES).is_file():
            raise self._missing(SAMPLES)
        found = predictions.read(self.folder / SAMPLES)
        for values in found.values():
            values.flags.writeable = False  # of all that read them
        return found

    @cached_property
    def sets(self) -> dict[str, dict[str, np.ndarray]]:
        """Set -> `rows`, the places of its samples in `samples`, and their sample_id, unit_id and label.

        Raises:
            PredictionError: as `samples`.
        """
        names = self.samples["set"]
        places = {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}
        return {
            name: {"rows": rows} | {key: self.samples[key][rows] for key in ("sample_id", "unit_id", "label")}
            for name, rows in places.items()
        }

    @cached_property
    def runs(self) -> dict[str, int]:
        """Run id -> its row. PredictionError as above."""
        try:
            ids = self._file.read(columns=["runs"]).column("runs").to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        return {run_id: row for row, names in enumerate(ids) for run_id in names.split()}

    @cached_property
    def _file(self) -> pq.ParquetFile:
        path = self.folder / PREDICTIONS
        try:
            return pq.ParquetFile(path)
        except FileNotFoundError:
            raise self._missing(PREDICTIONS) from None
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def __contains__(self, run_id: str) -> bool:
        return run_id in self.runs

    def read(self, run_id: str) -> dict[str, np.ndarray]:
        """What a run came to on each of `samples`: prediction, and confidence and p_label, rounded.

        Raises:
            PredictionError: it has no such run, or a file is missing or damaged.
        """
        if run_id not in self.runs:
            raise PredictionError(f"{self.folder / PREDICTIONS}: holds no run {run_id}; take it from the repository.")
        samples, orders = self.samples, self.orders  # whose damage is not the other file's
        try:
            (coded,) = self._file.read_row_group(self.runs[run_id], columns=_SCHEMA.names[1:]).to_pylist()
            return rounding.decode(coded, samples["label"], samples["set"], orders[coded["backbone"]])
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def _missing(self, file: str) -> PredictionError:
        return PredictionError(f"{self.folder / file}: is missing; take the folder from the repository again.")

    def _damaged(self, error: Exception, file: str = PREDICTIONS) -> PredictionError:
        path = self.folder / file
        return PredictionError(f"{path}: cannot be read ({error}); take it from the repository again.")


def opened(folder: Path) -> ReferencePredictions | None:
    """Those of a folder, the same object as long as its files are the same; None where one of them is not there."""
    files = Path(folder) / SAMPLES, Path(folder) / PREDICTIONS
    if not all(path.is_file() for path in files):
        return None
    about = [path.stat() for path in files]
    return _opened(Path(folder), tuple((of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns) for of in about))


@lru_cache(maxsize=4)
def _opened(folder: Path, files: tuple[tuple[int, ...], ...]) -> ReferencePredictions:
    return ReferencePredictions(folder)


def read_reference_predictions(benchmark: str, run_id: str, reference: Path = REFERENCE) -> dict[str, np.ndarray]:
    """Columns set, sample_id, unit_id and label of a reference run, and those of `ReferencePredictions.read`."""
    folder = Path(reference) / benchmark
    kept = opened(folder) or ReferencePredictions(folder)  # which says what is missing
    return kept.samples | kept.read(run_id)


def write_predictions(path: Path, coded: Mapping[str, Mapping[str, bytes]], backbones: Mapping[str, str]) -> None:
    """Write what `rounding.encode` made of each run, by run id; runs with the same outcomes are one row.

    A row is a row group, so that one run is read without the others. Same runs, same bytes.

    Args:
        path: the file.
        coded: run id -> the columns of `rounding.COLUMNS`.
        backbones: run id -> the backbone, in whose order the samples are.
    """
    runs: dict[tuple[bytes | str, ...], list[str]] = {}
    for run_id in sorted(coded):
        key: tuple[bytes | str, ...] = (backbones[run_id], *(coded[run_id][name] for name in rounding.COLUMNS))
        runs.setdefault(key, []).append(run_id)
    rows = [dict(zip(_SCHEMA.names, (" ".join(ids), *key), strict=True)) for key, ids in runs.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_pylist(rows, _SCHEMA),
        path,
        row_group_size=1,
        compression="brotli",  # a tenth less than zstd of 22, on columns of small numbers
        compression_level=11,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
