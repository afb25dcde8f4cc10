"""From what was asked to the runs it means: a pure function of suite, tuned values, settings and known facts.

Precedence, low to high: method default, recipe, suite, tuned, grid of a study, `--set`. Under a published recipe
the authors' values of a method stand in place of suite and tuned. Each value keeps the place it came
from. A post-hoc method trains nothing and reads finished runs (WiSE-FT, a soup): between suite and its own tuned
values it takes over how its input is trained, tuned values of the input included.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from ..errors import UserError, explain, resolve_name
from ..host.printed import counted
from ..run_folder.spec import KERNELS, OTHER_FIELDS, TRAINING_FIELDS, RunSpec
from . import set_flags
from .limit import shrink
from .request import (
    DataFacts,
    Facts,
    MethodClass,
    Planned,
    Request,
    choose_backbones,
    choose_methods,
    hyper_keys,
    keys_of,
    learns,
    post_hoc,
    seeds_of,
)
from .spec_rules import check, refusal
from .suite.recipes import Published
from .suite.suite import RULES, Suite, check_keys
from .suite.tuned_values import Tuned, part_text

CHOOSING = RULES[:2]
"""The rules that choose from trials; the first is the default."""
REMEMBERED = 300
"""So many plans are kept for the next record; more would be those of seeds that do not come again."""


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
    assigned = set_flags.assign(set_flags.parse(request.settings, request.part), listed, known)
    plan: dict[str, Planned] = {}
    pairs = list(itertools.product(methods, backbones))
    if "all" in request.methods:  # of the suite's methods those that the recipe and the rule are for, if there are any
        pairs = [pair for pair in pairs if resolver.is_for(*pair) or pair[0] in request.methods] or pairs
    for name, backbone in pairs:
        method, chosen = facts.methods[name], assigned[name]
        also_fixed = request.companions and resolver.rule == "one_se" and method.path
        values_of = {key: setting.values for key, setting in chosen.items()}
        if suite.shots:
            values_of.setdefault("shots", tuple(suite.shots))
        settings = itertools.product(suite.settings_of(name), itertools.product(*values_of.values()))
        seeds = seeds_of(method, request.seeds or suite.seeds, facts.methods)
        for seed, (setting, values) in itertools.product(seeds, settings):
            given = dict(zip(values_of, values, strict=True))
            overrides = {key: (value, f"grid of {suite.name}") for key, value in setting.items()}
            overrides |= {key: (value, "--set") for key, value in given.items()}
            overrides |= resolver.of_suite(given.get("shots"))
            add(plan, resolver.resolve(name, backbone, seed, overrides))
            if also_fixed and method.path not in overrides:
                add(plan, fixed.resolve(name, backbone, seed, overrides))
    return list(plan.values())


def add(plan: dict[str, Planned], runs: list[Planned]) -> None:
    """Add runs to a plan that is keyed by run id; a run that is asked for twice stays one run."""
    for run in runs:
        run_id = run.spec.run_id  # is a hash, made at each look
        earlier = plan.get(run_id)
        if earlier is None or (run.requested and not earlier.requested):
            plan[run_id] = run


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
        kind: Literal["run", "trial"] = "run",
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
        self._plain: dict[tuple[str, str, int, int | None], list[Planned]] = {}
        self._of_rules: dict[str, Resolver] = {}
        self._before_set: dict[tuple[MethodClass, str, str | None], tuple[dict[str, Any], dict[str, str]]] = {}

    def resolve(self, name: str, backbone: str, seed: int, overrides: dict[str, tuple[Any, str]]) -> list[Planned]:
        """The run, after the runs that it reads; `overrides` are key -> (value, source)."""
        if self.rule == "fixed" and not self.facts.methods[name].path:
            raise UserError(f"--rule fixed: is for methods with a path as wise_ft, got {name}; use another rule.")
        return self._resolve(name, backbone, seed, overrides, self.rule, requested=True)

    def is_for(self, name: str, backbone: str) -> bool:
        """Whether rule and recipe have values for a method on a backbone, and it can be meant there."""
        return self.has_values(name, backbone) and not self.refused(name, backbone)

    def has_values(self, name: str, backbone: str) -> bool:
        """Whether rule and recipe have values for a method; what learns nothing needs no recipe's."""
        method = self.facts.methods[name]
        if self.rule == "fixed" and not method.path:
            return False
        return self.published is None or not learns(method) or bool(self.published.layers(name, backbone))

    def refused(self, name: str, backbone: str) -> str:
        """Why a method, with the values that it has, cannot be meant on a backbone, as `refusal`; "" where it can."""
        method = self.facts.methods[name]
        values, _ = self._layers(method, backbone, self.rule)
        return refusal(method, {key: values[key] for key in hyper_keys(method)}, backbone, self.facts)

    def _shots(self) -> int | None:
        """The suite's shots: of a trial those that values are chosen at, of a run the first of the list."""
        if self.kind == "trial":
            return self.suite.tuning.shots if self.suite.tuning else None
        return next(iter(self.suite.shots), None)

    def of_suite(self, shots: int | None) -> dict[str, tuple[Any, str]]:
        """Overrides that name one of the suite's shots; none where it has not these."""
        return {"shots": (shots, f"suite {self.suite.name}")} if shots in self.suite.shots else {}

    def plain(self, name: str, backbone: str, seed: int, shots: int | None = None) -> list[Planned]:
        """`resolve` without overrides, each made once: a board asks for the same few again for every record.

        Args:
            shots: which of the suite's.
        """
        key = (name, backbone, seed, shots)
        if key not in self._plain:
            if len(self._plain) >= REMEMBERED:
                self._plain.clear()
            self._plain[key] = self.resolve(name, backbone, seed, self.of_suite(shots))
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
        complete, hyper = self._hyper(method, values, sources)
        if method.needs_text and not self.facts.has_text(backbone):
            raise UserError(f"{name}: needs a backbone with a text tower, got '{backbone}'; choose another backbone.")
        inputs, needed = {}, []
        for other in method.inputs(complete):
            shared = {
                key: (values[key], source if (source := sources[key]) == "--set" else f"{source} of {name}")
                for key in (*TRAINING_FIELDS, *OTHER_FIELDS)
                if key in values
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
                plugins=self.facts.plugins(name, self.suite.dataset_of(self.recipe), backbone),
                method_code=self.facts.code(method),
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
            if key in keys_of(method) and (requested or values.get(key) != value):
                _put(values, sources, key, value, source)
        data = self._data(backbone, values)
        if requested:  # an input's values are its reader's, which are fitted already
            shrink(values, sources, data)
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
            images = data.images(values.get("shots"), values.get("train_limit"))
            steps = max(1, images // size) if type(size) is int and size > 0 else 1
            values["steps"] = epochs * steps if type(epochs) is int else epochs
            sources["steps"] = f"{sources.pop('epochs')}, {counted(epochs, 'epoch')} of {counted(steps, 'step')}"
        if values.get("warmup_steps") == "scaled":
            values["warmup_steps"] = scaled_warmup(values["steps"])
            sources["warmup_steps"] += ", scaled with steps"

    def _layers(self, method: MethodClass, backbone: str, rule: str | None) -> tuple[dict[str, Any], dict[str, str]]:
        """Values before `--set`, with `scaled` not yet replaced: those of every seed, put together once."""
        key = (method, backbone, rule)
        if key not in self._before_set:
            self._before_set[key] = self._put_together(*key)
        values, sources = self._before_set[key]
        return dict(values), dict(sources)

    def _put_together(
        self, method: MethodClass, backbone: str, rule: str | None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        allowed = [*keys_of(method), *(["epochs"] if learns(method) else [])]

        def layer(entries: Mapping[str, Any], source: str) -> None:
            for key, value in entries.items():
                if key in allowed:
                    _put(values, sources, key, value, source)

        layer(dataclasses.asdict(method.Hyper()), "method default")
        of_suite = f"suite {self.suite.name}"
        layer({key: getattr(self.suite, key) for key in ("threads", "trainable", "decode")}, of_suite)
        layer({"limit": None, "train_limit": None, "allow_partial": False}, of_suite)
        if (shots := self._shots()) is not None:  # else nothing is said of them, in record and plan neither
            layer({"shots": shots}, of_suite)
        if self.published is None:
            for entries, where in self.suite.recipes[self.recipe].layers(backbone):
                layer(entries, f"recipe {self.recipe}{where}")
        else:
            layer(
                dict.fromkeys(key for key in TRAINING_FIELDS if key not in KERNELS),
                f"recipe {self.recipe}, which does not give it",
            )
        if post_hoc(method):
            for name in method.inputs(method.Hyper()):
                theirs, why = self._layers(self.facts.methods[name], backbone, self._input_rule(method, rule))
                for key in (*TRAINING_FIELDS, "epochs"):
                    if key in theirs and (theirs[key], why[key]) != (values.get(key), sources.get(key)):
                        comma = "," if ":" in why[key] else ""
                        layer({key: theirs[key]}, f"{why[key]}{comma} of {name}")
        if self.published is not None:
            self._published(self.published, method, backbone, layer)
            return values, sources
        settings = self.suite.methods_settings.get(method.name, {})
        check_keys(f"{self.suite.name}.methods_settings.{method.name}", settings, hyper_keys(method))
        origin = f"{of_suite}: {settings['source']}" if "source" in settings else of_suite
        layer({key: value for key, value in settings.items() if key != "source"}, origin)
        entry = self.tuned.entry(method.name, backbone, self.recipe)
        if rule is not None and rule in CHOOSING and entry is not None:
            where = f" ({self.suite.based_on})" if self.suite.based_on else ""
            where += f" on {other}" if (other := self.tuned.on.get(backbone)) else ""
            part = f" of a rehearsal, {part_text(entry.part)}" if entry.part else ""
            layer(entry.choice(rule).values, f"tuned {rule}{where}{part}")
        return values, sources

    def _published(
        self, published: Published, method: MethodClass, backbone: str, layer: Callable[[dict[str, Any], str], None]
    ) -> None:
        """The authors' values; those of the input, which stand below, are how a post-hoc method is trained."""
        entries = published.layers(method.name, backbone)
        if not entries and learns(method):
            known = [name for name in published.methods if published.layers(name, backbone)]
            elsewhere = ", ".join(published.methods.get(method.name, {}))
            fix = f"take --backbone {elsewhere}" if elsewhere else "choose another method"
            raise UserError(
                f"--recipe {self.recipe}: has published values on {backbone} for {', '.join(known) or 'no method'}, "
                f"got {method.name}; {fix}, or the recipe {self.suite.default_recipe}."
            )
        for key, value, origin in entries[len(published.values) if post_hoc(method) else 0 :]:
            layer({key: value}, f"recipe {self.recipe}: {origin}")

    def _hyper(
        self, method: MethodClass, values: dict[str, Any], sources: dict[str, str]
    ) -> tuple[Any, dict[str, Any]]:
        """The method's `Hyper` of these values, and the fields of it that a spec has."""
        given = {key: values[key] for key in hyper_keys(method)}
        try:
            complete = method.Hyper(**given)
        except ValidationError as error:
            raise UserError(_sourced(error, method.name, sources)) from None
        hyper = dataclasses.asdict(complete)
        for key, value in given.items():  # true is a 1 to Python, and a mistake to a person
            if isinstance(value, bool) and not isinstance(hyper[key], bool):
                raise UserError(f"{method.name}.{key}: must be a number, got {value}; correct it in {sources[key]}.")
        introduced = method.introduced
        return complete, {key: v for key, v in hyper.items() if key not in introduced or v != introduced[key]}


def _put(values: dict[str, Any], sources: dict[str, str], key: str, value: Any, source: str) -> None:
    """Set a value and its source, in place; steps and epochs replace each other."""
    if (other := {"steps": "epochs", "epochs": "steps"}.get(key)) is not None:
        values.pop(other, None)
        sources.pop(other, None)
    values[key], sources[key] = value, source


def _sourced(error: ValidationError, where: str, sources: dict[str, str]) -> str:
    """The sentence of a bad value, with the place that the value came from."""
    key = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else ""
    source = sources.get(key)
    return explain(error, where, f"correct it in {source}" if source else "correct it", joint=".")
