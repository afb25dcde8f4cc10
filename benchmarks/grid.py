"""From what was asked to the runs it means: a pure function of suite, tuned values, settings and known facts.

Precedence, low to high: method default, recipe, suite, tuned, grid of a study, `--set`. Under a published recipe
the authors' values of a method stand in place of suite and tuned. Each value keeps the place it came
from. A post-hoc method trains nothing and reads finished runs (WiSE-FT, a soup): between suite and its own tuned
values it takes over how its input is trained, tuned values of the input included.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from . import settings as set_flags
from .errors import UserError, explain, resolve_name
from .rehearsal import shrink
from .request import (
    DataFacts,
    Facts,
    MethodClass,
    Planned,
    Request,
    choose_backbone,
    choose_backbones,
    choose_methods,
    hyper_keys,
    keys_of,
    learns,
    post_hoc,
)
from .spec import OTHER_FIELDS, TRAINING_FIELDS, RunSpec
from .spec_check import check
from .suite import RULES, Suite, Tuned, TunedEntry, check_keys, part_text

CHOOSING = RULES[:2]
"""The rules that choose from trials; the first is the default."""
REMEMBERED = 300
"""So many plans are kept for the next record; more would be those of seeds that do not come again."""
PUBLISHED = "published"
"""What selection says of a run under a published recipe."""


def expand(request: Request, suite: Suite, tuned: Tuned, facts: Facts) -> list[Planned]:
    """All runs that a request means, inputs before the runs that read them, each once.

    Raises:
        UserError: one sentence for any unknown name or key, value out of range, or impossible combination.
    """
    resolver = Resolver(suite, tuned, facts, request.recipe, request.rule, request.kind)
    fixed = Resolver(suite, tuned, facts, request.recipe, "fixed", request.kind)
    methods = choose_methods(request.methods, suite, facts)
    backbones = choose_backbones(request.backbones, suite, facts)
    listed = {name: keys_of(facts.methods[name]) for name in methods}
    known = {name: keys_of(method) for name, method in facts.methods.items()}
    assigned = set_flags.assign(set_flags.parse(request.settings), listed, known)
    plan: dict[str, Planned] = {}
    for name, backbone, seed in itertools.product(methods, backbones, request.seeds or suite.seeds):
        method, chosen = facts.methods[name], assigned[name]
        if method.pools() and seed != (request.seeds or suite.seeds)[0]:
            continue
        also_fixed = request.companions and resolver.rule == "one_se" and method.path
        grid = suite.settings_of(name)
        for setting, values in itertools.product(grid, itertools.product(*(s.values for s in chosen.values()))):
            overrides = {key: (value, f"grid of {suite.name}") for key, value in setting.items()}
            overrides |= {key: (value, "--set") for key, value in zip(chosen, values, strict=True)}
            add(plan, resolver.resolve(name, backbone, seed, overrides))
            if also_fixed and method.path not in overrides:
                add(plan, fixed.resolve(name, backbone, seed, overrides))
    return list(plan.values())


def add(plan: dict[str, Planned], runs: list[Planned]) -> None:
    """Add runs to a plan that is keyed by run id; a run that is asked for twice stays one run."""
    for run in runs:
        earlier = plan.get(run.spec.run_id)
        if earlier is None or (run.requested and not earlier.requested):
            plan[run.spec.run_id] = run


def scaled_warmup(steps: Any) -> int | None:
    """The study's share of warm-up, 500 of 25,030 steps: 10 of 500; None where steps is no whole number."""
    return min(max(1, round(steps * 500 / 25030)), steps - 1) if type(steps) is int else None


class Resolver:
    """Fills in every field of a spec for one suite, recipe, rule and kind."""

    def __init__(
        self,
        suite: Suite,
        tuned: Tuned,
        facts: Facts,
        recipe: str | None,
        rule: str | None,
        kind: str = "run",
    ) -> None:
        if facts.version != suite.version:
            raise UserError(
                f"{suite.name}.version: must be {facts.version}, the version of the dataset's card, got "
                f"{suite.version}; correct the suite file, and run everything of this benchmark again."
            )
        if rule is not None:
            rule = resolve_name("rule", rule, RULES)
        self.suite, self.tuned, self.facts, self.rule, self.kind = suite, tuned, facts, rule, kind
        self.recipe = resolve_name("recipe", recipe or suite.default_recipe, suite.recipe_names)
        self.published = suite.published.get(self.recipe)
        self._plain: dict[tuple[str, str, int], list[Planned]] = {}
        self._of_rules: dict[str, Resolver] = {}
        self._given: dict[tuple[str, str, str, int], str | None] = {}

    def resolve(self, name: str, backbone: str, seed: int, overrides: dict[str, tuple[Any, str]]) -> list[Planned]:
        """The run, after the runs that it reads; `overrides` are key -> (value, source)."""
        if self.rule == "fixed" and not self.facts.methods[name].path:
            raise UserError(f"--rule fixed: is for methods with a path as wise_ft, got {name}; use another rule.")
        return self._resolve(name, backbone, seed, overrides, self.rule, requested=True)

    def plain(self, name: str, backbone: str, seed: int) -> list[Planned]:
        """`resolve` without overrides, each made once: a board asks for the same few again for every record."""
        key = (name, backbone, seed)
        if key not in self._plain:
            if len(self._plain) >= REMEMBERED:
                self._plain.clear()
            self._plain[key] = self.resolve(name, backbone, seed, {})
        return self._plain[key]

    def of_rule(self, rule: str) -> "Resolver":
        """The same with the values of a rule, made once."""
        if rule not in self._of_rules:
            self._of_rules[rule] = Resolver(self.suite, self.tuned, self.facts, self.recipe, rule)
        return self._of_rules[rule]

    def _resolve(
        self,
        name: str,
        backbone: str,
        seed: int,
        overrides: dict[str, tuple[Any, str]],
        rule: str | None,
        requested: bool,
    ) -> list[Planned]:
        method = self.facts.methods[name]
        values, sources = self._values(method, backbone, overrides, rule, requested)
        hyper = self._hyper(method, values, sources)
        if method.needs_text and not self.facts.has_text(backbone):
            raise UserError(f"{name}: needs a backbone with a text tower, got '{backbone}'; choose another backbone.")
        inputs, needed = {}, []
        complete = method.Hyper(**{key: values[key] for key in hyper_keys(method)})
        for other in method.inputs(complete):
            shared = {
                key: (values[key], source if (source := sources[key]) == "--set" else f"{source} of {name}")
                for key in (*TRAINING_FIELDS, *OTHER_FIELDS)
            }
            for its_seed in method.input_seeds(complete, seed):
                needed += self._resolve(other, backbone, its_seed, shared, self._input_rule(method, rule), False)
                inputs[f"{other}:{its_seed}" if method.pools() else other] = needed[-1].spec.run_id
        fields = {key: values[key] for key in (*TRAINING_FIELDS, *OTHER_FIELDS) if key in values}
        try:
            spec = RunSpec(
                benchmark=self.suite.name,
                benchmark_version=self.suite.version,
                fingerprint=self._data(backbone, values).fingerprint,
                method=name,
                method_version=method.version,
                backbone=backbone,
                weights=self.facts.weights(backbone),
                seed=seed,
                recipe=self.recipe,
                hyper=hyper,
                inputs=inputs,
                kind=self.kind,
                **fields,
            )
        except ValidationError as error:
            raise UserError(_sourced(error, "", sources)) from None
        data = self._data(backbone, spec.model_dump(include={"allow_partial"}))
        check(spec, sources, self.suite, self.facts, data)
        return [*needed, Planned(spec, sources, requested, tuple(inputs.values()))]

    def _input_rule(self, method: MethodClass, rule: str | None) -> str | None:
        """The rule whose values an input has. Trials of a post-hoc method (rule None) read one_se's run."""
        return rule if method.trained or rule in CHOOSING else CHOOSING[0]

    def _values(
        self,
        method: MethodClass,
        backbone: str,
        overrides: dict[str, tuple[Any, str]],
        rule: str | None,
        requested: bool,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """All values with their sources; what an input shares with its reader keeps the input's own source."""
        values, sources = self._layers(method, backbone, rule)
        if not requested:
            self._derive(values, sources, self._data(backbone, values))
        for key, (value, source) in overrides.items():
            if key in keys_of(method) and (requested or values[key] != value):
                _put(values, sources, key, value, source)
        data = self._data(backbone, values)
        if requested:  # an input's values are its reader's, which are fitted already
            shrink(values, sources, data.train_size)
        self._derive(values, sources, data)
        order = [*hyper_keys(method), *TRAINING_FIELDS, *OTHER_FIELDS]
        return values, {key: sources[key] for key in order if key in sources}

    def _data(self, backbone: str, values: Mapping[str, Any]) -> DataFacts:
        """The facts of the data that a run with these values sees."""
        facts = self.facts
        if facts.data is None:
            return DataFacts(facts.version, facts.fingerprint, facts.train_size)
        return facts.data(self.suite.dataset_of(self.recipe), backbone, values.get("allow_partial") is True)

    def _derive(self, values: dict[str, Any], sources: dict[str, str], data: DataFacts) -> None:
        """Replace, in place, what is given relative to another value: epochs, and `scaled` warm-up."""
        if "epochs" in values:
            epochs, size = values.pop("epochs"), values["batch_size"]
            # The loader drops the last, partial batch. A size that is wrong is refused later, by its own name.
            images = min(data.train_size, values.get("train_limit") or data.train_size)
            steps = max(1, images // size) if type(size) is int and size > 0 else 1
            values["steps"] = epochs * steps if type(epochs) is int else epochs
            sources["steps"] = f"{sources.pop('epochs')}, {epochs} epochs of {steps} steps"
        if values.get("warmup_steps") == "scaled":
            values["warmup_steps"] = scaled_warmup(values["steps"])
            sources["warmup_steps"] += ", scaled with steps"

    def _layers(self, method: MethodClass, backbone: str, rule: str | None) -> tuple[dict[str, Any], dict[str, str]]:
        """Values before `--set`, with `scaled` not yet replaced."""
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        allowed = [*keys_of(method), *(["epochs"] if learns(method) else [])]

        def layer(entries: Mapping[str, Any], source: str) -> None:
            for key, value in entries.items():
                if key in allowed:
                    _put(values, sources, key, value, source)

        layer(dataclasses.asdict(method.Hyper()), "method default")
        suite = f"suite {self.suite.name}"
        layer({key: getattr(self.suite, key) for key in ("threads", "trainable", "decode")}, suite)
        layer({"limit": None, "train_limit": None, "allow_partial": False}, suite)
        if self.published is None:
            for entries, where in self.suite.recipes[self.recipe].layers(backbone):
                layer(entries, f"recipe {self.recipe}{where}")
        else:
            layer(dict.fromkeys(TRAINING_FIELDS), f"recipe {self.recipe}, which does not give it")
        if post_hoc(method):
            for name in method.inputs(method.Hyper()):
                theirs, why = self._layers(self.facts.methods[name], backbone, self._input_rule(method, rule))
                for key in (*TRAINING_FIELDS, "epochs"):
                    if key in theirs and (theirs[key], why[key]) != (values.get(key), sources.get(key)):
                        comma = "," if ":" in why[key] else ""
                        layer({key: theirs[key]}, f"{why[key]}{comma} of {name}")
        if self.published is not None:
            self._published(method, backbone, layer)
            return values, sources
        own = self.suite.methods_settings.get(method.name, {})
        check_keys(f"{self.suite.name}.methods_settings.{method.name}", own, hyper_keys(method))
        why = f"{suite}: {own['source']}" if "source" in own else suite
        layer({key: value for key, value in own.items() if key != "source"}, why)
        entry = self.tuned.entry(method.name, backbone, self.recipe) if rule in CHOOSING else None
        if entry is not None:
            where = f" ({self.suite.based_on})" if self.suite.based_on else ""
            part = f" of a rehearsal, {part_text(entry.part)}" if entry.part else ""
            layer(getattr(entry, rule).values, f"tuned {rule}{where}{part}")
        return values, sources

    def _published(self, method: MethodClass, backbone: str, layer: Callable[[dict[str, Any], str], None]) -> None:
        """The authors' values; those of the input, which stand below, are how a post-hoc method is trained."""
        entries = self.published.layers(method.name, backbone)
        if not entries and learns(method):
            known = [name for name in self.published.methods if self.published.layers(name, backbone)]
            raise UserError(
                f"--recipe {self.recipe}: has published values on {backbone} for {', '.join(known) or 'no method'}, "
                f"got {method.name}; choose another method, or the recipe {self.suite.default_recipe}."
            )
        for key, value, origin in entries[len(self.published.values) if post_hoc(method) else 0 :]:
            layer({key: value}, f"recipe {self.recipe}: {origin}")

    def _hyper(self, method: MethodClass, values: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
        given = {key: values[key] for key in hyper_keys(method)}
        try:
            hyper = dataclasses.asdict(method.Hyper(**given))
        except ValidationError as error:
            raise UserError(_sourced(error, method.name, sources)) from None
        for key, value in given.items():  # true is a 1 to Python, and a mistake to a person
            if isinstance(value, bool) and not isinstance(hyper[key], bool):
                raise UserError(f"{method.name}.{key}: must be a number, got {value}; correct it in {sources[key]}.")
        introduced = method.introduced
        return {key: value for key, value in hyper.items() if key not in introduced or value != introduced[key]}

    def selection(
        self, spec: RunSpec, current: Callable[[str, str], bool] = lambda method, backbone: True
    ) -> dict[str, Any]:
        """Which selection rules a spec is a result of: those whose own plan gives exactly this run.

        A run of a tuning seed, of a trial, of a study, of another recipe than the suite's first, or with any value
        that no rule chose, has none and enters no ranked board. One with the values of a published recipe has
        `published`, which is no rule: how its authors chose is unknown.

        `tuning` is the hash of the method's own tuned entry, or of its input's where a post-hoc method chose
        nothing itself (soups, rule `fixed`). `trials` counts those of the method, and for a post-hoc method also
        those of its input, without which there was nothing to read; `evaluated` those of them that trained nothing.

        Args:
            current: (method, backbone) -> whether its tuned entry comes from the trials of today; one that does
                not carries no rule.
        """
        none = {"rules": [], "tuning": None, "trials": 0, "evaluated": 0}
        method = self.facts.methods.get(spec.method)
        if spec.kind != "run" or spec.recipe != self.recipe or self.suite.grid or self.suite.based_on:
            return none
        if method is None or not self._known(spec.backbone):
            return none
        if method.pools() and spec.seed != self.suite.seeds[0]:
            return none
        if self.published is not None:
            return {**none, "rules": [PUBLISHED] if self._gives(CHOOSING[0], spec) == spec.run_id else []}
        if self.recipe != self.suite.default_recipe:
            return none
        based = {rule: self._basis(method, spec.backbone, rule, current) for rule in RULES}
        run_id = spec.run_id
        rules = [rule for rule, basis in based.items() if basis is not None and self._gives(rule, spec) == run_id]
        if not rules:
            return none
        basis = based[rules[0]]
        return {
            "rules": rules,
            "tuning": basis[0].tuning if basis else None,
            "trials": sum(len(entry.trials) for entry in basis),
            "evaluated": len(basis[0].trials) if post_hoc(method) and len(basis) > 1 else 0,
        }

    def _known(self, backbone: str) -> bool:
        try:
            return choose_backbone(backbone, self.facts) == backbone
        except ValueError:
            return False

    def _gives(self, rule: str, spec: RunSpec) -> str | None:
        """The id of the run that a rule plans for method, backbone and seed; None where a tuning seed is involved."""
        key = (rule, spec.method, spec.backbone, spec.seed)
        if key not in self._given:
            try:
                runs = self.of_rule(rule).plain(spec.method, spec.backbone, spec.seed)
            except UserError:
                if self.published is None:
                    raise
                return None  # a record of values that this file no longer has
            tuning = self.suite.tuning.seeds if self.suite.tuning else []
            self._given[key] = None if any(run.spec.seed in tuning for run in runs) else runs[-1].spec.run_id
        return self._given[key]

    def _basis(
        self, method: MethodClass, backbone: str, rule: str, current: Callable[[str, str], bool]
    ) -> list[TunedEntry] | None:
        """The tuned entries that a rule rests on, the method's own first; None where one is missing, old or partial."""
        if rule == "fixed" and not method.path:
            return None
        if not learns(method):
            return []
        own = self.tuned.entry(method.name, backbone, self.recipe)
        chooses = method.trained or (method.strength is not None and rule != "fixed")
        needed = [method.name] if chooses else []
        if not method.trained and not (chooses and own is not None and "lr" in own.one_se.values):
            needed += method.inputs(method.Hyper())
        entries = [self.tuned.entry(name, backbone, self.recipe) for name in needed]
        whole = all(entry is not None and not entry.part for entry in entries)
        return entries if whole and all(current(name, backbone) for name in needed) else None


def _put(values: dict[str, Any], sources: dict[str, str], key: str, value: Any, source: str) -> None:
    """Set a value and its source, in place; steps and epochs replace each other."""
    other = {"steps": "epochs", "epochs": "steps"}.get(key)
    values.pop(other, None)
    sources.pop(other, None)
    values[key], sources[key] = value, source


def _sourced(error: ValidationError, where: str, sources: dict[str, str]) -> str:
    """The sentence of a bad value, with the place that the value came from."""
    key = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else ""
    source = sources.get(key)
    return explain(error, where, f"correct it in {source}" if source else "correct it", joint=".")
