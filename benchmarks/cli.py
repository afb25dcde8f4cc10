"""The command line: `robustft list | run | sweep | tune | leaderboard | compare | rescore | bundle | verify | status |
retry | cancel`.

A mistake of the user is one sentence on stderr and exit code 2, before any work starts. Other codes: 0 all
done, 1 a run failed, 130 stopped by Ctrl-C or SIGTERM. Heavy imports happen inside the commands, so that
`--help` is quick.
"""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from . import compare, rescore, verify
from . import figures as drawing
from . import report as reports
from . import theory as theories
from .errors import UserError, resolve_name
from .private import discreet
from .state import KEEP
from .tracking import MODES


def make_console(stderr: bool = False) -> Console:
    """A console that wraps nothing when its output is no terminal."""
    plain = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}  # a path may hold [a] or :a:
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=200, no_color=True)


class Commands(click.Group):
    """Takes `-` and `_` as the same, and suggests the nearest command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        args = [resolve_name("command", args[0], self.commands), *args[1:]]
        return super().resolve_command(ctx, args)


def _numbers(_: Any, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Seeds: 0,1,2 or 0-4."""
    if text is None:
        return ()
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(
                f"{option.opts[0]}: must be whole numbers >= 0, got '{text}'; write for example 0,1,2 or 0-4."
            )
        if len(first) > 10 or len(last) > 10 or int(last or 0) - int(first) > 10_000:
            raise UserError(
                f"{option.opts[0]}: must be seeds below 2**31, got '{text[:40]}'; name fewer or smaller ones."
            )
        seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds:
        raise UserError(f"{option.opts[0]}: must name a seed, got '{text}'; write the smaller number first.")
    return tuple(dict.fromkeys(seeds))


def _names(_: Any, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for value in values for name in value.split(",") if name.strip())
    if values and not names:
        raise UserError(f"{option.opts[0]}: must name at least one, got ''; give a name or leave the flag out.")
    return names


def _part_of(limit: int | None, allow_partial: bool) -> dict[str, Any]:
    """What --limit and --allow-partial mean; nothing for all images."""
    limits = {"limit": limit, "train_limit": limit} if limit else {}
    return limits | ({"allow_partial": True} if allow_partial else {})


def _with_part(settings: tuple, limit: int | None, allow_partial: bool) -> tuple:
    """The settings, with what --limit and --allow-partial mean."""
    return (*settings, *(f"{key}={str(value).lower()}" for key, value in _part_of(limit, allow_partial).items()))


def _options(*options: Callable) -> Callable:
    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_method = click.option("--method", "methods", multiple=True, callback=_names, help="Names with commas, or all.")
_backbone = click.option("--backbone", "backbones", multiple=True, callback=_names, help="Names with commas, or all.")
_set = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A value, a grid a,b or a list [a,b]."
)
_data = click.option(
    "--data", type=click.Path(path_type=Path), expose_value=False, is_eager=True,
    callback=lambda _, __, path: path and os.environ.update(ROBUSTFT_DATA=str(path.expanduser().resolve())),
    help="Folder that holds the datasets; else that of ROBUSTFT_DATA.",
)  # fmt: skip
_part = _options(
    click.option("--limit", type=click.IntRange(min=2), help="A rehearsal on so many images of each set."),
    click.option("--allow-partial", is_flag=True, help="Run although images or sets are missing; not ranked."),
)
_rule = click.option("--rule", default="one_se", help="Which tuned values apply: one_se or best_id.")
_recipe = click.option("--recipe", default=None, help="A recipe of the suite; its first one by default.")
_runs = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    envvar="ROBUSTFT_RUNS",
    default=Path("runs"),
    help="Root of all run folders.",
)
_results = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    help="Where the leaderboard goes: leaderboard.csv, _long.csv, .md, .tex and .html.",
)
_place = _options(
    click.option("--device", help="cpu, cuda or cuda:N; by default cpu, or what the profile has."),
    click.option("--executor", default="local", help="local: processes of this machine; slurm: job arrays."),
    click.option("--profile", help="With slurm: what the cluster needs, a name or a YAML file; by default cpu."),
    click.option("--pack", type=click.IntRange(min=1), help="With slurm: runs of one job, one after the other."),
    click.option("--live", is_flag=True, help="With slurm: run the installed code, not a snapshot of it."),
    click.option(
        "--checkpoint-minutes", type=click.FloatRange(min=0), help="Between checkpoints: 0.5 here, 10 on a cluster."
    ),
)
_ids = click.option("--run", "ids", multiple=True, callback=_names, help="Run ids with commas.")
_work = _options(
    _data,
    _runs,
    _place,
    click.option("--keep", type=click.Choice(KEEP), help="Of a finished run: its final weights by default."),
    click.option("--workers", type=click.IntRange(min=0), default=None, help="Processes that load images, for a run."),
    click.option("--dry-run", is_flag=True, help="Print the plan and each value's source; start nothing."),
)
_wandb = click.option(
    "--wandb", type=click.Choice(MODES), help="Follow the runs with Weights & Biases; off by default."
)
_jobs = click.option(
    "--jobs", type=click.IntRange(min=1), default=None, help="Runs side by side; one for each core, or GPU, by default."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="robustft")
def robustft() -> None:
    """Robust finetuning of vision-language models: a benchmark."""


@robustft.command("list")
@click.argument("name", required=False)
@click.option("--benchmark", default=None, help="Show the values that this benchmark gives a method.")
@click.option("--backbone", default=None, help="With --benchmark: on this backbone.")
@_recipe
def list_command(name: str | None, benchmark: str | None, backbone: str | None, recipe: str | None) -> None:
    """Methods, backbones, datasets and benchmarks; or one of them in detail."""
    from . import show

    show.catalogue(make_console(), name, benchmark, backbone, recipe)


@robustft.command()
@click.argument("benchmark")
@_method
@_backbone
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0)
@_set
@_part
@_rule
@_recipe
@_wandb
@_work
def run(
    benchmark: str,
    methods: tuple,
    backbones: tuple,
    seed: int,
    settings: tuple,
    limit: int | None,
    allow_partial: bool,
    rule: str,
    recipe: str | None,
    **work: Any,
) -> int:
    """One run (with the run it reads, if any)."""
    from . import slurm_command
    from . import sweep as sweeps

    work, loaded = slurm_command.choose(work), sweeps.load(benchmark)
    backbones = backbones or (loaded.suite.backbones[0],)
    settings = _with_part(settings, limit, allow_partial)
    plan = sweeps.expand(loaded, methods, backbones, (seed,), settings, rule, recipe)
    requested = sum(planned.requested for planned in plan)
    if requested != 1:
        raise UserError(f"run: makes one run, got {requested}; use `robustft sweep` for a grid.")
    code, console = sweeps.carry_out(loaded, plan, make_console(), jobs=1, **work), make_console()
    if not work["dry_run"]:
        sweeps.tell_result(plan, work["runs"], console)
    return code


@robustft.command()
@click.argument("benchmark")
@_method
@_backbone
@click.option("--seeds", callback=_numbers, help="For example 0,1,2 or 0-4.")
@_set
@_part
@_rule
@_recipe
@_jobs
@_results
@_wandb
@_work
def sweep(
    benchmark: str,
    methods: tuple,
    backbones: tuple,
    seeds: tuple,
    settings: tuple,
    limit: int | None,
    allow_partial: bool,
    rule: str,
    recipe: str | None,
    jobs: int | None,
    results: Path,
    **work: Any,
) -> int:
    """A grid of runs, and the board of all results."""
    from . import finished, slurm_command
    from . import sweep as sweeps

    work, loaded, console = slurm_command.choose(work), sweeps.load(benchmark), make_console()
    settings = _with_part(settings, limit, allow_partial)
    plan = sweeps.expand(loaded, methods, backbones, seeds, settings, rule, recipe, companions=True)
    code = sweeps.carry_out(loaded, plan, console, jobs=jobs, results=results, **work)
    on_its_way = work["cluster"] is not None and not sweeps.finished(plan, work["runs"])
    if not work["dry_run"] and code != 130 and not on_its_way:
        known = finished.Suites(sweeps.complain, {loaded.suite.name: loaded})
        sweeps.board(known, work["runs"], results, console, only=loaded.suite.name)
    return code


@robustft.command()
@click.argument("benchmark")
@_method
@_backbone
@_part
@_recipe
@_jobs
@_work
def tune(
    benchmark: str,
    methods: tuple,
    backbones: tuple,
    limit: int | None,
    allow_partial: bool,
    recipe: str | None,
    jobs: int | None,
    **work: Any,
) -> int:
    """Trials on the validation set; writes the suite's tuned values."""
    from . import slurm_command
    from . import sweep as sweeps

    work, part = slurm_command.choose(work), _part_of(limit, allow_partial)
    return sweeps.tune(sweeps.load(benchmark), methods, backbones, recipe, make_console(), jobs=jobs, part=part, **work)


@robustft.command()
@click.argument("benchmark", required=False)
@_runs
@_results
@click.option("--with-published", is_flag=True, help="Show papers' printed numbers beside ours (results/published).")
def leaderboard(benchmark: str | None, runs: Path, results: Path, with_published: bool) -> int:
    """Gather all records into results/leaderboard.csv, _long.csv, .md, .tex and .html."""
    from . import finished
    from . import sweep as sweeps

    known = finished.Suites(sweeps.complain)
    only = known.of(benchmark, runs) if benchmark else None
    return sweeps.board(known, runs, results, make_console(), with_published, only)


@robustft.command()
@click.argument("benchmark", required=False)
@_runs
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every run.")
@click.option("--watch", is_flag=True, help="Look again every few seconds until nothing is left to come.")
@click.option("--every", type=click.FloatRange(min=0.5), default=5.0, help="With --watch: seconds between two looks.")
def status(benchmark: str | None, runs: Path, as_json: bool, watch: bool, every: float) -> int:
    """What is done, running, waiting or failed, from the run folders and the queue."""
    from . import status as statuses

    return statuses.status(make_console(), runs, benchmark, as_json=as_json, watch=every if watch else None)


@robustft.command()
@click.argument("benchmark", required=False)
@_method
@_backbone
@_ids
@_runs
@_jobs
@_place
@click.option("--memory", help="With slurm: more than the profile has, as 64G.")
@click.option("--time", help="With slurm: more than the profile has, as 48h.")
@click.option("--restarts", type=click.IntRange(min=0), default=3, help="Leave out what started so often in vain.")
@click.option("--cancelled", is_flag=True, help="Also what was cancelled.")
@click.option("--dry-run", is_flag=True, help="Print what would be started; start nothing.")
def retry(benchmark: str | None, methods: tuple, backbones: tuple, ids: tuple, runs: Path, **options: Any) -> int:
    """Start again what failed, vanished or was stopped."""
    from . import retry as retries
    from . import slurm_command

    chosen = (benchmark, methods, backbones, ids)
    return retries.retry(make_console(), runs, chosen, **slurm_command.choose(options))


@robustft.command()
@click.argument("benchmark", required=False)
@_method
@_backbone
@_ids
@click.option("--all", "everything", is_flag=True, help="Every run below --runs.")
@_runs
def cancel(benchmark: str | None, methods: tuple, backbones: tuple, ids: tuple, everything: bool, runs: Path) -> int:
    """End runs: running ones save a checkpoint first, planned ones are not started."""
    from . import cancel as cancels

    return cancels.cancel(make_console(), runs, (benchmark, methods, backbones, ids), everything)


robustft.add_command(reports.report)
robustft.add_command(drawing.figures)
robustft.add_command(compare.command)
robustft.add_command(theories.theory)
robustft.add_command(rescore.command)
robustft.add_command(verify.bundle)
robustft.add_command(verify.verify)


@robustft.command()
@click.argument("benchmarks", nargs=-1)
@click.option("--fast", is_flag=True, help="Count images, decode none: seconds instead of hours.")
@click.option("--zero-shot", is_flag=True, help="Compare zero-shot accuracy with the printed one.")
@click.option("--prefetch", metavar="BENCHMARK", help="Fetch its weights and hub datasets; needs network.")
@click.option("--device", default="cpu", help="For --zero-shot: cpu, cuda or cuda:N.")
@_data
@_runs
def doctor(**asked: Any) -> int:
    """Data, weights and software on this machine; code 1 where a named benchmark lacks something."""
    from . import doctor as examination

    return examination.run(make_console(), **asked)


def is_mistake(error: BaseException) -> bool:
    """Whether an error is a user's mistake: a ValueError subclass of this package, its text one sentence."""
    return isinstance(error, ValueError) and type(error).__module__.startswith("robustft.")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `robustft` and `python -m robustft.benchmarks`; exits with the codes above."""
    warnings.formatwarning = lambda message, *_: f"robustft: {message}\n"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
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
    print("robustft: " + discreet(" ".join(sentence.split())), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
