"""Probabilities in few bytes: which numbers move, by how much at most, and that rounding them again moves none."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustft.results.metrics import set_metrics
from robustft.results.metrics.calibration import confidence_at
from robustft.results.metrics.metrics import bin_edges
from robustft.results.records import predictions, rounding
from robustft.results.records.predictions import PredictionError
from robustft.results.records.reference import PREDICTIONS, SAMPLES, ReferencePredictions, opened, write_predictions

pytestmark = pytest.mark.computes
SETS = np.repeat(["id", "fresh"], [1500, 900]).astype(object)


def some_columns(sharpness=2.0, classes=10, seed=0, temperature=1.3):
    """Of a model that is right more often than not, over the samples of SETS."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=len(SETS))
    logits = sharpness * rng.normal(size=(len(SETS), classes))
    logits[np.arange(len(SETS)), labels] += 1.5 * sharpness
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    ids = [str(i) for i in range(len(SETS))]
    kept = predictions.columns(p / p.sum(axis=1, keepdims=True), labels, ids, ids)
    return kept | {"confidence_scaled": confidence_at(logits, temperature).astype(np.float32)}


def rounded(columns):
    decoded = rounding.decode(rounding.encode(columns, SETS), columns["label"])
    return {name: decoded.get(name, columns[name]) for name in columns}


def scores(columns):
    return {
        name: set_metrics.score({key: values[rows] for key, values in columns.items()}, name, 512)
        for name in ("id", "fresh")
        if (rows := name == SETS) is not None
    }


@pytest.mark.parametrize("sharpness, classes, temperature", [(2, 10, 1.3), (6, 10, 0.8), (0.3, 10, 1.0), (3, 1000, 1)])
def test_what_is_computed_of_a_set_holds(sharpness, classes, temperature):
    columns = some_columns(sharpness, classes, temperature=temperature)
    before, after = scores(columns), scores(rounded(columns))
    bounds = {"ece": 1e-5, "nll": 1e-5, "brier": 2e-5, "mean_confidence": 1e-5, "ece_lineage_10bins_b512": 5e-5}
    bounds |= {"ece_expected": 2e-4, "ece_adaptive": 2e-3, "ece_scaled": 2e-4}
    bounds |= {"mce": 3e-4, "ece_debiased": 2e-5, "ece_smooth": 5e-5}
    # By the order of confidences, of which some become equal.
    bounds |= dict.fromkeys(("aurc", "e_aurc", "failure_auroc", "risk_at_80_coverage"), 2e-3)
    bounds |= dict.fromkeys(("failure_fpr95", "coverage_at_5_risk"), 3e-2)
    for name in before:
        for key, value in before[name].items():
            assert abs(after[name][key] - value) <= bounds.get(key, 0), (name, key, value, after[name][key])


def test_a_number_moves_by_less_than_a_step_and_over_no_edge():
    columns = some_columns()
    got = rounded(columns)
    assert np.array_equal(got["prediction"], columns["prediction"]) and got["prediction"].dtype == np.int32
    for name in ("confidence", "p_label"):
        was, new = (of[name].astype(np.float64) for of in (columns, got))
        assert (abs(new - was) <= np.minimum(was, 1 - was) / 256 + 1e-7).all(), name
    for name, bins in (("confidence", 10), ("confidence", 15), ("confidence_scaled", 15)):
        was, new = (np.searchsorted(bin_edges(bins), of[name], side="right") for of in (columns, got))
        assert np.array_equal(was, new), (name, bins)
    for name in ("sum_p2", "confidence_scaled"):
        assert abs(got[name] - columns[name]).max() < 2 / 64, name
    right = got["prediction"] == got["label"]
    assert np.array_equal(got["confidence"][right], got["p_label"][right])


def test_rounding_what_was_rounded_changes_nothing():
    once = rounded(some_columns(sharpness=4))
    again = rounded(once)
    for name in once:
        assert np.array_equal(once[name], again[name]), name


@pytest.mark.parametrize("classes", [2, 3])
def test_numbers_at_the_ends_come_back(classes):
    """Certain, impossible and all but impossible, as a saturated model has them; 0 alone is 0."""
    label = np.array([0, 0, 0, 1, 1, 1, 0])
    p_label = np.array([1, 1 - 2**-24, 0.5, 0, 1e-45, 1e-30, 0.75], dtype=np.float32)
    confidence = np.array([1, 1 - 2**-24, 0.5, 1, 1, 1, 0.75], dtype=np.float32)
    prediction = np.array([0, 0, 0, 0, 0, 0, 0])
    columns = {"label": label, "prediction": prediction, "confidence": confidence, "p_label": p_label}
    columns |= {"sum_p2": confidence**2, "confidence_scaled": np.ones(7, np.float32)}
    got = rounding.decode(rounding.encode(columns, np.full(7, "id", dtype=object)), label)
    assert np.array_equal(got["confidence"], confidence) and np.array_equal(got["prediction"], prediction)
    exact = [0, 1, 2, 3, 6]
    assert np.array_equal(got["p_label"][exact], p_label[exact])
    assert 0 < got["p_label"][4] < 1e-40 and got["p_label"][5] == pytest.approx(1e-30, rel=1 / 256)
    assert (got["confidence_scaled"] == 1).all() and (got["sum_p2"] <= 1).all()


def test_columns_that_a_run_lacks_are_lacking():
    columns = some_columns()
    del columns["sum_p2"], columns["confidence_scaled"]
    coded = rounding.encode(columns, SETS)
    assert set(rounding.decode(coded, columns["label"])) == {"prediction", "confidence", "p_label"}


@pytest.fixture
def folder(tmp_path):
    """A reference of three runs, two of which have the same outcomes."""
    columns = some_columns()
    ids = {name: list(values) for name, values in (("set", SETS), ("label", columns["label"]))}
    pq.write_table(pa.table(ids), tmp_path / SAMPLES)
    first, other = (rounding.encode(some_columns(seed=seed) | {"label": columns["label"]}, SETS) for seed in (0, 1))
    write_predictions(tmp_path / PREDICTIONS, {"bbb": first, "aaa": first, "ccc": other})
    return tmp_path


def test_runs_with_the_same_outcomes_are_kept_once(folder):
    kept = ReferencePredictions(folder)
    assert kept.runs == {"aaa": 0, "bbb": 0, "ccc": 1} and "ddd" not in kept
    assert pq.read_metadata(folder / PREDICTIONS).num_rows == 2
    one, same, other = (kept.read(run_id) for run_id in ("aaa", "bbb", "ccc"))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["confidence"], other["confidence"])


def test_a_reference_is_opened_once_until_one_of_its_files_is_another(folder):
    first = opened(folder)
    assert opened(folder) is first and opened(folder / "none") is None
    with pytest.raises(ValueError, match="read-only"):
        first.samples["label"][0] = 1  # what all that read it see
    for path in (folder / PREDICTIONS, folder / SAMPLES):
        before, content = opened(folder), path.read_bytes()
        path.unlink()
        assert opened(folder) is None
        path.write_bytes(content)
        assert opened(folder) is not before


def test_a_reference_that_is_damaged_is_one_sentence(folder):
    with pytest.raises(PredictionError, match="holds no run ddd"):
        ReferencePredictions(folder).read("ddd")
    kept = ReferencePredictions(folder)
    kept.samples["label"] = kept.samples["label"][:-9]
    with pytest.raises(PredictionError, match=r"predictions\.parquet: cannot be read .*samples"):
        kept.read("aaa")
    (folder / PREDICTIONS).write_bytes(b"x")
    with pytest.raises(PredictionError, match=r"predictions\.parquet: cannot be read"):
        ReferencePredictions(folder).read("aaa")
    (folder / PREDICTIONS).unlink()
    with pytest.raises(PredictionError, match=r"predictions\.parquet: is missing"):
        ReferencePredictions(folder).read("aaa")
