"""Where a command is called from, and how folders are named: `~`, relative, elsewhere, moved."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from runs_kit import call, folders, starts, write_suite

from robustft.backbones import local_weights, tiny
from robustft.benchmarks.host.places import expanded
from robustft.benchmarks.planning import benchmark
from robustft.datasets import catalogue

OWN = {"name": "own", "dataset": "folder:own", "version": "own", "methods": ["zero_shot", "ft"]}
STEPS = {"recipes": {"common": {"steps": 3, "batch_size": 4, "lr": 1e-4, "weight_decay": 0.1}}, "tuning": None}


def make_images(folder, seed=0):
    """Two classes in train, validation, id_test and a shift; other pictures for another seed."""
    for number, name in enumerate(["train", "validation", "id_test", "shift"]):
        for label in ("cat", "dog"):
            (folder / name / label).mkdir(parents=True)
            for i in range(4):
                draws = np.random.default_rng([number, i, label == "cat", seed]).integers(0, 255, (32, 32, 3))
                Image.fromarray(draws.astype("uint8")).save(folder / name / label / f"{i}.png")
    (folder / "classes.txt").write_text("cat\tcat\ndog\tdog\n")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder and a current one, apart."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder_in_every_option(home, fresh_data, capsys, runs_here):
    """No shell expands it in --runs=~/x."""
    make_images(home / "data" / "own")
    suite = Path(write_suite(home, **OWN, **STEPS))
    (home / "mine.yaml").write_text("gpus: 0\ncpus: 1\n")
    for words in (
        ["sweep", f"~/{suite.name}", "--method", "zero_shot", "--data=~/data", "--runs=~/runs", "--results=~/results"],
        ["rescore", "own", "--runs=~/runs", "--out=~/out.csv"],
        ["leaderboard", f"~/{suite.name}", "--runs=~/runs", "--results=~/board"],
        ["bundle", "~/bundle", "--benchmark", "own", "--runs=~/runs"],
        ["verify", "~/bundle"],
        ["status", "--runs=~/runs"],
        ["theory", "--steps", "4", "--results=~/theory"],
        ["sweep", f"~/{suite.name}", "--method", "ft", "--data=~/data", "--runs=~/runs", "--dry-run"]
        + ["--executor=slurm", "--profile=~/mine.yaml"],
    ):
        assert call(*words) == 0, (words, capsys.readouterr())
    assert "no runs below" not in capsys.readouterr().out
    made = {path.name for path in home.iterdir()}
    assert {"runs", "results", "out.csv", "board", "bundle", "theory"} <= made
    assert list(Path.cwd().iterdir()) == []
    assert call("doctor", f"~/{suite.name}", "--fast", "--data=~/data", "--runs=~/runs") in (0, 1)
    assert "folder:own" in capsys.readouterr().out


@pytest.mark.programs
def test_a_tilde_is_the_home_folder_in_every_variable(home, fresh_data, monkeypatch, capsys):
    make_images(home / "data" / "own")
    (home / "weights").mkdir()
    shutil.copy(tiny.FOLDER / "tiny-rn.safetensors", home / "weights")
    suite = write_suite(home, **OWN, **STEPS)
    for name in ("RUNS", "DATA", "WEIGHTS"):
        monkeypatch.setenv(f"ROBUSTFT_{name}", f"~/{name.lower()}")
    from robustft.benchmarks import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", suite, "--method", "zero_shot", "--results=~/results"])
    assert ended.value.code == 0, capsys.readouterr().err
    assert len(folders(home / "runs")) == 1 and list(Path.cwd().iterdir()) == []
    assert local_weights("tiny-vit-p8") is None
    assert local_weights("tiny-rn") == home / "weights" / "tiny-rn.safetensors"


@pytest.mark.parametrize("prefix", ["folder", "shift"])
def test_a_tilde_is_the_home_folder_in_the_name_of_data(prefix, home):
    make_images(home / "own")
    make_images(home / "other", seed=1)
    name = "folder:~/own" if prefix == "folder" else "folder:~/own + mine=folder:~/other/shift"
    data = catalogue.get(name, size=32)
    assert data.card.names("shift")[0] == "shift" and len(data.card.sets) == (3 if prefix == "folder" else 4)


@pytest.mark.parametrize("option", ["--runs", "--results", "--data"])
def test_a_home_folder_that_nobody_has_is_one_sentence(option, home, capsys):
    words = ["sweep", "digits", "--method", "zero_shot", f"{option}=~nobody-here/x"]
    assert call(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"robustft: {option}: begins with a home folder that is not known") and "~nobody-here" in err
    assert expanded("a/~b", "") == Path("a/~b")


@pytest.fixture
def program(monkeypatch, capsys):
    """A command called from a folder, as in a process of its own; workers are processes unless `runs_here`."""

    def call_from(*words, cwd, **variables):
        os.environ.pop("ROBUSTFT_DATA", None)  # which an earlier --data has set
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for cached in (benchmark.dataset, benchmark.data_facts):
            cached.cache_clear()
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        code = call(*words)
        return SimpleNamespace(returncode=code, **capsys.readouterr()._asdict())

    return call_from


def fail_once(folder):
    """As if the run had failed: its record is gone, its state says so."""
    (folder / "record.json").unlink()
    (folder / "state.json").write_text(json.dumps({"state": "failed", "reason": "made so"}))


@pytest.mark.programs
def test_retry_finds_the_data_that_the_sweep_named_wherever_it_is_called(home, tmp_path, program):
    here, data = tmp_path / "here", tmp_path / "home" / "data"
    make_images(data / "own")
    suite = write_suite(here, **OWN, **STEPS)
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = program("sweep", suite, "--method", "ft", "--data", "../home/data", "--runs", runs, cwd=here)
    assert made.returncode == 0, made.err
    (folder,) = folders(runs)
    told = json.loads((folder / "place.json").read_text())
    assert told == {"root": "~/data", "start": str(here)}  # the home folder is told of nowhere
    assert str(tmp_path) not in (folder / "record.json").read_text()

    fail_once(folder)
    again = program("retry", "--runs", runs, cwd=elsewhere)
    assert again.returncode == 0 and (folder / "record.json").exists(), again.err
    assert starts(folder) == 2

    fail_once(folder)
    data.rename(tmp_path / "moved")
    state = (folder / "state.json").read_bytes()
    for more in ([], ["--data", elsewhere]):
        lost = program("retry", "--runs", runs, *more, cwd=elsewhere)
        assert lost.returncode == 2 and lost.err.startswith("robustft: folder:") and lost.out == ""
        assert "there is no such folder" in lost.err and "--data or ROBUSTFT_DATA" in lost.err
        assert (folder / "state.json").read_bytes() == state and starts(folder) == 2
    found = program("retry", "--runs", runs, cwd=elsewhere, ROBUSTFT_DATA=str(tmp_path / "moved"))
    assert found.returncode == 0 and (folder / "record.json").exists(), found.err

    fail_once(folder)
    image = next((tmp_path / "moved" / "own" / "train").glob("*/*.png"))
    image.rename(image.with_name("another.png"))
    other = program("retry", "--runs", runs, "--data", tmp_path / "moved", cwd=elsewhere)
    assert other.returncode == 2 and "are others than when the run was planned" in other.err
    assert starts(folder) == 3


def test_data_beside_the_call_are_found_from_elsewhere(tmp_path, program, runs_here):
    """A relative folder:own begins where the sweep was called, and no other folder of that name is taken for it."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    make_images(here / "own")
    make_images(elsewhere / "own")
    for path in (elsewhere / "own").glob("*/cat/0.png"):
        path.rename(path.with_name("another.png"))
    suite = write_suite(here, **OWN, **STEPS)
    made = program("sweep", suite, "--method", "zero_shot", "--runs", tmp_path / "runs", cwd=here)
    assert made.returncode == 0, made.err
    (folder,) = folders(tmp_path / "runs")
    before = json.loads((folder / "record.json").read_text())["sets"]
    fail_once(folder)
    again = program("retry", "--runs", tmp_path / "runs", cwd=elsewhere)
    assert again.returncode == 0, again.err
    assert json.loads((folder / "record.json").read_text())["sets"] == before
