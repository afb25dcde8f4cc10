"""`robustft doctor --zero-shot`: zero-shot accuracy against the printed one, which tests data and weights."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .... import backbones, results
from ....datasets.card import DataError, Dataset
from ....methods.classifier import Classifier
from ...execution import kept_heads
from ...execution.predict import evaluate
from ...planning.data_check import many_cores

PUBLISHED = Path(results.__file__).parent / "published" / "tracer_tables.csv"
TABLES = ("table1", "table6", "table7")
TOLERANCE = 0.1
"""Points of accuracy: two sources of these numbers agree within 0.06."""
NOT_A_TEST = ("objectnet",)
"""Printed with values up to 2 points apart, by protocol and for reasons nobody has established."""


@dataclass(frozen=True)
class Line:
    """One set of one backbone, in percent."""

    backbone: str
    dataset: str
    expected: float
    found: float | None = None
    problem: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether it is within TOLERANCE; None where it cannot be said."""
        if self.found is None or self.dataset in NOT_A_TEST:
            return None
        return abs(self.found - self.expected) <= TOLERANCE

    def text(self) -> str:
        """The line that is printed."""
        start = f"{self.backbone} {self.dataset}: expected {self.expected:.2f}"
        if self.found is None:
            return f"{start}, not measured: {self.problem}"
        verdict = {True: "ok", False: f"FAILED, not within {TOLERANCE}", None: "no test, sources differ"}[self.holds]
        return f"{start}, found {self.found:.2f}: {verdict}"


def expected() -> dict[tuple[str, str], float]:
    """(backbone, set) -> printed zero-shot accuracy in percent."""
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "zero_shot" and row["table"] in TABLES]
    return {(r["backbone"], r["dataset"]): float(r["mean"]) for r in rows if r["metric"] == "accuracy_percent"}


def measure(data: Dataset, backbone: str, device: str) -> Iterator[Line]:
    """The sets of the card that have a printed number, one after the other.

    Raises:
        BackboneError: the weights are not there or cannot be used.
    """
    printed = {name: value for (of, name), value in expected().items() if of == backbone}
    sets = [entry.name for entry in data.card.sets if entry.name in printed]
    if not sets:
        return
    encoder = backbones.load(backbone, device=device)
    head = kept_heads.head(encoder, data.card.class_names, data.card.prompts)
    classifier = Classifier(encoder, head).to(device)
    for name in sets:
        try:
            found = data.eval_data(name)
            metrics = evaluate(classifier, found, device=device, workers=many_cores(len(found)))
        except DataError as error:
            yield Line(backbone, name, printed[name], problem=str(error))
            continue
        yield Line(backbone, name, printed[name], 100 * metrics["accuracy"])
