"""Records against what their samples say: the same numbers from the files, and a difference is found."""

import csv
import json
import math
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from make_records import make_record
from runs_kit import call, plan_runs

from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.results.audit import rescoring
from robustft.results.audit.rescoring import FolderFiles, ReferenceFiles, rescore, rescore_set, with_rescored
from robustft.results.records import predictions
from robustft.results.records.records import REFERENCE, gather_reference
from robustft.results.records.reference import ReferencePredictions

pytestmark = pytest.mark.computes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished zero-shot run on a few samples."""
    root = tmp_path_factory.mktemp("rescore")
    (folder,) = plan_runs(root, "zero_shot", "limit=16", backbone="tiny-vit-p8")
    assert work(folder.path, Options(), lambda: False)["event"] == "done"
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """A copy to damage: (root of runs, run folder)."""
    root = tmp_path / "runs"
    shutil.copytree(made.path.parents[3], root)
    return root, root / made.path.relative_to(made.path.parents[3])


def test_every_number_of_a_real_record_comes_back(made):
    record = json.loads(made.record.read_text())
    numbers = list(rescore(record, FolderFiles(made.predictions)))
    recorded = [
        (s, key) for s, metrics in record["sets"].items() for key in metrics if key not in ("role", "n_expected")
    ]
    assert {(n.set, n.metric) for n in numbers} == {*recorded, ("validation", "temperature")}
    assert all(n.recorded is not None and not n.differs for n in numbers)
    assert {n.metric for n in numbers if n.rescored is None} == {"ece_classwise"}  # of which no sample tells
    numbers = [n for n in numbers if n.rescored is not None]
    exact = [n for n in numbers if n.metric.startswith(("ece", "accuracy", "macro", "worst")) or n.metric == "n"]
    assert len(exact) == 8 * 11 and all(n.recorded == n.rescored for n in exact)


def test_the_command_agrees_and_writes_every_number(made, tmp_path, capsys):
    assert call("rescore", "--runs", made.path.parents[3], "--out", tmp_path / "all.csv") == 0
    assert "1 run: 169 numbers of their records rescored, 0 problems; 8 follow" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert len(rows) == 177 and {row["method"] for row in rows} == {"zero_shot"}


def test_a_record_that_says_something_else_is_found(copied, capsys):
    root, folder = copied
    record = json.loads((folder / "record.json").read_text())
    record["sets"]["sketches"]["brier"] += 1e-4
    record["sets"]["sketches"]["ece_lineage_10bins_b512"] += 1e-4
    (folder / "record.json").write_text(json.dumps(record))
    assert call("rescore", "--runs", root) == 1
    told = capsys.readouterr().out
    assert "zero_shot tiny-vit-p8 seed 3, " in told and ": sketches brier: recorded" in told
    assert "sketches ece_lineage_10bins_b512: recorded" in told and "2 problems" in told


def test_a_sample_that_was_changed_is_found(copied, capsys):
    root, folder = copied
    path = folder / "predictions" / "id.parquet"
    columns = predictions.read(path)
    columns["prediction"] = np.where(np.arange(16) == 3, columns["label"] + 1, columns["label"])
    predictions.write(path, columns)
    assert call("rescore", "--runs", root) == 1
    assert ": id accuracy: recorded" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "id.parquet: cannot be read"),
        (lambda path: path.unlink(), "id.parquet: is missing; copy it from where the run was made"),
        (
            lambda path: pq.write_table(pq.read_table(path).drop_columns(["confidence"]), path),
            "id.parquet: .*confidence",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence_and_code_1(copied, capsys, damage, words):
    root, folder = copied
    damage(folder / "predictions" / "id.parquet")
    assert call("rescore", "--runs", root) == 1
    told = capsys.readouterr()
    assert re.search(f"not read: zero_shot .*{words}", told.out) and "Traceback" not in told.out + told.err


def test_a_damaged_record_is_told_and_no_run_is_a_mistake(copied, tmp_path, capsys):
    root, folder = copied
    (folder / "record.json").write_text("{")
    assert call("rescore", "--runs", root) == 1
    assert "record.json: is no JSON" in capsys.readouterr().out
    assert call("rescore", "--runs", tmp_path / "none") == 2
    assert "must hold a finished run of any benchmark" in capsys.readouterr().err


def test_the_committed_reference_is_rescored_as_far_as_it_keeps_samples():
    record = gather_reference("digits")[0]
    numbers = list(rescore(record, ReferenceFiles(ReferencePredictions(REFERENCE / "digits"), record["run_id"])))
    assert not [n for n in numbers if n.differs]
    checked = {(n.set, n.metric) for n in numbers if n.recorded is not None and n.rescored is not None}
    for name, metrics in record["sets"].items():
        kept = metrics["role"] != "validation"
        for key in ("accuracy", "ece", "nll", "macro_f1", "mean_confidence"):
            assert ((name, key) in checked) == kept, (name, key)


def test_samples_of_another_run_are_no_match():
    kept, (first, second) = ReferencePredictions(REFERENCE / "digits"), gather_reference("digits")[:2]
    assert [n for n in rescore(first, ReferenceFiles(kept, second["run_id"])) if n.differs]


def some_columns(p_label):
    n = len(p_label)
    base = {"label": np.zeros(n, int), "prediction": np.zeros(n, int), "confidence": np.full(n, 0.75, np.float32)}
    return base | {"p_label": np.array(p_label, np.float32)}


def test_a_likelihood_that_float32_lost_is_not_called_wrong():
    kept = rescore_set("id", {}, some_columns([0.5, 0.25]))
    assert kept["nll"] == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    lost = rescore_set("id", {}, some_columns([0.5, 0.0]))
    assert "nll" not in lost and lost["accuracy"] == 1.0


def test_the_batch_of_the_lineage_is_the_records():
    metrics = {"ece_lineage_10bins_b224": 0.1}
    assert "ece_lineage_10bins_b224" in rescore_set("id", metrics, some_columns([0.5, 0.25]))
    assert "ece_lineage_10bins_b512" in rescore_set("id", {}, some_columns([0.5, 0.25]))


def test_a_record_takes_what_its_samples_say():
    record = make_record()
    numbers = [
        rescoring.Number("id", "accuracy", 0.8, 0.75),
        rescoring.Number("id", "brier", 0.3, None),
        rescoring.Number("id", "ece_expected", None, 0.01),
    ]
    sets = with_rescored(record, numbers)["sets"]
    assert sets["id"]["accuracy"] == 0.75 and sets["id"]["brier"] == 0.3 and "ece_expected" not in sets["id"]
    assert record["sets"]["id"]["accuracy"] == 0.8
