"""`robustft retry`: start again what failed, vanished or was stopped, each from its last checkpoint.

Who may work on a run is decided by its lease, as everywhere: two calls at once start nothing twice.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console

from ...errors import UserError, is_mistake
from ...executors.run_states import Choice, Queue, Seen, choose, slurm, survey
from ...host.plugin_files import PluginError
from ...host.printed import counted
from ...run_folder.folder import RunFolder
from ...run_folder.lease import Observer
from ..executor_options import Executor

AGAIN = ("failed", "vanished", "checkpointed")


def retry(
    console: Console,
    choice: Choice,
    executor: Executor,
    *,
    restarts: int = 3,
    cancelled: bool = False,
    queue: Queue = slurm,
) -> int:
    """Make the chosen runs that failed, vanished or were stopped, with the inputs that they still lack.

    Args:
        restarts: a run that was started so often without a new checkpoint is named and left out.
        cancelled: also those that were cancelled.

    Returns:
        The exit code of the launcher; 1 at least where a run was left out.
    """
    states = (*AGAIN, "cancelled") if cancelled else AGAIN
    found = choose(survey(executor.runs, Observer(), queue), executor.runs, choice)
    picked = [seen for seen in found if seen.state in states or seen.stuck]
    again = [seen for seen in picked if seen.restarts < restarts and not _has_record(seen.folder)]
    for seen in picked:
        if seen not in again:
            console.print(_left_out(seen, restarts), soft_wrap=True)
    if not again:
        console.print("nothing to start again" if not picked else "nothing was started", soft_wrap=True)
        return 1 if picked else 0
    if executor.dry_run:
        for seen in again:
            console.print(f"{seen.state}: {seen.title} from step {seen.status.get('step', 0)}", soft_wrap=True)
        console.print(f"{counted(len(again), 'run')} would start again; dry run: nothing was started")
        return 0
    from .. import sweep

    lacking = _lacking(again)
    if len(lacking) == len(again):
        raise UserError(f"{next(iter(lacking.values()))}; nothing was started.")
    for seen in again:
        if seen.path in lacking:
            console.print(f"left out: {seen.title}: {lacking[seen.path]}", soft_wrap=True)
    again = [seen for seen in again if seen.path not in lacking]
    for seen in again:
        seen.folder.forget_cancel()
    code = sweep.make(with_inputs(seen.folder for seen in again), console, executor)
    return code or int(len(again) < len(picked))


def _lacking(found: Iterable[Seen]) -> dict[str, str]:
    """Run -> what its data or weights lack, of those that would fail for that and so become failed ones."""
    from ...execution import whereabouts
    from ...run_folder.plan import Plan, make_known

    missing: dict[tuple[Any, ...], str] = {}
    lacking = {}
    for seen in found:
        try:
            plan = Plan.read(seen.folder)
            make_known(plan, seen.folder)
        except PluginError as error:
            lacking[seen.path] = str(error).rstrip(".")
            continue
        except UserError:
            continue  # the run itself says it
        spec, place = plan.spec, whereabouts.Whereabouts.planned(seen.folder)
        view = (
            plan.dataset,
            place,
            spec.fingerprint,
            spec.backbone,
            spec.allow_partial,
            spec.method,
            spec.kind,
            spec.given,
            *spec.plugins,
        )
        if view not in missing:
            try:
                missing[view] = whereabouts.missing(plan, seen.folder)
            except ValueError as error:  # what else is wrong with it, the run itself says
                if not is_mistake(error):
                    raise
                missing[view] = ""
        if missing[view]:
            lacking[seen.path] = missing[view]
    return lacking


def _has_record(folder: RunFolder) -> bool:
    """Whether there is a record, readable or not: it is never replaced."""
    return folder.record.exists()


def _left_out(seen: Seen, limit: int) -> str:
    if _has_record(seen.folder):
        return f"left out: {seen.title}: {seen.reason}"
    return (
        f"left out: {seen.title}: {seen.state} after {seen.restarts} restarts without progress"
        f"{': ' + seen.reason if seen.reason else ''}; mend the cause and raise --restarts {limit}."
    )


def with_inputs(folders: Iterable[RunFolder]) -> list[tuple[Any, RunFolder]]:
    """The plans in these folders and in those of the runs that they read, inputs first, each once."""
    from ...planning.request import Planned
    from ...run_folder.plan import Plan, input_path

    plan: dict[str, tuple[Planned, RunFolder]] = {}

    def add(folder: RunFolder, requested: bool) -> None:
        read = Plan.read(folder)
        needs = []
        for name, run_id in read.spec.inputs.items():
            below = RunFolder(input_path(folder.path, read.spec, name))
            if run_id not in plan and below.spec.exists():
                add(below, False)
            if run_id in plan:
                needs.append(run_id)
        plan[read.spec.run_id] = (Planned(read.spec, read.sources, requested, tuple(needs)), folder)

    for folder in folders:
        if folder.path.name.rpartition("-")[2] not in plan:
            add(folder, True)
    return list(plan.values())
