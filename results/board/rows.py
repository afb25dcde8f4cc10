"""What a board is made of: sections of rows. A row is one setting of a method over its seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..statistics.seed_summary import mean_sd
from .curve import Curve

BASELINE = "ft"  # plain finetuning: what every method is to beat
REFERENCE_METHOD = "zero_shot"  # a reference row: first, never ranked, no training randomness
GIVEN = "checkpoint"  # key of a row's settings: how a checkpoint was read that somebody gave
UNRANKED = "unranked"  # why no rule ranks a row of this machine, and what to do
PLUGINS_NOW = "plugins_now"  # beside the keys of a record: kind:sha256 of its plug-ins as they are now
OOD_MEANS = "ood_means"  # beside the keys of a record: name -> the shifts that its suite takes a mean over
MARKS = {
    "dirty": "*",
    "seeds": "†",
    "sets": "‡",
    "partial": "§",
    "stale": "¶",
    "twice": "#",
    "budget": "‖",
    UNRANKED: "°",
    "shared": "◊",
    "unread": "△",
    "transductive": "⊕",
    "plug-in": "♯",
    "rerun": "≠",
}
HOME = ("local", "reference")  # provenances of this machine and this package; others are names of groups
JOINT = ", "  # between the names of a row that several groups hold; no name of a group has a comma
OLD_TASK, FORGOTTEN = "original", "acc_forgotten"  # the forgetting study's set, and what a run lost of it
PARTIAL = "ood_mean/"  # before the name of such a mean; in no order
SCORE = "score_ood_mean"  # mean over the shifts of each one's score, where one is not judged by accuracy
RETAINED = "retained"  # mean accuracy over the retention sets of a suite, which no mean, order or choice looks at
MORE_METRICS = {
    "brier": "Brier",
    "mce": "MCE",
    "ece_debiased": "debiased ECE",
    "ece_smooth": "smooth ECE",
    "ece_adaptive": "adaptive ECE",
    "ece_scaled": "scaled ECE",
    "ece_classwise": "classwise ECE",
    "aurc": "AURC",
    "e_aurc": "E-AURC",
    "coverage_at_5_risk": "coverage at 5 % risk",
    "risk_at_80_coverage": "risk at 80 % coverage",
    "failure_auroc": "failure AUROC",
    "failure_fpr95": "failure FPR95",
}
"""What a board can show beside accuracy, of the ID set and as mean over the shifts, and how it is called there."""
SHOWN = ("ece", "ece_floor", "nll")
"""What it shows where nobody chose: ECE of both, its floor on shifts and the likelihood on the ID set."""
OWN_METRICS = ("macro_f1_labels", "worst_group_accuracy")  # what a set may be judged by in place of accuracy
FIXED, PUBLISHED, ORACLE, GRID = "fixed", "published", "oracle", "grid"  # kinds of rows beside those of the rules
TRANSDUCTIVE = "transductive"  # another: its predictions on a set depend on all images of the set
ASIDE = (GRID, PUBLISHED, ORACLE, TRANSDUCTIVE)  # in lists of their own, never ranked


@dataclass(frozen=True)
class Row:
    """One method on one backbone, from one place, over its seeds. Fractions (NLL: nats), unrounded."""

    method: str
    method_version: int
    backbone: str
    provenance: str  # "local", "reference", or the names of the groups that hold it
    rules: tuple[str, ...]  # selection rules that chose this setting; none for the unranked table
    seeds: tuple[int, ...]
    values: Mapping[str, Mapping[int, float]]  # column -> seed -> value
    tuned: Mapping[str, Any]  # what tuning chose
    chosen: Mapping[str, Any]  # what tuning or the user chose
    settings: Mapping[str, Any]  # every field of the spec that all its runs share
    tuning: tuple[str, ...]
    trials: int
    evaluated: int = 0  # of the trials, those that trained nothing: values along a path
    marks: Mapping[str, str] = field(default_factory=dict)  # kind of mark -> reason
    label: str = ""  # tells rows apart that would look the same
    kind: str = ""  # "" or one of the kinds above
    point: str = ""  # "alpha 0.5": where on its path a row stands that was not tuned along it
    varied: Mapping[str, Any] = field(default_factory=dict)  # what the grid of a study gave
    pooled: bool = False  # made from runs of several seeds: n = 1, and no seed can be missing
    runs: Mapping[int, str] = field(default_factory=dict)  # seed -> run id; none where the values are no run's own
    clusters: Mapping[str, Sequence[str]] = field(default_factory=dict)  # set -> first unit id of each source
    _cells: dict[str, tuple[float | None, float | None, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # what `cell` was asked before: a board asks for each some twenty times

    @property
    def is_reference_method(self) -> bool:
        return self.method == REFERENCE_METHOD

    @property
    def is_given(self) -> bool:
        """Whether somebody gave its checkpoints, which no method here trained; its method is their free name."""
        return GIVEN in self.settings

    @property
    def varies(self) -> bool:
        """Whether another seed would be another run: not where nothing was trained, nor where a run reads several."""
        untrained = len(self.seeds) == 1 and self.settings.get("steps", 0) is None
        return not (self.is_reference_method or self.pooled or untrained)

    @property
    def trained(self) -> int:
        """The budget: settings that took a training of their own."""
        return self.trials - self.evaluated

    @property
    def tried(self) -> str:
        """9, or 9 + 11 evaluated: settings that were trained, and values of a path read off the chosen run."""
        return f"{self.trained} + {self.evaluated} evaluated" if self.evaluated else str(self.trials)

    @property
    def complete(self) -> bool:
        """Every expected seed and set, on all data, without contradiction: only such a row may be the best."""
        return not set(self.marks) & {"seeds", "sets", "partial", "stale", "twice"}

    @property
    def competes(self) -> bool:
        """Whether it is compared with the other rows of its table: complete, of their budget, not the reference, and
        predicted image by image as they are."""
        apart = {"budget", TRANSDUCTIVE} & set(self.marks)
        return self.complete and not apart and not self.is_reference_method

    @property
    def selection(self) -> str:
        """How the setting was chosen. Whatever it is, the run is judged at its last checkpoint."""
        if self.is_reference_method:
            return "none"
        if self.is_given:
            return "none: given"
        if self.kind == FIXED:
            return f"fixed {self.point}" if self.point != FIXED else FIXED
        if self.kind == TRANSDUCTIVE:
            return "tuned" if self.tuning else "by hand" if self.chosen else "last: nothing chosen"
        if self.kind:
            return {PUBLISHED: "published (selection unknown)", ORACLE: "oracle", GRID: "none: whole grid"}[self.kind]
        return ", ".join(self.rules) or ("by hand" if self.chosen else "last: nothing chosen")

    @property
    def title(self) -> str:
        """The method, and the point of its path where that was fixed beforehand or by the oracle."""
        return f"{self.method} ({self.point})" if self.point else self.method

    @property
    def name(self) -> str:
        return f"{self.title} [{self.label}]" if self.label else self.title

    @property
    def setting(self) -> str:
        """What a table says beside the name: tuned values of a ranked row, of others all that was chosen."""
        shown = self.tuned if self.rules else self.chosen
        return settings_text({key: value for key, value in shown.items() if key not in self.varied})

    def cell(self, column: str) -> tuple[float | None, float | None, int]:
        """Mean, standard deviation and number of seeds; nothing is filled in for a missing seed."""
        if column not in self._cells:
            self._cells[column] = self._cell(self.values.get(column, {}))
        return self._cells[column]

    def mean(self, column: str) -> float | None:
        """Mean over seeds; None where there is no value."""
        return self.cell(column)[0]

    @staticmethod
    def _cell(values: Mapping[int, float]) -> tuple[float | None, float | None, int]:
        if not values:
            return None, None, 0
        if any(math.isinf(value) for value in values.values()):
            return math.inf, None, len(values)
        mean, sd = mean_sd([values[seed] for seed in sorted(values)])
        return mean, sd, len(values)


@dataclass(frozen=True)
class Section:
    """All rows of one benchmark version, recipe, data and number of shots."""

    benchmark: str
    version: str
    recipe: str
    fingerprint: str
    id_set: str | None
    shifts: tuple[str, ...]
    diagnostics: tuple[str, ...]
    rows: tuple[Row, ...]
    paths: tuple[Curve, ...] = ()  # methods as lines in the ID/OOD plane
    own_metrics: tuple[tuple[str, str], ...] = ()  # (set, metric), where a set's protocol names another than accuracy
    doubts: tuple[str, ...] = ()  # sentences on weights not what they are called, and on classes of one caption
    classes: Mapping[str, int] = field(default_factory=dict)  # set -> its classes, where somebody knows
    retention: Mapping[str, int] = field(default_factory=dict)  # set of other classes -> how many it has
    absent: tuple[str, ...] = ()  # sentences on sets of one's own that have no image of some class
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> the shifts that it is a mean over
    shots: int | None = None  # training images of each class, of few shots; None: all
    shown: tuple[str, ...] = SHOWN  # of SHOWN and MORE_METRICS, in the order of the columns behind the accuracies
    iid: tuple[str, ...] = ()  # sets of what is finetuned on, beside the ID set and in no mean
    clusters: Mapping[str, int] = field(default_factory=dict)  # set -> its sources, where its images come from few

    @property
    def title(self) -> str:
        """digits (digits-v1), recipe common; of few shots also how many: rows of others are in another section."""
        return f"{self.benchmark} ({self.version}), recipe {self.condition}"

    @property
    def condition(self) -> str:
        """common, or common, 4 shots"""
        return f"{self.recipe}, {shots_text(self.shots)}" if self.shots else self.recipe

    def score(self, name: str | None) -> str:
        """The metric that a set is judged by: its protocol's own, accuracy where it names none."""
        return "accuracy" if name is None else dict(self.own_metrics).get(name, "accuracy")

    def column(self, name: str) -> str:
        """Of the scores of a set that is no ID set."""
        metric = self.score(name)
        return f"acc/{name}" if metric == "accuracy" else f"{metric}/{name}"

    @property
    def id_column(self) -> str:
        """Of the ID scores: what rows are ranked by beside `ood_column`."""
        metric = self.score(self.id_set)
        return "acc_id" if metric == "accuracy" else f"{metric}/{self.id_set}"

    @property
    def ood_column(self) -> str:
        """Of the unweighted means over the shifts, each by its own score."""
        return SCORE if {self.score(name) for name in self.shifts} - {"accuracy"} else "acc_ood_mean"

    def at(self, row: Row) -> tuple[float, float] | None:
        """ID score and OOD mean of a row, which is where a figure shows it; None unless it has both."""
        id_score, ood = row.mean(self.id_column), row.mean(self.ood_column)
        return None if id_score is None or ood is None else (id_score, ood)

    @property
    def backbones(self) -> list[str]:
        return sorted({row.backbone for row in self.rows}, key=natural)

    def table(self, rule: str, backbone: str) -> list[Row]:
        """Zero-shot first, then the ID/OOD Pareto front, then the other comparable rows, then the rest.

        Each of these by falling OOD mean. ID and OOD are by the scores that the sets' protocols name.
        """
        rows = [row for row in self.rows if row.backbone == backbone and rule in row.rules]
        leading = {id(row) for row in self.front(rows)}
        return sorted(rows, key=lambda row: (not row.is_reference_method, *self._order(row, id(row) in leading)))

    def front(self, rows: Sequence[Row]) -> list[Row]:
        """The ID/OOD Pareto front of those that compete: no other is at least as good on both and better on one."""
        points = []
        for row in rows:
            at = self.at(row)
            if row.competes and at is not None:
                points.append((row, [round(value, 9) for value in at]))  # below that, means differ by rounding only
        return [row for row, at in points if not any(b != at and b[0] >= at[0] and b[1] >= at[1] for _, b in points)]

    def _order(self, row: Row, leads: bool) -> tuple[Any, ...]:
        ood, id_score = row.mean(self.ood_column), row.mean(self.id_column)
        return (
            not row.competes,
            not row.complete,
            not leads,
            -(ood if ood is not None else -1.0),
            -(id_score if id_score is not None else -1.0),
            row.method,
            row.provenance,
            row.label,
        )

    def unranked(self) -> list[Row]:
        rows = [row for row in self.rows if not row.rules and row.kind not in ASIDE]
        return sorted(rows, key=lambda row: (natural(row.backbone), row.method, row.provenance, row.label))

    def aside(self, kind: str) -> list[Row]:
        """Rows of one of the kinds `ASIDE`, by name and setting; the reference comes with them where nothing ranks."""
        rows = [row for row in self.rows if row.kind == kind]
        if rows and not self.ranks and kind != ORACLE:
            rows += [row for row in self.rows if row.is_reference_method and row.rules]
        return sorted(
            rows,
            key=lambda row: (
                natural(row.backbone),
                not row.is_reference_method,
                row.method,
                row.provenance,
                [(key, *_number_first(value)) for key, value in sorted(row.varied.items())],
                row.label,
            ),
        )

    @property
    def ranks(self) -> bool:
        """Whether any row is ranked."""
        return any(row.rules and not row.is_reference_method for row in self.rows)

    @property
    def shows_rules(self) -> bool:
        """Whether the rules' tables are worth a heading: not in a study, nor under published values."""
        return self.ranks or not any(row.kind in (GRID, PUBLISHED) for row in self.rows)


def shots_text(shots: int) -> str:
    """1 shot, 4 shots"""
    return f"{shots} shot{'s' * (shots > 1)}"


def in_percent(column: str) -> bool:
    """Whether a column's values are shown in percent, and are the better the larger."""
    return column.startswith(("acc", PARTIAL, SCORE, RETAINED, *OWN_METRICS))


def natural(text: str) -> list[tuple[int, Any]]:
    """Sort key under which p8 comes before p16."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def _number_first(value: Any) -> tuple[int, float, str]:
    """A sort key for values of any type: numbers by size, then the rest by their text."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def versions_text(entries: Iterable[str]) -> str:
    """The first digits of the sha256 of plug-ins, each once, of entries kind:sha256."""
    return ", ".join(dict.fromkeys(entry.partition(":")[2][:8] for entry in sorted(entries)))


def settings_text(values: Mapping[str, Any]) -> str:
    """lr=0.001, lambda_sd=0.5; the learning rate first."""
    keys = sorted(values, key=lambda key: (key != "lr", key))
    return ", ".join(
        f"{key}={values[key]:g}" if isinstance(values[key], float) else f"{key}={values[key]}" for key in keys
    )
