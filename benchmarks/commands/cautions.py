"""What a plan says before hours are spent on it, one line each: what can be run, and may not be what was meant.

Beside the plan of a dry run and before the first run of a real one, on the same stream as the plan.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from ...datasets.card import DataError
from ...datasets.shots import to_choose_on
from ..host.environment import cores
from ..planning import data_check
from ..planning.benchmark import Benchmark, dataset_for
from ..planning.request import MethodClass, Planned, seeds_of, varies
from ..planning.suite.tuned_values import TunedEntry

FEW_STEPS = 50
"""Optimiser steps below which a model has hardly been finetuned."""
FEW_IMAGES = 200
"""Validation images below which a choice by them is luck: accuracy has a standard error of 3.5 points at half."""


def of_plan(benchmark: Benchmark, plan: Sequence[Planned], device: str, jobs: int | None, here: bool) -> Iterator[str]:
    """The sentences on runs that are about to be made.

    Args:
        jobs: how many side by side, where it was asked for.
        here: whether they are made on this machine.
    """
    yield from _short(benchmark, plan)
    if here and plan:
        yield from _crowded(plan, jobs)
    yield from _slow(plan, device)
    yield from _by_few_images(benchmark, plan)
    yield from _not_tuned(benchmark, plan)
    yield from _at_the_end(benchmark, plan)


def one_run(plan: Sequence[Planned], seeds: Sequence[int], known: Mapping[str, MethodClass]) -> Iterator[str]:
    """A sentence on methods that make one run whatever the number of seeds."""
    methods = dict.fromkeys(run.spec.method for run in plan if run.requested)
    single = [name for name in methods if len(seeds_of(known[name], seeds, known)) < len(seeds)]
    same = [name for name in single if not varies(known[name], known)]
    pooled = [name for name in single if name not in same]
    why = [f"{', '.join(same)} (nothing in it is random)"] if same else []
    why += [f"{', '.join(pooled)} (reads runs of several seeds)"] if pooled else []
    if why:
        yield f"one run for each backbone and setting, under seed {seeds[0]}, not {len(seeds)}: {'; '.join(why)}"


def _short(benchmark: Benchmark, plan: Sequence[Planned]) -> Iterator[str]:
    found: dict[int, dict[str, str]] = {}
    for run in plan:
        steps = run.spec.steps
        if steps is not None and steps < FEW_STEPS and benchmark.facts.methods[run.spec.method].trained:
            found.setdefault(steps, {})[run.spec.method] = run.sources["steps"]
    if found:
        counts = [f"{steps} of {', '.join(methods)}" for steps, methods in sorted(found.items())]
        sources = dict.fromkeys(source for methods in found.values() for source in methods.values())
        yield (
            f"fewer than {FEW_STEPS} optimiser steps, after which a model has hardly moved: {'; '.join(counts)} "
            f"({'; '.join(sources)}); give more steps or epochs, or a smaller batch"
        )


def _crowded(plan: Sequence[Planned], jobs: int | None) -> Iterator[str]:
    there = cores()
    threads = max(run.spec.threads for run in plan)
    side_by_side = min(jobs or 1, len(plan))
    if threads > there:
        source = next(run.sources["threads"] for run in plan if run.spec.threads == threads)
        yield f"threads={threads} ({source}): more than the {there} cores here, which slows every run; set fewer"
    elif threads * side_by_side > there:
        yield (
            f"--jobs {jobs}: {side_by_side} runs of threads={threads} are more than the {there} cores here, which "
            "slows every run; give fewer jobs"
        )


def _slow(plan: Sequence[Planned], device: str) -> Iterator[str]:
    runs = [run for run in plan if run.spec.precision == "bf16" and device == "cpu"]
    if runs:
        names = ", ".join(dict.fromkeys(run.spec.method for run in runs))
        yield (
            f"precision=bf16 ({runs[0].sources['precision']}) on a CPU: slower there than fp32, and on most without "
            f"hardware for it ({names}); add --device cuda, or --set precision=fp32, which is another run"
        )


def _by_few_images(benchmark: Benchmark, plan: Sequence[Planned]) -> Iterator[str]:
    """Choices by few validation images: of trials, of a method while it runs, and of the tuned values."""
    chosen: dict[int, dict[str, dict[str, None]]] = {}

    def add(images: int, what: str, name: str) -> None:
        if images < FEW_IMAGES:
            chosen.setdefault(images, {}).setdefault(what, {})[name] = None

    count_of = cache(lambda recipe, backbone, partial: _validation_images(benchmark, recipe, backbone, partial))
    for run in plan:
        spec, method = run.spec, benchmark.facts.methods[run.spec.method]
        count = count_of(spec.recipe, spec.backbone, spec.allow_partial)
        if count is None:
            continue
        if spec.shots is not None:
            data = dataset_for(benchmark.suite.dataset_of(spec.recipe), spec.backbone)
            count = min(count, to_choose_on(spec.shots) * len(data.card.class_names))
        seen = min(count, spec.train_limit or count)
        if spec.kind == "trial":
            add(seen, "what tuning takes for {}", spec.method)
        if method.chooses(method.Hyper(**{**method.introduced, **spec.hyper})):
            add(seen, "what {} chooses while it runs", spec.method)
        if any(source.startswith("tuned") for source in run.sources.values()):
            add(count, "the tuned values of {}", spec.method)
    for count, choices in chosen.items():
        purposes = " and ".join(what.format(", ".join(names)) for what, names in choices.items())
        yield (
            f"fewer than {FEW_IMAGES} validation images: {count} decide {purposes}, which is mostly luck; withhold "
            "more images, or set the values by hand"
        )


def _validation_images(benchmark: Benchmark, recipe: str, backbone: str, partial: bool) -> int | None:
    """Images of the whole validation set; None where there is none, or nobody can know on this machine."""
    data = dataset_for(
        benchmark.suite.dataset_of(recipe), backbone, partial
    )  # as its plan asked: nothing is read twice
    for entry in data.card.sets:
        if entry.role == "validation":
            if entry.expected is not None:
                return entry.expected
            try:
                images = data_check.validation(data)
            except DataError:
                return None  # said when the data are checked, before anything starts
            return None if images is None else len(images)
    return None


def _not_tuned(benchmark: Benchmark, plan: Sequence[Planned]) -> Iterator[str]:
    """Methods that the suite has a search space for, or reads the tuned values of, and that no trial has chosen for."""
    tuned_in = benchmark.base or benchmark
    space = tuned_in.suite.tuning.space if tuned_in.suite.tuning is not None else {}
    found: dict[str, dict[str, None]] = {}
    on: dict[str, set[str]] = {}
    for run in plan:
        spec = run.spec
        if (
            spec.method not in space
            or spec.kind != "run"
            or spec.recipe not in tuned_in.suite.ranked_recipes
            or spec.given
        ):
            continue
        on.setdefault(spec.method, set()).add(spec.backbone)
        by_hand = any(run.sources.get(key, "").startswith(("--set", "grid")) for key in space[spec.method])
        if not by_hand and tuned_in.tuned.entry(spec.method, spec.backbone, spec.recipe) is None:
            found.setdefault(spec.method, {})[spec.backbone] = None
    if found:
        names = [name if set(where) == on[name] else f"{name} on {', '.join(where)}" for name, where in found.items()]
        yield (
            f"not tuned: {', '.join(names)}. Such runs have the recipe's values, which nobody chose for them, and are "
            f"not ranked: first run `robustft tune {tuned_in.command_name} --method {','.join(found)}`"
        )


def _at_the_end(benchmark: Benchmark, plan: Sequence[Planned]) -> Iterator[str]:
    """Tuned values at an end of what was tried: each value once, with the methods and backbones that have it."""
    tuned_in = benchmark.base or benchmark
    found: dict[str, dict[str, dict[str, None]]] = {}
    planned: dict[str, set[str]] = {}
    for run in plan:
        spec = run.spec
        entry = tuned_in.tuned.entry(spec.method, spec.backbone, spec.recipe)
        if entry is None:
            continue
        for key, source in run.sources.items():
            planned.setdefault(spec.method, set()).add(spec.backbone)
            value = spec.hyper.get(key, getattr(spec, key, None))
            end = _end(benchmark.facts.methods[spec.method], entry, key, value) if source.startswith("tuned") else ""
            if end:
                found.setdefault(end, {}).setdefault(spec.method, {})[spec.backbone] = None
    ends = []
    for end, methods in found.items():
        on = [
            name if set(where) == planned[name] else f"{name} on {', '.join(where)}" for name, where in methods.items()
        ]
        ends.append(f"{end}: {', '.join(on)}")
    if ends:
        yield (
            f"tuned values at the end of their grid: {'; '.join(ends)}. Beyond what was tried better ones may lie: to "
            f"know, widen tuning.space in {tuned_in.path.name} and tune again"
        )


def _end(method: MethodClass, entry: TunedEntry, key: str, value: Any) -> str:
    """Which end of the tried values a tuned value is, "" if neither; `value` as the run has it."""
    tried = {trial.values[key] for trial in entry.trials if key in trial.values}
    numbers = all(isinstance(other, int | float) and not isinstance(other, bool) for other in tried)
    if len(tried) < 2 or not numbers or value not in (min(tried), max(tried)):
        return ""
    largest = value == max(tried)
    step = 1 if isinstance(value, int) else abs(value) * 1e-6 or 1e-9
    if key in getattr(method.Hyper, "__dataclass_fields__", {}):
        try:
            method.Hyper(**{key: value + step if largest else value - step})
        except ValueError:
            return f"{key}={value:g} (the end of its range)"
    return f"{key}={value:g} ({'largest' if largest else 'smallest'} tried)"
