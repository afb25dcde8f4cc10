"""One pass over an evaluation set: the metrics of the set, and what is kept of each sample."""

from collections.abc import Callable
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


class Stopped(Exception):
    """The run was asked to stop; nothing of the set is kept."""


def never() -> bool:
    """The default of `should_stop`."""
    return False


@torch.no_grad()
def evaluate(
    classifier: Classifier,
    data: EvalData,
    *,
    device: str = "cpu",
    limit: int | None = None,
    should_stop: Callable[[], bool] = never,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and per-sample columns of one set, in one pass and in the set's own order.

    Args:
        limit: take the first `limit` samples; None takes all.

    Returns:
        Metrics: n_expected, n and what `Meter` computes (fractions, nats). Columns as in
        `predictions.columns`.

    Raises:
        Stopped: when `should_stop` says so between two batches.
    """
    expected = len(data) if limit is None else min(limit, len(data))
    meter: Meter | None = None
    parts: list[dict[str, np.ndarray]] = []
    classifier.eval()
    for start, images, labels in eval_batches(data, BATCH_SIZE):
        if start >= expected:
            break
        if should_stop():
            raise Stopped
        images, labels = images[: expected - start], labels[: expected - start]
        logits = classifier(images.to(device)).cpu()
        # float64, so that a label's probability does not become 0 and its likelihood infinite
        probabilities = logits.double().softmax(dim=1).numpy()  # (B, C)
        meter = meter or Meter(probabilities.shape[1])
        meter.update(probabilities, labels.numpy())
        stop = start + len(labels)
        ids = data.sample_ids[start:stop], data.unit_ids[start:stop]
        parts.append(predictions.columns(probabilities, labels.numpy(), *ids))
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}
    return {"n_expected": expected, **(meter.compute() if meter else {"n": 0})}, columns


@torch.no_grad()
def validation_nll(classifier: Classifier, data: EvalData, *, device: str = "cpu") -> float:
    """Mean negative log-likelihood of a set in nats, lower is better: what a method may choose by."""
    return evaluate(classifier, data, device=device)[0]["nll"]
