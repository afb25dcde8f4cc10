"""One pass over an evaluation set: what is kept of each sample, and the metrics of the set.

The images are read once, whatever the number of classifiers: a few batches are decoded, every classifier of a path is
shown them, and the next few are decoded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ...datasets.card import EvalData
from ...datasets.loaders import eval_batches
from ...methods.classifier import Classifier
from ...results.metrics import calibration, metrics, set_metrics
from .sharded_evaluation import Share

# Part of the protocol: matrix products of another batch size may differ in the last bits.
BATCH_SIZE = 256
WINDOW = 8
"""Batches decoded at a time where there is more than one classifier: 300 MB of pictures of 224 pixels."""
LINEAGE_BATCH = 512
LINEAGE_BATCHES = {"ViT-L-14": 224, "iwildcam": 256, "fmow": 256}
"""Where the lineage trains, and therefore averages its calibration error, in other batches: by backbone or dataset."""

Columns = dict[str, np.ndarray]
Maker = Callable[[], Classifier]


class Stopped(Exception):
    """The run was asked to stop; nothing of the set is kept."""


def never() -> bool:
    """The default of `should_stop`."""
    return False


def lineage_batch(dataset: str, backbone: str) -> int:
    """Batch of the lineage's calibration error: one for all methods, so that a column of a board holds one number."""
    return LINEAGE_BATCHES.get(backbone, LINEAGE_BATCHES.get(dataset, LINEAGE_BATCH))


@torch.no_grad()
def predict(
    makers: Sequence[Maker],
    data: EvalData,
    *,
    device: str = "cpu",
    limit: int | None = None,
    should_stop: Callable[[], bool] = never,
    keep_logits: bool = False,
    temperature: float | None = None,
    share: Share | None = None,
    workers: int = 0,
) -> list[Columns]:
    """What some classifiers say of each sample of a set, which is read once and in its own order.

    Where the set has classes of its own (`data.project`), logits are projected onto them before softmax.

    Args:
        makers: each gives a classifier, which the next one may overwrite.
        limit: take the first `limit` samples; None takes all.
        keep_logits: keep the first classifier's, in half precision.
        temperature: keep its confidence after division of the logits by this.
        share: the batches of this process, where several evaluate together; all get every sample.
        workers: processes that load images ahead; 0 loads in this one.

    Returns:
        Columns of each classifier, not yet rounded: label and what `metrics.sample_columns` gives. Of the first also
        sample_id, unit_id, group where the set has groups, logits and confidence_scaled where asked for.

    Raises:
        Stopped: when `should_stop` says so.
        MetricError: a classifier gives no probabilities; it has diverged.
    """
    share = share or Share()
    size = len(data) if limit is None else min(limit, len(data))
    found: list[dict[str, list[np.ndarray]]] = [{} for _ in makers]
    positions: list[np.ndarray] = []

    def stop_if_asked() -> None:
        if share.any(should_stop()):
            raise Stopped

    pin = torch.device(device).type == "cuda"
    for window in _windows(data, size, share, WINDOW if len(makers) > 1 else 1, stop_if_asked, workers, pin):
        window = [(start, images.to(device, non_blocking=True), labels) for start, images, labels in window]
        positions += [np.arange(start, start + len(labels)) for start, _, labels in window]
        for i, make in enumerate(makers):
            if i:
                stop_if_asked()
            classifier = make().eval()
            for _, images, labels in window:
                logits = data.project(classifier(images)).cpu()
                # float64, so that a label's probability does not become 0 and its likelihood infinite
                kept = metrics.sample_columns(logits.double().softmax(dim=1).numpy(), labels)
                if i == 0 and keep_logits:
                    kept["logits"] = logits.half().numpy()
                if i == 0 and temperature is not None:
                    kept["confidence_scaled"] = calibration.confidence_at(logits.numpy(), temperature)
                for key, values in kept.items():
                    found[i].setdefault(key, []).append(values)
    own = {f"{i}/{key}": np.concatenate(parts) for i, kept in enumerate(found) for key, parts in kept.items()}
    own["position"] = np.concatenate([*positions, np.zeros(0, dtype=np.int64)])
    merged = share.merge(data.name, own, size)
    labels = np.asarray(data.labels[:size], dtype=np.int64)
    columns = [
        {"label": labels} | {key.partition("/")[2]: merged[key] for key in merged if key.startswith(f"{i}/")}
        for i in range(len(makers))
    ]
    return [_names(data, size) | columns[0], *columns[1:]]


def _windows(
    data: EvalData, size: int, share: Share, length: int, stop_if_asked: Callable[[], None], workers: int, pin: bool
) -> Iterator[list[tuple[int, torch.Tensor, np.ndarray]]]:
    """The batches of this process, up to `length` at a time; the same number of windows in every process."""
    batches = eval_batches(data, BATCH_SIZE, workers, (share.rank, share.size), pin)
    rounds = -(-size // (BATCH_SIZE * share.size))
    for first in range(0, rounds, length):
        window = []
        for _ in range(first, min(first + length, rounds)):
            stop_if_asked()
            batch = next(batches, None)
            if batch is not None and batch[0] < size:
                start, images, labels = batch
                window.append((start, images[: size - start], labels[: size - start].numpy()))
        yield window


def _names(data: EvalData, size: int) -> Columns:
    names = {"sample_id": data.sample_ids[:size], "unit_id": data.unit_ids[:size]}
    if data.groups is not None:
        names["group"] = data.groups[:size]
    return {key: np.asarray(values, dtype=object) for key, values in names.items()}


def class_count(data: EvalData, total: int) -> int:
    """How many classes a prediction on the set is one of: those of the card, or the set's own."""
    return data.project(torch.zeros(1, total)).shape[1]


def score(columns: Columns, data: EvalData, batch_size: int, limit: int | None = None) -> dict[str, Any]:
    """The metrics of a set.

    Returns:
        n_expected: samples of the set, with those that should be on the disk and are not, up to the limit; n; and
        `set_metrics.score`.
    """
    whole = len(data) + data.missing
    expected = whole if limit is None else min(limit, whole)
    if not len(columns["label"]):
        return {"n_expected": expected, "n": 0}
    return {"n_expected": expected, **set_metrics.score(columns, data.name, batch_size)}


def evaluate(classifier: Classifier, data: EvalData, batch_size: int = LINEAGE_BATCH, **how: Any) -> dict[str, Any]:
    """The metrics of one classifier on one set; `how` as in `predict`."""
    (columns,) = predict([lambda: classifier], data, **how)
    return score(columns, data, batch_size, how.get("limit"))


def validation_nll(classifier: Classifier, data: EvalData, **how: Any) -> float:
    """Mean negative log-likelihood in nats, lower is better: what a method may choose by; `how`: see `predict`."""
    (columns,) = predict([lambda: classifier], data, **how)
    return set_metrics.basic(columns)["nll"]
