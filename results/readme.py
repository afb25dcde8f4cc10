"""The README's table and pictures and the reference's boards, made from its records: nobody edits them, tests compare.

`make readme` renews them, without any run; `make reference` ends in the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from . import gallery
from .cells import best_rows, cell_text, footnotes, marks_text, resolution
from .leaderboard import build, write
from .material import Material
from .outcomes import Outcomes
from .plots import save
from .publish import BOARDS
from .records import REFERENCE, gather_reference
from .statistics import RULES
from .tables import signs_of
from .tables_markdown import escape

README = Path(__file__).resolve().parents[1] / "README.md"
PICTURES = ("id_ood", "robustness", "paths", "calibration", "flips")
"""Names of the gallery that the committed records are enough for, and that the README shows."""
BEGIN, END = "<!-- reference table: begin -->", "<!-- reference table: end -->"
COLUMNS = [("acc_id", "ID"), ("acc_ood_mean", "OOD mean"), ("ece_id", "ID ECE"), ("ece_ood_mean", "OOD ECE")]


def table(benchmark: str = "digits") -> str:
    """Markdown: one line per backbone and method under the default rule, from the reference records alone."""
    board = build([], gather_reference(benchmark), Outcomes())
    section = next((section for section in board.sections if section.ranks), board.sections[0])
    titles = [(c, t) for c, t in COLUMNS]
    titles[1:1] = [(f"acc/{name}", name) for name in section.shifts]
    head = ["backbone", "method", "seeds", *(title for _, title in titles), "tuned"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    notes, marked = [], []
    for backbone in section.backbones:
        rows = section.table(RULES[0], backbone)
        best = {column: best_rows(rows, column) for column, _ in titles}
        signs = {column: signs_of(section, rows, best[column], column, board.judge) for column, _ in titles}
        for i, row in enumerate(rows):
            cells = [backbone if i == 0 else "", escape(row.title + marks_text(row)), str(len(row.seeds))]
            for column, _ in titles:
                text = f"{cell_text(row, column)} {signs[column].get(i, '')}".rstrip()
                cells.append(f"**{text}**" if i in best[column] else text)
            lines.append("| " + " | ".join([*cells, row.setting]) + " |")
        notes.append(f"{backbone}: {board.judge.resolution(section, rows) or resolution(rows)}")
        marked += rows
    caption = (
        f"{section.version}, recipe {section.recipe}, rule {RULES[0]}; accuracy in percent, ECE in [0, 1] (15 bins, "
        "global), mean ± standard deviation over seeds; bold: the best row of a backbone, zero-shot aside; ≈: not "
        "separable from it (paired by seed and source image, Holm over the column, 5 %; ECE is not tested); ?: not "
        "tested (one seed)."
    )
    return "\n".join([*lines, "", caption, "", *(f"- {note}" for note in [*notes, *map(escape, footnotes(marked))])])


def renew(text: str, block: str) -> str:
    """The README with `block` between the markers.

    Raises:
        ValueError: the markers are not there.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md: must hold the lines {BEGIN!r} and {END!r}; restore them.")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{block}\n{END}", text, flags=re.DOTALL)


def pictures(benchmark: str = "digits") -> Iterator[tuple[str, dict[str, bytes]]]:
    """(name, suffix -> content) of every picture of PICTURES, from the reference alone; same records, same bytes."""
    material = Material(reference=tuple(gather_reference())).of(benchmark)
    yield from ((name, gallery.make(name, material)) for name in PICTURES)


def main() -> int:
    """Command line of this module."""
    try:
        for name, files in pictures():
            save(files, REFERENCE / "digits" / name)
        write([], gather_reference("digits"), REFERENCE / "digits", Outcomes(), BOARDS)
        README.write_text(renew(README.read_text(encoding="utf-8"), table()), encoding="utf-8")
    except ValueError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    print(f"renewed the table of {README.name} and the boards and pictures of {REFERENCE / 'digits'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
