"""Selective prediction, failure detection and the newer calibration errors against other libraries, and by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT
from sklearn.metrics import roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from robustft.results.metrics import calibration, metrics
from robustft.results.metrics.classwise import ClasswiseECE
from robustft.results.metrics.metrics import MetricError
from robustft.results.metrics.selective import selective
from robustft.results.metrics.set_metrics import score

pytestmark = pytest.mark.computes

GOLDEN = json.loads((ROOT / "tests" / "golden" / "selective.json").read_text())


def everything(confidence, right):
    columns = {"label": np.zeros(len(right), int), "prediction": (~right).astype(int), "confidence": confidence}
    return score(columns | {"p_label": confidence, "sum_p2": confidence}, "id", 512)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_numbers_of_other_libraries(case):
    """TorchUncertainty, relplot and uncertainty-calibration, run once; the file says which and how."""
    confidence, right = np.float32(case["confidence"]), np.array(list(case["right"])) == "1"
    found = everything(confidence, right)
    assert {key: found[key] for key in case["expected"]} == pytest.approx(case["expected"], abs=1e-6)
    order = np.random.default_rng(0).permutation(len(right))
    again = everything(confidence[order], right[order])
    assert {key: again[key] for key in case["expected"]} == pytest.approx(case["expected"], abs=1e-6)


def sampled(seed, n=400, digits=2):
    """Confidences of few digits, so that many are equal, and which are right."""
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.beta(4, 1.5, size=n), digits).astype(np.float32)
    return confidence, rng.random(n) < confidence


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [1, 2, 7])
def test_failure_detection_is_scikit_learns(seed, digits):
    confidence, right = sampled(seed, digits=digits)
    found = selective(confidence, right)
    assert found["failure_auroc"] == pytest.approx(roc_auc_score(right, confidence), abs=1e-6)
    wrongly, rightly, _ = roc_curve(right, confidence, drop_intermediate=False)
    assert found["failure_fpr95"] == pytest.approx(wrongly[np.argmax(rightly >= 0.95)], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_gap_is_torchmetrics(seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.full(5, 0.4), size=300).astype(np.float32)
    labels = np.random.default_rng([seed, 1]).integers(5, size=300)
    given_, want = torch.tensor(probabilities), torch.tensor(labels)
    theirs = multiclass_calibration_error(given_, want, num_classes=5, n_bins=15, norm="max")
    found = calibration.mce(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    assert found == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_classwise_error_is_the_mean_of_torchmetrics_over_classes_however_it_is_cut(classes):
    rng = np.random.default_rng(classes)
    probabilities = rng.dirichlet(np.full(classes, 0.5), size=500)
    labels = rng.integers(max(1, classes - 1), size=500)  # the last class never occurs
    whole, cut = ClasswiseECE(classes), ClasswiseECE(classes)
    whole.add(probabilities, labels)
    for rows in np.array_split(rng.permutation(500), 7):
        cut.add(probabilities[rows], labels[rows])
    theirs = [
        binary_calibration_error(torch.tensor(probabilities[:, k]).float(), torch.tensor(labels == k).int(), n_bins=15)
        for k in range(classes)
    ]
    assert whole.error() == pytest.approx(float(np.mean(theirs)), abs=1e-6) and cut.error() == whole.error()
    with pytest.raises(MetricError, match="no samples"):
        ClasswiseECE(2).error()


@pytest.mark.parametrize(("classes", "bins"), [(3, 1), (40, 15), (300, 15)])
def test_the_sums_of_the_classwise_error_are_those_of_the_definition(classes, bins):
    """Value by value; among them probabilities on edges of bins, beside them, 0, 1, and 1 and a bit."""
    rng = np.random.default_rng(classes)
    edges = metrics.bin_edges(bins).astype(np.float64)
    odd = [*edges, *np.nextafter(edges.astype(np.float32), np.float32(0)), 1 + 1e-12, 1 - 1e-12]
    probabilities = rng.dirichlet(np.full(classes, 0.02), size=60)
    probabilities.ravel()[rng.choice(probabilities.size, len(odd), replace=False)] = np.clip(odd, 0, None)
    labels = rng.integers(classes, size=60)
    found, want = ClasswiseECE(classes, bins), np.zeros((2, classes, bins + 1), dtype=np.int64)
    for rows in (slice(0, 20), slice(20, 60)):
        found.add(probabilities[rows], labels[rows])
    for row, label in zip(probabilities, labels, strict=True):
        for k, value in enumerate(row):
            value = min(np.float32(value), np.float32(1))
            place = sum(value >= np.float32(edge) for edge in edges) - 1
            want[0, k, place] += k == label
            want[1, k, place] += round(float(value) * 2**40)
    assert np.array_equal(found.sums, want) and found.n == 60


def test_the_examples_of_the_docstrings():
    found = selective(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
    want = {"aurc": 1 / 3, "e_aurc": 1 / 4, "coverage_at_5_risk": 1 / 3, "risk_at_80_coverage": 1 / 3}
    assert found == pytest.approx(want | {"failure_auroc": 0.5, "failure_fpr95": 1.0})
    one = ClasswiseECE(2)
    one.add(np.array([[0.8, 0.2]]), np.array([0]))
    assert one.error() == pytest.approx(0.2)


def test_the_debiased_error_by_hand():
    """Ten at 0.8, five of them right: gap 0.3, variance 0.25 / 9. A bin of one sample counts as nothing."""
    confidence, right = np.array([0.81] * 10 + [0.3]), np.array([True] * 5 + [False] * 6)
    want = np.sqrt((0.31**2 - 0.25 / 9) * 10 / 11)
    assert calibration.debiased_ece(confidence, right) == pytest.approx(want, abs=1e-6)
    assert calibration.mce(confidence, right) == pytest.approx(0.31, abs=1e-6)
    calibrated = np.array([0.5] * 10), np.array([True, False] * 5)
    assert calibration.debiased_ece(*calibrated) == 0.0


def test_equal_confidences_have_no_order():
    """All of one confidence: every risk is the error rate, and no threshold accepts a part."""
    right = np.array([True] * 9 + [False])
    for order in (right, right[::-1]):
        found = selective(np.full(10, 0.7), order)
        assert found["aurc"] == pytest.approx(0.1) == found["risk_at_80_coverage"]
        assert found["coverage_at_5_risk"] == 0 and found["failure_auroc"] == 0.5 and found["failure_fpr95"] == 1


@pytest.mark.parametrize(("right", "risk"), [(True, 0.0), (False, 1.0)])
def test_all_right_and_all_wrong_have_nothing_to_detect(right, risk):
    for n in (1, 7):
        found = selective(np.linspace(0.5, 0.9, n), np.full(n, right))
        want = {"aurc": risk, "e_aurc": 0.0, "coverage_at_5_risk": 1 - risk, "risk_at_80_coverage": risk}
        assert found == pytest.approx(want)


@pytest.mark.parametrize("of", [selective, calibration.mce, calibration.debiased_ece, calibration.smooth_ece])
@pytest.mark.parametrize("confidence", [[], [0.5, np.nan], [0.5, np.inf]])
def test_no_sample_and_no_number_are_refused(of, confidence):
    with pytest.raises(MetricError, match="expected finite confidences of at least one sample"):
        of(np.array(confidence), np.ones(len(confidence), dtype=bool))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_every_number_is_a_share_and_a_perfect_order_leaves_nothing(seed, n):
    confidence, right = sampled(seed, n)
    found = selective(confidence, right)
    assert all(-1e-12 <= value <= 1 for value in found.values())
    perfect = selective(np.where(right, 0.9, 0.1) + np.arange(n) * 1e-4, right)
    assert perfect["e_aurc"] == pytest.approx(0, abs=1e-12) and found["e_aurc"] >= -1e-12
    if "failure_auroc" in perfect:
        assert perfect["failure_auroc"] == 1 and perfect["failure_fpr95"] == 0
