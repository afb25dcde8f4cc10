"""What a trial is compared by."""

from types import SimpleNamespace

import numpy as np
import pytest

from robustft.benchmarks.planning.tuning import _trial
from robustft.results.metrics import calibration
from robustft.results.records import predictions


@pytest.mark.parametrize("metric", ["validation_nll", "validation_nll_scaled"])
def test_a_trial_is_compared_by_the_metric_of_the_suite(metric, tmp_path):
    """Two seeds, each with a temperature of its own: a sure one does not count as worse after scaling."""
    rng, labels = np.random.default_rng(0), np.arange(40) % 4
    folders, runs, raw, scaled = {}, [], [], []
    for seed, sharpness in enumerate((1.0, 20.0)):
        logits = (sharpness * (rng.normal(size=(40, 4)) + 2 * np.eye(4)[labels])).astype(np.float16)
        p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        ids = [f"i{i}" for i in range(40)]
        columns = predictions.columns(p / p.sum(1, keepdims=True), labels, ids, ids) | {"logits": logits}
        predictions.write(tmp_path / str(seed) / "validation.parquet", columns)
        runs.append(SimpleNamespace(spec=SimpleNamespace(run_id=str(seed), lr=0.1)))
        folders[str(seed)] = SimpleNamespace(predictions=tmp_path / str(seed))
        raw.append(predictions.nll(columns))
        scaled.append(calibration.scaled_nll(logits, labels))
    trial = _trial({"lr": 0.1}, runs, folders, "validation", "larger", metric)
    expected = np.concatenate(scaled if metric.endswith("scaled") else raw)
    assert np.allclose(trial.nll_per_sample, expected) and trial.trial_id == "0,1"
    assert np.mean(scaled[1]) < np.mean(raw[1]) - 0.1
