"""What a run's record, files and board say of the classes that a suite asks its finetuned towers about."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from runs_kit import BACKBONE, call, folders, run_here, write_suite

from robustft import backbones
from robustft.backbones.zero_shot import build_head
from robustft.benchmarks.commands.boards import leaderboard
from robustft.benchmarks.execution.final_weights import load_text, load_weights
from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.datasets import catalogue
from robustft.methods.classifier import Classifier
from robustft.results.records.predictions import read
from robustft.results.records.records import gather, read_record
from robustft.results.tables.leaderboard import build

ASKED = {"colours": "digits/colours", "again": "digits/id"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of a suite with retention, and of the same without: its folder and the two roots of runs."""
    root = tmp_path_factory.mktemp("retention")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(Launcher, "run", run_here)
        patch.setattr(leaderboard, "of_sweep", lambda *_: None)  # it holds the reference too, and takes seconds
        plain = write_suite(root)
        shutil.move(plain, root / "plain.yaml")
        suite = write_suite(root, retention=ASKED)
        words = ("--method", "zero_shot,ft,flyp,wise_ft", "--set", "limit=24")
        assert call("sweep", suite, *words) == 0
        assert call("sweep", root / "plain.yaml", "--method", "flyp", "--set", "limit=24", "--runs", "plain") == 0
    return root


def found(swept, method):
    (path,) = folders(swept / "runs", method)
    return path


def test_the_towers_of_the_run_are_asked_by_their_own_head(swept):
    for method in ("zero_shot", "flyp"):
        record, folder = read_record(found(swept, method) / "record.json"), RunFolder(found(swept, method))
        assert list(record["retention"]) == ["colours", "again"]
        kept = catalogue.get(catalogue.with_retention("digits", ASKED)).retention[0]
        tensors, about = load_weights(folder)
        encoder = backbones.load(BACKBONE)
        Classifier.restore(encoder, tensors, about["classifier"])
        encoder.load_text_state(load_text(folder, about) or encoder.text_state())
        with torch.no_grad():
            head = build_head(encoder, kept.class_names, kept.prompts)
            images = torch.nn.functional.normalize(encoder.image_features(kept.data().images(0, 24)), dim=-1)
            probabilities = (images @ head.T).softmax(dim=1)
        colours = record["retention"]["colours"]
        right = (probabilities.argmax(dim=1).numpy() == kept.data().labels[:24]).mean()
        assert colours["accuracy"] == pytest.approx(right) and colours["n"] == colours["n_expected"] == 24
        assert colours["classes"] == 8 and record["retention"]["again"]["classes"] == 10
        columns = read(folder.retained_predictions("colours"))
        assert np.allclose(columns["p_label"], probabilities.numpy()[range(24), columns["label"]], atol=1e-5)
    # towers that were trained 3 steps are others than the pretrained ones
    first, second = (read(RunFolder(found(swept, m)).retained_predictions("colours")) for m in ("zero_shot", "flyp"))
    assert not np.allclose(first["p_label"], second["p_label"], atol=1e-4)


def test_a_set_of_the_run_itself_gives_the_numbers_that_it_has(swept):
    record = read_record(found(swept, "flyp") / "record.json")
    again, own = record["retention"]["again"], record["sets"]["id"]
    assert again["accuracy"] == own["accuracy"] and again["nll"] == pytest.approx(own["nll"], abs=1e-6)


def test_one_tower_methods_are_not_asked(swept):
    for method in ("ft", "wise_ft"):
        assert "retention" not in read_record(found(swept, method) / "record.json")
        assert not list(found(swept, method).glob("predictions/*.retained.parquet"))


def test_a_suite_without_retention_has_the_same_runs_but_for_their_data(swept):
    (path,) = folders(swept / "plain", "flyp")
    plain, asked = (read_record(folder / "record.json") for folder in (path, found(swept, "flyp")))
    assert plain["run_id"] != asked["run_id"] and "retention" not in plain
    assert plain["spec"]["fingerprint"] == catalogue.get("digits").card.fingerprint
    assert {k: v for k, v in plain["spec"].items() if k != "fingerprint"} == {
        k: v for k, v in asked["spec"].items() if k != "fingerprint"
    }
    assert plain["sets"] == asked["sets"] and plain["summary"] == asked["summary"]
    final = [folder / "weights" / "final.safetensors" for folder in (path, found(swept, "flyp"))]
    assert final[0].read_bytes() == final[1].read_bytes()


def test_the_board_has_a_column_of_its_own_that_orders_nothing(swept):
    records = list(gather(swept / "runs"))
    board = build(records)
    bare = build([{k: v for k, v in record.items() if k != "retention"} for record in records])
    (section,), (without,) = board.sections, bare.sections
    assert section.retention == {"again": 10, "colours": 8} and not without.retention
    assert [row.name for row in section.unranked()] == [row.name for row in without.unranked()]
    text = board.to_markdown()
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    column = [cell.strip() for cell in head.split("|")].index("retained")
    rows = {
        line.split("|")[1].split()[0]: line.split("|")[column].strip()
        for line in text.splitlines()
        if " | local | " in line
    }
    record = read_record(found(swept, "flyp") / "record.json")["retention"]
    mean = 100 * (record["colours"]["accuracy"] + record["again"]["accuracy"]) / 2
    assert rows["flyp"] == f"{mean:.1f}" and rows["ft"] == rows["wise_ft"] == "–"
    assert "Retained: mean accuracy on other classes" in text and "(chance: again 10, colours 12.5)" in text
    assert "retained" not in bare.to_markdown().lower()
    for page in (board.to_latex(), board.to_html()):
        assert "retained" in page and f"{mean:.1f}" in page
    lines = list(csv.DictReader(board.to_csv().splitlines()))
    flyp = next(line for line in lines if line["method"] == "flyp")
    assert float(flyp["retained_percent_mean"]) == pytest.approx(mean, abs=1e-4)
    assert float(flyp["retained_colours_percent_mean"]) == pytest.approx(100 * record["colours"]["accuracy"], abs=1e-4)
    assert flyp["empty_cells"] == "0" and next(x for x in lines if x["method"] == "ft")["retained_percent_mean"] == ""
    assert not [name for name in lines[0] if name.startswith("retained") and "behind_best" in name]
    long = [line for line in csv.DictReader(board.to_long_csv().splitlines()) if line["role"] == "retention"]
    assert {line["dataset"] for line in long} == {"colours", "again"} and {line["method"] for line in long} == {
        "zero_shot",
        "flyp",
    }


def test_rescore_and_verify_make_its_numbers_again(swept, tmp_path, capsys):
    assert call("rescore", "--runs", swept / "runs") == 0
    assert " 0 problems" in capsys.readouterr().out
    assert call("bundle", tmp_path / "out", "--benchmark", "digits", "--runs", swept / "runs") == 0
    assert call("verify", tmp_path / "out") == 0
    assert "all hold" in capsys.readouterr().out
    shutil.copytree(swept / "runs", tmp_path / "runs")
    (record,) = (tmp_path / "runs").glob("*/flyp/*/*/record.json")
    content = json.loads(record.read_text())
    content["retention"]["colours"]["accuracy"] = 0.987
    record.write_text(json.dumps(content))
    assert call("rescore", "--runs", tmp_path / "runs") == 1
    assert "retention/colours accuracy: recorded 0.987, rescored 0." in capsys.readouterr().out


def test_an_export_of_such_a_run_is_of_its_own_classes(swept, tmp_path):
    assert call("export", found(swept, "flyp"), tmp_path / "out") == 0
    assert (tmp_path / "out" / "open_clip_model.safetensors").exists()
