"""One pass over an evaluation set: what is kept of each sample, and the metrics of the set.

The images are read once, whatever the number of predictors: a few batches are decoded, every predictor of a path is
shown them, and the next few are decoded. Of a predictor that adapts to a set, the features of the whole set are
collected, and then predicted from.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...datasets.card import EvalData
from ...datasets.loaders import eval_batches
from ...methods.predictor import Predictor, PredictorError
from ...results.metrics import calibration, metrics, set_metrics
from ...results.metrics.classwise import ClasswiseECE
from .sharded_evaluation import Share

# Part of the protocol: matrix products of another batch size may differ in the last bits.
BATCH_SIZE = 256
WINDOW = 8
"""Batches decoded at a time where there is more than one predictor: 300 MB of pictures of 224 pixels."""
LINEAGE_BATCH = 512
LINEAGE_BATCHES = {"ViT-L-14": 224, "iwildcam": 256, "fmow": 256}
"""Where the lineage trains, and therefore averages its calibration error, in other batches: by backbone or dataset."""

Columns = dict[str, np.ndarray]
Maker = Callable[[], nn.Module]
"""Gives a predictor, or any module that gives (B, C) logits of images."""


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
    classwise: ClasswiseECE | None = None,
) -> list[Columns]:
    """What some predictors say of each sample of a set, which is read once and in its own order.

    Where the set has classes of its own (`data.project`), logits are projected onto them before softmax.

    Args:
        makers: each gives a predictor, which the next one may overwrite.
        limit: take the first `limit` samples; None takes all.
        keep_logits: keep the first classifier's, in half precision.
        temperature: keep its confidence after division of the logits by this.
        share: the batches of this process, where several evaluate together; all get every sample.
        workers: processes that load images ahead; 0 loads in this one.
        classwise: is given every probability of the first predictor, which no column keeps.

    Returns:
        Columns of each predictor, not yet rounded: label and what `metrics.sample_columns` gives. Of the first also
        sample_id, unit_id, group where the set has groups, logits and confidence_scaled where asked for.

    Raises:
        Stopped: when `should_stop` says so.
        MetricError: a predictor gives no probabilities; it has diverged.
    """
    share = share or Share()
    size = len(data) if limit is None else min(limit, len(data))
    found: list[dict[str, list[np.ndarray]]] = [{} for _ in makers]
    adapt_later: set[int] = set()
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
            predictor = make().eval()
            whole_sets = adapting(predictor)
            adapt_later |= {i} if whole_sets else set()
            for _, images, labels in window:
                if whole_sets:
                    kept = {_FEATURES: whole_sets.features(images).cpu().numpy()}
                else:
                    logits = data.project(predictor(images)).cpu()
                    how = (False, None, None) if i else (keep_logits, temperature, classwise)
                    kept = _sample_columns(logits, labels, *how)
                for key, values in kept.items():
                    found[i].setdefault(key, []).append(values)
    own = {f"{i}/{key}": np.concatenate(parts) for i, kept in enumerate(found) for key, parts in kept.items()}
    own["position"] = np.concatenate([*positions, np.zeros(0, dtype=np.int64)])
    merged = share.merge(data.name, own, size)
    if classwise is not None and 0 not in adapt_later:
        classwise.sums, classwise.n = share.total(data.name, classwise.sums), size
    labels = np.asarray(data.labels[:size], dtype=np.int64)
    for i in sorted(adapt_later):  # in each process all of it: what they shared are the passes through the towers
        stop_if_asked()
        features = torch.from_numpy(merged.pop(f"{i}/{_FEATURES}")).to(device)
        adapted = _adapted(makers[i]().eval(), features)
        how = (False, None, None) if i else (keep_logits, temperature, classwise)
        parts = [
            _sample_columns(data.project(logits).cpu(), own_labels, *how)
            for logits, own_labels in zip(adapted.split(BATCH_SIZE), _split(labels), strict=True)
        ]
        merged |= {f"{i}/{key}": np.concatenate([part[key] for part in parts]) for key in parts[0]}
    columns = [
        {"label": labels} | {key.partition("/")[2]: merged[key] for key in merged if key.startswith(f"{i}/")}
        for i in range(len(makers))
    ]
    return [_names(data, size) | columns[0], *columns[1:]]


def adapting(predictor: nn.Module) -> Predictor | None:
    """The predictor, if it adapts to each set before it predicts."""
    return predictor if isinstance(predictor, Predictor) and predictor.adapts else None


_FEATURES = "features"


def _sample_columns(
    logits: torch.Tensor,
    labels: np.ndarray,
    keep_logits: bool,
    temperature: float | None,
    classwise: ClasswiseECE | None,
) -> Columns:
    """What is kept of some samples, from their (B, K) logits on the CPU."""
    # float64, so that a label's probability does not become 0 and its likelihood infinite
    probabilities = logits.double().softmax(dim=1).numpy()
    kept = metrics.sample_columns(probabilities, labels)
    if classwise is not None:
        classwise.add(probabilities, labels)
    if keep_logits:
        kept["logits"] = logits.half().numpy()
    if temperature is not None:
        kept["confidence_scaled"] = calibration.confidence_at(logits.numpy(), temperature)
    return kept


def _adapted(predictor: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """(N, C) logits of a whole set by a predictor that adapts to it; what it learned of the set is lost with it.

    Raises:
        PredictorError: it has changed itself, so that the next set would depend on this one, or gives no (N, C).
    """
    assert isinstance(predictor, Predictor)
    name, device = type(predictor).__name__, features.device
    before = _versions(predictor)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        logits = predictor.adapt(features)
    after = _versions(predictor)
    if changed := [key for key in {**before, **after} if before.get(key) != after.get(key)]:
        raise PredictorError(
            f"{name}.adapt: must leave the predictor as it is, but {changed[0]} has changed, and the next set would "
            "depend on this one; change a copy."
        )
    if logits.ndim != 2 or len(logits) != len(features):
        shape = tuple(logits.shape)
        raise PredictorError(
            f"{name}.adapt: must give logits ({len(features)}, classes), one row an image, got {shape}."
        )
    return logits


def _versions(predictor: Predictor) -> dict[str, tuple[int, int]]:
    """Of each parameter and buffer, which tensor it is and how often that was written to."""
    return {key: (id(tensor), tensor._version) for key, tensor in predictor.state_dict(keep_vars=True).items()}


def _split(labels: np.ndarray) -> list[np.ndarray]:
    return [labels[first : first + BATCH_SIZE] for first in range(0, max(len(labels), 1), BATCH_SIZE)]


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


def score(
    columns: Columns, data: EvalData, batch_size: int, limit: int | None = None, classwise: ClasswiseECE | None = None
) -> dict[str, Any]:
    """The metrics of a set.

    Returns:
        n_expected: samples of the set, with those that should be on the disk and are not, up to the limit; n; and
        `set_metrics.score`; ece_classwise where `predict` was given what it needs.
    """
    whole = len(data) + data.missing
    expected = whole if limit is None else min(limit, whole)
    if not len(columns["label"]):
        return {"n_expected": expected, "n": 0}
    streamed = {} if classwise is None else {"ece_classwise": classwise.error()}
    return {"n_expected": expected, **set_metrics.score(columns, data.name, batch_size), **streamed}


def evaluate(predictor: nn.Module, data: EvalData, batch_size: int = LINEAGE_BATCH, **how: Any) -> dict[str, Any]:
    """The metrics of one predictor on one set; `how` as in `predict`."""
    (columns,) = predict([lambda: predictor], data, **how)
    return score(columns, data, batch_size, how.get("limit"))


def validation_nlls(makers: Sequence[Maker], data: EvalData, **how: Any) -> list[float]:
    """Mean negative log-likelihood in nats of each predictor, lower is better: what a method may choose by; see
    `predict`."""
    return [set_metrics.basic(columns)["nll"] for columns in predict(makers, data, **how)]
