"""Facts of the installed package that planning needs: names become methods, backbones and data here."""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ... import backbones
from ...datasets import catalogue
from ...datasets.card import USUAL, Dataset, Resizing
from ...datasets.shots import rarest
from ...methods import registry
from ...methods.given import Given
from ..errors import UserError, resolve_name, unknown
from ..host import definition, plugins
from ..run_folder.spec import TRAINING_FIELDS, RunSpec
from . import data_check
from .request import DataFacts, Facts, MethodClass, keys_of
from .resolver import Resolver
from .selection_rules import Selector
from .suite.suite import SUITES, Suite, base_path, extended_path, find, load
from .suite.tuned_values import Tuned, load_tuned

if TYPE_CHECKING:
    from ...datasets.decoding import Decode

OWN_VERSION = "own"
"""As a suite's version: whatever version one's own data have now, which changes with their content."""


@cache
def dataset(
    name: str, size: int = 224, allow_partial: bool = False, decode: "Decode" = "exact",
    root: str | None = None, start: str | None = None, resizing: Resizing = USUAL,
) -> Dataset:  # fmt: skip
    """The dataset of that name, registered or one's own (folder:<path>); loading may be slow, so each is made once.

    Args:
        size: side in pixels of the pictures that are made from image files.
        allow_partial: take what is there of a registered dataset.
        decode: "exact" or "fast", how the pictures are made.
        root, start: where they are looked for, as in `catalogue.get`.
        resizing: how pictures that are made from image files are brought to size.
    """
    base, shifts = catalogue.parts(name)
    retained = catalogue.retention_of(name)[1]
    known = base if catalogue.is_own(base) else resolve_name("dataset", base, catalogue.names())
    if known in catalogue.embedded() and not shifts and not retained:
        return _drawn(known)
    joined = catalogue.with_retention(catalogue.with_shifts(known, shifts), retained)
    return catalogue.get(
        joined, size=size, allow_partial=allow_partial, decode=decode, root=root, start=start, resizing=resizing
    )


def dataset_for(name: str, backbone: str, allow_partial: bool = False) -> Dataset:
    """`dataset` in the pictures that a backbone takes."""
    return dataset(name, backbones.image_size(backbone), allow_partial, resizing=backbones.resizing(backbone))


def dataset_now(
    name: str,
    backbone: str,
    allow_partial: bool,
    decode: "Decode",
    root: str | None = None,
    start: str | None = None,
) -> Dataset:
    """`dataset_for`, of one's own data as they are on the disk at this moment: they may have changed since."""
    anew = dataset.__wrapped__ if catalogue.has_own(name) else dataset
    return anew(name, backbones.image_size(backbone), allow_partial, decode, root, start, backbones.resizing(backbone))


@cache
def _drawn(name: str) -> Dataset:
    """An embedded dataset, the same for every size and decoder: its fingerprint, which is of pictures, is made once."""
    return catalogue.get(name)


@cache
def data_facts(name: str, backbone: str, allow_partial: bool) -> DataFacts:
    """What a plan depends on in the data that a backbone is given."""
    data = dataset_for(name, backbone, allow_partial)
    fingerprint = data_check.fingerprint(data, allow_partial)
    here = catalogue.is_own(name) or catalogue.comes_with_package(name)  # so that its labels are known already
    validates, classes = bool(data.card.names("validation")), len(data.card.class_names)
    few = rarest(data) if here else None
    return DataFacts(data.card.version, fingerprint, data.train_size, validates, classes, few)


def _forget() -> None:
    for remembered in (dataset, _drawn, data_facts):
        remembered.cache_clear()


plugins.when_changed(_forget)


def methods() -> dict[str, MethodClass]:
    """Every registered method."""
    return {name: registry.get(name) for name in registry.names()}


def method_of(spec: RunSpec) -> MethodClass:
    """The class that makes a run: of a checkpoint that somebody gave, one that no name has."""
    return Given if spec.given else registry.get(spec.method)


def code_of(method: MethodClass) -> str | None:
    """Hash of a method that a notebook or script defines; None for those that have versions."""
    return None if plugins.origin("method", method.name) else definition.sha256(method)


def gather(suite: Suite) -> Facts:
    """The facts that the runs of this suite are planned from, the suite's own names checked against them."""
    data = dataset(suite.dataset)
    known, encoders = methods(), tuple(backbones.names())
    checks = (
        ("methods", "method", suite.methods, known),
        ("backbones", "backbone", suite.backbones, encoders),
        ("methods_settings", "method", suite.methods_settings, known),
        ("tuning.space", "method", suite.tuning.space if suite.tuning else (), known),
        *(
            (f"tuning.on.{name}", "backbone", (name, other), encoders)
            for name, other in (suite.tuning.on.items() if suite.tuning else ())
        ),
    )
    for key, kind, listed, names in itertools.chain(checks, _listed(suite, known, encoders)):
        for name in listed:
            try:
                other_spelling = kind == "backbone" and name not in names  # another spelling, or MODEL:TAG
                found = backbones.resolve(name) if other_spelling else resolve_name(kind, name, names)
            except (UserError, backbones.BackboneError) as error:
                raise UserError(f"{suite.name}.{key}: {error}") from None
            if found != name and key not in ("methods", "backbones"):
                raise UserError(f"{suite.name}.{key}: must be written '{found}', got '{name}'; correct the suite file.")
    shifts = (*data.card.names("shift"), *suite.shifts)
    for key, listed in suite.ood_mean.items():
        for name in listed:
            if name not in shifts:
                raise UserError(f"{suite.name}.ood_mean.{key}: {unknown('shift', name, shifts)}")
    return Facts(
        methods=known,
        backbones=encoders,
        weights=cache(backbones.weights_id),
        spelling=cache(backbones.resolve),
        traits=cache(backbones.traits),
        version=data.card.version,
        fingerprint=data.card.fingerprint,
        train_size=data.train_size,
        data=data_facts,
        embedded=suite.dataset in catalogue.embedded(),
        plugins=plugins.versions,
        code=code_of,
    )


def _listed(
    suite: Suite, known: dict[str, MethodClass], encoders: tuple[str, ...]
) -> Iterator[tuple[str, str, Iterable[str], Collection[str]]]:
    """(where, kind, listed, known names) of what recipes and the grid name; methods before their keys."""
    for name, recipe in suite.recipes.items():
        yield f"recipes.{name}.backbones", "backbone", recipe.backbones, encoders
    for name, published in suite.published.items():
        where = f"published.{name}"
        yield f"{where}.dataset", "dataset", [published.dataset] if published.dataset else [], catalogue.names()
        yield f"{where}.values", "key", published.values, (*TRAINING_FIELDS, "epochs")
        yield f"{where}.methods", "method", published.methods, known
        yield f"{where}.backbones", "backbone", published.backbones, encoders
        yield f"{where}.backbones", "backbone", [stand.backbone for stand in published.backbones.values()], encoders
        for method, backbones_ in published.methods.items():
            keys = (*keys_of(known[method]), "epochs")
            yield f"{where}.methods.{method}", "backbone", backbones_, (*encoders, "all")
            for backbone, values in backbones_.items():
                yield f"{where}.methods.{method}.{backbone}", "key", values, keys
    yield "grid", "method", suite.grid, known
    for method in suite.grid:
        searched = {key for setting in suite.settings_of(method) for key in setting}
        yield f"grid.{method}", "key", sorted(searched), keys_of(known[method])


def include(path: Path, suite: Suite) -> None:
    """Make known what the plug-ins of a suite file register."""
    for given in suite.include:
        plugins.include(given, f"{path.name}: include", path.parent)


class Benchmark:
    """A suite with its tuned values and the facts that its runs are planned from."""

    def __init__(self, name: str) -> None:
        self.path: Path = find(name)
        self.suite: Suite = load(self.path)
        plugins.discover()
        include(self.path, self.suite)
        self.facts: Facts = gather(self.suite)
        if self.suite.version == OWN_VERSION and catalogue.is_own(self.suite.dataset):
            self.suite = self.suite.model_copy(update={"version": self.facts.version})
        base = self.suite.based_on
        self.base: Benchmark | None = Benchmark(str(base_path(self.path, base))) if base else None
        """What a study is based on: its tuned values are taken."""
        self.tuned: Tuned = self.base.tuned if self.base else load_tuned(self.path, self.suite)
        if extended := extended_path(self.path, self.suite):
            self.tuned = load_tuned(extended, load(extended)).with_entries(self.tuned.entries)
        if self.suite.tuning:
            self.tuned = self.tuned.model_copy(update={"on": self.suite.tuning.on})
        self.tuning_known: dict[tuple[str, str, str], bool] = {}
        """What `tuning.is_current` has found, by method, backbone and recipe."""
        self._resolvers: dict[tuple[str | None, str | None, str], Resolver] = {}
        self._selectors: dict[str | None, Selector] = {}

    @property
    def command_name(self) -> str:
        """What names the suite on a command line: its name, or its file as seen from here; never a private path."""
        if self.path.parent == SUITES:
            return self.suite.name
        path = os.path.relpath(self.path)
        return Path(path).name if path.startswith("..") else path

    def reload(self) -> "Benchmark":
        """The same suite file, with the tuned values that are on disk now."""
        return Benchmark(str(self.path))

    def resolver(
        self, recipe: str | None = None, rule: str | None = None, kind: Literal["run", "trial"] = "run"
    ) -> Resolver:
        """Fills in specs of this benchmark."""
        known = self._resolvers.get((recipe, rule, kind))
        if known is None or known.suite is not self.suite:
            known = Resolver(self.suite, self.tuned, self.facts, recipe, rule, kind)
            self._resolvers[recipe, rule, kind] = known
        return known

    def selector(self, recipe: str | None = None) -> Selector:
        """Tells which rules a run of this benchmark is a result of."""
        known, resolver = self._selectors.get(recipe), self.resolver(recipe)
        if known is None or known.resolver is not resolver:
            known = self._selectors[recipe] = Selector(resolver)
        return known
