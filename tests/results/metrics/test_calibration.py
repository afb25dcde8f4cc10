"""Calibration beyond the global ECE: hand-worked cases, known truths, independence of batches and order."""

import math

import numpy as np
import pytest
import torch

from robustft.results.metrics import calibration
from robustft.results.metrics.metrics import BatchAveragedECE, MetricError, expected_calibration_error
from robustft.results.metrics.set_metrics import basic, by_group, per_class, score

pytestmark = pytest.mark.computes


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def calibrated(n, classes=10, seed=0, sharpness=3.0):
    """Logits, and labels drawn from their own softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * sharpness
    return logits, (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


def kept(logits, labels):
    p = softmax(logits)
    return p.max(axis=1), p.argmax(axis=1) == labels


def columns_of(logits, labels, **more):
    p, rows = softmax(logits), np.arange(len(labels))
    return {
        "label": labels,
        "prediction": p.argmax(axis=1),
        "confidence": p.max(axis=1),
        "p_label": p[rows, labels],
        "sum_p2": (p**2).sum(axis=1),
        **more,
    }


def test_error_from_confidences_is_the_error_from_probabilities():
    logits, labels = calibrated(500)
    assert calibration.ece(*kept(logits, labels)) == expected_calibration_error(softmax(logits), labels)
    assert calibration.ece(*kept(logits, labels), bins=7) == expected_calibration_error(softmax(logits), labels, 7)


def test_batch_averaged_error_by_hand():
    # Batches of 2, 2 and 1 whose bins do not mix: |2 - 1.5| / 2, |1 - 1.7| / 2, |0 - 0.25|; weighted by their sizes.
    confidence = np.array([0.75, 0.75, 0.8, 0.9, 0.25])
    correct = np.array([True, True, False, True, False])
    want = (abs(1 - 0.75) * 2 + (0.8 + 0.1) + 0.25) / 5
    assert calibration.batch_averaged_ece(confidence, correct, 2) == pytest.approx(want, abs=1e-7)
    meter = BatchAveragedECE(10, 128)
    logits, labels = calibrated(700)
    meter.update(softmax(logits), labels)
    assert calibration.batch_averaged_ece(*kept(logits, labels), 128) == meter.compute()["ece_batch_averaged"]


def test_adaptive_error_by_hand():
    # Two bins of three: |1/3 - (0.2 + 0.3 + 0.4)/3| and |3/3 - (0.6 + 0.8 + 0.9)/3|, in any order of the samples.
    confidence = np.array([0.9, 0.2, 0.4, 0.6, 0.3, 0.8])
    correct = np.array([True, True, False, True, False, True])
    want = (abs(1 - 0.9) + abs(3 - 2.3)) / 6
    for order in (np.arange(6), np.array([3, 1, 5, 0, 4, 2])):
        assert calibration.adaptive_ece(confidence[order], correct[order], bins=2) == pytest.approx(want)
    # An edge through equal confidences: each side has their mean accuracy.
    tied = np.full(5, 0.5), np.array([True, False, False, False, False])
    assert calibration.adaptive_ece(*tied, bins=2) == pytest.approx(0.3)
    assert calibration.adaptive_ece(np.array([0.9]), np.array([True])) == pytest.approx(0.1)


def test_a_calibrated_model_shows_about_the_expected_error_and_a_miscalibrated_one_more():
    logits, labels = calibrated(2000)
    confidence, correct = kept(logits, labels)
    expected = calibration.expected_ece(confidence, "id")
    others = [calibration.ece(*kept(*calibrated(2000, seed=seed))) for seed in range(1, 21)]
    assert expected == pytest.approx(np.mean(others), rel=0.1)
    assert abs(calibration.ece(confidence, correct) - expected) < 4 * np.std(others)
    assert calibration.ece(*kept(3 * logits, labels)) > 3 * calibration.expected_ece(kept(3 * logits, labels)[0], "id")


def test_expected_error_of_one_bin_is_the_mean_absolute_deviation():
    # 64 samples of confidence 1/2: E|X - 32| / 64 for X ~ B(64, 1/2) is 64 C(63, 31) 2**-64 / 64.
    want = math.comb(63, 31) / 2**64
    got = calibration.expected_ece(np.full(64, 0.5), "id", draws=4000)
    assert got == pytest.approx(want, rel=0.05)
    assert calibration.expected_ece(np.ones(10), "id") == 0


def test_expected_error_depends_on_the_set_and_its_confidences_alone():
    confidence = kept(*calibrated(300))[0]
    first = calibration.expected_ece(confidence, "id")
    assert first == calibration.expected_ece(confidence.astype(np.float32), "id")
    assert first != calibration.expected_ece(confidence, "sketch")
    assert first == calibration.expected_ece(confidence, "id", draws=200)
    assert first != calibration.expected_ece(confidence, "id", draws=199)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, labels = calibrated(20000)
    found = calibration.fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.03)
    half = calibration.fit_temperature((logits * temperature).astype(np.float16), labels)
    assert half == pytest.approx(found, rel=1e-3)


def test_the_temperature_is_where_the_likelihood_is_largest():
    logits, labels = calibrated(300)
    logits = torch.from_numpy(logits * 2)

    def nll(temperature):
        return torch.nn.functional.cross_entropy(logits / temperature, torch.from_numpy(labels)).item()

    found = calibration.fit_temperature(logits.numpy(), labels)
    assert all(nll(found) < nll(found * factor) for factor in (0.99, 1.01))


def test_logits_that_say_everything_or_nothing_have_a_temperature_at_the_end():
    labels = np.array([0, 1, 1])
    sure = np.eye(2)[labels] * 5
    assert calibration.fit_temperature(sure, labels) == calibration.TEMPERATURES[0]
    assert calibration.fit_temperature(-sure, labels) == calibration.TEMPERATURES[1]
    with pytest.raises(MetricError, match="finite"):
        calibration.fit_temperature(np.array([[np.nan, 0.0]]), np.array([0]))


def test_confidence_at_a_temperature_is_that_of_the_divided_logits():
    logits, _ = calibrated(50)
    for temperature in (0.5, 1.0, 3.0):
        want = softmax(logits / temperature).max(axis=1)
        np.testing.assert_allclose(calibration.confidence_at(logits, temperature), want, rtol=1e-12)


def test_scores_of_a_set_are_the_parts_and_scaling_mends_the_error():
    logits, labels = calibrated(4000)
    logits = logits * 3
    temperature = calibration.fit_temperature(logits, labels)
    columns = columns_of(logits, labels, confidence_scaled=calibration.confidence_at(logits, temperature))
    got = score(columns, "id", 512)
    confidence, correct = columns["confidence"], columns["prediction"] == labels
    assert basic(columns).items() <= got.items()
    assert got["ece_lineage_10bins_b512"] == calibration.batch_averaged_ece(confidence, correct, 512)
    assert got["ece_expected"] == calibration.expected_ece(confidence, "id")
    assert got["ece_scaled"] == expected_calibration_error(softmax(logits / temperature), labels)
    assert got["ece_scaled"] < 0.02 < 0.1 < got["ece"]
    assert got["accuracy"] == np.mean(correct)


def test_scores_need_only_what_an_older_file_has():
    columns = columns_of(*calibrated(100))
    del columns["sum_p2"]
    got = score(columns, "id", 64)
    assert "brier" not in got and "ece_scaled" not in got and "worst_group_accuracy" not in got
    assert got["nll"] == basic(columns_of(*calibrated(100)))["nll"]


def test_scores_have_the_worst_group():
    columns = columns_of(*calibrated(100), group=np.array(["a", "b"] * 50, dtype=object))
    assert by_group(columns, columns["group"]).items() <= score(columns, "id", 64).items()


def test_classes_of_a_set_are_counted_one_by_one():
    columns = {"label": np.array([0, 0, 2, 2]), "prediction": np.array([0, 4, 2, 2])}
    got = per_class(columns, "sketch")
    assert got["class"].tolist() == [0, 2, 4]
    assert got["n"].tolist() == [2, 2, 0] and got["predicted"].tolist() == [1, 2, 1]
    assert got["correct"].tolist() == [1, 2, 0]
    assert got["accuracy"][:2].tolist() == [0.5, 1.0] and np.isnan(got["accuracy"][2])
    assert set(got["set"]) == {"sketch"}


def test_scaled_nll_is_that_of_the_best_temperature():
    """Against torch's cross-entropy at every temperature of a fine grid: none is better, and one is as good."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 400)
    logits = (12 * (rng.normal(size=(400, 5)) + np.eye(5)[labels])).astype(np.float16)  # much too sure
    found = calibration.scaled_nll(logits, labels)
    tried = [
        torch.nn.functional.cross_entropy(torch.tensor(logits.astype(np.float64) / t), torch.tensor(labels)).item()
        for t in np.geomspace(1, 100, 400)
    ]
    assert found.shape == (400,) and found.mean() == pytest.approx(min(tried), abs=1e-4)
    assert found.mean() <= min(tried) + 1e-9 < tried[0] - 1


@pytest.mark.parametrize("length, width", [(3001, 1001), (101, 51), (20, 7), (9, 9)])
def test_the_convolution_has_the_bits_of_scipys(length, width):
    from scipy.signal import fftconvolve

    rng = np.random.default_rng(length)
    lines, kernel = rng.random((2, length)), rng.random(width)
    spectra = calibration._transformed(lines, width), calibration._transformed(kernel, length)
    found = calibration._convolved(*spectra, length, width)
    assert np.array_equal(found, fftconvolve(lines, kernel[None], "valid", axes=1))


@pytest.mark.parametrize("n", [1, 16, 797, 1797])
def test_numbers_that_are_kept_give_the_bits_of_those_that_are_drawn_anew(monkeypatch, n):
    confidence = np.random.default_rng(n).random(n).astype(np.float32)
    kept = [calibration.expected_ece(confidence, name) for name in ("id", "writers", "id")]
    monkeypatch.setattr(calibration, "KEPT", 0)
    assert kept == [calibration.expected_ece(confidence, name) for name in ("id", "writers", "id")]
    assert kept[0] != kept[1]
