"""Published numbers beside ours: in rows of their own, with differences in points and with what makes them others."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .blocks import Block, Cell, Heading, Notes, Table, Text
from .board import FIXED, ORACLE, Row, Section, natural
from .cells import cell_text

DATA = Path(__file__).parent / "published" / "tracer_tables.csv"
BENCHMARK, ID_SET = "imagenet", "imagenet"
SHIFTS = ("imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch", "objectnet")
MAIN = ("table1", "table2", "table3", "table5", "table6", "table7")  # the others are ablations of one method
ABOUT = (
    "Printed in TRACER's paper (results/published/README.md), never pooled with ours. A line with − in its provenance "
    "is our row minus the paper's, in points; the letters behind a name say where the two are not the same protocol."
)
ECE = (
    "ECE: the paper names no bins, and the code behind it averages 10 bins over evaluation batches; ours has 15 bins "
    "over the whole set, and is usually lower for the same predictions."
)
FOUR = "OOD mean of four shifts, without ObjectNet; ours is of five, so that there is no difference to show."
PROMPTS = (
    "Evaluated with 86 templates and eight changed class names, and trained with a random flip, by the released code; "
    "ours has the 80 standard templates and names, and no flip."
)
NOT_SAME_RECIPE = (
    "Not the same recipe: no code for this row is released, and all means of these rows of Table 2 end in 3 or 7, as "
    "if made from one-decimal numbers of other papers; no target to reproduce."
)
LIPSUM = "Lipsum-FT's own protocol: checkpoint chosen on the reported set, another centre crop and augmentation."
DERIVED = ("ft", "l2_sp", "static_sd", "car_ft", "lipsum_ft", "model_stock", "arf")
CONTRADICTED = {
    ("table1", "ViT-B-16", "lp_ft"): "Tables 1 and 2 print other numbers for this row, by 0.3 to 3.0 points.",
    ("table2", "ViT-B-16", "lp_ft"): "Tables 1 and 2 print other numbers for this row, by 0.3 to 3.0 points.",
    ("table3", "ViT-L-14", "lp_ft"): "Table 3 has FT's row of Table 7 here; Table 7's LP-FT row differs.",
    ("table6", "RN50", "carot"): "One ECE is printed twice in this row, so that its mean is suspect.",
    ("table3", "RN50", "carot"): "One ECE is printed twice in Table 6's row, so that this mean is suspect.",
    ("table5", "ViT-B-16", "flyp"): "The printed mean ECE, 0.184, is not the mean of its columns, 0.1832.",
    ("table3", "ViT-B-16", "flyp"): "The printed mean ECE, 0.184, is not the mean of Table 5's columns, 0.1832.",
}


@dataclass(frozen=True)
class PaperRow:
    """A row of a printed table; accuracies and ECE as fractions.

    Attributes:
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

    @property
    def title(self) -> str:
        return "Table " + self.table.removeprefix("table")


@lru_cache(maxsize=1)
def rows() -> tuple[PaperRow, ...]:
    """The rows of the main tables, in the order of the file."""
    found: dict[tuple[str, str, str], tuple[dict, dict, set]] = {}
    with DATA.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            column = _column(line["dataset"], line["metric"])
            if line["table"] not in MAIN or line["variant"] or column is None:
                continue
            cells, digits, seeds = found.setdefault((line["table"], line["backbone"], line["method"]), ({}, {}, set()))
            scale = 100 if line["metric"] == "accuracy_percent" else 1
            cells[column] = (float(line["mean"]) / scale, float(line["std"]) / scale if line["std"] else None)
            digits[column] = len(line["mean"].partition(".")[2])
            seeds.add(int(line["n_seeds"]) if line["n_seeds"] else None)
    return tuple(PaperRow(*key, cells, digits, max(n, key=bool)) for key, (cells, digits, n) in found.items())


def _column(dataset: str, metric: str) -> str | None:
    short = "acc" if metric == "accuracy_percent" else "ece"
    if dataset in (ID_SET, "ood_avg"):
        return f"{short}_id" if dataset == ID_SET else f"{short}_ood_mean"
    return f"acc/{dataset}" if short == "acc" and dataset in SHIFTS else None


COLUMNS = [
    ("acc_id", "ID"), *((f"acc/{name}", name) for name in SHIFTS),
    ("acc_ood_mean", "OOD mean"), ("ece_id", "ID ECE"), ("ece_ood_mean", "OOD ECE"),
]  # fmt: skip


def difference(ours: Row, paper: PaperRow, column: str) -> float | None:
    """Ours minus the paper's, as a fraction; None where one is missing, or the two are means of other sets."""
    mean = ours.cell(column)[0]
    if mean is None or column not in paper.cells or (column == "acc_ood_mean" and paper.table == "table2"):
        return None
    return mean - paper.cells[column][0]


def warnings(paper: PaperRow, ours: Sequence[Row], recipe: str) -> list[str]:
    """Why the numbers of a row are not ours done again: one sentence each."""
    found = []
    if any(column.startswith("ece") for column in paper.cells):
        found.append(ECE)
    if paper.table == "table2":
        found.append(FOUR)
        found += [NOT_SAME_RECIPE] if paper.method in DERIVED else []
    if paper.method == "lipsum_ft":
        found.append(LIPSUM)
    found += [CONTRADICTED[key] for key in [(paper.table, paper.backbone, paper.method)] if key in CONTRADICTED]
    if ours and recipe not in ("as_published", "as_printed"):
        found.append(f"Our recipe is {recipe}, with our choice of settings; the paper's values were chosen otherwise.")
    counts = sorted({len(row.seeds) for row in ours if not row.is_reference_method and not row.pooled})
    if counts and counts != [paper.seeds]:
        told = f"{paper.seeds} seeds" if paper.seeds else "an unstated number of seeds"
        found.append(f"The paper's row is of {told}, ours of {' and '.join(map(str, counts))}.")
    return [*found, PROMPTS]


def beside(section: Section | None) -> Iterable[Block]:
    """The published rows of a benchmark with ours; of no section, the published rows alone."""
    if section is not None and section.id_set != ID_SET:
        yield Text(f"Published numbers: no printed table has the sets of {section.benchmark}.")
        return
    yield Heading(3, "Published numbers beside ours" if section else "Published numbers, and none of ours yet")
    yield Text(ABOUT, ours=True)
    letters: dict[str, str] = {}
    for backbone in sorted({row.backbone for row in rows()}, key=natural):
        lines = [line for method in _methods(backbone) for line in _lines(section, backbone, method, letters)]
        yield Heading(4, backbone)
        head = ("method", "provenance", "source", "seeds", *(title for _, title in COLUMNS))
        cells = tuple(tuple(map(Cell, line)) for line in lines)
        caption = f"{BENCHMARK}, {backbone}: published numbers beside ours"
        yield Table(caption, head, cells, frozenset(range(3, len(head))))
    yield Notes(tuple(f"{letter}: {sentence}" for sentence, letter in letters.items()))


def _methods(backbone: str) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows() if row.backbone == backbone))


def _ours(section: Section | None, backbone: str, method: str) -> list[Row]:
    found = section.rows if section else ()
    mine = [row for row in found if (row.backbone, row.method) == (backbone, method) and row.complete]
    mine = [row for row in mine if row.kind not in (FIXED, ORACLE) and (row.rules or row.kind)]
    return sorted(mine, key=lambda row: (row.provenance, row.selection, row.name))


def _lines(section: Section | None, backbone: str, method: str, letters: dict[str, str]) -> Iterable[list[str]]:
    ours = _ours(section, backbone, method)
    for row in ours:
        cells = [cell_text(row, column) for column, _ in COLUMNS]
        yield [row.name, row.provenance, row.selection, str(len(row.seeds)), *cells]
    for paper in rows():
        if (paper.backbone, paper.method) != (backbone, method):
            continue
        told = warnings(paper, ours, section.recipe if section else "")
        marks = " ".join(letters.setdefault(sentence, _letter(len(letters))) for sentence in told)
        yield [f"{method} ({marks})", "paper", paper.title, str(paper.seeds or ""), *_printed(paper)]
        for row in ours:
            cells = [_points(difference(row, paper, column), column) for column, _ in COLUMNS]
            yield [row.name, f"{row.provenance} − paper", paper.title, "", *cells]


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"a{i}"


def _printed(paper: PaperRow) -> list[str]:
    texts = []
    for column, _ in COLUMNS:
        mean, sd = paper.cells.get(column, (None, None))
        scale, digits = 100 if column.startswith("acc") else 1, paper.digits.get(column, 0)
        text = "" if mean is None else f"{scale * mean:.{digits}f}"
        texts.append(text if sd is None else f"{text} ± {scale * sd:.{digits}f}")
    return texts


def _points(value: float | None, column: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.1f}" if column.startswith("acc") else f"{value:+.3f}"


def published_csv(sections: Sequence[Section]) -> str:
    """A line per printed number: ours beside it, the difference in the column's unit, and the warnings.

    Accuracy in percent, ECE in [0, 1].
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["benchmark", "backbone", "method", "source", "column", "paper_mean", "paper_sd", "paper_seeds"]
    writer.writerow([*names, "provenance", "recipe", "selection", "seeds", "ours_mean", "difference", "warnings"])
    mine = [section for section in sections if section.id_set == ID_SET] or [None]
    for paper in rows():
        for section in mine:
            ours = _ours(section, paper.backbone, paper.method)
            told = " ".join(warnings(paper, ours, section.recipe if section else ""))
            for column, (mean, sd) in paper.cells.items():
                scale, digits = 100 if column.startswith("acc") else 1, paper.digits[column]
                start = [BENCHMARK, paper.backbone, paper.method, paper.title, column, f"{scale * mean:.{digits}f}"]
                start += ["" if sd is None else f"{scale * sd:.{digits}f}", paper.seeds or ""]
                for row in ours or [None]:
                    there = [None, None] if row is None else [row.cell(column)[0], difference(row, paper, column)]
                    values = ["" if value is None else f"{scale * value:.4f}" for value in there]
                    about = ["paper", "", "", ""] if row is None else [row.provenance, section.recipe, row.selection]
                    about += [] if row is None else [len(row.seeds)]
                    writer.writerow([*start, *about, *values, told])
    return out.getvalue()
