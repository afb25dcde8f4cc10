"""The numbers that the paper prints, one row of a table each."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..board.rows import Row, Section

DATA = Path(__file__).with_name("tracer_tables.csv")
BENCHMARK, ID_SET = "imagenet", "imagenet"
SHIFTS = ("imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch", "objectnet")
MAIN = ("table1", "table2", "table3", "table5", "table6", "table7")
ABLATIONS = {
    "table8": "which of the four terms are on",
    "table9": "strength of the distillation",
    "table10": "steps between updates of the teacher",
    "table11": "kernel Beta(beta, beta) of the teacher",
}
"""Tables that vary one method, TRACER, on ViT-B-16."""
KEYS = {
    "fd": "fd_weight", "cross_kd": "cross_kd_weight", "icl": "icl_weight", "crd": "crd_weight",
    "lambda_sd": "lambda_sd", "teacher_update_every": "update_every", "beta": "beta",
}  # fmt: skip
"""The paper's name of what it varies -> ours."""
SWITCHES = ("fd_weight", "cross_kd_weight", "icl_weight", "crd_weight")
"""Printed as 1 for on, whatever the weight; ours is the weight."""
ESTIMATED_ALIKE = {"ece_id": "ece_lineage_id", "ece_ood_mean": "ece_lineage_ood_mean"}
"""Column of the paper -> ours by the estimator of the released code."""
TRACER_SETTINGS = {
    "RN50": "The paper names one recipe for all backbones (learning rate 1e-5, weight decay 0.01 or 0.1, lambda_sd "
    "0.9); the settings released for RN50 have 9e-6, 0.02 and 0.01. Which gave these numbers is not known.",
    "ViT-B-16": "Weight decay is 0.01 in the paper's section 5.2.1 and 0.1 in E.3; the released settings have 0.1.",
    "ViT-L-14": "Weight decay is 0.01 in the paper's section 5.2.1 and 0.1 in E.3; no settings are released.",
}


@dataclass(frozen=True)
class PaperRow:
    """A row of a printed table; accuracies and ECE as fractions.

    Attributes:
        variant: what an ablation set, in the paper's names; "" in the main tables.
        cells: column of a board -> (mean, standard deviation or None), as printed.
        digits: column -> decimals that were printed.
        seeds: None where the paper does not say.
    """

    table: str
    backbone: str
    method: str
    cells: Mapping[str, tuple[float, float | None]]
    digits: Mapping[str, int]
    seeds: int | None
    variant: str = ""

    @property
    def title(self) -> str:
        return "Table " + self.table.removeprefix("table")

    @property
    def varied(self) -> dict[str, float]:
        """Our key -> the value of an ablation."""
        pairs = (part.partition("=") for part in self.variant.split(";") if part)
        return {KEYS[key]: float(value) for key, _, value in pairs}

    def is_setting_of(self, row: Row) -> bool:
        """Whether a row of our grid varies the same to the same value; our clock beside an interval is free."""
        ours = {key: value for key, value in row.varied.items() if key != "clock"}
        return ours.keys() == self.varied.keys() and all(
            bool(ours[key]) == bool(value) if key in SWITCHES else ours[key] == value
            for key, value in self.varied.items()
        )


def is_of(section: Section) -> bool:
    """Whether its numbers are of what the paper prints: ImageNet's sets and no others, all training images."""
    return section.id_set == ID_SET and section.shots is None and set(section.shifts) <= set(SHIFTS)


def rows() -> tuple[PaperRow, ...]:
    """The rows of the main tables, in the order of the file."""
    return tuple(row for row in _read() if row.table in MAIN)


def ablations() -> tuple[PaperRow, ...]:
    """The rows of the ablation tables, in the order of the file."""
    return tuple(row for row in _read() if row.table in ABLATIONS)


@lru_cache(maxsize=1)
def _read() -> tuple[PaperRow, ...]:
    found: dict[tuple[str, str, str, str], tuple[dict, dict, set]] = {}
    with DATA.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            column = _column(line["dataset"], line["metric"])
            if column is None:
                continue
            key = (line["table"], line["backbone"], line["method"], line["variant"])
            cells, digits, seeds = found.setdefault(key, ({}, {}, set()))
            scale = 100 if line["metric"] == "accuracy_percent" else 1
            cells[column] = (float(line["mean"]) / scale, float(line["std"]) / scale if line["std"] else None)
            digits[column] = len(line["mean"].partition(".")[2])
            seeds.add(int(line["n_seeds"]) if line["n_seeds"] else None)
    return tuple(
        PaperRow(table, backbone, method, cells, digits, max(seeds, key=bool), variant)
        for (table, backbone, method, variant), (cells, digits, seeds) in found.items()
    )


def _column(dataset: str, metric: str) -> str | None:
    short = "acc" if metric == "accuracy_percent" else "ece"
    if dataset in (ID_SET, "ood_avg"):
        return f"{short}_id" if dataset == ID_SET else f"{short}_ood_mean"
    return f"{short}/{dataset}" if dataset in SHIFTS else None


COLUMNS = [
    ("acc_id", "ID"), *((f"acc/{name}", name) for name in SHIFTS),
    ("acc_ood_mean", "OOD mean"), ("ece_id", "ID ECE"), ("ece_ood_mean", "OOD ECE"),
]  # fmt: skip


def alike(column: str) -> str:
    """Our column by the paper's estimator."""
    return ESTIMATED_ALIKE.get(column, column)
