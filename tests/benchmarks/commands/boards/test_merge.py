"""Bundles of several groups in one board, by the real commands: verified, told apart, nothing pooled."""

import csv
import json
import shutil

import numpy as np
import pytest
from bundles_kit import committed, told_anew, write_run
from runs_kit import call

from robustft.results.audit import bundle
from robustft.results.metrics import set_metrics
from robustft.results.records import manifest, predictions
from robustft.results.records.records import REFERENCE, summarise


def bundled(root, folder, *name):
    assert call("bundle", folder, "--benchmark", "digits", "--runs", root, *name) == 0
    return folder


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    """Two bundles. Both hold zero_shot and flyp; of ft the second has one run, with the numbers of another."""
    root = tmp_path_factory.mktemp("labs")
    for record in (committed("zero_shot"), *(committed(name, seed) for name in ("ft", "flyp") for seed in (0, 1))):
        write_run(root / "a", record)
    for record in (committed("zero_shot"), committed("flyp"), committed("flyp", 1)):
        write_run(root / "b", record)
    write_run(root / "b", committed("ft"), samples_of=committed("flyp"))
    bundled(root / "a", root / "first", "--name", "Lab A")
    bundled(root / "b", root / "other")
    return root / "first", root / "other"


@pytest.fixture
def copies(labs, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in labs]


def lines(folder, **wanted):
    rows = csv.DictReader((folder / "leaderboard.csv").open(encoding="utf-8"))
    return [row for row in rows if row.items() >= wanted.items()]


def hashed_again(folder):
    """The manifest as a forger would write it."""
    manifest.write(folder, "local", bundle.read(folder).name)


def refused(capsys, results, *bundles):
    """The one sentence by which a merge is refused, before anything is written."""
    capsys.readouterr()
    assert call("merge", *bundles, "--results", results) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said and not results.exists()
    return said


def test_two_groups_and_the_reference_stand_in_one_board(labs, tmp_path, capsys):
    assert call("merge", *labs, "--results", tmp_path) == 0
    said = capsys.readouterr().out
    assert "Lab A (" in said and "5 runs, " in said and said.count("all hold") == 2
    names = {"leaderboard.csv", "leaderboard_long.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html"}
    assert {path.name for path in tmp_path.iterdir()} == names
    rows = lines(tmp_path, rule="one_se", backbone="tiny-vit-p8")
    whose = {(row["method"], row["provenance"]): row for row in rows}
    assert {"Lab A", "Lab A, other", "other", "reference"} == {provenance for _, provenance in whose}
    # Runs that are in both are shown once; seeds are never pooled.
    assert [key for key in whose if key[0] == "flyp"] == [("flyp", "Lab A, other"), ("flyp", "reference")]
    assert ("zero_shot", "Lab A, other") in whose and whose["flyp", "Lab A, other"]["n_seeds"] == "2"
    assert [whose["ft", name]["n_seeds"] for name in ("Lab A", "other", "reference")] == ["2", "1", "5"]
    # What the tuned values of a bundle choose is ranked, and tested by the samples of its bundle.
    assert whose["ft", "Lab A"]["ranked"] == whose["ft", "other"]["ranked"] == "yes"
    assert whose["ft", "Lab A"]["acc_id_percent_p_holm"] and whose["flyp", "Lab A, other"]["pareto_front"] == "yes"
    page = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "Bundles: Lab A: 5 runs of digits, manifest " in page and "; other: 4 runs of digits, manifest " in page
    assert "## Not tested" not in page
    for name in names - {"leaderboard.tex"}:
        assert "Lab A" in (tmp_path / name).read_text(encoding="utf-8")
    long = csv.DictReader((tmp_path / "leaderboard_long.csv").open(encoding="utf-8"))
    runs = {(row["run_id"], row["provenance"]) for row in long if row["provenance"] != "reference"}
    assert sorted(provenance for _, provenance in runs) == ["Lab A"] * 2 + ["Lab A, other"] * 3 + ["other"]


def test_the_same_run_with_other_numbers_is_said_on_both_sides(labs, tmp_path):
    assert call("merge", *labs, "--results", tmp_path) == 0
    marks = {row["provenance"]: row["marks"] for row in lines(tmp_path, rule="one_se", method="ft")}
    assert "rerun: the same runs have other numbers in other: seed 0 (accuracy on " in marks["Lab A"]
    assert "in Lab A: seed 0 (accuracy on " in marks["other"] and "in reference: seed 0" in marks["other"]
    assert "in Lab A" not in marks["reference"]  # which has the same


def test_a_forged_number_is_refused_with_its_place(copies, tmp_path, capsys):
    path = sorted(copies[1].rglob("runs/digits/ft/**/record.json"))[0]
    record = json.loads(path.read_text())
    record["sets"]["writers"]["accuracy"] += 0.01
    record["summary"] = {}
    path.write_text(json.dumps(record))
    assert "does not verify: runs/digits/ft/" in refused(capsys, tmp_path / "out", *copies)
    hashed_again(copies[1])
    said = refused(capsys, tmp_path / "out", *copies)
    assert f"{copies[1]} does not verify: seed0-{record['run_id']}: writers accuracy is 0.8" in said
    assert "but its samples give" in said and f"see `robustft verify {copies[1]}`" in said
    assert call("merge", copies[0], "--results", tmp_path / "out") == 0


def test_forged_labels_from_which_all_numbers_follow_are_refused(tmp_path, capsys):
    """A bundle is whole by itself: only the samples of others tell that these labels are not the benchmark's."""
    folder = write_run(tmp_path / "runs", committed("ft"))
    file = folder / "predictions" / "sketches.parquet"
    columns = predictions.read(file)
    columns |= {"label": columns["prediction"], "p_label": columns["confidence"]}
    predictions.write(file, columns)
    record = json.loads((folder / "record.json").read_text())
    about = {key: record["sets"]["sketches"][key] for key in ("role", "n_expected", "brier")}
    record["sets"]["sketches"] = about | set_metrics.score(columns, "sketches", 256)
    record["summary"] = summarise(record["sets"])
    (folder / "record.json").write_text(json.dumps(record))
    out = bundled(tmp_path / "runs", tmp_path / "forged")
    assert np.mean(columns["label"] == columns["prediction"]) == 1 and call("verify", out) == 0
    said = refused(capsys, tmp_path / "out", out)
    assert "has other samples or labels of sketches than the committed reference" in said


def test_names_are_the_manifests_else_the_folders_and_each_is_one_group(labs, copies, tmp_path, capsys):
    first, other = copies
    assert json.loads((first / manifest.NAME).read_text())["name"] == "Lab A"
    assert "name" not in json.loads((other / manifest.NAME).read_text())
    assert "are both of 'Lab A'" in refused(capsys, tmp_path / "out", labs[0], first)
    renamed = other.rename(tmp_path / "digits")
    assert "must say whose runs it holds" in refused(capsys, tmp_path / "out", first, renamed)
    renamed = renamed.rename(tmp_path / "lab a")
    assert "are both of 'lab a'" in refused(capsys, tmp_path / "out", first, renamed)
    renamed = renamed.rename(tmp_path / "reference")
    assert "must not be 'reference'" in refused(capsys, tmp_path / "out", first, renamed)
    for name, words in (("A, B", "without a comma"), (" A", "must be one line"), ("local", "must not be 'local'")):
        arguments = ("--benchmark", "digits", "--runs", tmp_path / "runs", "--name", name)
        write_run(tmp_path / "runs", committed("zero_shot")) if name == "A, B" else None
        assert call("bundle", tmp_path / "new", *arguments) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_committed_reference_and_what_is_no_bundle_are_refused(labs, tmp_path, capsys):
    assert "leave it out" in refused(capsys, tmp_path / "out", labs[0], REFERENCE / "digits")
    assert "must be the manifest of a bundle" in refused(capsys, tmp_path / "out", labs[0], tmp_path / "none")


def test_a_bundle_of_before_verifies_and_ranks_nothing_that_was_tuned(copies, tmp_path, capsys):
    """It does not hold the tuned values of its rules; the reference row needs none."""
    (copies[1] / manifest.TUNED).unlink()
    hashed_again(copies[1])
    assert call("verify", copies[1]) == 0
    assert call("merge", copies[1], "--results", tmp_path / "out") == 0
    rows = lines(tmp_path / "out", provenance="other")
    assert {row["method"] for row in rows if row["rule"]} == {"zero_shot"}
    unranked = {row["method"]: row["marks"] for row in rows if not row["rule"]}
    assert unranked.keys() == {"ft", "flyp"}
    assert all("its bundle does not hold the tuned values of its rule" in marks for marks in unranked.values())


def test_tuned_values_that_were_changed_do_not_verify(copies, tmp_path, capsys):
    path = copies[0] / manifest.TUNED
    content = json.loads(path.read_text())
    content["ft"]["tiny-vit-p8"]["one_se"]["values"]["lr"] = 1.0
    path.write_text(json.dumps(content))
    hashed_again(copies[0])
    assert "tuned.json: ft.tiny-vit-p8 is no entry of tuned values" in refused(capsys, tmp_path / "out", *copies)


def test_rehearsals_plug_ins_and_older_versions_keep_their_marks(tmp_path):
    write_run(tmp_path / "runs", told_anew(committed("ft"), limit=16), samples_of=committed("ft"))
    mine = told_anew(committed("flyp"), method="mine", plugins=["method:" + "ab" * 32])
    write_run(tmp_path / "runs", mine, samples_of=committed("flyp"))
    write_run(tmp_path / "runs", told_anew(committed("static_sd"), method_version=1), samples_of=committed("static_sd"))
    out = bundled(tmp_path / "runs", tmp_path / "lab")
    assert call("merge", out, "--results", tmp_path / "out") == 0
    rows = {row["method"]: row for row in lines(tmp_path / "out", provenance="lab")}
    assert {row["ranked"] for row in rows.values()} == {"no"}
    assert "partial: " in rows["ft"]["marks"] and "plug-in, abababab" in rows["mine"]["marks"]
    assert "stale: version 1 of a method that is at version 2" in rows["static_sd"]["marks"]
    assert "names no rule that chose its setting" in rows["static_sd"]["marks"]
    assert "does not hold the tuned values of its rule" in rows["mine"]["marks"]  # which nobody here can plan anew
