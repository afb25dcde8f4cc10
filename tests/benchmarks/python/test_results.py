"""What was made, as values: models, metrics, data frames and comparisons, each with the numbers of the files."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from runs_kit import call, plan_runs, write_suite

import robustft
from robustft.datasets.subset import Rehearsal
from robustft.results.metrics import expected_calibration_error
from robustft.results.records import predictions

SETTINGS = {"steps": 2, "limit": 24}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An FT and a zero-shot run of a few images."""
    root = tmp_path_factory.mktemp("made")
    robustft.run(robustft.plan(write_suite(root), ["ft", "zero_shot"], settings=SETTINGS), root / "runs")
    return root / "runs"


@pytest.fixture
def folder(runs):
    """That of the FT run."""
    (found,) = runs.glob("*/ft/*/*")
    return found


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def test_a_loaded_run_says_what_its_files_say(folder):
    run = robustft.load_run(str(folder))
    assert run.spec.method == "ft" and run.record["run_id"] == run.spec.run_id and "ft" in repr(run)
    assert run.class_names[:2] == ("zero", "one") and run.head.shape == (10, run.encoder.embed_dim)
    logits = run.logits("id", limit=24)
    kept = predictions.read(folder / "predictions" / "id.parquet")
    assert logits.shape == (24, 10) and logits.dtype == torch.float32
    assert logits.argmax(1).tolist() == kept["prediction"].tolist()
    assert run.labels("id", 24).tolist() == kept["label"].tolist()
    images = run.dataset.eval_data("id").images(0, 24)
    features = torch.nn.functional.normalize(run.encoder.image_features(images), dim=-1)
    assert torch.allclose(features @ run.head.T + run.classifier.bias, logits, atol=1e-5)
    with pytest.raises(robustft.UserError, match="set: must be one of .*id.*, got 'idd'"):
        run.logits("idd")


def test_what_is_no_finished_run_is_refused_in_one_sentence(runs, tmp_path):
    with pytest.raises(robustft.UserError, match="^folder: must be that of a run"):
        robustft.load_run(runs)
    planned = plan_runs(tmp_path, "zero_shot")[0].path
    with pytest.raises(robustft.UserError, match="finished run, got .* which is planned"):
        robustft.load_run(planned)


def test_final_weights_that_were_not_kept_are_said_when_they_are_asked_for(tmp_path):
    robustft.run(robustft.plan(write_suite(tmp_path), "zero_shot", settings={"limit": 8}), tmp_path, keep="none")
    (folder,) = tmp_path.glob("*/zero_shot/*/*")
    run = robustft.load_run(folder)
    assert run.record["sets"]
    with pytest.raises(robustft.UserError, match="were not kept"):
        run.logits("id")


def test_a_run_is_evaluated_to_the_numbers_of_its_record(folder):
    assert robustft.evaluate(folder) == record_of(folder)["sets"]


class Linear(torch.nn.Module):
    """A stranger's model: logits of its own preprocessing, with a part that tells training from evaluation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.drop, self.linear = torch.nn.Dropout(0.5), torch.nn.Linear(3 * 32 * 32, 10)

    def forward(self, images):
        return self.linear(self.drop(images.float().flatten(1) / 255))


def test_a_rehearsals_classifier_scored_as_somebodys_model_has_its_numbers(tmp_path):
    planned = robustft.plan("digits", "zero_shot", backbones="tiny-vit-p16", limit=16)
    (record,) = robustft.run(planned, tmp_path / "runs", progress=False)
    run = robustft.load_run(next((tmp_path / "runs/digits/zero_shot/tiny-vit-p16").iterdir()))
    found = robustft.evaluate(lambda images: run.classifier(images), "digits", limit=16)
    assert {name: one["accuracy"] for name, one in found.items()} == {
        name: one["accuracy"] for name, one in record["sets"].items()
    }
    assert found == robustft.evaluate(run)


def test_a_folder_that_is_not_there_has_no_board(tmp_path):
    with pytest.raises(robustft.UserError, match="runs: must be a folder of runs"):
        robustft.board("digits", tmp_path / "nowhere")


def test_records_tell_rehearsals_from_whole_runs(runs):
    assert set(robustft.records(runs).limit) == {24}
    assert robustft.records(reference=True, benchmark="forgetting").limit.isna().all()


def test_a_strangers_module_is_scored_by_the_same_code():
    model = Linear().train()
    model.drop.eval()
    found = robustft.evaluate(model, "digits", sets=["validation", "id"], limit=50)
    assert model.training and model.linear.training and not model.drop.training
    assert list(found) == ["validation", "id"] and found["id"]["role"] == "id" and found["id"]["n"] == 50
    whole = robustft.benchmarks.planning.benchmark.dataset("digits")
    data = Rehearsal(whole, 50, 50).eval_data("id")  # the images of a run with --limit 50
    with torch.no_grad():
        logits = model.eval()(data.images(0, 50))
    labels = np.asarray(data.labels[:50])
    assert found["id"]["accuracy"] == (logits.argmax(1).numpy() == labels).mean()
    assert found["id"]["ece"] == pytest.approx(robustft.ece(logits.double().softmax(1).numpy(), labels), abs=1e-12)
    assert (
        "ece_scaled" in found["id"]
        and "ece_scaled" not in robustft.evaluate(model, "digits", sets=["id"], limit=8)["id"]
    )


@pytest.mark.parametrize(
    "model, data, more, says",
    [
        (lambda images: images, "digits", {}, r"model: must return a tensor of logits of shape \(8, 10\)"),
        (lambda images: None, "digits", {}, "got a NoneType"),
        (lambda images: torch.full((len(images), 10), torch.nan), "digits", {}, "probabilit|NaN|nan"),
        (Linear(), None, {}, "data: must be given"),
        (Linear(), "digitz", {}, "digitz"),
        (Linear(), "digits", {"sets": ["idd"]}, "unknown set 'idd'"),
        ("nowhere", "digits", {}, "folder: must be that of a run"),
    ],
)
def test_a_mistake_in_an_evaluation_is_one_sentence(model, data, more, says):
    with pytest.raises(robustft.UserError, match=says) as caught:
        robustft.evaluate(model, data, limit=8, **more)
    assert "\n" not in str(caught.value)


def test_a_run_on_data_of_other_classes_is_refused(folder):
    data = robustft.load_run(folder).dataset
    other = SimpleNamespace(card=replace(data.card, class_names=("cat", "dog")))
    says = "data: must have the 10 classes of the run, zero, one, two, ..., got 2, cat, dog"
    with pytest.raises(robustft.UserError, match=says):
        robustft.evaluate(folder, other)


def test_records_are_one_row_a_run_and_set(runs, folder):
    frame = robustft.records(runs)
    record = record_of(folder)
    assert len(frame) == 2 * len(record["sets"]) and frame["run_id"].nunique() == 2
    (row,) = frame[(frame.method == "ft") & (frame.set == "reversed")].to_dict("records")
    assert {key: row[key] for key in ("accuracy", "ece", "nll", "n")} == {
        key: record["sets"]["reversed"][key] for key in ("accuracy", "ece", "nll", "n")
    }
    assert row["lr"] == record["spec"]["lr"] and row["folder"] == str(folder) and row["role"] == "shift"
    alone = robustft.records(folder)
    assert alone["accuracy"].tolist() == frame[frame.method == "ft"]["accuracy"].tolist() and len(alone) < len(frame)
    assert robustft.records(runs, benchmark="imagenet").empty
    means = robustft.records(reference=True, benchmark="digits").groupby(["backbone", "method"])["accuracy"].mean()
    assert ("tiny-vit-p8", "tracer") in means.index
    with pytest.raises(robustft.UserError, match="folder: must be one of runs"):
        robustft.records(runs / "nowhere")


def test_a_record_that_cannot_be_read_is_left_out_with_a_warning(tmp_path):
    (tmp_path / "seed0-x").mkdir()
    (tmp_path / "seed0-x" / "record.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out"):
        assert robustft.records(tmp_path).empty


def test_the_board_is_that_of_the_command(runs, tmp_path, capsys):
    assert call("leaderboard", "--runs", runs, "--results", tmp_path) == 0
    text = pd.read_csv(tmp_path / "leaderboard.csv", dtype=str, keep_default_na=False)
    frame = robustft.board(runs=runs)
    assert list(frame) == list(text) and len(frame) == len(text)
    for name in frame:
        if frame[name].dtype.kind in "fi":
            theirs = pd.to_numeric(text[name].where(text[name] != ""))
            assert np.array_equal(frame[name].to_numpy(float), theirs.to_numpy(float), equal_nan=True), name
        else:
            assert frame[name].tolist() == text[name].tolist(), name
    assert frame["acc_id_percent_mean"].dtype.kind == "f" and frame["n_seeds"].dtype.kind == "i"
    local = robustft.board("digits", runs, reference=False)
    assert set(local["method"]) == {"ft", "zero_shot"} and set(local["provenance"]) == {"local"}
    assert "rehearsal" in local[local.method == "ft"]["marks"].item()


def test_a_comparison_has_the_numbers_that_the_command_prints(capsys):
    (found,) = robustft.compare("tracer", "flyp", benchmark="digits", backbone="tiny-rn", reference=True)
    capsys.readouterr()
    assert call("compare", "tracer", "flyp", "--benchmark", "digits", "--backbone", "tiny-rn", "--reference") == 0
    printed = capsys.readouterr().out
    assert (found.first, found.second, found.rule, found.provenance) == ("tracer", "flyp", "one_se", "reference")
    mean = found["acc_ood_mean"]
    low, high = mean.interval
    assert mean.difference == pytest.approx(mean.first - mean.second)
    assert f"{100 * mean.difference:+.1f}" in printed and f"{100 * low:+.1f} to {100 * high:+.1f}" in printed
    assert low < mean.images_interval[0] < mean.difference and 0 < mean.p < 0.05 and len(mean.seeds) == 5
    assert f"a difference of {100 * mean.resolvable:.1f} points" in printed
    frame = found.to_frame().set_index("column")
    assert frame.loc["acc_ood_mean", "interval_low"] == low and len(frame) == len(found.columns)
    with pytest.raises(robustft.UserError, match="column: must be one of acc_id"):
        found["acc"]


@pytest.mark.parametrize(
    "first, second, more, says",
    [
        ("tracer", "tracer", {}, "two methods, got tracer twice"),
        ("tracer", "flypp", {}, "unknown method 'flypp'"),
        ("tracer", "flyp", {"rule": "luck"}, "unknown rule"),
        ("tracer", "flyp", {"backbone": "RN51"}, "unknown backbone"),
    ],
)
def test_a_mistake_in_a_comparison_is_one_sentence(first, second, more, says):
    with pytest.raises(robustft.UserError, match=says):
        robustft.compare(first, second, benchmark="digits", reference=True, **more)


def test_the_calibration_error_is_that_of_the_metrics():
    probabilities, labels = [[0.9, 0.1], [0.2, 0.8]], [0, 0]
    assert robustft.ece(probabilities, labels, bins=10) == expected_calibration_error(probabilities, labels, 10)
    with pytest.raises(robustft.UserError, match="probabilities"):
        robustft.ece([0.1], [0])
