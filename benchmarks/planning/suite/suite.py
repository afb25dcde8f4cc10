"""Suites: what a benchmark is made of, read from YAML and validated before anything starts.

A suite is `suites/<name>.yaml`; a path that ends in .yaml works in its place. Beside it, `<name>.tuned.yaml`
is written by `robustft tune` and holds the chosen settings, the trials behind them, and a hash that a board
row names.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ....datasets import catalogue, plain_yaml
from ...errors import UserError, explain, resolve_name, unknown
from ...host.places import expanded
from ...host.redaction import refuse
from ...run_folder.spec import OTHER_FIELDS, TRAINING_FIELDS, Positive
from .recipes import Published, Rate, Recipe, Strict

SUITES = Path(__file__).resolve().parents[2] / "suites"
RULES = ("one_se", "best_id", "fixed")
"""Which values a run has: two rules that choose from trials, and `fixed`: the default point of a method's path
(WiSE-FT at alpha 0.5) over an input that one_se chose."""
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; UserError that names the place in it."""
    try:
        return plain_yaml.parse(text, where)
    except plain_yaml.YamlError as error:
        raise UserError(str(error)) from None


def read_yaml(path: Path, own: bool = False) -> dict[str, Any]:
    """The keys and values of a YAML file; UserError where it is none. `own` is as of `plain_yaml.parse`."""
    try:
        return plain_yaml.read_mapping(path, own)
    except plain_yaml.YamlError as error:
        raise UserError(str(error)) from None


class Tuning(Strict):
    """How `robustft tune` searches: the same number of trials for every trained method."""

    trials: Positive = 9
    seeds: Seeds
    shots: Positive | None = None
    """In a suite of few shots: the one number of them that all values are chosen at."""
    metric: Literal["validation_nll", "validation_nll_scaled"] = "validation_nll"
    """What is compared, in nats a validation sample: as the model says it, or after temperature scaling of each trial,
    which does not hold against a model that has learned its images by heart that it is too sure."""
    space: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]]
    """Method -> key -> values; the trials of a method are all combinations."""
    on: dict[str, str] = {}
    """Backbone -> the one whose trials choose for it. A backbone that is not named has trials of its own."""


class Cost(Strict):
    """What training costs where no record of one's own says it: for estimates before the first run."""

    of: str
    """On which machine, and from where the numbers are: one H100, by TRACER's Table 4."""
    image_seconds: Annotated[dict[str, Rate], Field(min_length=1)]
    """Backbone -> seconds of one GPU that a training step takes for each of its images, in the mean of methods."""


class Suite(Strict):
    """A benchmark: one dataset version, and what is run on it by default.

    A study is a suite that is `based_on` another: it takes over what it does not give itself, tuned values
    included, and runs a `grid` of settings. Nothing in it is ranked, and no choice is made from it.

    A suite that `extends` another adds methods and backbones, as those of a plug-in that it includes, to the same
    benchmark: its rows are ranked beside all others. With a name of its own it is a benchmark of its own, which takes
    over what it does not give itself, but no tuned values.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    """Also the name of a folder below the runs."""
    dataset: str
    shifts: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], str] = {}
    """Shifts of one's own beside those of the dataset: name of the set -> `folder:<path>` or `huggingface:<name>`."""
    pool: list[str] = []
    """Of `domains:<path>`: the domains that are trained on; the others are shifts. None: all but the last."""
    classes: dict[str, Literal["present"]] = {}
    """Shift -> present: its logits are cut, before softmax, to the classes that it has an image of."""
    ood_mean: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")],
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)],
    ] = {}
    """Further means over some of the shifts, each a column of boards: its name -> the shifts. In no order or choice."""
    retention: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], str] = {}
    """Sets of other classes that finetuned towers are asked about (`datasets/retention.py`): name -> `folder:<path>`,
    `huggingface:<name>` or `<dataset>/<set>`. In no mean, order or choice."""
    version: str
    backbones: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[list[str], Field(min_length=1)]
    seeds: Seeds
    shots: list[Positive] = []
    """Numbers of training images of each class, each of which is a table of its own; none is all images."""
    threads: Positive = 1
    trainable: Literal["all", "image"] = "all"
    decode: Literal["exact", "fast"] = "exact"
    """How pictures are made from image files; see RunSpec."""
    recipes: Annotated[dict[str, Recipe], Field(min_length=1)]
    published: dict[str, Published] = {}
    """Further recipes, of the authors' own values."""
    methods_settings: dict[str, dict[str, Any]] = {}
    """Method -> values; not of published recipes."""
    tuning: Tuning | None = None
    based_on: str | None = None
    extends: str | None = None
    include: list[str] = []
    """Plug-ins, files or packages, by paths that begin in the suite's folder."""
    grid: dict[str, Any] = {}
    """Method -> a list of settings, or key -> list of values, all combined."""
    note: str = ""
    cost: Cost | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        for key in ("backbones", "methods", "seeds", "shots"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key} must not repeat an entry, got {values}")
        if self.tuning and set(self.tuning.seeds) & set(self.seeds):
            both = sorted(set(self.tuning.seeds) & set(self.seeds))
            raise ValueError(f"tuning.seeds must be disjoint from seeds, got {both} in both")
        if self.tuning and (self.tuning.shots is None) == bool(self.shots):
            given = self.tuning.shots or "none"
            raise ValueError(f"tuning.shots must be given where shots is, and nowhere else, got {given}")
        if self.tuning and (self.grid or self.based_on):
            raise ValueError("tuning must not be there in a study with grid or based_on, got both: nothing is chosen")
        on = self.tuning.on if self.tuning else {}
        for name, other in on.items():
            if other in on:
                raise ValueError(
                    f"tuning.on.{name} must name a backbone with trials of its own, got {other}, which is in tuning.on"
                )
        for name, source in self.shifts.items():
            if not catalogue.is_own(source) or catalogue.JOINT in source:
                raise ValueError(f"shifts.{name} must be folder:<path> or huggingface:<name>, got {source!r}")
        for name, source in self.retention.items():
            joined = catalogue.JOINT in source or catalogue.RETAINED in source
            registered = "/" in source and source.partition("/")[0] in catalogue.names()
            if joined or not (catalogue.is_own(source) or registered):
                raise ValueError(
                    f"retention.{name} must be folder:<path>, huggingface:<name> or <dataset>/<set>, got {source!r}"
                )
        pools = {"pool": self.pool, **{f"recipes.{name}.pool": recipe.pool for name, recipe in self.recipes.items()}}
        for where, pool in pools.items():
            if pool and not self.dataset.startswith("domains:"):
                raise ValueError(f"{where} must be left out where dataset is not domains:<path>, got {pool}")
            if any("," in name or catalogue.JOINT in name for name in pool):
                raise ValueError(f"{where} must name folders without a comma or ' + ', got {pool}")
        for name, shifts in self.ood_mean.items():
            if len(set(shifts)) != len(shifts):
                raise ValueError(f"ood_mean.{name} must not repeat a shift, got {shifts}")
        for name in self.published:
            if name in self.recipes:
                raise ValueError(f"published must not have the name of a recipe, got {name} in both")
        for method in self.grid:
            self.settings_of(method)
        return self

    def settings_of(self, method: str) -> list[dict[str, Any]]:
        """The settings that `grid` has for a method; ValueError where it is none."""
        given = self.grid.get(method, [{}])
        if isinstance(given, dict) and given and all(isinstance(v, list) and v for v in given.values()):
            return [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]
        if isinstance(given, list) and given and all(isinstance(setting, dict) for setting in given):
            return given
        raise ValueError(f"grid.{method} must be a list of settings or a mapping of keys to lists, got {given!r}")

    @property
    def default_recipe(self) -> str:
        """The first recipe of the file."""
        return next(iter(self.recipes))

    @property
    def ranked_recipes(self) -> list[str]:
        """The first recipe, and those that train on a pool of their own: other data, and no other way to train."""
        return [name for name, recipe in self.recipes.items() if name == self.default_recipe or recipe.pool]

    def tuned_key(self, backbone: str, recipe: str) -> str:
        """Under which the tuned values of a backbone stand: its name, and that of a recipe with a pool of its own."""
        beside = recipe != self.default_recipe and recipe in self.ranked_recipes
        return f"{backbone}, recipe {recipe}" if beside else backbone

    def tuned_on(self, backbone: str) -> str:
        """The backbone whose trials choose the values of this one."""
        return self.tuning.on.get(backbone, backbone) if self.tuning else backbone

    def dataset_of(self, recipe: str) -> str:
        """The data that runs under a recipe are on, shifts of one's own and retention sets among them."""
        published = self.published.get(recipe)
        base = (published.dataset if published else None) or self.dataset
        pool = (self.recipes[recipe].pool if recipe in self.recipes else []) or self.pool
        sets = catalogue.with_shifts(base, self.shifts, list(self.classes), pool)
        return catalogue.with_retention(sets, self.retention)

    @property
    def recipe_names(self) -> list[str]:
        """All recipes, published ones last."""
        return [*self.recipes, *self.published]


def names() -> list[str]:
    """The suites that ship with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yaml") if not path.stem.endswith(".tuned"))


def find(name: str) -> Path:
    """The file of a suite, by its name or by a path that ends in .yaml."""
    if name.endswith((".yaml", ".yml")):
        path = expanded(name, "benchmark")
        if not path.is_file():
            raise UserError(
                f"benchmark '{name}': no such file; give a path that exists or one of {', '.join(names())}."
            )
        return path
    return SUITES / (resolve_name("benchmark", name, names()) + ".yaml")


INHERITED = (
    "dataset",
    "shifts",
    "pool",
    "classes",
    "ood_mean",
    "retention",
    "version",
    "backbones",
    "methods",
    "seeds",
    "shots",
    "threads",
    "trainable",
    "decode",
    "recipes",
    "published",
    "methods_settings",
)
"""What a suite takes from the one that it is based on, unless it gives the key itself."""


ADDED = ("name", "extends", "include", "methods", "backbones", "methods_settings", "tuning", "note")
"""What a suite may give that extends another under the name of that one: nothing that makes it another benchmark."""


def load(path: Path) -> Suite:
    """Read and validate a suite file; UserError names the key, its value and the remedy."""
    content = _content(path)
    if isinstance(content.get("extends"), str):
        content = _extended(path, content)
    elif isinstance(content.get("based_on"), str):
        base = _content(base_path(path, content["based_on"]))
        if "based_on" in base:
            raise UserError(
                f"{path.name}: based_on must be a suite that stands for itself, got {content['based_on']}, which is "
                f"based on {base['based_on']}; name that one."
            )
        content = {**{key: base[key] for key in INHERITED if key in base}, **content}
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise UserError(explain(error, path.name, "correct the suite file")) from None
    for method, settings in suite.methods_settings.items():
        if "source" in settings and not isinstance(settings["source"], str):
            raise UserError(
                f"{path.name}: methods_settings.{method}.source must be a text, got {settings['source']!r}."
            )
    return suite


def _extended(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a suite with what it takes from the one that it extends."""
    if "based_on" in content:
        raise UserError(f"{path.name}: must give one of extends and based_on, got both; remove one.")
    base = _content(base_path(path, content["extends"], "extends"))
    if odd := next((key for key in ("extends", "based_on") if key in base), None):
        raise UserError(
            f"{path.name}: extends must be a suite that stands for itself, got {content['extends']}, which has {odd}; "
            f"name {base[odd]}."
        )
    taken = {key: base[key] for key in (*INHERITED, "tuning") if key in base}
    made = {"name": base["name"], **taken, **content}
    for key in ("methods_settings", "tuning"):
        if isinstance(taken.get(key), dict) and isinstance(content.get(key), dict):
            made[key] = {**taken[key], **content[key]}
    space, more = (part.get("tuning", {}) for part in (base, content))
    if isinstance(more, dict) and isinstance(more.get("space"), dict):
        made["tuning"] = {**made["tuning"], "space": {**space.get("space", {}), **more["space"]}}
    if made["name"] != base["name"]:
        return made
    changed = [key for key in content if key not in ADDED]
    changed += [f"tuning.{key}" for key in (more if isinstance(more, dict) else ()) if key != "space"]
    for key, new, old in (
        ("methods_settings", content.get("methods_settings"), base["methods"]),
        ("tuning.space", more.get("space") if isinstance(more, dict) else None, space.get("space", {})),
    ):
        changed += [f"{key}.{method}" for method in (new if isinstance(new, dict) else ()) if method in old]
    if changed:
        raise UserError(
            f"{path.name}: {changed[0]} must be that of {content['extends']}, whose name the suite has, so that its "
            "rows can be compared with all others; remove it, or give the suite a name of its own."
        )
    return made


def extended_path(path: Path, suite: Suite) -> Path | None:
    """The file whose tuned values a suite takes as well: of the suite that it extends under the name of that one."""
    if suite.extends is None:
        return None
    base = base_path(path, suite.extends, "extends")
    return base if _content(base)["name"] == suite.name else None


def base_path(path: Path, name: str, key: str = "based_on") -> Path:
    """The file of the suite that another is based on, or extends: beside it, or one that ships with the package."""
    beside = path.with_name(f"{name}.yaml")
    try:
        return beside if beside.is_file() and beside != path else find(name)
    except UserError as error:
        raise UserError(f"{path.name}: {key}: {error}") from None


def _content(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    refuse(content, path.name)
    return content


def check_keys(where: str, settings: dict[str, Any], hyper: Sequence[str]) -> None:
    """Refuse a key that is neither a training field nor a hyperparameter of the method."""
    known = [*TRAINING_FIELDS, *OTHER_FIELDS, *hyper]
    for key in settings:
        if key != "source" and key not in known:
            raise UserError(f"{where}: {unknown('key', key, known)}")
