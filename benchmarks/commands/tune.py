"""`robustft tune`: make the trials of each method and write the file of tuned values."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import UserError
from ..host import package
from ..planning.benchmark import Benchmark
from ..planning.request import Request, choose_backbones, choose_methods
from ..planning.suite.suite import SUITES
from ..planning.suite.tuned_values import tuned_path
from ..run_folder.folder import RunFolder
from . import listing
from .executor_options import Executor
from .sweep import carry_out, finished


def tune(benchmark: Benchmark, request: Request, console: Console, executor: Executor) -> int:
    """Make the trials and write the tuned file, trained methods before those that read what was chosen for them.

    A stage is written only when each of its trials is done. `request.part` as in `tune.Search`: values chosen on part
    of the images say so in the file, and no run with them is ranked.
    """
    from ..planning import tuning

    methods, part = request.methods, dict(request.part)
    names = choose_methods(methods or ("all",), benchmark.suite, benchmark.facts)
    names = tuning.tunable(benchmark, names, explicit="all" not in methods and bool(methods))
    named = choose_backbones(request.backbones, benchmark.suite, benchmark.facts)
    chosen = list(dict.fromkeys(map(benchmark.suite.tuned_on, named)))
    for name in named:
        if (other := benchmark.suite.tuned_on(name)) != name:
            console.print(f"{name} takes the values of {other}, whose trials these are", markup=False, soft_wrap=True)
    tuning.refuse_to_replace(benchmark, names, chosen, request.recipe, part)
    if not executor.dry_run:
        _check_tuned_place(tuned_path(benchmark.path))
    entries: dict[str, dict[str, Any]] = {}
    for stage in tuning.stages(benchmark, names):
        try:
            search = tuning.Search(benchmark, stage, chosen, request.recipe, part)
        except UserError as error:
            if not executor.dry_run or stage == names:
                raise
            console.print(f"{', '.join(stage)}: planned when the trials above have chosen ({error})")
            return 0
        code = carry_out(benchmark, search.plan, console, executor)
        if code:
            return code
        if executor.cluster is not None and not executor.dry_run and not finished(search.plan, executor.runs):
            console.print("start the same command again when these trials are done; it goes on from there")
            return 0
        if not executor.dry_run:
            folders = {planned.spec.run_id: RunFolder.of(executor.runs, planned.spec) for planned in search.plan}
            made = search.choose(folders)
            tuning.write(benchmark, made)
            entries |= made
            benchmark = benchmark.reload()
    if not executor.dry_run:
        listing.tuned(console, entries)
        console.print(f"wrote {tuned_path(benchmark.path)}", soft_wrap=True)
    return 0


def _check_tuned_place(path: Path) -> None:
    if path.parent.resolve() == SUITES.resolve() and not package.is_clone():
        raise UserError(
            f"{path}: is part of the installed package, where no tuned values are kept; "
            "copy the suite file and give its path."
        )
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: must be writable to keep the tuned values; copy the suite file and give its path.")
