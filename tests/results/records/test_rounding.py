"""Probabilities in few bytes: which numbers move, by how much at most, and that rounding them again moves none."""

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustft.results.metrics import set_metrics
from robustft.results.metrics.metrics import bin_edges, binned
from robustft.results.records import predictions, rounding
from robustft.results.records.predictions import PredictionError
from robustft.results.records.reference import (
    ORDER,
    PREDICTIONS,
    SAMPLES,
    ReferencePredictions,
    opened,
    write_predictions,
)

pytestmark = pytest.mark.computes
SETS = np.repeat(["id", "fresh"], [1500, 900]).astype(object)


def some_columns(sharpness=2.0, classes=10, seed=0):
    """Of a model that is right more often than not, over the samples of SETS."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=len(SETS))
    logits = sharpness * rng.normal(size=(len(SETS), classes))
    logits[np.arange(len(SETS)), labels] += 1.5 * sharpness
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    ids = [str(i) for i in range(len(SETS))]
    return predictions.columns(p / p.sum(axis=1, keepdims=True), labels, ids, ids)


def rounded(columns, sets=SETS, places=None):
    places = rounding.order([columns]) if places is None else places
    coded = rounding.encode(columns, sets, places)
    return dict(columns) | rounding.decode(coded, columns["label"], sets, places)


def scores(columns):
    return {
        name: set_metrics.some({key: values[name == SETS] for key, values in columns.items()}, rounding.GIVEN)
        for name in ("id", "fresh")
    }


@pytest.mark.parametrize("sharpness, classes", [(2, 10), (6, 10), (0.3, 10), (3, 1000)])
def test_what_is_given_of_a_set_holds(sharpness, classes):
    columns = some_columns(sharpness, classes)
    before, after = scores(columns), scores(rounded(columns))
    bounds = {"ece": 1e-6, "mean_confidence": 1e-6, "mce": 1e-6, "ece_debiased": 2e-6}
    for name, own in before.items():
        assert set(own) == set(rounding.GIVEN)
        step = np.log(2) / (name == SETS).sum()
        for key, value in own.items():
            assert abs(after[name][key] - value) <= bounds.get(key, step if key == "nll" else 0), (name, key)
    assert abs(before["id"]["nll"] - after["id"]["nll"]) > 0  # no other bound than the one that is promised


def test_bins_and_predictions_are_exact_and_p_label_is_within_a_step():
    columns = some_columns()
    got = rounded(columns)
    assert np.array_equal(got["prediction"], columns["prediction"]) and got["prediction"].dtype == np.int32
    was, new = (binned(of["confidence"], bin_edges(15))[1] for of in (columns, got))
    assert np.array_equal(was, new) and len(np.unique(got["confidence"])) <= 32
    assert got["confidence"].dtype == got["p_label"].dtype == np.float32
    right = got["prediction"] == got["label"]
    assert np.array_equal(got["confidence"][right], got["p_label"][right])
    away = abs(np.log2(got["p_label"][~right].astype(np.float64) / columns["p_label"][~right]))
    assert 0.1 < away.max() <= 1.1 and (got["p_label"] <= got["confidence"]).all()


def test_the_order_of_places_changes_nothing_but_bytes():
    columns = some_columns()
    places = np.random.default_rng(1).permutation(len(SETS)).astype(np.int32)
    one, other = rounded(columns), rounded(columns, places=places)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    coded = [rounding.encode(columns, SETS, each)["bin"] for each in (places, rounding.order([columns]))]
    assert len(zlib.compress(coded[1])) < len(zlib.compress(coded[0]))
    right = columns["prediction"] == columns["label"]
    first = right[rounding.order([columns])]
    assert first[: right.sum()].all() and not first[right.sum() :].any()


def test_rounding_what_was_rounded_changes_nothing():
    once = rounded(some_columns(sharpness=4))
    again = rounded(once)
    for name in once:
        assert np.array_equal(once[name], again[name]), name


def test_numbers_at_the_ends_come_back():
    """Certain, impossible and all but impossible, as a saturated model has them; 0 alone is 0."""
    label = np.array([0, 0, 0, 1, 1, 1, 0])
    p_label = np.array([1, 1, 0.5, 0, 1e-45, 2.0**-100, 0.75], dtype=np.float32)
    confidence = np.array([1, 1, 0.5, 1, 1, 1, 0.75], dtype=np.float32)
    columns = {"label": label, "prediction": np.zeros(7, int), "confidence": confidence, "p_label": p_label}
    got = rounded(columns, np.full(7, "id", dtype=object))
    assert np.allclose(got["confidence"], confidence, rtol=0, atol=1e-6) and (got["confidence"][[0, 1, 3]] == 1).all()
    assert np.array_equal(got["prediction"], columns["prediction"])
    wrong = [3, 4, 5]
    assert np.array_equal(got["p_label"][wrong], p_label[wrong])
    edge = bin_edges(15)[3]
    below = np.nextafter(edge, np.float32(0))
    columns["confidence"] = np.array([edge, below, below, edge, 1, 1, 1], dtype=np.float32)
    got = rounded(columns, np.full(7, "id", dtype=object))
    assert np.array_equal(binned(got["confidence"], bin_edges(15))[1], [3, 2, 2, 3, 15, 15, 15])


@pytest.fixture
def folder(tmp_path):
    """A reference of four runs, two of which have the same outcomes; one on another backbone, in another order."""
    columns = some_columns()
    orders = {"one": rounding.order([columns]), "other": np.arange(len(SETS), dtype=np.int32)[::-1]}
    ids = {name: list(values) for name, values in (("set", SETS), ("label", columns["label"]))}
    kept = pa.table(ids | {ORDER + name: pa.array(places) for name, places in orders.items()})
    pq.write_table(kept, tmp_path / SAMPLES)
    first, other = (some_columns(seed=seed) | {"label": columns["label"]} for seed in (0, 1))
    runs = {"aaa": (first, "one"), "bbb": (first, "one"), "ccc": (other, "one"), "eee": (first, "other")}
    coded = {run_id: rounding.encode(of, SETS, orders[name]) for run_id, (of, name) in runs.items()}
    write_predictions(tmp_path / PREDICTIONS, coded, {run_id: name for run_id, (_, name) in runs.items()})
    return tmp_path


def test_runs_with_the_same_outcomes_are_kept_once(folder):
    kept = ReferencePredictions(folder)
    assert kept.runs == {"aaa": 0, "bbb": 0, "ccc": 1, "eee": 2} and "ddd" not in kept
    assert pq.read_metadata(folder / PREDICTIONS).num_rows == 3
    one, same, other, elsewhere = (kept.read(run_id) for run_id in ("aaa", "bbb", "ccc", "eee"))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert all(np.array_equal(one[name], elsewhere[name]) for name in one)
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
    table = pq.read_table(folder / SAMPLES)
    for damaged, words in (
        (
            table.slice(9),
            r"samples\.parquet: cannot be read \(an order is not one of the samples\); take it from [a-z ]+\.$",
        ),
        (table.drop_columns([ORDER + "one"]), r"predictions\.parquet: cannot be read \('one'"),
        (table.set_column(2, ORDER + "one", pa.array(np.zeros(len(SETS), np.int32))), "an order is not one"),
    ):
        pq.write_table(damaged, folder / SAMPLES)
        with pytest.raises(PredictionError, match=words):
            ReferencePredictions(folder).read("aaa")
    pq.write_table(table, folder / SAMPLES)
    (folder / SAMPLES).unlink()
    with pytest.raises(PredictionError, match=r"samples\.parquet: is missing; take the folder from the repository"):
        ReferencePredictions(folder).read("aaa")
    pq.write_table(table, folder / SAMPLES)
    (folder / PREDICTIONS).write_bytes(b"x")
    with pytest.raises(PredictionError, match=r"predictions\.parquet: cannot be read"):
        ReferencePredictions(folder).read("aaa")
    (folder / PREDICTIONS).unlink()
    with pytest.raises(PredictionError, match=r"predictions\.parquet: is missing"):
        ReferencePredictions(folder).read("aaa")
