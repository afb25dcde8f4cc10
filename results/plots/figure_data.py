"""What figures and the report are made from: records, their board, and the files that lie beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..board.grouping import Record
from ..board.per_sample import Outcomes
from ..board.rows import ASIDE, Row, Section
from ..records.predictions import PredictionError
from ..records.records import REFERENCE
from ..records.reference import PREDICTIONS, SAMPLES
from ..records.run_id import folder_name
from ..statistics.setting_selection import RULES
from ..tables.leaderboard import Board, build

RECIPE = {"steps", "batch_size"}
LAYERS = "layers.json"
"""Side file of a run folder with what `layers` reads."""


class Missing(ValueError):
    """What is not there, and how to make it."""


@dataclass(frozen=True)
class Material:
    """Finished runs of one or more benchmarks.

    Attributes:
        local, reference: records; they stand in rows of their own.
        runs: root of the local run folders; None if there are only records.
        controls: runs of any benchmark from random weights on the same data, where they are known.
        reference_root: root of the committed references.
        baselines: accuracies of models without pretraining that no record is of, as fractions: "id" and each shift.
    """

    local: tuple[Record, ...] = ()
    reference: tuple[Record, ...] = ()
    runs: Path | None = None
    controls: tuple[Record, ...] = ()
    reference_root: Path = REFERENCE
    baselines: tuple[Mapping[str, float], ...] = ()

    @cached_property
    def board(self) -> Board:
        """The board of all records."""
        return build(self.local, self.reference, self.outcomes)

    @cached_property
    def outcomes(self) -> Outcomes:
        """The per-sample files of the board's rows."""
        return Outcomes(self.runs, self.reference_root)

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that have a finished run."""
        return sorted({record["benchmark"] for _, record in self.entries()})

    def of(self, benchmark: str) -> Material:
        """The part that belongs to one benchmark."""
        local, reference = (
            tuple(record for record in records if record["benchmark"] == benchmark)
            for records in (self.local, self.reference)
        )
        data = {record["spec"].get("fingerprint") for record in (*local, *reference)}
        controls = {
            record["run_id"]: record
            for record in (*self.controls, *(record for _, record in self.entries()))
            if _is_control(record) and record["spec"].get("fingerprint") in data
        }
        return replace(self, local=local, reference=reference, controls=tuple(controls.values()))

    def entries(self) -> Iterator[tuple[str, Record]]:
        """(provenance, record) of every run; tuning trials are left out."""
        for provenance, records in (("local", self.local), ("reference", self.reference)):
            yield from ((provenance, record) for record in records if record["kind"] == "run")

    def records_of(self, row: Row) -> list[Record]:
        """The runs behind a row, by seed; none for a row of the oracle, which is no run's own."""
        here = {record["run_id"]: record for provenance, record in self.entries() if provenance == row.provenance}
        return [here[row.runs[seed]] for seed in sorted(row.runs) if row.runs[seed] in here]

    def chosen(
        self, section: Section, backbone: str, method: str, usable: Callable[[Record], bool]
    ) -> tuple[Row | None, list[Record]]:
        """The setting by which a figure shows a method, with its usable runs; (None, []) if there is none.

        The default rule's setting if it has usable runs, else the one with most of them; local before reference. Where
        rows are ranked, runs of another length or batch than the recipe's are no part of the comparison.
        """
        candidates = []
        for row in section.rows:
            other = section.ranks and not RECIPE.isdisjoint(row.chosen)
            if row.backbone == backbone and row.method == method and row.kind not in ASIDE and not other:
                records = [record for record in self.records_of(row) if usable(record)]
                if records:
                    rank = (RULES[0] not in row.rules, row.provenance != "local", -len(records), row.label)
                    candidates.append((rank, row, records))
        if not candidates:
            return None, []
        _, row, records = min(candidates, key=lambda candidate: candidate[0])
        return row, records

    def folder(self, record: Record) -> Path | None:
        """The folder of a local run; None where there is none."""
        if self.runs is None:
            return None
        method = folder_name(record["method"], record["spec"])
        place = Path(record["benchmark"], method, record["backbone"])
        folder = self.runs / place / f"seed{record['seed']}-{record['run_id']}"
        return folder if folder.is_dir() else None

    def predictions(self, record: Record, provenance: str) -> dict[str, dict[str, np.ndarray]]:
        """Per-sample columns of each set, validation left out; {} where the files are not there."""
        names = [name for name, metrics in record["sets"].items() if metrics["role"] != "validation"]
        try:
            read = {
                name: self.outcomes.columns(record["benchmark"], provenance, record["run_id"], name) for name in names
            }
        except PredictionError:
            return {}
        found = {name: columns for name, columns in read.items() if columns is not None}
        return found if len(found) == len(names) else {}

    def side_files(self) -> Iterator[tuple[str, Path]]:
        """(name, file) of what may lie beside the records and be drawn: samples, and the comparison of layers."""
        for record in self.local if self.runs is not None else ():
            folder = self.folder(record)
            names = [f"predictions/{name}.parquet" for name in sorted(record["sets"])] + [LAYERS]
            yield from ((f"{record['run_id']}/{name}", folder / name) for name in names if folder is not None)
        for benchmark in sorted({record["benchmark"] for record in self.reference}):
            for name in (SAMPLES, PREDICTIONS):
                yield f"{benchmark}/{name}", self.reference_root / benchmark / name

    def layers(self, record: Record) -> list[dict[str, Any]]:
        """Similarity to the pretrained model of each layer of a local run: layer, cka, svcca; [] where unknown."""
        folder = self.folder(record)
        try:
            return json.loads((folder / LAYERS).read_bytes())["layers"] if folder else []
        except (OSError, ValueError, KeyError):
            return []

    def curves(self, record: Record) -> dict[str, list[float | None]]:
        """Column -> values of a local run's training curves; {} where there are none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = self.folder(record)
        try:
            table = pq.read_table(folder / "curves.parquet") if folder else None
        except (OSError, pa.ArrowException):
            table = None
        columns = table.to_pydict() if table is not None else {}
        return {name: [_short(value) for value in values] for name, values in columns.items() if any(map(_ok, values))}


def without_doubles(rows: Iterable[Row]) -> list[Row]:
    """Local rows, and reference rows of what has no complete local one: no figure shows a method twice."""
    rows = list(rows)
    here = {(row.backbone, row.title) for row in rows if row.provenance == "local" and row.complete}
    return [row for row in rows if row.provenance == "local" or (row.backbone, row.title) not in here]


def _is_control(record: Record) -> bool:
    """Whether it started from random weights and was evaluated on all images; it may have trained on fewer."""
    spec = record["spec"]
    whole = spec.get("limit") is None and not spec.get("allow_partial")
    return whole and record["backbone_weights"] == "random"


def _ok(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _short(value: Any) -> float | None:
    """Six significant digits: what a drawing shows."""
    return float(f"{value:.6g}") if _ok(value) else None
