"""`robustft compare FIRST SECOND`: two methods, paired by seed and source image, and what each flipped."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...python.comparing import Pair, find
from .. import options as flags
from ..console import complain, make_console

if TYPE_CHECKING:
    from ....results.board.comparison import Comparison
    from ....results.board.per_sample import Outcomes

EXPLAINED = (
    "Percent and points; 95 % intervals. The first interval is for new seeds and new source images (variance "
    "Var_seed/n + Var_image/M + Var_residual/(nM), t with Satterthwaite's degrees of freedom, lowered as Cochran and "
    "Cox do); the second for new images and these checkpoints. Flips: share of samples that zero-shot has right and "
    "the method wrong (-), or the reverse (+), mean over seeds."
)
UNCORRECTED = (
    " Each interval holds by itself and is not corrected for looking at many: of the {shown} differences above, one in "
    "20 would seem real by chance were none so."
)


@click.command("compare")
@click.argument("first")
@click.argument("second")
@click.option("--benchmark", required=True, help="Whose runs are compared.")
@click.option("--backbone", default=None, help="One backbone; all by default.")
@click.option("--rule", default="one_se", help="The selection rule of the rows: one_se or best_id.")
@click.option("--reference", is_flag=True, help="The committed runs instead of those of this machine.")
@flags.include
@flags.runs
def command(first: str, second: str, benchmark: str, reference: bool, runs: Path, **choice: Any) -> int:
    """Difference of two methods with its interval, and per shift what each flipped, from per-sample files."""
    console = make_console()
    found = find(first, second, benchmark, choice["backbone"], choice["rule"], reference, runs, complain)
    for pair in found.pairs:
        _show(console, found.outcomes, pair)
    for reason, backbones in found.reasons.items():
        console.print(f"not on {', '.join(backbones)}: {reason}", soft_wrap=True)
    shown = sum(comparison is not None for pair in found.pairs for comparison in pair.comparisons.values())
    console.print(EXPLAINED + UNCORRECTED.format(shown=shown), soft_wrap=True)
    return 0


def _show(console: Console, outcomes: Outcomes, pair: Pair) -> None:
    from ....results.board.comparison import flips, sets_of
    from ....results.tables.cells import cell_text, footnotes, judged
    from ....results.tables.page import TESTED_SCORES

    section, rule, rows, first, second = pair.section, pair.rule, pair.rows, pair.first, pair.second
    start = next((row for row in rows if row.is_reference_method), None)
    of_id = (section.id_column, "acc_id")
    columns = [
        (c, f"{section.id_set} (ID){name.removeprefix('ID')}" if c in of_id else name) for c, name in pair.names.items()
    ]
    found = pair.comparisons
    seeds = next(c.seeds for c in found.values() if c is not None)
    title = f"{first.name} - {second.name} on {first.backbone} ({section.version}, {first.provenance}, rule "
    title += f"{rule}, recipe {section.condition}, seeds {', '.join(map(str, seeds))})"
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    both = (first, second)
    # Row beside the zero-shot row against which its flips are counted.
    moved = [(row, start) for row in both if start is not None and not row.is_reference_method]
    intervals = ("95 %: seeds and images", "95 %: these checkpoints")
    for heading in ("set", first.title, second.title, "difference", *intervals):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for heading in (f"{row.title} {sign}" for row, _ in moved for sign in ("-", "+")):
        table.add_column(heading, justify="right")
    for column, name in columns:
        cells = [name, *(cell_text(row, column, short=True) for row in both), *_difference(found[column])]
        turned_of = sets_of(section, column) or {} if column == "acc_id" or column.startswith("acc/") else {}
        for (row, before), of in itertools.product(moved, turned_of):
            turned = flips(outcomes, section, row, before, of)
            cells += ["", ""] if turned is None else [f"{100 * turned.negative:.1f}", f"{100 * turned.positive:.1f}"]
        table.add_row(*map(Text, cells))
    console.print(table)
    for note in footnotes(both):
        console.print(note, soft_wrap=True)
    if judged(section):
        console.print(judged(section) + TESTED_SCORES, soft_wrap=True)
    mean = found.get(section.ood_column)
    if mean is not None and mean.resolvable is not None:
        console.print(f"OOD mean: a difference of {100 * mean.resolvable:.1f} points is found with 80 % power.")
    console.print()


def _difference(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["", "", ""]
    inner = comparison.difference.image_interval()
    ends = [comparison.interval, inner]
    return [
        f"{100 * float(comparison.difference.mean):+.1f}",
        *("one model: unknown" if end is None else f"{100 * end[0]:+.1f} to {100 * end[1]:+.1f}" for end in ends),
    ]
