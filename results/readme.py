"""The README's table, written from the committed reference: nobody edits it, and a test compares the two.

`python -m robustft.results.readme` renews it; `make reference` calls that last.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .cells import best_rows, cell_text, resolution
from .leaderboard import build
from .records import gather_reference
from .statistics import RULES

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- reference table: begin -->", "<!-- reference table: end -->"
COLUMNS = [("acc_id", "ID"), ("acc_ood_mean", "OOD mean"), ("ece_id", "ID ECE"), ("ece_ood_mean", "OOD ECE")]


def table(benchmark: str = "digits") -> str:
    """Markdown: one line per backbone and method under the default rule, from the reference records alone."""
    found = build([], gather_reference(benchmark)).sections
    section = next((section for section in found if section.ranks), found[0])
    titles = [(c, t) for c, t in COLUMNS]
    titles[1:1] = [(f"acc/{name}", name) for name in section.shifts]
    head = ["backbone", "method", "seeds", *(title for _, title in titles), "tuned"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    notes = []
    for backbone in section.backbones:
        rows = section.table(RULES[0], backbone)
        best = {column: best_rows(rows, column) for column, _ in titles}
        for i, row in enumerate(rows):
            cells = [backbone if i == 0 else "", row.title, str(len(row.seeds))]
            for column, _ in titles:
                text = cell_text(row, column)
                cells.append(f"**{text}**" if i in best[column] else text)
            lines.append("| " + " | ".join([*cells, row.setting]) + " |")
        notes.append(f"{backbone}: {resolution(rows)}")
    caption = (
        f"{section.version}, recipe {section.recipe}, rule {RULES[0]}; accuracy in percent, ECE in [0, 1] (15 bins, "
        "global), mean ± standard deviation over seeds; bold: the best complete row of a backbone, zero-shot aside."
    )
    return "\n".join([*lines, "", caption, "", *(f"- {note}" for note in notes)])


def renew(text: str, block: str) -> str:
    """The README with `block` between the markers.

    Raises:
        ValueError: the markers are not there.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md: must hold the lines {BEGIN!r} and {END!r}; restore them.")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{block}\n{END}", text, flags=re.DOTALL)


def main() -> int:
    """Command line of this module."""
    try:
        README.write_text(renew(README.read_text(encoding="utf-8"), table()), encoding="utf-8")
    except ValueError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    print(f"renewed the table of {README.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
