"""Recipes: how methods are trained. One that is shared by all, and ones of the authors' own values.

Values stand in layers from general to particular, so that each keeps the place it came from.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...run_folder.spec import NonNegative, Positive


class Strict(BaseModel):
    """A part of a suite file: no unknown key, no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


BatchSize = Annotated[int, Field(ge=2)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Warmup = Annotated[int, Field(ge=0)] | Literal["scaled"]


class Changes(Strict):
    """Training fields of a recipe that are others on one backbone."""

    steps: Positive | None = None
    epochs: Positive | None = None
    batch_size: BatchSize | None = None
    lr: Rate | None = None
    weight_decay: NonNegative | None = None
    warmup_steps: Warmup | None = None
    min_lr: NonNegative | None = None
    clip_norm: NonNegative | None = None
    precision: Literal["fp32", "bf16"] | None = None
    bn: Literal["frozen", "released"] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "Changes":
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps or epochs must be given, not both, got {self.steps} and {self.epochs}")
        return self

    def values(self) -> dict[str, Any]:
        """The values that are set."""
        return self.model_dump(exclude_none=True)


class Recipe(Strict):
    """Values of the training fields that all methods share."""

    steps: Positive | None = None
    epochs: Positive | None = None
    """In place of `steps`: that many times the batches in the training set, the partial one dropped."""
    batch_size: BatchSize
    lr: Rate
    weight_decay: NonNegative
    warmup_steps: Warmup = "scaled"
    """A number of steps, or `scaled`: 500 of every 25,030 steps, the study's own share."""
    min_lr: NonNegative = 0.0
    clip_norm: NonNegative = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    bn: Literal["frozen", "released"] = "frozen"
    pool: list[str] = []
    """Of `domains:<path>`: the domains that are trained on, where they are not the suite's. Such a recipe is ranked
    beside the first one, in a table of its own, by values that were tuned on this pool."""
    backbones: dict[str, Changes] = {}
    """Backbone -> what is another value there, as a batch that fits."""

    @model_validator(mode="after")
    def _one_length(self) -> "Recipe":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"exactly one of steps and epochs must be given, got {self.steps} and {self.epochs}")
        return self

    def layers(self, backbone: str) -> list[tuple[dict[str, Any], str]]:
        """(values, where) from general to particular."""
        made = [(self.model_dump(exclude={"backbones", "pool"}, exclude_none=True), "")]
        if backbone in self.backbones:
            made.append((self.backbones[backbone].values(), f" on {backbone}"))
        return made


class Sourced(Strict):
    """A value, and where it is from: either a source, or a reason for our own choice where no source gives one."""

    value: Any
    source: Annotated[str, Field(min_length=1)] | None = None
    our_choice: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "Sourced":
        if (self.source is None) == (self.our_choice is None):
            raise ValueError(
                f"exactly one of source and our_choice must be given, got {self.source or 'none'} "
                f"and {self.our_choice or 'none'}"
            )
        return self

    @property
    def origin(self) -> str:
        """The source, or the reason of our choice, as text."""
        return self.source or f"our choice: {self.our_choice}"


SourcedValues = Annotated[dict[str, Sourced], Field(min_length=1)]


class Stand(Strict):
    """Another backbone whose values stand in for those that nobody published."""

    backbone: str
    our_choice: Annotated[str, Field(min_length=1)]
    values: SourcedValues | None = None
    """Shared values that have another source on the backbone without its own."""


class Published(Strict):
    """A recipe of the authors' own values, each with its source: never tuned, never ranked."""

    about: str
    selection: str
    """What is reported: which checkpoint, which alpha."""
    values: SourcedValues
    """What all methods share; epochs or steps, and the other training fields."""
    methods: Annotated[dict[str, dict[str, SourcedValues]], Field(min_length=1)]
    """Method -> backbone, or `all` -> values. A method or backbone that is not here has nothing published."""
    dataset: str | None = None
    """Where the authors train on other data than the suite's: as ImageNet without images withheld for validation."""
    backbones: dict[str, Stand] = {}
    """Backbone without values of its own -> the one whose values it takes; its own, if any, stand above."""
    departures: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """Method, or `all` -> what the authors do and this package does not; one sentence each."""

    @model_validator(mode="after")
    def _consistent(self) -> "Published":
        for name in self.departures:
            if name != "all" and name not in self.methods:
                raise ValueError(f"departures must be of `all` or of a method with values, got {name}")
        for values in (self.values, *(part for of_method in self.methods.values() for part in of_method.values())):
            if "steps" in values and "epochs" in values:
                raise ValueError("steps or epochs must be given, not both, got both in one place")
        return self

    def layers(self, method: str, backbone: str) -> list[tuple[str, Any, str]]:
        """(key, value, origin) from general to particular; none at all where nothing is published."""
        given = self.methods.get(method, {})
        stand = self.backbones.get(backbone)
        parts = [(given[name], "") for name in ("all", backbone) if name in given]
        if stand is not None and stand.backbone in given:
            choice = (given[stand.backbone], f"our choice: {stand.our_choice}; there: ")
            parts.insert(len(parts) - (backbone in given), choice)
        if not parts:
            return []
        shared = [(self.values, ""), ((stand.values if stand else None) or {}, "")]
        return [(key, s.value, why + s.origin) for values, why in [*shared, *parts] for key, s in values.items()]

    def departures_of(self, method: str) -> list[str]:
        """Sentences that hold for a method."""
        return [*self.departures.get("all", []), *self.departures.get(method, [])]
