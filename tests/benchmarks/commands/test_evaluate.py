"""`robustft evaluate`: what somebody else trained, by the real command, from its planning to the boards."""

import csv
import json
import re
import shutil

import own_data_kit
import pytest
import torch
from runs_kit import BACKBONE, after, call, never, run_here, write_suite
from safetensors.torch import load_file, save_file

from robustft import backbones
from robustft.benchmarks.commands.boards import leaderboard
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.executors.slurm import code_snapshot
from robustft.results.records.run_id import folder_name

LIMIT = ("--limit", "16")
OF_SWEEP = leaderboard.of_sweep
NAME = "their flyp / 50% [b] $a_b$ | <i>ü"
ODD = "Their flyp / 50% [b] $a_b$ | <i>ü"
"""Differs in a capital letter alone."""


@pytest.fixture(scope="module", autouse=True)
def no_board():
    """Boards are written where they are the subject: they hold the reference too, and take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboard, "of_sweep", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Finished runs of zero_shot and ft, three checkpoints, and the rows of two names; to read, never to change."""
    folder = tmp_path_factory.mktemp("evaluate")
    suite = write_suite(folder, seeds=[0, 1])
    clip = backbones.load(BACKBONE).clip.state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in clip.items()}}, folder / "zero.pt")
    for i in (1, 2):
        moved = {key: value * (1 + 0.01 * i) if key == "visual.proj" else value for key, value in clip.items()}
        moved["visual.class_embedding"] = moved["visual.class_embedding"] + 0.2 * i
        save_file({key: value.contiguous() for key, value in moved.items()}, folder / f"{i}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Launcher, "run", run_here)
        assert call("sweep", suite, "--method", "zero_shot,ft", *LIMIT, *where(folder)) == 0
        assert evaluate(folder, "zero.pt", "--name", "theirs") == 0
        assert evaluate(folder, "1.safetensors", "2.safetensors", "--name", NAME) == 0
        assert evaluate(folder, "2.safetensors", "--name", ODD) == 0
        (final,) = (folder / "runs" / "digits" / "ft" / BACKBONE).glob("seed0-*")
        assert evaluate(folder, final / "weights" / "final.safetensors", "--name", "a stranger's ft") == 0
    return folder


def where(folder):
    return "--runs", folder / "runs", "--results", folder / "results"


def evaluate(folder, *arguments, runs=None, benchmark=None, backbone=BACKBONE):
    arguments = [folder / a if str(a).endswith((".pt", ".safetensors")) else a for a in arguments]
    places = ("--runs", runs or folder / "runs", "--results", (runs or folder) / "results")
    asked = ("--benchmark", benchmark or folder / "quick.yaml", "--backbone", backbone)
    return call("evaluate", *arguments, *asked, *LIMIT, *places)


def run_of(runs, name, seed=0, given=True):
    method = folder_name(name, {"given": given})
    (found,) = (runs / "digits" / method / BACKBONE).glob(f"seed{seed}-*")
    return found


def record_of(root, name, seed=0, given=True):
    return json.loads((run_of(root / "runs", name, seed, given) / "record.json").read_text())


@pytest.mark.parametrize(("name", "method"), [("theirs", "zero_shot"), ("a stranger's ft", "ft")])
def test_a_model_of_ours_that_comes_back_as_a_file_has_the_same_numbers(root, name, method):
    """A whole CLIP under the head of its own text tower; and ft's final weights, tower and head."""
    given, own = record_of(root, name), record_of(root, method, given=False)
    assert given["sets"] == own["sets"] and given["summary"] == own["summary"]
    assert given["method"] == name and given["backbone_weights"] == "given"
    assert given["selection"]["rules"] == []
    weights = [load_file(run_of(root / "runs", *of) / "weights" / "final.safetensors")
               for of in ((name, 0, True), (method, 0, False))]  # fmt: skip
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


def test_what_it_is_stands_in_id_and_record(root):
    first, second = (record_of(root, NAME, seed) for seed in (0, 1))
    assert first["spec"]["given"]["kind"] == "clip" and first["spec"]["seed"] == 0 and second["spec"]["seed"] == 1
    for i, record in ((1, first), (2, second)):
        digest = backbones.file_hash(root / f"{i}.safetensors").removeprefix("sha256:")
        assert record["spec"]["given"]["sha256"] == digest
    assert record_of(root, ODD)["run_id"] != first["run_id"]
    assert "given" not in record_of(root, "ft", given=False)["spec"]
    assert "its classes are those of that run" in record_of(root, "a stranger's ft")["sources"]["given"]


def test_rows_stand_side_by_side_and_are_not_ranked(root, capsys, monkeypatch):
    monkeypatch.setattr(leaderboard, "of_sweep", OF_SWEEP)
    capsys.readouterr()
    assert evaluate(root, "1.safetensors", "2.safetensors", "--name", NAME) == 0
    screen = capsys.readouterr().out
    assert NAME in screen and "° given, not trained here." in screen and "§ part of the images only" in screen
    assert call("leaderboard", root / "quick.yaml", *where(root)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    rows = list(csv.DictReader((root / "results" / "leaderboard.csv").open(encoding="utf-8")))
    mine = {row["method"]: row for row in rows if row["provenance"] == "local" and row["selection"] == "none: given"}
    assert mine.keys() == {"theirs", NAME, ODD, "a stranger's ft"}
    assert mine[NAME]["n_seeds"] == "2" and mine[ODD]["n_seeds"] == "1"
    assert all(row["ranked"] == "no" for row in mine.values())
    assert all("given, not trained here" in mine[name]["marks"] for name in ("theirs", NAME, ODD))
    ft = record_of(root, "ft", given=False)["run_id"]
    whose = f"given: the final weights of ft {BACKBONE} seed 0, run {ft} of digits; its classes are those of that run"
    assert whose in mine["a stranger's ft"]["marks"]
    assert "the final weights of" not in mine["theirs"]["marks"]
    assert "° given, not trained here" in shown and "a stranger's ft" in shown
    for ending in ("md", "tex", "html"):
        assert "stranger" in (root / "results" / f"leaderboard.{ending}").read_text(encoding="utf-8")


def test_two_names_are_compared(root, capsys):
    capsys.readouterr()
    places = ("--benchmark", root / "quick.yaml", "--runs", root / "runs")
    assert call("compare", NAME, "a stranger's ft", *places) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{NAME} - a stranger's ft on {BACKBONE}" in shown.replace(" [limit=16, train_limit=16]", "")
    assert call("compare", NAME, ODD, *places) == 0  # names that differ in a capital letter
    assert call("compare", "nobody", NAME, *places) == 2


def test_a_bundle_of_such_rows_holds(root, tmp_path, capsys):
    assert call("bundle", tmp_path / "out", "--benchmark", root / "quick.yaml", "--runs", root / "runs") == 0
    capsys.readouterr()
    assert call("verify", tmp_path / "out") == 0
    assert "all hold" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("given.json"))
    folder = tmp_path / "out" / "runs" / "digits" / folder_name("theirs", {"given": True}) / BACKBONE
    capsys.readouterr()
    (run,) = folder.iterdir()
    code = call("verify", tmp_path / "out", "--rerun", run.name.rpartition("-")[2])
    told = capsys.readouterr()
    assert code == 2 and "evaluates a given checkpoint, which a bundle does not hold" in told.err


def test_the_same_command_does_no_work_again(root, monkeypatch, capsys):
    monkeypatch.setattr(Launcher, "run", None)
    assert evaluate(root, "1.safetensors", "2.safetensors", "--name", NAME) == 0
    assert "2 runs, all finished earlier" in capsys.readouterr().out


def test_what_was_found_is_printed(root, tmp_path, capsys):
    assert evaluate(root, "zero.pt", "--name", "theirs", "--dry-run", runs=tmp_path) == 0
    out = capsys.readouterr().out
    count = sum(name.startswith("visual.") for name in backbones.load(BACKBONE).clip.state_dict())
    assert f"visual.* <- module.visual.*: {count} tensors" in out and "a whole CLIP" in out
    torch.save(tower(root), root / "plain.pt")
    assert evaluate(root, "plain.pt", "--name", "x", "--dry-run", runs=tmp_path) == 0
    out = capsys.readouterr().out
    assert "the order of its classes cannot be known and is taken for the benchmark's" in out
    assert "reads features of unit length (it does not say; --raw-features is the other way)" in out
    assert not list(tmp_path.glob("*/*"))


def tower(root, classes=10, **more):
    clip = load_file(root / "1.safetensors")
    made = {f"image_encoder.model.{key}": value for key, value in clip.items() if key.startswith("visual.")}
    return {**made, "classification_head.weight": torch.zeros(classes, 64), **more}


MISTAKES = {
    "method": (("1.safetensors", "--name", "Zero-Shot"), "must not be that of a method, got 'Zero-Shot'"),
    "with a space": (("1.safetensors", "--name", "zero shot"), "must not be that of a method"),
    "all": (("1.safetensors", "--name", "all"), "must not be that of a method"),
    "empty": (("1.safetensors", "--name", "  "), "--name: must be 1 to 80 printable characters"),
    "unprintable": (("1.safetensors", "--name", "a\x1b[31m"), "--name: must be 1 to 80 printable"),
    "long": (("1.safetensors", "--name", "x" * 81), "--name: must be 1 to 80 printable"),
    "twice": (("1.safetensors", "1.safetensors", "--name", "x"), "the same checkpoint is given twice"),
    "missing": (("none.pt", "--name", "x"), "no weights at"),
    "raw": (("1.safetensors", "--name", "x", "--raw-features"), "--raw-features: is for a checkpoint with a head"),
    "of unit length": (("FINAL", "--name", "x", "--raw-features"), "says that its head reads features of unit length"),
    "another one of that name": (("1.safetensors", "--name", "theirs"), "has another checkpoint as seed 0 already"),
    "kinds": (("1.safetensors", "tower.pt", "--name", "x"), "must be of one kind"),
    "classes": (("nine.pt", "--name", "x"), "its head has 9 classes, and the benchmark 10"),
    "class names": (("named.pt", "--name", "x"), "2 classes have other names: class 0 is 'one' there and 'zero' here"),
    "another backbone": (
        ("FINAL", "--name", "x", "--backbone", "tiny-vit-p8"),
        f"was made with {BACKBONE}, got --backbone tiny-vit-p8; name that",
    ),
}


@pytest.fixture(scope="module")
def mistaken(root):
    names = ["one", "zero", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    torch.save(tower(root), root / "tower.pt")
    torch.save(tower(root, 9), root / "nine.pt")
    torch.save({"state_dict": tower(root), "class_names": names}, root / "named.pt")
    return root


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_sentence_before_any_work(mistaken, kind, capsys, monkeypatch):
    monkeypatch.setattr(Launcher, "run", None)
    arguments, words = MISTAKES[kind]
    final = run_of(mistaken / "runs", "ft", given=False) / "weights" / "final.safetensors"
    before = sorted((mistaken / "runs").rglob("*"))
    arguments = [final if a == "FINAL" else a for a in arguments]
    backbone = arguments[-1] if "--backbone" in arguments else BACKBONE
    assert evaluate(mistaken, *arguments, backbone=backbone) == 2
    told = capsys.readouterr().err
    assert re.search(words, told), told
    assert told.count("\n") == 1 and told.startswith("robustft: ")
    assert sorted((mistaken / "runs").rglob("*")) == before


@pytest.fixture
def interrupted(root, tmp_path, monkeypatch):
    """A run of a checkpoint that was planned, and not begun; the checkpoint lies in a place of its own."""
    shutil.copy(root / "1.safetensors", tmp_path / "1.safetensors")
    shutil.copy(root / "quick.yaml", tmp_path / "quick.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(Launcher, "run", lambda launcher: launcher.jobs)
        evaluate(tmp_path, "1.safetensors", "--name", NAME)
    return tmp_path, run_of(tmp_path / "runs", NAME)


def test_moved_before_it_is_read_it_is_one_sentence_and_retry_says_so(interrupted, capsys):
    root, folder = interrupted
    (root / "1.safetensors").rename(root / "elsewhere")
    outcome = work(folder, Options(), never)
    assert outcome["event"] == "failed" and outcome["mistake"]
    assert "1.safetensors was moved or deleted; put it back, or call `robustft evaluate`" in outcome["reason"]
    capsys.readouterr()
    assert call("retry", "--runs", root / "runs", "--method", NAME) == 2
    assert "was moved or deleted" in capsys.readouterr().err
    (root / "1.safetensors").write_bytes(b"another")
    assert "was changed since the run was planned" in work(folder, Options(), never)["reason"]


def test_stopped_at_any_point_it_goes_on_and_ends_in_the_same(root, interrupted):
    folder, events = interrupted[1], []
    for looks in (0, 2, 3, 100):
        events.append(work(folder, Options(), after(looks))["event"])
        if (folder / "weights" / "final.safetensors").exists():
            (interrupted[0] / "1.safetensors").unlink(missing_ok=True)  # read, and not asked for again
    assert events[0] == "interrupted" and events[-1] == "done"
    made, whole = (json.loads((path / "record.json").read_text()) for path in (folder, run_of(root / "runs", NAME)))
    assert made["run_id"] == whole["run_id"] and made["sets"] == whole["sets"]
    assert made["info"]["weights_sha256"] == whole["info"]["weights_sha256"]


def test_a_tower_with_a_head_and_its_class_names_in_order(root, tmp_path, monkeypatch):
    monkeypatch.setattr(Launcher, "run", run_here)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    head = torch.randn(10, 64, generator=torch.Generator().manual_seed(0)) * 50
    torch.save({"state_dict": tower(root) | {"classification_head.weight": head}, "classes": names},
               root / "order.pt")  # fmt: skip
    assert evaluate(root, "order.pt", "--name", "unit", runs=tmp_path) == 0
    assert evaluate(root, "order.pt", "--name", "raw", "--raw-features", runs=tmp_path) == 0
    unit, raw = (json.loads((run_of(tmp_path, name) / "record.json").read_text()) for name in ("unit", "raw"))
    assert "its class names are the benchmark's, in their order" in unit["sources"]["given"]
    assert (unit["spec"]["given"]["normalise"], raw["spec"]["given"]["normalise"]) == (True, False)
    assert unit["sets"]["id"]["nll"] != raw["sets"]["id"]["nll"]
    assert unit["sets"]["id"]["accuracy"] == raw["sets"]["id"]["accuracy"]  # no bias: a length changes no order


def test_on_images_of_ones_own(root, tmp_path, monkeypatch):
    monkeypatch.setattr(Launcher, "run", run_here)
    data = own_data_kit.folder(tmp_path / "data", {"0": "zero", "1": "one", "2": "two"})
    suite = own_data_kit.suite(tmp_path / "mine.yaml", data)
    torch.save(tower(root, 3), root / "three.pt")
    for name in ("zero", "three"):
        assert evaluate(root, f"{name}.pt", "--name", name, runs=tmp_path / "runs", benchmark=suite) == 0
        (record,) = (tmp_path / "runs" / "mine" / folder_name(name, {"given": True})).rglob("record.json")
        made = json.loads(record.read_text())
        assert made["sets"]["id"]["n"] == 12 and made["info"]["classes"]["id"] == 3


def test_on_a_cluster_it_is_a_job_as_any_other(root, tmp_path, monkeypatch):
    from slurm_stub import install

    monkeypatch.setattr(code_snapshot, "take", lambda runs: "0123456789abcdef")
    monkeypatch.setattr(code_snapshot, "exists", lambda runs, name: True)
    queue = install(tmp_path / "stub", monkeypatch)
    runs = tmp_path / "runs"
    slurm = ("--executor", "slurm", "--profile", "cpu")
    assert evaluate(root, "1.safetensors", "2.safetensors", "--name", NAME, *slurm, runs=runs) == 0
    assert len(queue.jobs) == 2
    folder = run_of(runs, NAME, 1)
    assert work(folder, Options(), never)["event"] == "done"
    made = json.loads((folder / "record.json").read_text())
    assert made["sets"] == record_of(root, NAME, 1)["sets"]
