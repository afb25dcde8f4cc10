"""Every evaluation set of a run, and the files that keep what was found; from these files all of it can be rescored."""

import shutil
from collections.abc import Callable
from typing import Any

import pandas as pd

from ...datasets import catalogue
from ...methods.training.parallel import World
from ...results.metrics import calibration, set_metrics
from ...results.metrics.classwise import ClasswiseECE
from ...results.records import predictions
from ...results.records.atomic import write_atomic
from ..planning import data_check
from ..planning.benchmark import method_of
from ..run_folder.folder import RunFolder
from ..run_folder.plan import Plan
from .predict import Columns, Maker, adapting, class_count, lineage_batch, predict, score
from .sharded_evaluation import Share

POINT_METRICS = ("accuracy", "ece", "nll")
"""What is kept of each set at each point of a path, beside the metric that the set is judged by."""


def measure(
    plan: Plan,
    folder: RunFolder,
    dataset: Any,
    own: Maker,
    along: dict[float, Maker],
    *,
    device: str,
    should_stop: Callable[[], bool],
    guard: Callable[[], None],
    after_set: Callable[[], None],
    workers: int = 0,
) -> dict[str, Any]:
    """Evaluate a run's predictor, and those along its path, on every set; a trial's on the validation set alone.

    The ID validation set comes first: one temperature is fitted on its logits, as the file keeps them, and applied to
    every set. Where several processes make the run, all of them call this; the first one writes.

    Args:
        own: gives the predictor of the run.
        along: value -> what gives the predictor there, where the method has a path.
        guard: called before a file appears; it raises if this process may no longer write.
        after_set: called when a set is done.
        workers: processes that load images ahead.

    Returns:
        Of the record: sets, in the card's order; temperature, but for trials and for data without a validation set;
        path, where there is one; transductive, where the predictor adapts to each set.
        Beside it `classes`: set -> how many classes a prediction is one of.
    """
    spec, trial = plan.spec, plan.spec.kind == "trial"
    parameter = method_of(spec).path or ""
    share = Share.of(World(), folder.predictions / "parts")
    base, _ = catalogue.parts(plan.dataset)
    batch_size, temperature = lineage_batch(base, spec.backbone), None
    sets: dict[str, dict[str, Any]] = {}
    points: dict[float, dict[str, Any]] = {value: {} for value in along}
    classes: dict[str, int] = {}
    per_class: list[Columns] = []
    for entry, data in data_check.evaluation_sets(dataset, spec):
        chooses = entry.role == "validation" and temperature is None
        calibrates = chooses and not trial
        classes[entry.name] = class_count(data, len(dataset.card.class_names))
        classwise = ClasswiseECE(classes[entry.name])
        columns, *others = predict(
            [own, *along.values()],
            data,
            device=device,
            limit=spec.limit,
            should_stop=should_stop,
            keep_logits=chooses,
            temperature=temperature,
            share=share,
            workers=workers,
            classwise=classwise,
        )
        if calibrates:
            temperature = calibration.fit_temperature(columns["logits"], columns["label"])
            columns["confidence_scaled"] = calibration.confidence_at(columns["logits"], temperature)
        sets[entry.name] = {"role": entry.role, **score(columns, data, batch_size, spec.limit, classwise)}
        per_class.append(set_metrics.per_class(columns, entry.name))
        theirs = dict(zip(along, others, strict=True))
        for value, kept in theirs.items():
            metrics = set_metrics.basic(kept) | (
                set_metrics.by_group(kept, columns["group"]) if "group" in columns else {}
            )
            wanted = (*POINT_METRICS, data_check.OWN.get(entry.metric))
            points[value][entry.name] = {key: metrics[key] for key in wanted if key in metrics}
        if share.rank == 0:
            predictions.write(folder.predictions / f"{entry.name}.parquet", columns, guard)
            if theirs:
                predictions.write_path(folder.path_predictions(entry.name), parameter, theirs, guard)
        after_set()
    if share.rank == 0 and not trial:
        write_atomic(folder.per_class, _parquet(per_class), guard)
    if share.rank == 0:
        shutil.rmtree(folder.predictions / "parts", ignore_errors=True)  # all have read what was in it
    made = [{"value": value, "sets": found} for value, found in points.items()]
    return {
        "sets": {entry.name: sets[entry.name] for entry in dataset.card.sets if entry.name in sets},
        **({} if temperature is None else {"temperature": temperature}),
        **({"path": {"parameter": parameter, "points": made}} if made else {}),
        **({"transductive": True} if adapting(own()) else {}),
        "classes": {entry.name: classes[entry.name] for entry in dataset.card.sets if entry.name in classes},
    }


def _parquet(parts: list[Columns]) -> bytes:
    """Columns of all parts, one after the other, as a file."""
    return pd.concat(map(pd.DataFrame, parts)).to_parquet(index=False, compression="zstd")
