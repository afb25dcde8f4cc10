"""What a trial is compared by, and whose trials choose for a backbone."""

from types import SimpleNamespace

import numpy as np
import pytest
from animals_kit import make
from runs_kit import BACKBONE, call, write_suite

from robustft.benchmarks.planning.tuning import _trial
from robustft.results.metrics import calibration
from robustft.results.records import predictions

pytestmark = pytest.mark.usefixtures("no_reference")


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


@pytest.mark.usefixtures("runs_here", "fresh_data")
def test_a_backbone_takes_the_values_of_the_one_that_it_is_tuned_on(tmp_path, capsys):
    make(tmp_path / "animals")
    about = dict(name="animals", dataset=f"folder:{tmp_path / 'animals'}", backbones=["tiny-rn"], seeds=[0])
    about |= dict(recipes={"common": {"steps": 2, "batch_size": 8, "lr": 1e-4, "weight_decay": 0.1}}, version="own")
    tuning = {"trials": 2, "seeds": [100], "space": {"ft": {"lr": [1e-6, 2e-3]}}, "on": {"tiny-rn": BACKBONE}}
    suite = write_suite(tmp_path, **about, tuning=tuning)
    places = ("--runs", tmp_path / "runs")
    assert call("tune", suite, "--method", "ft", *places) == 0
    assert f"tiny-rn takes the values of {BACKBONE}, whose trials these are" in capsys.readouterr().out
    trials = {path.parent.parent.name for path in (tmp_path / "runs").rglob("record.json")}
    assert trials == {BACKBONE}
    assert call("sweep", suite, "--method", "ft", *places, "--dry-run") == 0
    assert f"tuned one_se on {BACKBONE}" in capsys.readouterr().out
    assert call("sweep", suite, "--method", "zero_shot,ft", *places, "--results", tmp_path / "results") == 0
    out = capsys.readouterr().out
    assert "not ranked" not in out and f"tuned one_se on {BACKBONE}" not in out
    assert f" on {BACKBONE} (2) |" in (tmp_path / "results" / "leaderboard.md").read_text()
    assert call("bundle", tmp_path / "bundle", "--benchmark", suite, *places) == 0
    assert call("verify", tmp_path / "bundle") == 0
    assert call("merge", tmp_path / "bundle", "--results", tmp_path / "merged") == 0
    assert "does not hold the tuned values" not in (tmp_path / "merged" / "leaderboard.md").read_text()
    write_suite(tmp_path, **about, tuning=tuning | {"space": {"ft": {"lr": [1e-6, 1e-3]}}})
    assert call("leaderboard", suite, *places, "--results", tmp_path / "results") == 0
    assert "stale tuning" in (tmp_path / "results" / "leaderboard.md").read_text()
    write_suite(tmp_path, **about, tuning=tuning | {"on": {"tiny-rn": BACKBONE, BACKBONE: "tiny-vit-p8"}})
    assert call("sweep", suite, "--method", "ft", *places, "--dry-run") == 2
    assert "tuning.on.tiny-rn must name a backbone with trials of its own" in capsys.readouterr().err
    write_suite(tmp_path, **about, tuning=tuning | {"on": {"tiny-rn": "tiny-vit-p61"}})
    assert call("sweep", suite, "--method", "ft", *places, "--dry-run") == 2
    assert "tuning.on.tiny-rn: " in capsys.readouterr().err
