"""`robustft rescore`: every metric of finished runs again, from their per-sample files."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UserError, resolve_name
from ...host.places import Place
from ...host.printed import counted
from .. import options as flags
from ..console import complain, make_console

if TYPE_CHECKING:
    from ....results.audit.rescoring import Number

SHOWN = 20
"""Differences that are printed; all are in the file."""
COLUMNS = ("run_id", "method", "backbone", "seed", "set", "metric", "recorded", "rescored")


@click.command("rescore")
@click.argument("benchmark", required=False)
@flags.runs
@click.option("--reference", is_flag=True, help="The committed runs instead of those of this machine.")
@click.option("--out", type=Place(dir_okay=False), help="CSV of every number, recorded or not.")
def command(benchmark: str | None, runs: Path, reference: bool, out: Path | None) -> int:
    """Recompute every metric from the per-sample files; code 1 where a record says something else."""
    from ....results.records.atomic import write_atomic

    console, rows, bad = make_console(), [], 0
    found, unread = _runs(benchmark, runs, reference)
    for sentence in unread:
        console.print(f"not read: {sentence}", soft_wrap=True)
    for record, make_files in found:
        numbers, problem = _numbers(record, make_files)
        about = [record[key] for key in COLUMNS[:4]]
        rows += [[*about, n.set, n.metric, n.recorded, n.rescored] for n in numbers]
        differing = [number for number in numbers if number.differs]
        bad += len(differing) + bool(problem)
        title = "{1} {2} seed {3}, {0}".format(*about)
        if problem:
            console.print(f"not read: {title}: {problem}", soft_wrap=True)
        for number in differing[: max(0, SHOWN - bad + len(differing))]:
            console.print(
                f"differs: {title}: {number.set} {number.metric}: recorded {number.recorded:.9g}, "
                f"rescored {number.rescored:.9g}",
                soft_wrap=True,
            )
    if out is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
        write_atomic(out, text.getvalue().encode())
    same = sum(recorded is not None and rescored is not None for *_, recorded, rescored in rows)
    alone = sum(recorded is not None and rescored is None for *_, recorded, rescored in rows)
    console.print(
        f"{counted(len(found), 'run')}: {same} numbers of their records rescored, {counted(bad, 'problem')}; "
        f"{alone} follow from nothing that is kept",
        soft_wrap=True,
    )
    return 1 if bad or unread else 0


def _numbers(record: Any, make_files: Any) -> tuple[list[Number], str]:
    """The numbers of a run, and a sentence where its files cannot be read."""
    from ....results.audit.rescoring import rescore
    from ....results.metrics.metrics import MetricError
    from ....results.records.predictions import PredictionError

    try:
        return list(rescore(record, make_files())), ""
    except (PredictionError, MetricError) as error:
        return [], str(error)


def _runs(benchmark: str | None, runs: Path, reference: bool) -> tuple[list[tuple[Any, Any]], list[str]]:
    """(record, what makes its files) of every finished run, and a sentence for each record that cannot be read."""
    from ....results.audit.rescoring import FolderFiles, ReferenceFiles
    from ....results.records import records
    from ....results.records.reference import ReferencePredictions
    from ...planning import current_selection

    unread: list[str] = []
    found: list[tuple[Any, Any]] = []
    if reference:
        kept: dict[str, ReferencePredictions] = {}
        known = sorted(path.parent.name for path in records.REFERENCE.glob(f"*/{records.REFERENCE_RECORDS}"))
        chosen = None if benchmark is None else resolve_name("benchmark", benchmark, known)
        for record in records.gather_reference(chosen, report=unread.append):
            name = record["benchmark"]
            if name not in kept:
                kept[name] = ReferencePredictions(records.REFERENCE / name)
            found.append((record, lambda of=kept[name], run_id=record["run_id"]: ReferenceFiles(of, run_id)))
    else:
        of = current_selection.Suites(complain).of(benchmark, runs) if benchmark is not None else ""
        for path in records.record_paths(runs / of):
            try:
                record = records.read_record(path)
            except records.RecordError as error:
                unread.append(str(error))
                continue
            found.append((record, lambda at=path.parent: FolderFiles(at / "predictions")))
    if not found and not unread:
        where = "the committed reference" if reference else f"--runs {runs}"
        raise UserError(f"rescore: {where} must hold a finished run of {benchmark or 'any benchmark'}, found none.")
    return found, unread
