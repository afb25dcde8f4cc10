"""One pass over an evaluation set: the metrics of the set, and what is kept of each sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..datasets.card import EvalData
from ..datasets.loaders import eval_batches
from ..methods.classifier import Classifier
from ..results import predictions
from ..results.metrics import Meter

# Part of the protocol: matrix products of another batch size may differ in the last bits.
BATCH_SIZE = 256
LISTED_GROUPS = 16
"""A set of more groups has the worst one's accuracy in its record, and not each one's."""


class Stopped(Exception):
    """The run was asked to stop; nothing of the set is kept."""


def never() -> bool:
    """The default of `should_stop`."""
    return False


def evaluate(
    classifier: Classifier,
    data: EvalData,
    *,
    device: str = "cpu",
    limit: int | None = None,
    should_stop: Callable[[], bool] = never,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and per-sample columns of one set: `evaluate_together` of one classifier."""
    (metrics,), columns = evaluate_together([classifier], data, device=device, limit=limit, should_stop=should_stop)
    return metrics, columns


@torch.no_grad()
def evaluate_together(
    classifiers: Sequence[Classifier],
    data: EvalData,
    *,
    device: str = "cpu",
    limit: int | None = None,
    should_stop: Callable[[], bool] = never,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Metrics of some classifiers on one set, whose images are read once and in the set's own order.

    Where the set has classes of its own (`data.project`), logits are projected onto them before softmax.

    Args:
        limit: take the first `limit` samples; None takes all.

    Returns:
        Metrics of each classifier: n_expected (samples of the set, with those that should be on the disk and are
        not), n, and what `Meter` computes (fractions, nats); of the first also `by_group`. Columns as in
        `predictions.columns`, of the first.

    Raises:
        Stopped: when `should_stop` says so between two batches.
    """
    size = len(data) if limit is None else min(limit, len(data))
    project = getattr(data, "project", None) or (lambda logits: logits)
    meters: list[Meter] = []
    parts: list[dict[str, np.ndarray]] = []
    for classifier in classifiers:
        classifier.eval()
    for start, images, labels in eval_batches(data, BATCH_SIZE):
        if start >= size:
            break
        if should_stop():
            raise Stopped
        images, labels = images[: size - start].to(device), labels[: size - start].numpy()
        stop = start + len(labels)
        for i, classifier in enumerate(classifiers):
            logits = project(classifier(images)).cpu()
            # float64, so that a label's probability does not become 0 and its likelihood infinite
            probabilities = logits.double().softmax(dim=1).numpy()  # (B, C), or (B, K) of the set's own classes
            if len(meters) == i:
                meters.append(Meter(probabilities.shape[1]))
            meters[i].update(probabilities, labels)
            if i == 0:
                ids = data.sample_ids[start:stop], data.unit_ids[start:stop]
                parts.append(predictions.columns(probabilities, labels, *ids))
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}
    expected = size + (_not_found(data) if limit is None else 0)
    metrics = [{"n_expected": expected, **meter.compute()} for meter in meters]
    metrics = metrics or [{"n_expected": expected, "n": 0} for _ in classifiers]
    if columns and getattr(data, "groups", None) is not None:
        metrics[0] |= by_group(columns, data.groups[:size])
    return metrics, columns


def by_group(columns: Mapping[str, np.ndarray], groups: Sequence[str]) -> dict[str, Any]:
    """Accuracy by group.

    Args:
        columns: label and prediction of N samples.
        groups: N names; a sample whose name is "" is in no group.

    Returns:
        worst_group_accuracy: the lowest accuracy of any group, a fraction. group_accuracy: name -> accuracy, where
        the groups are few. Nothing if no sample is in a group.

    Example: right, wrong, right in groups a, a, b: worst 0.5, {"a": 0.5, "b": 1.0}.
    """
    right, names = columns["prediction"] == columns["label"], np.asarray(groups, dtype=object)
    found = {name: float(right[names == name].mean()) for name in sorted(set(groups) - {""})}
    if not found:
        return {}
    listed = {"group_accuracy": found} if len(found) <= LISTED_GROUPS else {}
    return {"worst_group_accuracy": min(found.values()), **listed}


def _not_found(data: EvalData) -> int:
    """How many images the complete set has that are not on the disk."""
    expected = getattr(data, "expected", None)
    return 0 if expected is None else max(0, expected - getattr(data, "found", len(data)))


@torch.no_grad()
def validation_nll(classifier: Classifier, data: EvalData, *, device: str = "cpu") -> float:
    """Mean negative log-likelihood of a set in nats, lower is better: what a method may choose by."""
    return evaluate(classifier, data, device=device)[0]["nll"]
