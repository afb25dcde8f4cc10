"""What planning knows of the installed package: here names become methods, backbones and data."""

from functools import cache
from pathlib import Path

from .. import backbones
from ..datasets import catalogue
from ..datasets.card import Dataset
from ..methods import registry
from .errors import UserError, resolve_name
from .grid import Facts, Resolver
from .suite import Suite, Tuned, find, load, load_tuned


@cache
def dataset(name: str) -> Dataset:
    """The dataset of that name; loading may be slow, so each is made once."""
    return catalogue.get(resolve_name("dataset", name, catalogue.names()))


def methods() -> dict[str, type]:
    """Every registered method."""
    return {name: registry.get(name) for name in registry.names()}


def gather(suite: Suite) -> Facts:
    """The facts that the runs of this suite are planned from, the suite's own names checked against them."""
    data = dataset(suite.dataset)
    known, encoders = methods(), tuple(backbones.names())
    for key, kind, listed, names in (
        ("methods", "method", suite.methods, known),
        ("backbones", "backbone", suite.backbones, encoders),
        ("methods_settings", "method", suite.methods_settings, known),
        ("tuning.space", "method", suite.tuning.space if suite.tuning else (), known),
    ):
        for name in listed:
            try:
                resolve_name(kind, name, names)
            except UserError as error:
                raise UserError(f"{suite.name}.{key}: {error}") from None
    return Facts(
        methods=known,
        backbones=encoders,
        weights=cache(backbones.identity),
        version=data.card.version,
        fingerprint=data.card.fingerprint,
        train_size=data.train_size,
    )


class Benchmark:
    """A suite with its tuned values and the facts that its runs are planned from."""

    def __init__(self, name: str) -> None:
        self.path: Path = find(name)
        self.suite: Suite = load(self.path)
        self.tuned: Tuned = load_tuned(self.path, self.suite)
        self.facts: Facts = gather(self.suite)
        self._current: dict[tuple[str, str, str], bool] = {}

    def reload(self) -> "Benchmark":
        """The same suite file, with the tuned values that are on disk now."""
        return Benchmark(str(self.path))

    def resolver(self, recipe: str | None = None, rule: str | None = None, kind: str = "run") -> Resolver:
        """Fills in specs of this benchmark."""
        return Resolver(self.suite, self.tuned, self.facts, recipe, rule, kind)

    def tuning_is_current(self, method: str, backbone: str, recipe: str) -> bool:
        """Whether the tuned values come from the trials that suite and code would make today; True without any.

        What a post-hoc method read must be of today too.
        """
        from .tune import is_current

        entry, key = self.tuned.entry(method, backbone, recipe), (method, backbone, recipe)
        if entry is not None and key not in self._current:
            self._current[key] = is_current(self, method, backbone, entry)
        return self._current.get(key, True)
