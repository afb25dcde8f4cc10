"""The command line: `robustft list | run | sweep | evaluate | tune | leaderboard | compare | rescore | bundle |
verify | merge | export | status | retry | cancel | doctor | data`.

A mistake of the user is one sentence on stderr and exit code 2, before any work starts. Other codes: 0 all
done, 1 a run failed, 130 stopped by Ctrl-C or SIGTERM. Heavy imports happen inside the commands, so that
`--help` is quick.
"""

import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .commands import export as exports
from .commands import options as flags
from .commands import theory as theories
from .commands.boards import compare, merge, rescore, verify
from .commands.boards import figures as drawing
from .commands.boards import report as reports
from .commands.console import complain, make_console, speak_plainly
from .commands.doctor import pack as packing
from .errors import UserError, is_mistake, resolve_name
from .host import environment, places, plugins, printed
from .host.redaction import discreet

if TYPE_CHECKING:
    from rich.console import Console

    from .commands.executor_options import Executor
    from .planning.benchmark import Benchmark
    from .planning.request import Planned, Request


class Commands(click.Group):
    """Takes `-` and `_` as the same, and suggests the nearest command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        args = [resolve_name("command", args[0], self.commands), *args[1:]]
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="robustft")
def robustft() -> None:
    """Robust finetuning of vision-language models: a benchmark."""


@robustft.command("list")
@click.argument("name", required=False)
@click.argument("pattern", required=False)
@click.option("--benchmark", default=None, help="Show the values that this benchmark gives a method.")
@click.option("--backbone", default=None, help="With --benchmark: on this backbone.")
@flags.recipe
@flags.include
def list_command(
    name: str | None, pattern: str | None, benchmark: str | None, backbone: str | None, recipe: str | None
) -> None:
    """Methods, backbones, datasets and benchmarks; or one of them in detail; or `backbones`, all models of open_clip
    whose names have PATTERN in them."""
    from .commands import listing

    if name == "backbones":
        listing.open_clip_models(make_console(), pattern or "")
    elif pattern is not None:
        raise UserError(
            f"list: a pattern is for `robustft list backbones`, got '{pattern}' behind {name}; leave it out."
        )
    else:
        listing.catalogue(make_console(), name, benchmark, backbone, recipe)


@robustft.command()
@click.argument("benchmark")
@flags.method
@flags.backbone
@click.option("--seed", "seeds", type=click.IntRange(0, 2**31 - 1), default=0, callback=lambda _, __, seed: (seed,))
@flags.settings
@flags.part
@flags.rule
@flags.recipe
@flags.wandb
@flags.work
@flags.requested
def run(benchmark: str, request: "Request", asked: flags.Asked, wandb: str | None) -> int:
    """One run (with the run it reads, if any)."""
    from .commands import executor_options
    from .commands import sweep as sweeps

    executor, loaded, console = executor_options.choose(asked), sweeps.load(benchmark), make_console()
    request = replace(request, backbones=request.backbones or (loaded.suite.backbones[0],))
    plan = sweeps.expand(loaded, request)
    requested = sum(planned.requested for planned in plan)
    if requested != 1:
        raise UserError(f"run: makes one run, got {requested}; use `robustft sweep` for a grid.")
    code = sweeps.carry_out(loaded, plan, console, replace(executor, jobs=1), wandb=wandb)
    if not executor.dry_run:
        sweeps.tell_result(loaded, plan, executor.runs, make_console())
    return code


@robustft.command()
@click.argument("benchmark")
@flags.method
@flags.backbone
@flags.seeds
@flags.settings
@flags.part
@flags.rule
@flags.recipe
@flags.jobs
@flags.results
@flags.wandb
@flags.keep_going
@flags.work
@flags.requested
def sweep(benchmark: str, request: "Request", results: Path, asked: flags.Asked, wandb: str | None) -> int:
    """A grid of runs, and the board of all results."""
    from .commands import executor_options
    from .commands import sweep as sweeps

    executor, loaded, console = executor_options.choose(asked), sweeps.load(benchmark), make_console()
    plan = sweeps.expand(loaded, replace(request, companions=True))
    seeds = request.seeds or loaded.suite.seeds
    code = sweeps.carry_out(loaded, plan, console, executor, wandb=wandb, results=results, seeds=seeds)
    return _board_of(loaded, plan, request.rule, executor, results, console, code)


def _board_of(
    benchmark: "Benchmark",
    plan: "list[Planned]",
    rule: str,
    executor: "Executor",
    results: Path,
    console: "Console",
    code: int,
) -> int:
    """The board after a plan was carried out with that exit code, which it returns; none while jobs are queued."""
    from .commands import sweep as sweeps
    from .commands.boards import leaderboard as leaderboards
    from .planning import current_selection

    on_its_way = executor.cluster is not None and not sweeps.finished(plan, executor.runs)
    if not executor.dry_run and code != 130 and not on_its_way:
        known = current_selection.Suites(complain, {benchmark.suite.name: benchmark})
        leaderboards.of_sweep(known, benchmark, plan, rule, executor.runs, results, console)
    return code


@robustft.command()
@click.argument("checkpoints", nargs=-1, required=True, type=places.Place())
@click.option("--name", required=True, help="What its rows are called; several checkpoints are its seeds 0, 1, ...")
@click.option("--backbone", required=True, help="Its architecture, activation included.")
@click.option("--benchmark", required=True, help="Whose sets it is evaluated on.")
@click.option("--resample-positions", is_flag=True, help="Take position embeddings of another resolution.")
@click.option("--raw-features", is_flag=True, help="Its head reads features that are not of unit length.")
@flags.part
@flags.recipe
@flags.jobs
@flags.results
@flags.work
def evaluate(
    checkpoints: tuple[Path, ...],
    name: str,
    backbone: str,
    benchmark: str,
    resample_positions: bool,
    raw_features: bool,
    limit: int | None,
    allow_partial: bool,
    recipe: str | None,
    results: Path,
    asked: flags.Asked,
) -> int:
    """Checkpoints that somebody else trained, in rows of their own."""
    from .commands import evaluate as evaluations
    from .commands import executor_options
    from .commands import sweep as sweeps

    executor, loaded, console = executor_options.choose(asked), sweeps.load(benchmark), make_console()
    plan = evaluations.plan(
        loaded,
        checkpoints,
        name,
        backbone,
        console,
        runs=executor.runs,
        resample=resample_positions,
        raw=raw_features,
        recipe=recipe,
        part=flags.part_of(limit, allow_partial),
    )
    code = sweeps.carry_out(loaded, plan, console, executor, results=results)
    return _board_of(loaded, plan, "one_se", executor, results, console, code)


@robustft.command()
@click.argument("benchmark")
@flags.method
@flags.backbone
@flags.part
@flags.recipe
@flags.jobs
@flags.keep_going
@flags.work
@flags.requested
def tune(benchmark: str, request: "Request", asked: flags.Asked) -> int:
    """Trials on the validation set; writes the suite's tuned values."""
    from .commands import executor_options
    from .commands import sweep as sweeps
    from .commands import tune as tunes

    executor, loaded = executor_options.choose(asked), sweeps.load(benchmark)
    return tunes.tune(loaded, request, make_console(), executor)


@robustft.command()
@click.argument("benchmark", required=False)
@flags.include
@flags.runs
@flags.results
@click.option("--with-published", is_flag=True, help="Show papers' printed numbers beside ours (results/published).")
@click.option("--columns", default=None, help="Metrics beside accuracy, as ece,aurc,mce; a wrong name lists all.")
def leaderboard(benchmark: str | None, runs: Path, results: Path, with_published: bool, columns: str | None) -> int:
    """Gather all records into results/leaderboard.csv, _long.csv, .md, .tex and .html."""
    from .commands.boards import leaderboard as leaderboards
    from .planning import current_selection

    known = current_selection.Suites(complain)
    only = known.of(benchmark, runs) if benchmark else None
    return leaderboards.board(known, runs, results, make_console(), with_published, only, columns)


@robustft.command()
@click.argument("benchmark", required=False)
@flags.runs
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every run.")
@click.option("--watch", is_flag=True, help="Look again every few seconds until nothing is left to come.")
@click.option("--every", type=click.FloatRange(min=0.5), default=5.0, help="With --watch: seconds between two looks.")
def status(benchmark: str | None, runs: Path, as_json: bool, watch: bool, every: float) -> int:
    """What is done, running, waiting or failed, from the run folders and the queue."""
    from .commands.monitoring import status as statuses

    return statuses.status(make_console(), runs, benchmark, as_json=as_json, watch=every if watch else None)


@robustft.command()
@click.argument("benchmark", required=False)
@flags.method
@flags.backbone
@flags.ids
@flags.data
@flags.runs
@flags.jobs
@flags.place
@click.option("--memory", help="With slurm: more than the profile has, as 64G.")
@click.option("--time", help="With slurm: more than the profile has, as 48h.")
@click.option("--restarts", type=click.IntRange(min=0), default=3, help="Leave out what started so often in vain.")
@click.option("--cancelled", is_flag=True, help="Also what was cancelled.")
@click.option("--dry-run", is_flag=True, help="Print what would be started; start nothing.")
def retry(
    benchmark: str | None,
    methods: tuple,
    backbones: tuple,
    ids: tuple,
    asked: flags.Asked,
    restarts: int,
    cancelled: bool,
) -> int:
    """Start again what failed, vanished or was stopped."""
    from .commands import executor_options
    from .commands.monitoring import retry as retries
    from .executors.run_states import Choice

    return retries.retry(
        make_console(),
        Choice(benchmark, methods, backbones, ids),
        executor_options.choose(asked),
        restarts=restarts,
        cancelled=cancelled,
    )


@robustft.command()
@click.argument("benchmark", required=False)
@flags.method
@flags.backbone
@flags.ids
@click.option("--all", "everything", is_flag=True, help="Every run below --runs.")
@flags.runs
def cancel(benchmark: str | None, methods: tuple, backbones: tuple, ids: tuple, everything: bool, runs: Path) -> int:
    """End runs: running ones save a checkpoint first, planned ones are not started."""
    from .commands.monitoring import cancel as cancels
    from .executors.run_states import Choice

    return cancels.cancel(make_console(), runs, Choice(benchmark, methods, backbones, ids), everything)


robustft.add_command(reports.report)
robustft.add_command(drawing.figures)
robustft.add_command(compare.command)
robustft.add_command(theories.theory)
robustft.add_command(rescore.command)
robustft.add_command(verify.bundle)
robustft.add_command(verify.verify)
robustft.add_command(exports.command)
robustft.add_command(merge.command)
robustft.add_command(packing.data)


@robustft.command()
@click.argument("benchmarks", nargs=-1)
@click.option("--fast", is_flag=True, help="Count images, decode none: seconds instead of hours.")
@click.option("--zero-shot", is_flag=True, help="Compare zero-shot accuracy with the printed one.")
@click.option("--prefetch", metavar="BENCHMARK", help="Fetch its weights and hub datasets; needs network.")
@click.option("--device", default="cpu", help="For --zero-shot: cpu, cuda or cuda:N.")
@flags.include
@flags.data
@flags.runs
def doctor(**asked: Any) -> int:
    """Data, weights and software on this machine; code 1 where a named benchmark lacks something."""
    from .commands.doctor import doctor as examination

    return examination.run(make_console(), **asked)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `robustft` and `python -m robustft.benchmarks`; exits with the codes above."""
    with printed.completing(robustft, sys.argv[1:] if arguments is None else arguments):
        _main(arguments)


def _main(arguments: list[str] | None) -> None:
    warnings.formatwarning = lambda message, *_: f"robustft: {printed.complete(str(message))}\n"
    speak_plainly()
    environment.ask_no_network()
    try:
        places.settle_variables()
        with plugins.session():
            code = robustft.main(args=arguments, prog_name="robustft", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help())
        sys.exit(0)
    except click.ClickException as error:
        _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ValueError as error:
        if not is_mistake(error):
            raise
        _complain(str(error))
    else:
        sys.exit(code or 0)


def _complain(sentence: str) -> None:
    print("robustft: " + discreet(printed.complete(" ".join(sentence.split()))), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
