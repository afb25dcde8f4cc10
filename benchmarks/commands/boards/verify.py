"""`robustft bundle` and `robustft verify`: a board with its evidence, and everything in it computed again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ...errors import UserError, explain, resolve_name
from ...host.places import Place
from ...host.printed import counted
from .. import options as flags
from ..console import complain, make_console
from .rerun_verdict import Record, judge

SHOWN = 20
"""Findings that are printed."""
TAKEN_AS_RECORDED = "cost, numbers of trials, what chose each value, dynamics, environment"


@click.command("bundle")
@click.argument("folder", type=Place(folder=True))
@click.option("--benchmark", required=True, help="Whose runs.")
@click.option(
    "--name", default="", help="Your group, as `robustft merge` names it beside your rows; else FOLDER's name."
)
@flags.runs
def bundle(folder: Path, benchmark: str, name: str, runs: Path) -> int:
    """Export the board of a benchmark with records, per-sample files and their hashes, for `robustft verify`."""
    from ....results.audit import bundle as bundles
    from ....results.records import records
    from ...planning import current_selection

    known = current_selection.Suites(complain)
    benchmark = known.of(benchmark, runs)
    paths = records.record_paths(runs / benchmark)
    chosen = zip((path.parent for path in paths), known.with_selections(map(records.read_record, paths)), strict=True)
    mine, suite = [(place, record) for place, record in chosen if record["kind"] == "run"], known.get(benchmark)
    count = bundles.export(mine, folder, name, suite.tuned.plain() if suite else None)
    made = counted(count, "run")
    make_console().print(f"wrote {folder}: {made}; check it with `robustft verify {folder}`", soft_wrap=True)
    return 0


@click.command("verify")
@click.argument("folder", type=Place(folder=True))
@click.option("--reference", is_flag=True, help="FOLDER is the name of a benchmark: check its committed runs.")
@click.option("--rerun", metavar="RUN_ID", help="Make this run again from its spec; `any`: a short one.")
@click.option("--suite", metavar="FILE", help="For --rerun of a run of your own suite: its file.")
@click.option("--device", default="cpu", help="For --rerun: cpu, cuda or cuda:N.")
@flags.include
def verify(folder: Path, reference: bool, rerun: str | None, suite: str | None, device: str) -> int:
    """Check a bundle: hashes, run ids, metrics and the board from the samples, pages and pictures; code 1 if not."""
    from ....results.audit import bundle as bundles
    from ....results.audit.check import check
    from ....results.audit.rescoring import unchecked
    from ....results.records.records import REFERENCE

    known = sorted(path.parent.name for path in REFERENCE.glob(f"*/{bundles.manifest.NAME}"))
    if reference:
        folder = REFERENCE / resolve_name("benchmark", str(folder), known)
    elif not folder.exists() and folder.name in known:
        raise UserError(f"verify: there is no folder {folder} here; run `robustft verify {folder.name} --reference`.")
    console, checked = make_console(), check(bundles.read(folder))
    for finding in checked.problems[:SHOWN]:
        console.print(str(finding), soft_wrap=True)
    if len(checked.problems) > SHOWN:
        console.print(f"and {len(checked.problems) - SHOWN} more")
    console.print(checked.summary, soft_wrap=True)
    if checked.remade:
        console.print(f"made again and compared: {', '.join(checked.remade)}", soft_wrap=True)
    for reason in sorted(set(checked.skipped.values())):
        names = ", ".join(name for name in checked.skipped if checked.skipped[name] == reason)
        console.print(f"not drawn again: {names}: {reason}", soft_wrap=True)
    for finding in checked.notes:
        console.print(f"{finding.reason}: {finding}", soft_wrap=True)
    unchecked_numbers = ", ".join(filter(None, (unchecked(checked.numbers), TAKEN_AS_RECORDED)))
    console.print(f"not checked, for no sample tells it: {unchecked_numbers}", soft_wrap=True)
    if rerun is not None:
        return max(_again(checked.records, rerun, suite, device, console), 1 if checked.problems else 0)
    return 1 if checked.problems else 0


def _again(records: Sequence[Record], run_id: str, suite: str | None, device: str, console: Console) -> int:
    """Make a run and its inputs again in a temporary folder; exit code 1 where the results differ."""
    from ....results.records.records import read_record
    from ...execution.run import Options
    from ...execution.worker import work

    record = _choose(records, run_id)
    needed = [_choose(records, needed) for needed in record["spec"]["inputs"].values()]
    with tempfile.TemporaryDirectory(prefix="robustft-rerun-") as root:
        for one in (*needed, record):
            folder = _planned(one, Path(root), suite)
            console.print(f"making {one['method']} {one['backbone']} seed {one['seed']} again, {one['run_id']}")
            ended = work(folder.path, Options(device=device), lambda: False)
            if ended["event"] != "done":
                raise UserError(f"--rerun {one['run_id']}: could not be made again: {ended.get('reason', 'stopped')}")
        made = read_record(folder.record)
    holds, sentence = judge(record, made, records)
    console.print(f"{record['run_id']} made again {sentence}: {'holds' if holds else 'DIFFERS'}", soft_wrap=True)
    return 0 if holds else 1


def _choose(records: Sequence[Record], run_id: str) -> Record:
    if run_id == "any":
        made = [record for record in records if not record["spec"].get("given")] or records
        simple = [r for r in made if not r["spec"]["inputs"] and r["spec"]["steps"]] or made
        return min(simple, key=lambda r: (r["cost"].get("wall_seconds", 0.0), r["run_id"]))
    found = next((record for record in records if record["run_id"] == run_id), None)
    if found is None:
        raise UserError(f"--rerun: must name a run of the bundle or `any`, and {run_id} is not there; take another.")
    return found


def _planned(record: Record, root: Path, suite: str | None = None) -> Any:
    """The run folder of a record's spec, ready to be worked on.

    Args:
        suite: the file of the suite, which says where the images are; a record does not. None: a suite that ships.
    """
    from pydantic import ValidationError

    from ...host import plugin_files, plugins
    from ...planning.benchmark import include
    from ...planning.suite import suite as suites
    from ...run_folder.folder import RunFolder
    from ...run_folder.plan import Plan
    from ...run_folder.spec import RunSpec
    from .. import sweep

    try:
        spec = RunSpec.model_validate(record["spec"])
    except ValidationError as error:
        where, remedy = f"--rerun {record['run_id']}: spec", "rerun it with the version that made it"
        raise UserError(explain(error, where, remedy)) from None
    if spec.given:
        raise UserError(
            f"--rerun {record['run_id']}: evaluates a given checkpoint, which a bundle does not hold; call `robustft "
            f"evaluate` with the file of sha256 {spec.given.sha256}, or name another run."
        )
    folder = RunFolder.of(root, spec)
    if suite is None and spec.benchmark not in suites.names():
        raise UserError(
            f"--rerun {record['run_id']}: '{spec.benchmark}' is no suite that ships, and a bundle does not hold where "
            "its images are; name its file with --suite FILE, and their folder with ROBUSTFT_DATA if it needs one."
        )
    loaded = suites.load(suites.find(suite or spec.benchmark))
    if loaded.name != spec.benchmark:
        raise UserError(f"--suite {suite}: must be the suite '{spec.benchmark}' of the run, got '{loaded.name}'.")
    data = loaded.dataset_of(spec.recipe)
    plugins.discover()
    include(suites.find(suite or spec.benchmark), loaded)
    brought = sweep.plugins_of(spec, data)
    if lacking := {entry.partition(":")[2] for entry in spec.plugins} - {plugin.sha256 for plugin in brought}:
        raise UserError(
            f"--rerun {record['run_id']}: needs the plug-in of sha256 {min(lacking)[:12]}, which is not included; give "
            "its file with --include, or a suite that includes it with --suite."
        )
    plugin_files.keep(root, brought)
    named = tuple(plugin.named for plugin in brought)
    Plan(spec, data, record["sources"], record["selection"], named).write(folder)
    return folder
