"""The file of tuned values beside a suite: what tuning chose, and from which trials."""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ....results.records.run_id import canonical_json
from ...errors import UserError, explain
from .recipes import Strict
from .suite import Suite, read_yaml


class Choice(Strict):
    """What one rule chose."""

    values: dict[str, Any]
    nll: float
    trial: int
    """Index into the entry's trials."""


class TrialResult(Strict):
    """One setting of the search space and its mean validation NLL over the tuning seeds, in nats."""

    values: dict[str, Any]
    nll: float
    runs: list[str]
    """Run ids of its trial records, one per tuning seed."""


def part_text(part: dict[str, Any]) -> str:
    """What `TunedEntry.part` says of the images, for a person; "" for all."""
    said = {"limit": "--limit {}", "allow_partial": "--allow-partial"}
    return " ".join(text.format(part[key]) for key, text in said.items() if part.get(key))


class TunedEntry(Strict):
    """The tuning of one method on one backbone."""

    tuning: str
    """Hash of all else in the entry; a record names it, and so a row says where its values are from."""
    recipe: str
    seeds: list[int]
    metric: str
    one_se: Choice
    best_id: Choice
    trials: list[TrialResult]
    part: dict[str, Any] = {}
    """limit, train_limit and allow_partial of the trials, where they are not all images; such values rank nothing."""

    def choice(self, rule: str) -> Choice:
        """What a rule chose; KeyError for one that does not choose from trials."""
        return {"one_se": self.one_se, "best_id": self.best_id}[rule]

    def content(self) -> dict[str, Any]:
        """What the file holds; without `part` where the trials saw all images."""
        return self.model_dump(mode="json", exclude=set() if self.part else {"part"})

    def digest(self) -> str:
        """The hash that the file's key `tuning` must hold."""
        hashed = {key: value for key, value in self.content().items() if key != "tuning"}
        return hashlib.sha256(canonical_json(hashed).encode()).hexdigest()[:12]


class Tuned(Strict):
    """A tuned file: method -> backbone, and the recipe where that has a pool of its own (`tuned_key`) -> entry."""

    suite: str
    version: str
    entries: dict[str, dict[str, TunedEntry]]
    on: dict[str, str] = Field(default={}, exclude=True)
    """The suite's `tuning.on`, which is no part of the file."""

    def entry(self, method: str, backbone: str, recipe: str) -> TunedEntry | None:
        """The entry that chooses for a method on a backbone under a recipe, or None where it was never tuned."""
        of_method, backbone = self.entries.get(method, {}), self.on.get(backbone, backbone)
        found = (of_method.get(key) for key in (backbone, f"{backbone}, recipe {recipe}"))
        return next((entry for entry in found if entry is not None and entry.recipe == recipe), None)

    def plain(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The entries as the file holds them, method -> backbone -> entry."""
        return {method: {name: entry.content() for name, entry in of.items()} for method, of in self.entries.items()}

    def with_entries(self, entries: dict[str, dict[str, TunedEntry]]) -> "Tuned":
        """These entries beside, and before, those that are there."""
        merged = {name: {**self.entries.get(name, {}), **entries.get(name, {})} for name in {**self.entries, **entries}}
        return self.model_copy(update={"entries": merged})


def tuned_path(suite_path: Path) -> Path:
    """Where the tuned values of a suite file are kept."""
    return suite_path.with_name(suite_path.stem + ".tuned.yaml")


def load_tuned(suite_path: Path, suite: Suite) -> Tuned:
    """The tuned file of a suite; empty where there is none; UserError where it is damaged or was edited."""
    path = tuned_path(suite_path)
    if not path.exists():
        return Tuned(suite=suite.name, version=suite.version, entries={})
    try:
        tuned = Tuned.model_validate(read_yaml(path, own=True))
    except ValidationError as error:
        raise UserError(explain(error, path.name, "run `robustft tune` again")) from None
    if tuned.version != suite.version:
        raise UserError(
            f"{path.name}: version must be {suite.version} as in {suite_path.name}, got {tuned.version}; "
            "run `robustft tune` again."
        )
    for method, backbones in tuned.entries.items():
        for backbone, entry in backbones.items():
            if entry.tuning != entry.digest():
                raise UserError(
                    f"{path.name}: {method}.{backbone}.tuning: must be {entry.digest()}, got {entry.tuning}; "
                    "it was changed by hand: run `robustft tune` again, or use --set for your own setting."
                )
    return tuned
