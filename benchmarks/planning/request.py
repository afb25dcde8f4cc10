"""What planning is given and gives: facts of the installed package, what was asked for, and planned runs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import UserError, resolve_name
from ..run_folder.spec import OTHER_FIELDS, TRAINING_FIELDS, RunSpec
from .suite.suite import Suite

if TYPE_CHECKING:
    from ...backbones.traits import Traits
    from ...methods.base import Method


MethodClass: TypeAlias = "type[Method[Any, Any]]"
"""Planning reads what a method's class says of it, and makes none."""


@dataclass(frozen=True)
class DataFacts:
    """What a plan depends on in the data of a run."""

    version: str
    fingerprint: str
    train_size: int
    has_validation: bool = True
    classes: int = 0
    rarest: tuple[str, int] | None = None
    """The class that has the fewest training images, and how many; None where it is not known before they are read."""

    def images(self, shots: Any, train_limit: Any) -> int:
        """Training images that a run sees; what is no positive number is refused elsewhere, by its own name."""
        limits = [train_limit, shots * self.classes if type(shots) is int else None]
        return min([self.train_size, *(limit for limit in limits if type(limit) is int and limit > 0)])


@dataclass(frozen=True)
class Facts:
    """What the installed package knows: methods, backbones, and the dataset of the suite."""

    methods: Mapping[str, MethodClass]
    backbones: tuple[str, ...]
    weights: Callable[[str], str]
    """Backbone name -> id of its weights; raises where the file is missing or damaged."""
    version: str
    fingerprint: str
    train_size: int
    embedded: bool = False
    """Whether the pictures are drawn by this package, so that there is nothing to decode."""
    spelling: Callable[[str], str] | None = None
    """Any spelling of a backbone's name (ViT-B/16, MODEL:TAG) -> the name of its runs."""
    data: Callable[[str, str, bool], DataFacts] | None = None
    """(dataset, backbone, allow_partial) -> its facts, where they are not those above for all."""
    has_text: Callable[[str], bool] = lambda backbone: True
    """Whether a backbone has a text tower; every bundled one is a dual encoder."""
    traits: "Callable[[str], Traits] | None" = None
    """Backbone name -> what methods must know of it; None where nothing is asked."""
    plugins: Callable[[str, str, str], list[str]] = lambda method, dataset, backbone: []
    """(method, dataset, backbone) -> kind:sha256 of the plug-ins that they come from."""
    code: Callable[[MethodClass], str | None] = lambda method: None
    """sha256 of a method that was defined outside of files that have a version, see `definition.sha256`."""


@dataclass(frozen=True)
class Request:
    """What was asked for. Names may use `-` or `_`."""

    methods: tuple[str, ...]
    backbones: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    settings: tuple[str, ...] = ()
    rule: str = "one_se"
    recipe: str | None = None
    kind: Literal["run", "trial"] = "run"
    companions: bool = False
    """Also, under rule one_se, the run of rule `fixed` of each method with a path whose place on it is not set."""
    part: Mapping[str, Any] = field(default_factory=dict)
    """Settings that say which part of the images is used, as `settings` would."""


@dataclass(frozen=True)
class Planned:
    """A run of the plan, with the source of each value."""

    spec: RunSpec
    sources: dict[str, str] = field(compare=False)
    requested: bool = True
    """False for a run that is there only because another one reads it."""
    needs: tuple[str, ...] = ()
    """Run ids that must be finished before this one starts."""
    checkpoint: Path | None = field(default=None, compare=False)
    """Where the checkpoint lies that the run evaluates, if it is one that somebody gave."""


def learns(method: MethodClass) -> bool:
    """Whether a run depends on training: its own, or that of a run it reads (WiSE-FT)."""
    return method.trained or bool(method.inputs(method.Hyper()))


def varies(method: MethodClass, known: Mapping[str, MethodClass]) -> bool:
    """Whether its runs of several seeds are several runs: it trains or draws, or reads a run that does."""
    return method.trained or method.seeded or any(varies(known[name], known) for name in method.inputs(method.Hyper()))


def seeds_of(method: MethodClass, asked: Sequence[int], known: Mapping[str, MethodClass]) -> list[int]:
    """The seeds that a method is run with: only the first where other seeds would give the same run."""
    return list(asked if varies(method, known) and not method.pools() else asked[:1])


def post_hoc(method: MethodClass) -> bool:
    """Whether it only reads finished runs."""
    return not method.trained and learns(method)


def keys_of(method: MethodClass) -> list[str]:
    """The keys of `--set` that this method has; one without any training has no training field."""
    return [*(TRAINING_FIELDS if learns(method) else ()), *OTHER_FIELDS, *hyper_keys(method)]


def check_chooses_nothing(method: MethodClass, spec: RunSpec, dataset: str) -> None:
    """UserError for a run that would choose by ID validation, on data that have none."""
    hyper = method.Hyper(**{**method.introduced, **spec.hyper})
    if spec.kind == "trial" or method.chooses(hyper):
        raise UserError(
            f"{spec.method}: chooses by ID validation, which {dataset} has not, because all of its images are trained "
            f"on; {method.instead or 'leave the method out'}, or take another recipe."
        )


def hyper_keys(method: MethodClass) -> tuple[str, ...]:
    """The method's own hyperparameters, in file order."""
    return _fields(method.Hyper)


@cache
def _fields(hyper: type[Any]) -> tuple[str, ...]:
    return tuple(entry.name for entry in dataclasses.fields(hyper))


def choose_methods(asked: tuple[str, ...], suite: Suite, facts: Facts) -> list[str]:
    """The methods of `--method`, each once; `all` means the suite's."""
    names: list[str] = []
    for name in asked:
        wanted = suite.methods if name == "all" else [name]
        names += [resolve_name("method", each, facts.methods) for each in wanted]
    if not names:
        raise UserError("--method: must name at least one method, got none; give names or 'all'.")
    return list(dict.fromkeys(names))


def choose_backbones(asked: tuple[str, ...], suite: Suite, facts: Facts) -> list[str]:
    """The backbones of `--backbone`, each once; none or `all` means the suite's."""
    names: list[str] = []
    for name in asked or ("all",):
        wanted = suite.backbones if name == "all" else [name]
        names += [choose_backbone(each, facts) for each in wanted]
    return list(dict.fromkeys(names))


def choose_backbone(asked: str, facts: Facts) -> str:
    """The name under which the runs of a backbone are kept."""
    if facts.spelling is not None:
        return facts.spelling(asked)
    return resolve_name("backbone", asked, facts.backbones)
