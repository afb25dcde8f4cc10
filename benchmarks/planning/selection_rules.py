"""Which selection rules a run is a result of: those whose plan, by the tuned values of today, is exactly this run."""

from collections.abc import Callable
from typing import Any

from ...results.records.run_id import canonical
from ..errors import UserError
from ..run_folder.spec import RunSpec
from .request import MethodClass, Planned, choose_backbone, learns, post_hoc
from .resolver import CHOOSING, Resolver
from .suite.suite import RULES
from .suite.tuned_values import TunedEntry

PUBLISHED = "published"
"""What selection says of a run under a published recipe."""


class Selector:
    """Asks the plans of one suite and recipe for the rules behind a spec."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.suite, self.tuned, self.facts = resolver.suite, resolver.tuned, resolver.facts
        self.recipe, self.published = resolver.recipe, resolver.published
        self._models: dict[_Key, tuple[Planned | None, str]] = {}

    def of(self, spec: RunSpec, current: Callable[[str, str], bool] = lambda method, backbone: True) -> dict[str, Any]:
        """Which selection rules a spec is a result of: those whose own plan gives exactly this run.

        A run of a tuning seed, of a trial, of a study, of a recipe that is not ranked, or with any value that no rule
        chose, has none and enters no ranked board. One with the values of a published recipe has
        `published`, which is no rule: how its authors chose is unknown.

        `tuning` is the hash of the method's own tuned entry, or of its input's where a post-hoc method chose
        nothing itself (soups, rule `fixed`). `trials` counts those of the method, and for a post-hoc method also
        those of its input, without which there was nothing to read; `evaluated` those of them that trained nothing.

        Args:
            current: (method, backbone) -> whether its tuned entry comes from the trials of today; one that does
                not carries no rule.
        """
        none: dict[str, Any] = {"rules": [], "tuning": None, "trials": 0, "evaluated": 0}
        method = self.facts.methods.get(spec.method)
        if spec.given or spec.kind != "run" or spec.recipe != self.recipe or self.suite.grid or self.suite.based_on:
            return none
        if method is None or not self._known(spec.backbone):
            return none
        if method.pools() and spec.seed != self.suite.seeds[0]:
            return none
        if self.published is not None:
            return {**none, "rules": [PUBLISHED] if self._gives(CHOOSING[0], spec, _but_for_seed(spec)) else []}
        if self.recipe not in self.suite.ranked_recipes:
            return none
        text = _but_for_seed(spec)
        possible = (rule for rule in RULES if self._models.get(_key(rule, spec), (None, text))[1] == text)
        based = ((rule, self._basis(method, spec.backbone, rule, current)) for rule in possible)
        given = {rule: basis for rule, basis in based if basis is not None and self._gives(rule, spec, text)}
        if not given:
            return none
        basis = next(iter(given.values()))
        return {
            "rules": list(given),
            "tuning": basis[0].tuning if basis else None,
            "trials": sum(len(entry.trials) for entry in basis),
            "evaluated": len(basis[0].trials) if post_hoc(method) and len(basis) > 1 else 0,
        }

    def _known(self, backbone: str) -> bool:
        try:
            return choose_backbone(backbone, self.facts) == backbone
        except ValueError:
            return False

    def sources(self, rule: str, spec: RunSpec) -> dict[str, str]:
        """Where each value of a run that a rule gives comes from."""
        planned, _ = self._model(rule, spec)
        return planned.sources if planned else {}

    def _gives(self, rule: str, spec: RunSpec, text: str) -> bool:
        """Whether a rule plans exactly this run for method, backbone and seed, and no tuning seed is involved.

        Args:
            text: `_but_for_seed` of it.
        """
        planned, its_text = self._model(rule, spec)
        if planned is None or its_text != text:
            return False
        tuning = self.suite.tuning.seeds if self.suite.tuning else []
        if not (planned.spec.inputs or spec.inputs):
            return spec.seed not in tuning
        # The ids of what it reads: by a plan for this seed.
        runs = self.resolver.of_rule(rule).plain(spec.method, spec.backbone, spec.seed, spec.shots)
        return runs[-1].spec.inputs == spec.inputs and not any(run.spec.seed in tuning for run in runs)

    def _model(self, rule: str, spec: RunSpec) -> tuple[Planned | None, str]:
        """What a rule plans for method and backbone, made once for all seeds, and `_but_for_seed` of it.

        A seed changes nothing in a plan but itself and the ids of what the run reads. None and "" for a record of
        values that a published recipe no longer has.
        """
        key = _key(rule, spec)
        if key not in self._models:
            try:
                planned = self.resolver.of_rule(rule).plain(spec.method, spec.backbone, spec.seed, spec.shots)[-1]
            except UserError:
                if self.published is None:
                    raise
                self._models[key] = None, ""
            else:
                self._models[key] = planned, _but_for_seed(planned.spec)
        return self._models[key]

    def _basis(
        self, method: MethodClass, backbone: str, rule: str, current: Callable[[str, str], bool]
    ) -> list[TunedEntry] | None:
        """The tuned entries that a rule rests on, the method's own first; None where one is missing, old or partial."""
        if rule == "fixed" and not method.path:
            return None
        needed = self.needed(method, backbone, rule)
        found = (self.tuned.entry(name, backbone, self.recipe) for name in needed)
        entries = [entry for entry in found if entry is not None and not entry.part]
        whole = len(entries) == len(needed)
        return entries if whole and all(current(name, backbone) for name in needed) else None

    def needed(self, method: MethodClass, backbone: str, rule: str) -> list[str]:
        """The methods whose tuned entries a rule rests on, the method itself first; none where nothing is learnt."""
        if not learns(method):
            return []
        entry = self.tuned.entry(method.name, backbone, self.recipe)
        chooses = method.trained or (method.strength is not None and rule != "fixed")
        names = [method.name] if chooses else []
        if not method.trained and not (chooses and entry is not None and "lr" in entry.one_se.values):
            names += method.inputs(method.Hyper())
        return names


_Key = tuple[str, str, str, int | None]


def _key(rule: str, spec: RunSpec) -> _Key:
    return rule, spec.method, spec.backbone, spec.shots


def _but_for_seed(spec: RunSpec) -> str:
    """A text that is equal exactly where two runs have the same values, whatever their seeds and what they read."""
    return canonical(spec.model_dump(mode="json", exclude={"seed", "inputs"}))
