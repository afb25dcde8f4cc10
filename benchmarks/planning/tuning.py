"""Tuning: the same number of trials for every trained method, and the setting that each rule takes from them.

A post-hoc method (WiSE-FT) searches its strength alone, over the runs that one_se chose for its input: a trial costs
an evaluation and no training, so their number is free. Both rules then choose from these trials; under best_id the
chosen strength applies to the input that best_id chose.
"""

import itertools
from typing import Any

import numpy as np

from ...datasets import plain_yaml
from ...results.records.records import write_atomic
from ...results.statistics import setting_selection
from ..errors import UserError, resolve_name
from ..host import plugins
from ..run_folder.folder import RunFolder
from .benchmark import Benchmark
from .request import MethodClass, Planned, keys_of, post_hoc, varies
from .resolver import CHOOSING, add
from .suite.suite import SUITES, Tuning
from .suite.tuned_values import Choice, TrialResult, Tuned, TunedEntry, load_tuned, part_text, tuned_path

HEADER = """\
# Written by `robustft tune {suite}`; do not edit: `tuning` is a hash of each entry, and an entry that was
# changed is refused. NLL: mean negative log-likelihood on the validation set in nats, over the tuning seeds.
# one_se is the board's default.
"""


def tuning_of(benchmark: Benchmark) -> Tuning:
    """The suite's tuning section, checked for fairness.

    Raises:
        UserError: there is none; a method has another number of settings than `trials`, which counts trained
            settings; or it searches anything but the learning rate and its one strength.
    """
    suite, known = benchmark.suite, benchmark.facts.methods
    if suite.based_on or suite.grid:
        raise UserError(
            f"{suite.name}: is a study, from which nothing is chosen, and cannot be tuned; "
            f"tune {suite.based_on or 'the suite without its grid'}."
        )
    if suite.tuning is None:
        raise UserError(f"{suite.name}.tuning: must be there to tune, got nothing; add it to the suite file.")
    for name, space in suite.tuning.space.items():
        where, method = f"{suite.name}.tuning.space.{name}", known[resolve_name("method", name, known)]
        allowed = ["lr", *([method.strength] if method.strength else [])]
        for key in space:
            if key not in keys_of(method):
                resolve_name(f"key of {where}", key, allowed)
            if key not in allowed:
                raise UserError(f"{where}: may search only {' and '.join(allowed)}, got {key}; remove it.")
        count = len(_settings(space))
        if count != suite.tuning.trials and not reads_chosen(method, space):
            raise UserError(
                f"{where}: must give {suite.tuning.trials} settings, as for every method, got {count}; "
                "change its lists or tuning.trials."
            )
    return suite.tuning


def reads_chosen(method: MethodClass, space: dict[str, list[Any]]) -> bool:
    """Whether the trials of a space train nothing beyond the run that was chosen for the input."""
    return post_hoc(method) and "lr" not in space


def _settings(space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All different combinations of a search space."""
    combined = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    return [setting for i, setting in enumerate(combined) if setting not in combined[:i]]


class Search:
    """The trials of some methods on some backbones, and what is chosen from them.

    Args:
        part: limit, train_limit and allow_partial, where the trials do not see all images.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        methods: list[str],
        backbones: list[str],
        recipe: str | None = None,
        part: dict[str, Any] | None = None,
    ) -> None:
        self.benchmark, self.part = benchmark, part or {}
        self.tuning = tuning_of(benchmark)
        self.resolver = benchmark.resolver(recipe, rule=None, kind="trial")
        if self.resolver.published is not None:
            raise UserError(
                f"--recipe: must be a recipe to tune, got {self.resolver.recipe}, whose values are published; "
                f"choose one of {', '.join(benchmark.suite.recipes)}."
            )
        self.settings: dict[tuple[str, str], list[tuple[dict[str, Any], list[Planned]]]] = {}
        plan: dict[str, Planned] = {}
        for name, backbone in itertools.product(methods, backbones):
            entries = self.settings[name, backbone] = []
            self._check_inputs(name, backbone)
            known = benchmark.facts.methods
            seeds = self.tuning.seeds if varies(known[name], known) else self.tuning.seeds[:1]
            for values in _settings(self._space(name)):
                overrides = {key: (value, "tuning space") for key, value in values.items()}
                overrides |= {key: (value, "--set") for key, value in self.part.items()}
                runs = [self.resolver.resolve(name, backbone, seed, overrides) for seed in seeds]
                for run in runs:
                    add(plan, run)
                entries.append((values, [run[-1] for run in runs]))
        self.plan = list(plan.values())
        """Every trial once, inputs first: WiSE-FT's are the trials of FT with the same learning rate."""

    def _space(self, name: str) -> dict[str, list[Any]]:
        space = self.tuning.space.get(name)
        if space is None:
            suite = self.benchmark.suite.name
            remedy = "add it"
            if plugins.origin("method", name) and self.benchmark.path.parent == SUITES:
                remedy = f"write a suite of your own that `extends: {suite}` and has it there, and tune that"
            raise UserError(
                f"{name}: {suite}.tuning.space must name it, got only {', '.join(self.tuning.space)}; {remedy}."
            )
        return space

    def _check_inputs(self, name: str, backbone: str) -> None:
        """A post-hoc method reads the run that was chosen for its input, so that must be known."""
        method, suite = self.benchmark.facts.methods[name], self.benchmark.suite
        if not reads_chosen(method, self._space(name)):
            return
        for other in method.inputs(method.Hyper()):
            entry = self.benchmark.tuned.entry(other, backbone, self.resolver.recipe)
            if entry is None:
                found = "none"
            elif entry.part != self.part:
                found = f"those of {part_text(entry.part) or 'all images'}"
            elif not is_current(self.benchmark, other, backbone, self.resolver.recipe):
                found = "values of earlier trials"
            else:
                continue
            flags = f" --recipe {recipe}" if (recipe := self.resolver.recipe) != suite.default_recipe else ""
            flags += f" {part_text(self.part)}" if self.part else ""
            raise UserError(
                f"{name}: must have tuned values of {other} on {backbone} to read, got {found}; "
                f"run `robustft tune {self.benchmark.command_name} --method {other},{name}{flags}`."
            )

    def choose(self, folders: dict[str, RunFolder]) -> dict[str, dict[str, TunedEntry]]:
        """method -> backbone -> entry, from the validation predictions of the finished trials."""
        entries: dict[str, dict[str, TunedEntry]] = {}
        for (name, backbone), settings in self.settings.items():
            safer = self.benchmark.facts.methods[name].conservative
            where, metric = self._validation_set(), self.tuning.metric
            trials = [_trial(values, runs, folders, where, safer, metric) for values, runs in settings]
            results = [
                TrialResult(values=values, nll=trial.nll, runs=[run.spec.run_id for run in runs])
                for trial, (values, runs) in zip(trials, settings, strict=True)
            ]
            chosen = {rule: _choice(getattr(setting_selection, rule)(trials), trials, results) for rule in CHOOSING}
            entry = TunedEntry(
                tuning="",
                recipe=self.resolver.recipe,
                seeds=list(self.tuning.seeds),
                metric=self.tuning.metric,
                trials=results,
                part=self.part,
                **chosen,
            )
            key = self.benchmark.suite.tuned_key(backbone, self.resolver.recipe)
            entries.setdefault(name, {})[key] = entry.model_copy(update={"tuning": entry.digest()})
        return entries

    def _validation_set(self) -> str:
        from .benchmark import dataset

        return dataset(self.benchmark.suite.dataset).card.names("validation")[0]


def _trial(
    values: dict[str, Any], runs: list[Planned], folders: dict[str, RunFolder], name: str, safer: str, metric: str
) -> setting_selection.Trial:
    from ...results.metrics import calibration
    from ...results.records import predictions  # late: pyarrow, which a plan does without

    losses, units = [], []
    for run in runs:
        columns = predictions.read(folders[run.spec.run_id].predictions / f"{name}.parquet")
        if metric == "validation_nll_scaled":
            losses.append(calibration.scaled_nll(columns["logits"], columns["label"]))
        else:
            losses.append(predictions.nll(columns))
        units.append(columns["unit_id"])
    ids = ",".join(run.spec.run_id for run in runs)
    values = {"lr": runs[0].spec.lr, **values}  # the order of conservatism reads it, searched or not
    return setting_selection.Trial(values, np.concatenate(losses), np.concatenate(units).tolist(), ids, safer)


def _choice(
    chosen: setting_selection.Trial, trials: list[setting_selection.Trial], results: list[TrialResult]
) -> Choice:
    index = next(i for i, trial in enumerate(trials) if trial is chosen)
    return Choice(values=dict(results[index].values), nll=chosen.nll, trial=index)


def refuse_to_replace(
    benchmark: Benchmark, methods: list[str], backbones: list[str], recipe: str | None, part: dict[str, Any]
) -> None:
    """UserError where values that are chosen on part of the images would take the place of those of all images."""
    for name, backbone in itertools.product(methods, backbones):
        key = benchmark.suite.tuned_key(backbone, recipe or benchmark.suite.default_recipe)
        entry = benchmark.tuned.entries.get(name, {}).get(key)
        if part and entry is not None and not entry.part:
            raise UserError(
                f"{part_text(part)}: must not replace the values of {name} on {backbone} in "
                f"{tuned_path(benchmark.path)}, which were chosen on all images; copy the suite file and give its path."
            )


def write(benchmark: Benchmark, entries: dict[str, dict[str, TunedEntry]]) -> Tuned:
    """Put new entries into the suite's tuned file; those of other methods and backbones stay."""
    path = tuned_path(benchmark.path)
    old = load_tuned(benchmark.path, benchmark.suite)
    merged = {name: dict(backbones) for name, backbones in old.entries.items()}
    for name, backbones in entries.items():
        merged.setdefault(name, {}).update(backbones)
    ordered = {name: dict(sorted(merged[name].items())) for name in sorted(merged)}
    tuned = Tuned(suite=benchmark.suite.name, version=benchmark.suite.version, entries=ordered)
    text = plain_yaml.dump(tuned.model_dump(mode="json") | {"entries": tuned.plain()})
    named = benchmark.suite.name if benchmark.path.parent == SUITES else benchmark.path.name
    write_atomic(path, (HEADER.format(suite=named) + text).encode())
    return tuned


def is_current(benchmark: Benchmark, method: str, backbone: str, recipe: str) -> bool:
    """Whether the tuned values come from the trials that suite and code would make today; True without any.

    What a post-hoc method read must be of today too.
    """
    if benchmark.base is not None:
        return is_current(benchmark.base, method, backbone, recipe)
    entry, key = benchmark.tuned.entry(method, backbone, recipe), (method, backbone, recipe)
    if entry is None:
        return True
    if key not in benchmark.tuning_known:
        benchmark.tuning_known[key] = _is_of_today(benchmark, method, backbone, entry)
    return benchmark.tuning_known[key]


def _is_of_today(benchmark: Benchmark, method: str, backbone: str, entry: TunedEntry) -> bool:
    """Whether the trials behind an entry are the ones that suite and code would make today, on the same images."""
    backbone = benchmark.suite.tuned_on(backbone)
    try:
        search = Search(benchmark, [method], [backbone], entry.recipe, entry.part)
    except UserError:
        return False
    planned = [[run.spec.run_id for run in runs] for _, runs in search.settings[method, backbone]]
    return planned == [trial.runs for trial in entry.trials]


def tunable(benchmark: Benchmark, names: list[str], explicit: bool) -> list[str]:
    """The methods that have something to tune; UserError for one that was named and has not."""
    known = benchmark.facts.methods
    kept = [name for name in names if known[name].trained or (post_hoc(known[name]) and known[name].strength)]
    if explicit and len(kept) != len(names):
        odd = next(name for name in names if name not in kept)
        raise UserError(f"--method: '{odd}' has nothing to tune; leave it out.")
    return kept


def stages(benchmark: Benchmark, names: list[str]) -> list[list[str]]:
    """Trained methods, then those that read what was chosen for them."""
    known = benchmark.facts.methods
    split = [[name for name in names if known[name].trained == trained] for trained in (True, False)]
    return [stage for stage in split if stage]
