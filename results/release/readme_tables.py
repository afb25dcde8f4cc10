"""Tables and pictures of README and of two pages of docs, and the reference's boards, made from its records.

Nobody edits them; tests compare. `make readme` renews them, without any run; `make reference` ends in the same.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..board.chance import sentence as chance
from ..board.per_sample import Outcomes
from ..board.rows import FORGOTTEN, OLD_TASK, Row, Section
from ..plots import gallery
from ..plots.drawn import PUBLISHED
from ..plots.figure_data import Material, Missing
from ..plots.style import save
from ..records import manifest
from ..records.records import REFERENCE, REFERENCE_RECORDS, gather_reference
from ..statistics.setting_selection import RULES
from ..tables import models_tables
from ..tables.blocks import Heading
from ..tables.cells import (
    cell_text,
    few_sources,
    footnotes,
    marks_text,
    metric_columns,
    resolution,
    same_distribution,
)
from ..tables.leaderboard import build, write
from ..tables.page import compared
from ..tables.to_markdown import escape, markdown, number
from .publish_reference import BOARDS, small

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FINDINGS = ROOT / "docs" / "benchmark.md"
GLYPHS = ROOT / "docs" / "glyphs.md"
SHORT = ("zero_shot", "ft", "wise_ft (alpha 0.5)", "flyp", "flyp_wma", "ema", "tracer", "tracer_static_teacher")
"""Titles of the README's rows: the start, plain finetuning, what TRACER is made of, TRACER, and what keeps more."""
SHORT_BACKBONE = "tiny-vit-p8"
SHORT_COLUMNS = ("acc_id", "acc_ood_mean", "ece_id", "ece_ood_mean")
PICTURES = {
    "digits": {
        "id_ood": "ID against OOD accuracy of every method on the three bundled backbones",
        "paths": "The same with the whole path from zero-shot to finetuned weights",
        "calibration": "Calibration error against accuracy, ID above and OOD below",
        "flips": "Shifted images that zero-shot had right and each method gets wrong, and the reverse",
        "dynamics": "Gap, divergence, entropy and confidence of a WMA and an EMA teacher with the same loss",
    },
    "forgetting": {"forgetting": "Accuracy on the new and the old task after finetuning, beside the paper's Figure 3"},
    "glyphs": {"id_ood": "ID against OOD accuracy of every method on the six models"},
}
"""Benchmark -> figure of the gallery -> what its page says that it shows. Of one that cannot be drawn it says why."""
PAGES = {"digits": FINDINGS, "forgetting": FINDINGS, "glyphs": GLYPHS}
BLOCK = "<!-- {name}: {end} -->"


def table(benchmark: str = "digits") -> str:
    """Markdown: one line per backbone and method, from the reference records alone.

    Of a benchmark that ranks, the rows of the default rule, the best in bold; of a study, every row. Of one whose board
    has a summary over its models, that.
    """
    board = build([], gather_reference(benchmark), Outcomes())
    if over := [block for section in board.sections for block in models_tables.beside(section, board.judge)]:
        return markdown(block for block in over if not isinstance(block, Heading)).strip()
    section = next((section for section in board.sections if section.ranks), board.sections[0])
    titles = _titles(section)
    head = ["backbone", "method", "seeds", *(title for _, title in titles), *(["tuned"] if section.ranks else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    notes, marked = [], []
    for backbone in section.backbones:
        rows = section.table(RULES[0], backbone)
        if not section.ranks:
            rows += [row for row in section.unranked() if row.backbone == backbone]
        numbers = compared(section, rows, titles, board.judge if section.ranks else None)
        for i, row in enumerate(rows):
            cells = [backbone if i == 0 else "", escape(row.title + marks_text(row)), str(len(row.seeds))]
            cells += map(number, numbers[i])
            lines.append("| " + " | ".join([*cells, *([row.setting] if section.ranks else [])]) + " |")
        if section.ranks:
            notes.append(f"{backbone}: {board.judge.resolution(section, rows) or resolution(section, rows)}")
        marked += rows
    said = (chance(section), same_distribution(section), few_sources(section))
    notes += [*filter(None, said), *map(escape, footnotes(marked))]
    parts = ["\n".join(lines), f"{section.version}, recipe {section.recipe}{_caption(section)}"]
    return "\n\n".join([*parts, *(["\n".join(f"- {note}" for note in notes)] if notes else [])])


def short_table() -> str:
    """Markdown of a few rows of digits on one backbone, without signs, which are of all rows of the backbone.

    Raises:
        ValueError: a row is not in the reference.
    """
    board = build([], gather_reference("digits"), Outcomes())
    section = next(section for section in board.sections if section.ranks)
    titles = {column: title for column, title in metric_columns(section) if column in SHORT_COLUMNS}
    lines = ["| " + " | ".join(["method", *titles.values()]) + " |", "|" + " --- |" * (1 + len(titles))]
    found = {row.title: row for row in section.table(RULES[0], SHORT_BACKBONE)}
    if missing := [title for title in SHORT if title not in found]:
        raise ValueError(f"short table: the reference has no row {missing[0]} on {SHORT_BACKBONE}.")
    for title in SHORT:
        cells = [cell_text(found[title], column) for column in titles]
        lines.append("| " + " | ".join([f"`{escape(title)}`", *cells]) + " |")
    units = "accuracy in percent, ECE in [0, 1], mean ± standard deviation over seeds"
    return "\n".join([*lines, "", f"{section.version} on {SHORT_BACKBONE}, rule {RULES[0]}; {units}."])


PAPER_NAMES = {"pretrained": "zero_shot", "ft": "flyp", "dynamic_sd": "tracer"}
"""What Figure 3 calls rows that have another name here."""


def paper_table() -> str:
    """Markdown: the forgetting study beside Figure 3 of the paper, one line a method of either, accuracy in percent."""
    (section,) = build([], gather_reference("forgetting"), Outcomes()).sections
    rows = {row.method: row for row in section.table(RULES[0], section.backbones[0])}
    with (PUBLISHED / "figure3_toy.csv").open(encoding="utf-8", newline="") as file:
        paper = {PAPER_NAMES.get(row["method"], row["method"]): row for row in csv.DictReader(file)}
    columns = {
        "acc_id": "finetune_task_accuracy_percent",
        f"acc/{OLD_TASK}": "pretrain_task_accuracy_percent",
        FORGOTTEN: "forgetting_rate_percent",
    }
    lines = ["| method | new task | paper | old task | paper | forgotten | paper |", "| --- |" + " ---: |" * 6]
    for method, row in rows.items():
        cells = []
        for ours, theirs in columns.items():
            cells += [cell_text(row, ours), (paper[method][theirs] if method in paper else "") or "–"]
        lines.append(f"| `{method}` | " + " | ".join(cell or "–" for cell in cells) + " |")
    return "\n".join(lines)


def strength_table() -> str:
    """Markdown: accuracy on the new and the old task at every strength of `forgetting_strength`, a line a method."""
    (section,) = build([], gather_reference("forgetting_strength"), Outcomes()).sections
    lines = ["| method | strength: new task, old task |", "| --- | --- |"]
    for method in dict.fromkeys(row.method for row in section.rows):
        cells = []
        for row in sorted((row for row in section.rows if row.method == method), key=lambda row: _strength(row)):
            new, old = (f"{100 * (row.mean(column) or 0):.1f}" for column in ("acc_id", f"acc/{OLD_TASK}"))
            cells.append(f"{_strength(row):g}: {new}, {old}")
        lines.append(f"| `{method}` | {'; '.join(cells)} |")
    return "\n".join(lines)


def _strength(row: Row) -> float:
    return float(row.settings["lambda_sd" if "lambda_sd" in row.settings else "strength"])


def _titles(section: Section) -> list[tuple[str, str]]:
    """Columns of `table`: those of a board without the floor and the likelihood; no mean over a single shift."""
    left_out = {"ece_floor_ood_mean", "nll_id"} | ({section.ood_column} if len(section.shifts) == 1 else set())
    return [(column, title) for column, title in metric_columns(section) if column not in left_out]


def _caption(section: Section) -> str:
    measured = "accuracy in percent, ECE in [0, 1] (15 bins, global), mean ± standard deviation over seeds"
    if not section.ranks:
        return f"; settings are defaults, so that nothing is ranked; {measured}."
    return (
        f", rule {RULES[0]}; {measured}; zero-shot first, then the Pareto front of ID and OOD means, then the rest, "
        "each by OOD mean; bold: the best row of a backbone that can be tested, zero-shot aside; ≈: not separable from "
        "it (paired by seed and source image, Holm over the column, 5 %); ?: not tested, and never bold (one seed, or "
        "one model made of several)."
    )


def renew(text: str, name: str, content: str) -> str:
    """A page with `content` between the markers of a block.

    Raises:
        ValueError: the markers are not there.
    """
    begin, end = (BLOCK.format(name=name, end=word) for word in ("begin", "end"))
    if begin not in text or end not in text:
        raise ValueError(f"the page must hold the lines {begin!r} and {end!r}; restore them.")
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)


def picture_lines(benchmark: str, drawn: Mapping[str, dict[str, bytes] | str]) -> str:
    """Markdown that shows the pictures of a benchmark, one a line, and says why others are not there."""
    folder = f"../results/reference/{benchmark}"
    lines = []
    for name, found in drawn.items():
        shown = f"![{PICTURES[benchmark][name]}]({folder}/{name}.png)"
        lines.append(f"\nNot drawn: {escape(found)}\n" if isinstance(found, str) else shown)
    return "\n".join(lines).strip()


def pictures(benchmark: str = "digits") -> Iterator[tuple[str, dict[str, bytes] | str]]:
    """(name, suffix -> content) of every picture of PICTURES, from the reference alone; same records, same bytes.

    In place of the content of one that cannot be drawn, the reason.
    """
    material = Material(reference=tuple(gather_reference())).of(benchmark)
    for name in PICTURES[benchmark]:
        try:
            yield name, gallery.make(name, material)
        except Missing as error:
            yield name, str(error)


def main() -> int:
    """Command line of this module."""
    try:
        texts = {page: page.read_text(encoding="utf-8") for page in PAGES.values()}
        for benchmark, page in PAGES.items():
            drawn = dict(pictures(benchmark))
            for name, files in drawn.items():
                if not isinstance(files, str):
                    save(small(files), REFERENCE / benchmark / name)
                    continue
                for suffix in manifest.PICTURES:
                    (REFERENCE / benchmark / f"{name}{suffix}").unlink(missing_ok=True)
            manifest.write_pictures(REFERENCE / benchmark)
            texts[page] = renew(texts[page], f"{benchmark} table", table(benchmark))
            texts[page] = renew(texts[page], f"{benchmark} pictures", picture_lines(benchmark, drawn))
        texts[FINDINGS] = renew(texts[FINDINGS], "forgetting paper", paper_table())
        texts[FINDINGS] = renew(texts[FINDINGS], "forgetting strength", strength_table())
        for folder in sorted(path.parent for path in REFERENCE.glob(f"*/{REFERENCE_RECORDS}")):
            write([], gather_reference(folder.name), folder, Outcomes(), BOARDS)
        for page, text in texts.items():
            page.write_text(text, encoding="utf-8")
        short = renew(README.read_text(encoding="utf-8"), "short table", short_table())
        README.write_text(short, encoding="utf-8")
    except ValueError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    pages = f"{README.name}, {FINDINGS.name} and {GLYPHS.name}"
    print(f"renewed {pages}, and all boards and pictures in {REFERENCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
