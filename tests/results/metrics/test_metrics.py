"""Metrics against golden numbers, torchmetrics, scikit-learn and hand-worked cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import golden
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import multiclass_calibration_error

from robustft.results.metrics.metrics import (
    BatchAveragedECE,
    Meter,
    MetricError,
    accuracy,
    bin_edges,
    expected_calibration_error,
)

pytestmark = pytest.mark.computes

GOLDEN = golden("calibration.json")


def case_probabilities(case):
    """(N, C) float32; exact, because the denominator is a power of two."""
    rows = np.empty((case["N"], case["C"]))
    rows[:] = np.array(case["rest_numerator"])[:, None]
    for i, (classes, numerators) in enumerate(zip(case["listed_classes"], case["listed_numerators"], strict=True)):
        rows[i, classes] = numerators
    return (rows / case["denominator"]).astype(np.float32), np.array(case["labels"])


def edge_probabilities(case):
    if case["probabilities_float32"] is not None:
        return np.array(case["probabilities_float32"], np.float32), np.array(case["labels"])
    rows = np.repeat(np.array(case["other_classes_float32"], np.float32)[:, None], case["C"], axis=1)
    rows[np.arange(case["N"]), case["predicted"]] = np.array(case["confidences_float32"], np.float32)
    return rows, np.array(case["labels"])


ALL = [pytest.param(c, case_probabilities, id=c["id"]) for c in GOLDEN["cases"]]
ALL += [pytest.param(c, edge_probabilities, id=c["id"]) for c in GOLDEN["edge_cases"]]


def random_case(n, classes, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * sharpness
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32), rng.integers(classes, size=n)


@pytest.mark.parametrize("case, read", ALL)
def test_meter_equals_the_golden_numbers(case, read):
    p, labels = read(case)
    meter = Meter(p.shape[1])
    meter.update(p, labels)
    got, want, reference = meter.compute(), case["independent"], case["reference_code"]
    # ECE 1e-6, accuracy and F1 1e-7, NLL and Brier 1e-12: the tolerances that the golden file states.
    assert got["ece"] == pytest.approx(want["ece_15_bins_left_closed"], abs=1e-6)
    assert got["ece"] == pytest.approx(reference["ece_global_15_bins"], abs=1e-6)
    assert expected_calibration_error(p, labels, bins=10) == pytest.approx(want["ece_10_bins_left_closed"], abs=1e-6)
    assert got["accuracy"] == accuracy(p, labels) == pytest.approx(want["accuracy"], abs=1e-7)
    assert got["nll"] == pytest.approx(float(want["nll"]), abs=1e-12)
    assert got["brier"] == pytest.approx(want["brier_sum_over_classes"], abs=1e-12)
    assert got["mean_confidence"] == pytest.approx(want["mean_confidence"], abs=1e-12)
    assert got["macro_f1"] == pytest.approx(want["macro_f1_labels_and_predictions"], abs=1e-7)
    assert got["macro_f1_labels"] == pytest.approx(want["macro_f1_labels_only"], abs=1e-7)


@pytest.mark.parametrize("case, read", ALL)
@pytest.mark.parametrize("batch_size", [64, 512])
def test_batch_averaged_error_equals_the_released_code(case, read, batch_size):
    p, labels = read(case)
    meter = BatchAveragedECE(p.shape[1], batch_size)
    for start in range(0, len(labels), 37):  # not a divisor: regrouping is the meter's work
        meter.update(p[start : start + 37], labels[start : start + 37])
    got = meter.compute()
    assert got["ece_batch_averaged"] == pytest.approx(
        case["reference_code"][f"ece_batch_averaged_10_bins_bs{batch_size}"], abs=1e-6
    )
    assert (got["batch_size"], got["bins"]) == (batch_size, 10)


@pytest.mark.parametrize("case", GOLDEN["edge_cases"], ids=lambda c: c["id"])
@pytest.mark.parametrize("bins", [10, 15])
def test_every_confidence_falls_into_torchmetrics_bin(case, bins):
    p, _ = edge_probabilities(case)
    index = np.searchsorted(bin_edges(bins), p.max(axis=1), side="right") - 1
    assert index.tolist() == case["torchmetrics_bin_index"][str(bins)]


@pytest.mark.parametrize("bins", [10, 15])
def test_bin_edges_are_the_golden_float32_grid(bins):
    assert bin_edges(bins).tolist() == GOLDEN["float32_bin_edges"][str(bins)]


def test_bin_edges_are_torch_linspace():
    """To the last bit where torch fuses products and sums; it does not on every processor."""
    for bins in range(1, 60):
        np.testing.assert_array_max_ulp(bin_edges(bins), torch.linspace(0, 1, bins + 1).numpy(), maxulp=1)


@pytest.mark.parametrize("bins", [1, 10, 15, 20])
@pytest.mark.parametrize("classes", [2, 10])
def test_error_equals_torchmetrics(bins, classes):
    p, labels = random_case(3000, classes)
    want = multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(labels), num_classes=classes, n_bins=bins, norm="l1"
    )
    # torchmetrics adds 3000 float32 numbers: about 1e-6.
    assert expected_calibration_error(p, labels, bins) == pytest.approx(want.item(), abs=2e-6)


def test_hand_worked_metrics():
    # Bins of confidence 0.75 (one right, one wrong) and 0.5 (right): (|1 - 1.5| + |1 - 0.5|) / 3.
    p = np.array([[0.75, 0.25], [0.75, 0.25], [0.5, 0.5]])
    meter = Meter(2)
    meter.update(p, [0, 1, 0])
    got = meter.compute()
    assert got["n"] == 3
    assert got["accuracy"] == pytest.approx(2 / 3)
    assert got["ece"] == pytest.approx(1 / 3)
    assert got["nll"] == pytest.approx(-(math.log(0.75) + math.log(0.25) + math.log(0.5)) / 3)
    assert got["brier"] == pytest.approx((2 * 0.0625 + 2 * 0.5625 + 2 * 0.25) / 3)
    assert got["macro_f1"] == pytest.approx((2 * 2 / 5 + 0) / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(2, 12), st.integers(0, 5), st.lists(st.integers(0, 200), max_size=6))
def test_no_number_depends_on_batching_or_order(n, classes, seed, cuts):
    p, labels = random_case(n, classes, seed)
    whole = Meter(classes)
    whole.update(p, labels)
    order = np.random.default_rng(seed).permutation(n)
    pieces = Meter(classes)
    for part in np.split(order, sorted(min(c, n) for c in cuts)):
        pieces.update(p[part], labels[part])
    assert pieces.compute() == whole.compute()  # bit for bit


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(2, 12), st.integers(0, 5))
def test_macro_f1_equals_scikit_learn(n, classes, seed):
    p, labels = random_case(n, classes, seed)
    meter = Meter(classes)
    meter.update(p, labels)
    predictions = p.argmax(axis=1)
    assert meter.compute()["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert meter.compute()["macro_f1_labels"] == pytest.approx(
        f1_score(labels, predictions, average="macro", labels=np.unique(labels))
    )


def test_batching_that_agrees_with_the_batch_size_changes_the_lineage_error_only_through_that_size():
    p, labels = random_case(500, 10)
    values = []
    for size in (64, 500):
        meter = BatchAveragedECE(10, size)
        meter.update(p, labels)
        values.append(meter.compute()["ece_batch_averaged"])
    assert values[0] > values[1]
    assert values[1] == pytest.approx(expected_calibration_error(p, labels, bins=10), abs=1e-9)


def test_a_label_of_probability_zero_makes_the_likelihood_infinite():
    meter = Meter(2)
    meter.update([[1.0, 0.0], [0.5, 0.5]], [1, 0])
    assert meter.compute()["nll"] == math.inf


def test_torch_tensors_and_half_precision_are_welcome():
    p, labels = random_case(64, 5)
    tensors = torch.from_numpy(p).bfloat16().float()
    tensors = (tensors / tensors.sum(dim=1, keepdim=True)).requires_grad_()
    assert expected_calibration_error(tensors, torch.from_numpy(labels)) >= 0
    assert accuracy(torch.eye(3).bfloat16(), torch.arange(3)) == 1


@pytest.mark.parametrize(
    "p, labels, words",
    [
        ([[0.5, 0.5]], [2], "labels: expected 0 to 1, got 2 to 2"),
        ([[0.5, 0.5]], [-1], "labels: expected 0 to 1"),
        ([[3.0, -2.0]], [0], "row 0 is not a distribution"),
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 0], "row 1 is not finite"),
        ([[0.2, 0.3, 0.5]], [0], "expected 2 columns, got 3"),
        ([[0.5, 0.5]], [0, 1], "expected scores"),
    ],
)
def test_what_no_metric_is_defined_for_is_refused(p, labels, words):
    with pytest.raises(MetricError, match=words):
        Meter(2).update(p, labels)


@pytest.mark.parametrize(
    "scores, labels, words",
    [
        ([[1.0, 2.0]], [2], "labels: expected 0 to 1, got 2 to 2"),
        ([[1.0, 2.0]], [-1], "labels: expected 0 to 1, got -1 to -1"),
        ([[1.0, 2.0]], [0.5], "labels: expected whole numbers"),
        ([[1.0, 2.0], [np.nan, 0.0]], [0, 0], "row 1 has a score that is NaN"),
    ],
)
def test_accuracy_of_what_is_no_prediction_is_refused(scores, labels, words):
    """A NaN is the largest score to argmax, and a label out of range is always wrong: both would be a number."""
    with pytest.raises(MetricError, match=words):
        accuracy(scores, labels)


def test_accuracy_takes_logits_that_are_infinite_and_the_first_of_equal_ones():
    assert accuracy([[-np.inf, 0.0], [np.inf, 0.0], [1.0, 1.0]], [1, 0, 0]) == 1
    assert accuracy([[1.0, 1.0]], [1]) == 0


def test_an_empty_set_is_an_error():
    with pytest.raises(MetricError, match="no samples"):
        Meter(2).compute()
    with pytest.raises(MetricError, match="no samples"):
        BatchAveragedECE(2, 8).compute()
    with pytest.raises(MetricError, match="no rows"):
        accuracy(np.zeros((0, 3)), [])
