"""The flags that several commands share, each written once, and how their values are read."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from ..execution.wandb_tracking import MODES
from ..host import plugins
from ..host.places import Place
from ..run_folder.folder import KEEP


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


def together(*options: Callable) -> Callable:
    """One decorator of several options, shown in this order."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@dataclass(frozen=True)
class Asked:
    """What the options of `place`, and those beside them, say of how and where runs are made."""

    runs: Path
    jobs: int | None = None
    dry_run: bool = False
    keep: str | None = None
    executor: str = "local"
    device: str | None = None
    profile: str | None = None
    pack: int | None = None
    live: bool = False
    checkpoint_minutes: float | None = None
    workers: int | None = None
    checkpoint_activations: bool = False
    memory: str | None = None
    time: str | None = None
    keep_going: bool = False


def _asked(function: Callable) -> Callable:
    """The command gets these options as one, `asked`."""

    @wraps(function)
    def command(**values: Any) -> Any:
        place = {field.name: values.pop(field.name) for field in fields(Asked) if field.name in values}
        return function(asked=Asked(**place), **values)

    return command


def part_of(limit: int | None, allow_partial: bool) -> dict[str, Any]:
    """Which part of the data the options of `part` mean, as in `Request`."""
    part: dict[str, Any] = {"limit": limit, "train_limit": limit} if limit else {}
    return part | ({"allow_partial": True} if allow_partial else {})


def requested(function: Callable) -> Callable:
    """The command gets the options that say which runs are meant as one `Request`."""

    @wraps(function)
    def command(*, limit: int | None, allow_partial: bool, **values: Any) -> Any:
        from ..planning.request import Request

        part = part_of(limit, allow_partial)
        given = {field.name: values.pop(field.name) for field in fields(Request) if field.name in values}
        return function(request=Request(**given, part=part), **values)

    return command


def _include(_: Any, __: click.Parameter, paths: tuple[Path, ...]) -> None:
    plugins.discover()
    for path in paths:
        plugins.include(path)


include = click.option(
    "--include", type=Place(), multiple=True, expose_value=False, is_eager=True, callback=_include,
    metavar="FILE_OR_PACKAGE", help="A plug-in: methods, datasets, backbones of your own.",
)  # fmt: skip
method = click.option("--method", "methods", multiple=True, callback=_names, help="Names with commas, or all.")
backbone = click.option("--backbone", "backbones", multiple=True, callback=_names, help="Names with commas, or all.")
settings = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A value, a grid a,b or a list [a,b]."
)
data = click.option(
    "--data", type=Place(folder=True), expose_value=False, is_eager=True,
    callback=lambda _, __, path: path and os.environ.update(ROBUSTFT_DATA=str(path.resolve())),
    help="Folder that holds the datasets; else that of ROBUSTFT_DATA.",
)  # fmt: skip
part = together(
    click.option("--limit", type=click.IntRange(min=2), help="A rehearsal on so many images of each set."),
    click.option("--allow-partial", is_flag=True, help="Run although images or sets are missing; not ranked."),
)
seeds = click.option("--seeds", callback=_numbers, help="For example 0,1,2 or 0-4.")
rule = click.option("--rule", default="one_se", help="Which tuned values apply: one_se or best_id.")
recipe = click.option("--recipe", default=None, help="A recipe of the suite; its first one by default.")
runs = click.option(
    "--runs",
    type=Place(folder=True),
    envvar="ROBUSTFT_RUNS",
    default=Path("runs"),
    help="Root of all run folders.",
)
results = click.option(
    "--results",
    type=Place(folder=True),
    default=Path("results"),
    help="Where the leaderboard goes: leaderboard.csv, _long.csv, .md, .tex and .html.",
)
place = together(
    click.option("--device", help="cpu, cuda or cuda:N; by default cpu, or what the profile has."),
    click.option("--executor", default="local", help="local: processes of this machine; slurm: job arrays."),
    click.option("--profile", help="With slurm: what the cluster needs, a name or a YAML file; by default cpu."),
    click.option("--pack", type=click.IntRange(min=1), help="With slurm: runs of one job, one after the other."),
    click.option("--live", is_flag=True, help="With slurm: run the installed code, not a snapshot of it."),
    click.option(
        "--checkpoint-minutes", type=click.FloatRange(min=0), help="Between checkpoints: 0.5 here, 10 on a cluster."
    ),
    _asked,
)
keep_going = click.option(
    "--keep-going", is_flag=True, help="With slurm: watch, and submit again what was lost, until all is done."
)
ids = click.option("--run", "ids", multiple=True, callback=_names, help="Run ids with commas.")
work = together(
    include,
    data,
    runs,
    place,
    click.option("--keep", type=click.Choice(KEEP), help="Of a finished run: its final weights by default."),
    click.option("--workers", type=click.IntRange(min=0), default=None, help="Processes that load images, for a run."),
    click.option(
        "--checkpoint-activations", is_flag=True, help="Train in less memory and more time, with the same numbers."
    ),
    click.option("--dry-run", is_flag=True, help="Print the plan and each value's source; start nothing."),
)
wandb = click.option("--wandb", type=click.Choice(MODES), help="Follow the runs with Weights & Biases; off by default.")
jobs = click.option(
    "--jobs", type=click.IntRange(min=1), default=None, help="Runs side by side; one for each core, or GPU, by default."
)
