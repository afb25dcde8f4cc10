"""Why no rule ranks a run of this machine, and what to do about it: one sentence for the boards and `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...results.board.row_marks import given_text
from ...results.board.rows import PLUGINS_NOW, settings_text, versions_text
from ..host import plugins
from .suite.suite import SUITES
from .suite.tuned_values import part_text

if TYPE_CHECKING:
    from .benchmark import Benchmark

LIMITS = ("limit", "train_limit")
BY_HAND = "--set"


def reason(record: Mapping[str, Any], benchmark: Benchmark | None) -> str:
    """The sentence, without its full stop; empty for a run that a rule ranks, and for a trial.

    Args:
        record: with the selection of today, as `finished.Suites` gives it.
        benchmark: its suite; None where that is not at hand.
    """
    spec, rules = record["spec"], record["selection"]["rules"]
    if record["kind"] != "run":
        return ""
    if spec.get("given"):
        return given_text(record)
    given = {**spec, **spec.get("hyper", {})}
    by_hand = {key: given.get(key) for key, source in record["sources"].items() if source.startswith(BY_HAND)}
    if limits := {key: spec[key] for key in LIMITS if spec.get(key) is not None}:
        more = " and --set" if by_hand.keys() - {*LIMITS, "allow_partial"} else ""
        return f"not ranked, a rehearsal ({settings_text(limits)}): sweep without LIMIT= or --limit{more}"
    if spec.get("allow_partial"):
        where = benchmark.command_name if benchmark else record["benchmark"]
        return f"not ranked, images may be missing (--allow-partial): see `robustft doctor {where}`, then sweep again"
    if record.get("transductive"):
        return "not ranked, it adapts to each set by all of its images (transductive): boards list it apart"
    if rules:
        return ""
    if by_hand:
        return f"not ranked, {settings_text(by_hand)} set by hand: sweep without --set"
    if benchmark is None:
        return "not ranked when it was made, and its suite is not at hand: give the suite's file in place of its name"
    return f"not ranked, {_of_suite(record, benchmark)}"


def _of_suite(record: Mapping[str, Any], benchmark: Benchmark) -> str:
    from .tuning import is_current  # late: whoever has no benchmark at hand does without torch

    suite, name = benchmark.suite, benchmark.command_name
    method, backbone, recipe = record["method"], record["backbone"], record["recipe"]
    again = f"`robustft sweep {name} --method {method}`"
    if record["benchmark_version"] != suite.version:
        return f"made for {record['benchmark_version']}, and the suite is at {suite.version}: {again}"
    if suite.grid or suite.based_on:
        return "for a study ranks nothing"
    if method not in benchmark.facts.methods and record["spec"].get("plugins"):
        return f"and the plug-in of {method} is not at hand: give its file with --include"
    if method not in benchmark.facts.methods:
        return f"the method {method} is not installed here: install it"
    if recipe in suite.published:
        return f"made with other values than the recipe {recipe} has now: {again} --recipe {recipe}"
    if recipe not in suite.ranked_recipes:
        return f"of the recipe {recipe}, and only {suite.default_recipe} is ranked: {again}"
    of_recipe = f" --recipe {recipe}" if recipe != suite.default_recipe else ""
    again = f"`robustft sweep {name} --method {method}{of_recipe}`"
    known = benchmark.facts.methods[method]
    made_with, now = record["spec"].get("plugins", []), record.get(PLUGINS_NOW)
    if now is not None and now != made_with:
        changed = versions_text(set(made_with) - set(now)) or "another"
        return f"made with plug-in {changed}, which has changed: {again}"
    if known.pools() and record["seed"] != suite.seeds[0]:
        return f"it pools seeds, and only its run of seed {suite.seeds[0]} counts: {again}"
    if suite.tuning is not None and record["seed"] in suite.tuning.seeds:
        return f"seed {record['seed']} is one of those that values are chosen with: {again}"
    if suite.tuning is None and benchmark.selector(recipe).needed(known, backbone, "one_se"):
        return f"{name} tunes nothing: for ranks, add `tuning` to the suite and run `robustft tune {name}`"
    for needed in benchmark.selector(recipe).needed(known, backbone, "one_se"):
        entry = benchmark.tuned.entry(needed, backbone, recipe)
        tune = f"run `robustft tune {name} --method {needed}{of_recipe}`"
        if suite.tuning is not None and needed not in suite.tuning.space:
            if plugins.origin("method", needed) and benchmark.path.parent == SUITES:
                return f"not tuned: write a suite that extends {name}, with {needed} in tuning.space, and tune that"
            tune = f"add {needed} to tuning.space of {name} and {tune}"
        if entry is None:
            return f"{'not' if needed == method else f'{needed} is not'} tuned: {tune}"
        if entry.part:
            return f"{needed} was tuned in a rehearsal ({part_text(entry.part)}): {tune} on all images"
        if not is_current(benchmark, needed, backbone, recipe):
            return f"stale tuning: the values of {needed} come from other trials than suite and code give now: {tune}"
    return f"made with other values than are tuned now: {again}"
