"""`robustft compare FIRST SECOND`: two methods, paired by seed and source image, and what each flipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...errors import UserError, fold, resolve_name
from .. import options as flags
from ..console import complain, make_console

if TYPE_CHECKING:
    from ....results.board.comparison import Comparison
    from ....results.board.per_sample import Outcomes
    from ....results.board.rows import Row, Section

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
    from ....results.board.per_sample import Outcomes
    from ....results.records import records
    from ....results.statistics.setting_selection import RULES
    from ....results.tables import leaderboard
    from ...planning import current_selection

    console, choice["rule"] = make_console(), resolve_name("rule", choice["rule"], RULES)
    if reference:
        benchmark = resolve_name("benchmark", benchmark, sorted(path.name for path in records.REFERENCE.glob("*/")))
        board = leaderboard.build([], records.gather_reference(benchmark))
    else:
        known = current_selection.Suites(complain)
        benchmark = known.of(benchmark, runs)
        gathered = [record for record in records.gather(runs) if record["benchmark"] == benchmark]
        board = leaderboard.build(list(known.for_board(gathered)))
    methods = _methods((first, second), board.sections)
    outcomes = Outcomes(runs=None if reference else runs)
    where = "the committed reference" if reference else f"--runs {runs}"
    remedy = "" if reference else ": run `robustft sweep BENCHMARK --method {}`, or add --reference"
    have = {row.method for section in board.sections for row in section.rows}
    lacking = [
        f"{where} has no run of {name} of {benchmark}{remedy.format(name)}" for name in methods if name not in have
    ]
    if lacking:
        of_these = f"; it has {', '.join(sorted(have))}" if reference else ""
        raise UserError(f"compare: {'; '.join(lacking)}{of_these}.")
    shown = 0
    reasons: dict[str, list[str]] = {}
    for section in board.sections:
        shown += _section(console, outcomes, section, methods, reasons, **choice)
    if not shown:
        raise UserError(f"compare: no ranked runs of both {' and '.join(methods)}: {'; '.join(reasons)}.")
    for reason, backbones in reasons.items():
        console.print(f"not on {', '.join(backbones)}: {reason}", soft_wrap=True)
    console.print(EXPLAINED + UNCORRECTED.format(shown=shown), soft_wrap=True)
    return 0


def _methods(asked: tuple[str, str], sections: Iterable[Section]) -> list[str]:
    """The names of two methods, of which there are runs or which are installed.

    Raises:
        UserError: a name is of none, or both are one method.
    """
    names = {row.method for section in sections for row in section.rows}
    if not {fold(name) for name in asked} <= set(map(fold, names)):
        from ...planning import (
            benchmark as facts,  # methods, and so torch: only to tell a method without runs from a slip of the pen
        )

        names |= set(facts.methods())
    found = [resolve_name("method", name, names) for name in asked]
    if found[0] == found[1]:
        raise UserError(f"compare: must be given two methods, got {found[0]} twice; name another one.")
    return found


def _section(
    console: Console,
    outcomes: Outcomes,
    section: Section,
    methods: list[str],
    reasons: dict[str, list[str]],
    backbone: str | None,
    rule: str,
) -> int:
    """Prints a section's comparisons; returns how many differences they tell.

    Args:
        reasons: why there is none, reason -> backbones; added to.
    """
    known = section.backbones
    chosen = [resolve_name("backbone", backbone, known)] if backbone else known
    shown = 0
    for name in chosen:
        rows = [*section.table(rule, name), *(row for row in section.unranked() if _beside(row, name))]
        first, second = (_row(rows, method) for method in methods)
        if first is not None and second is not None:
            shown += _show(console, outcomes, section, rule, rows, first, second)
            continue
        for method in (method for method, row in zip(methods, (first, second), strict=True) if row is None):
            backbones = reasons.setdefault(_why_not(section, method, name, rule), [])
            backbones += [name] if name not in backbones else []
    return shown


def _beside(row: Row, backbone: str) -> bool:
    """Whether a row that no rule ranks can be compared all the same: that of a checkpoint that somebody gave."""
    return row.is_given and row.backbone == backbone


def _row(rows: Sequence[Row], method: str) -> Row | None:
    """The row of a method, as its rule chose it; a fixed point of a path only where nothing else is there."""
    found = [row for row in rows if row.method == method]
    return min(found, key=lambda row: (bool(row.kind), not row.complete, row.name), default=None)


def _why_not(section: Section, method: str, backbone: str, rule: str) -> str:
    """Why a method has no row in the table of a rule on a backbone, and what to do."""
    from ....results.board.rows import TRANSDUCTIVE, UNRANKED

    rows = [row for row in section.rows if (row.method, row.backbone) == (method, backbone)]
    if not rows:
        return f"{method} has no run on {backbone} under recipe {section.recipe}"
    if ranked := [row for row in rows if row.rules]:
        return f"{method} is a result of rule {ranked[0].rules[0]} and not of {rule}: add --rule {ranked[0].rules[0]}"
    reasons = [row.marks[key] for row in rows for key in (UNRANKED, "stale", TRANSDUCTIVE) if key in row.marks]
    return f"{method} is {reasons[0] if reasons else 'of a study, which ranks nothing'}"


def _show(
    console: Console, outcomes: Outcomes, section: Section, rule: str, rows: Sequence[Row], first: Row, second: Row
) -> int:
    from ....results.board.comparison import compare, flips, sets_of
    from ....results.tables.cells import cell_text, footnotes, in_percent, judged, metric_columns
    from ....results.tables.page import TESTED_SCORES

    start = next((row for row in rows if row.is_reference_method), None)
    columns = [(c, name) for c, name in metric_columns(section) if in_percent(c) and sets_of(section, c) is not None]
    of_id = (section.id_column, "acc_id")
    columns = [(c, f"{section.id_set} (ID){name.removeprefix('ID')}" if c in of_id else name) for c, name in columns]
    found = {column: compare(outcomes, section, first, second, column) for column, _ in columns}
    if all(comparison is None for comparison in found.values()):
        raise UserError(
            f"compare: {first.name} and {second.name} on {first.backbone} must have per-sample files of common "
            "seeds, found none; run them with the same seeds, and keep the folders predictions/."
        )
    seeds = next(c.seeds for c in found.values() if c is not None)
    title = f"{first.name} - {second.name} on {first.backbone} ({section.version}, {first.provenance}, rule "
    title += f"{rule}, recipe {section.recipe}, seeds {', '.join(map(str, seeds))})"
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    pair = (first, second)
    # Row beside the zero-shot row against which its flips are counted.
    moved = [(row, start) for row in pair if start is not None and not row.is_reference_method]
    intervals = ("95 %: seeds and images", "95 %: these checkpoints")
    for heading in ("set", first.title, second.title, "difference", *intervals):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for heading in (f"{row.title} {sign}" for row, _ in moved for sign in ("-", "+")):
        table.add_column(heading, justify="right")
    for column, name in columns:
        cells = [name, *(cell_text(row, column, short=True) for row in pair), *_difference(found[column])]
        turned_of = sets_of(section, column) or {} if column == "acc_id" or column.startswith("acc/") else {}
        for (row, before), of in itertools.product(moved, turned_of):
            turned = flips(outcomes, section, row, before, of)
            cells += ["", ""] if turned is None else [f"{100 * turned.negative:.1f}", f"{100 * turned.positive:.1f}"]
        table.add_row(*map(Text, cells))
    console.print(table)
    for note in footnotes(pair):
        console.print(note, soft_wrap=True)
    if judged(section):
        console.print(judged(section) + TESTED_SCORES, soft_wrap=True)
    mean = found.get(section.ood_column)
    if mean is not None and mean.resolvable is not None:
        console.print(f"OOD mean: a difference of {100 * mean.resolvable:.1f} points is found with 80 % power.")
    console.print()
    return sum(comparison is not None for comparison in found.values())


def _difference(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["", "", ""]
    inner = comparison.difference.image_interval()
    ends = [comparison.interval, inner]
    return [
        f"{100 * float(comparison.difference.mean):+.1f}",
        *("one model: unknown" if end is None else f"{100 * end[0]:+.1f} to {100 * end[1]:+.1f}" for end in ends),
    ]
