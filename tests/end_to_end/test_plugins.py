"""The templates of docs/extending.md outside of the package, from the command to the board, and when they are gone."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from kills_kit import PATIENCE, wait_until
from plugins_kit import OF_MY_DATA, TEMPLATES, write_templates
from runs_kit import BACKBONE, call, essence, folders, program, run_here
from slurm_stub import install

from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.host import plugin_files, plugins
from robustft.benchmarks.planning.suite.suite import SUITES
from robustft.benchmarks.run_folder.lease import Observer
from robustft.datasets import digits

LONG = ("--method", "my_method", "--set", "steps=30", "--set", "limit=32", "--checkpoint-minutes", "0")


def shas(folder):
    """kind:sha256 of the plug-ins that count for a run."""
    return json.loads((folder / "spec.json").read_text())["spec"].get("plugins", [])


def board(results):
    with (results / "leaderboard.csv").open() as lines:
        return [row for row in csv.DictReader(lines) if row["provenance"] == "local"]


def test_the_templates_are_short():
    lines = {name: len([line for line in text.splitlines() if line.strip()]) for name, text in TEMPLATES.items()}
    assert max(lines.values()) <= 30, lines
    assert set(TEMPLATES) == {"my_method.py", "my_data.py", "my_backbone.py", "mine.yaml"}


@pytest.mark.faults
def test_a_method_is_killed_its_file_deleted_and_retry_ends_in_the_same_bits(tmp_path, monkeypatch):
    """Two processes of the program, one of which dies with its worker."""
    (tmp_path / "mine").mkdir()
    place = write_templates(tmp_path / "mine")
    words = ("sweep", "digits.yaml", "--include", "my_method.py", *LONG)
    started = program(*words, cwd=place, start_new_session=True)
    assert wait_until(lambda: [*place.glob("runs/*/*/*/*/checkpoints/*.safetensors")], started)
    (folder,) = folders(place / "runs")
    os.kill(json.loads((folder / "state.json").read_text())["pid"], signal.SIGKILL)
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate(timeout=PATIENCE)
    assert wait_until(lambda: Observer().alive(folder / "lease") is None)  # a signal takes its time
    assert not (folder / "record.json").exists()
    (sha256,) = shas(folder)
    (place / "my_method.py").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("retry", "--runs", place / "runs") == 0
    assert "my_method.py" in json.loads((folder / "record.json").read_text())["info"]["plugins"]
    # The same run that nothing disturbs, made in this process from the file.
    again = write_templates(tmp_path / "elsewhere")
    monkeypatch.setattr(Launcher, "run", run_here)
    assert call(*words, "--runs", again / "again") == 0
    (undisturbed,) = folders(again / "again")
    assert undisturbed.name == folder.name and shas(undisturbed) == [sha256]
    assert sha256 == f"method:{digest(again / 'my_method.py')}"
    assert essence(undisturbed) == essence(folder)


def digest(path):
    return plugin_files.read(path).sha256


@pytest.mark.programs
def test_a_dataset_and_a_backbone_are_trained_on_by_workers(tmp_path, monkeypatch, capsys):
    place = write_templates(tmp_path)
    (place / "squares.yaml").write_text(yaml.safe_dump(OF_MY_DATA))
    monkeypatch.chdir(place)
    assert call("doctor", "squares.yaml", "--fast") == 0
    assert "dataset my_data" in (told := capsys.readouterr().out) and "my_data: comes with a plug-in" in told
    assert call("sweep", "squares.yaml", "--method", "zero_shot,ft", "--jobs", "1") == 0
    both = [digest(place / name) for name in ("my_backbone.py", "my_data.py")]
    counted = [f"backbone:{both[0]}", f"dataset:{both[1]}"]
    assert [shas(folder) for folder in folders(place / "runs")] == [counted, counted]
    rows = board(place / "results")
    assert {row["method"] for row in rows} == {"ft", "zero_shot"} and all(row["acc_dim_percent_n"] for row in rows)
    for name in OF_MY_DATA["include"]:
        (place / name).unlink()
    assert call("report", "squares") == 0 and f"plug-in, {both[0][:8]}" in (place / "results/report.html").read_text()
    for row in rows:
        assert "plug-in: plug-in, " + ", ".join(sha256[:8] for sha256 in both) in row["marks"]


@pytest.mark.programs
def test_a_job_imports_what_was_submitted_of_an_installed_package(tmp_path, monkeypatch):
    """The package is gone when the job starts, as two processes with the PYTHONPATH of its sbatch text."""
    site, place = tmp_path / "site", write_templates(tmp_path)
    package, about = site / "their_job_methods", site / "their_job_methods-1.0.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text("from their_job_methods import mine\n")
    (package / "mine.py").write_text(TEMPLATES["my_method.py"])
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-job-methods\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[robustft.methods]\nmy_method = their_job_methods.mine:MyMethod\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(place)
    queue = install(tmp_path / "stub", monkeypatch)
    (place / "profile.yaml").write_text("gpus: 0\ntime: 1h\n")
    words = ("sweep", "digits.yaml", "--method", "my_method", "--set", "limit=32")
    assert call(*words, "--executor", "slurm", "--profile", "profile.yaml") == 0
    (job,) = queue.jobs.values()
    shutil.rmtree(site)
    (snapshot,) = (place / "runs" / ".code").glob("*")
    assert f"{snapshot}" in job["text"]
    (folder,) = folders(place / "runs")
    environment = {**os.environ, "PYTHONPATH": str(snapshot), "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + ["-m", "robustft.benchmarks.execution.worker", str(folder)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    record = json.loads((folder / "record.json").read_text())
    assert record["info"]["plugins"] == ["their_job_methods"] and record["backbone"] == BACKBONE
    assert record["environment"]["code_hash"] == snapshot.name and record["environment"]["processes"] == 2


@pytest.fixture(scope="module")
def few_pictures():
    """Evaluation sets of `digits` with a quarter of their pictures, which is another fingerprint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "RENDERINGS", 1)
        plugins._changed()
        yield
    plugins._changed()


@pytest.fixture(scope="module")
def tuned(few_pictures, tmp_path_factory):
    """A folder outside of the package with a suite that was tuned and swept: copy it to change it."""
    place = write_templates(tmp_path_factory.mktemp("tuned"))
    before = {path: path.read_bytes() for path in SUITES.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(Launcher, "run", run_here)
        assert call("tune", "mine.yaml", "--method", "my_method") == 0
        assert call("sweep", "mine.yaml", "--method", "my_method,zero_shot") == 0
    assert {path: path.read_bytes() for path in SUITES.iterdir()} == before
    return place


@pytest.fixture
def mine(tuned, tmp_path, monkeypatch):
    shutil.copytree(tuned, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setattr(Launcher, "run", run_here)
    return tmp_path / "mine"


def test_tune_writes_beside_the_suite_and_the_rows_are_ranked_under_a_mark(mine, capsys):
    told = (mine / "mine.tuned.yaml").read_text()
    assert told.startswith("# Written by `robustft tune mine.yaml`") and set(yaml.safe_load(told)["entries"]) == {
        "my_method"
    }
    (row,) = (row for row in board(mine / "results") if row["method"] == "my_method" and row["rule"] == "one_se")
    assert (row["benchmark"], row["ranked"], row["trials"]) == ("digits", "yes", "9")
    sha8 = digest(mine / "my_method.py")[:8]
    assert f"plug-in: plug-in, {sha8}" in row["marks"]
    assert all(shas(folder) == [] for folder in folders(mine / "runs", "zero_shot"))
    assert call("leaderboard", "mine.yaml") == 0
    assert f"♯ plug-in, {sha8}" in (told := capsys.readouterr().out) and "my_method" in told
    assert call("compare", "my_method", "zero_shot", "--benchmark", "mine.yaml") == 0
    assert f"♯ plug-in, {sha8}" in capsys.readouterr().out


def test_boards_are_read_without_the_plug_in(mine, capsys):
    ranked = [row for row in board(mine / "results") if row["method"] == "my_method"]
    for name in ("my_method.py", "mine.yaml"):
        (mine / name).unlink()
    shutil.rmtree(mine / "runs" / ".plugins")
    assert call("leaderboard") == 0
    assert [row for row in board(mine / "results") if row["method"] == "my_method"] == ranked
    assert call("compare", "my_method", "zero_shot", "--benchmark", "digits") == 0
    assert call("bundle", "shared", "--benchmark", "digits") == 0
    assert call("rescore", "digits") == 0
    capsys.readouterr()
    assert call("verify", "shared") == 0, capsys.readouterr().out


def test_a_suite_whose_plug_in_is_gone_counts_its_runs_as_they_were_made(mine, capsys):
    (mine / "my_method.py").unlink()
    assert call("leaderboard", "mine.yaml") == 0
    assert "runs count as they were chosen when they were made" in (told := capsys.readouterr().err)
    assert "mine.yaml: include my_method.py: there is no such file" in told
    assert {row["ranked"] for row in board(mine / "results") if row["method"] == "my_method"} == {"yes"}


def test_another_version_of_a_plug_in_makes_new_runs_and_the_old_are_stale(mine, capsys):
    old, path = folders(mine / "runs", "my_method"), mine / "my_method.py"
    before = digest(path)[:8]
    path.write_text(path.read_text() + "# other content\n")
    assert call("leaderboard", "mine.yaml") == 0
    stale = [row for row in board(mine / "results") if row["method"] == "my_method"]
    assert [row["ranked"] for row in stale] == ["no"] and "stale: made with another version of its plug-in" in (
        stale[0]["marks"]
    )
    assert f"unranked: not ranked, made with plug-in {before}, which has changed" in stale[0]["marks"]
    assert call("sweep", "mine.yaml", "--method", "my_method", "--dry-run") == 0
    told = capsys.readouterr()
    assert "1 run, 0 finished, 1 to run" in told.out and "come from other trials" in told.err
    assert call("sweep", "mine.yaml", "--method", "my_method") == 0
    new = set(folders(mine / "runs", "my_method")) - set(old)
    assert {sha256 for folder in new for sha256 in shas(folder)} == {f"method:{digest(path)}"}
    # And with nothing at hand that says which version is the current one: that of the run that finished last.
    for name in ("my_method.py", "mine.yaml"):
        (mine / name).unlink()
    assert call("leaderboard") == 0
    marks = {row["marks"].partition("plug-in: plug-in, ")[2][:8]: row for row in board(mine / "results")}
    assert "stale: " in marks[before]["marks"] and len(marks) == 3
    assert all("stale: " not in row["marks"] for sha8, row in marks.items() if sha8 != before)


def test_a_method_without_a_search_space_is_told_how_to_get_one(mine, capsys):
    assert call("tune", "digits", "--include", "my_method.py", "--method", "my_method", "--dry-run") == 2
    assert "write a suite of your own that `extends: digits`" in capsys.readouterr().err


def test_a_run_is_made_again_with_its_plug_in_or_says_what_is_lacking(mine, capsys):
    """`verify --rerun` makes it from a bundle, which has no code."""
    assert call("bundle", "shared", "--benchmark", "mine.yaml") == 0
    (run_id,) = {path.name[-12:] for path in folders(mine / "runs", "my_method") if (path / "record.json").exists()} - {
        path.name[-12:] for path in trials(mine)
    }
    assert call("verify", "shared", "--rerun", run_id) == 2
    assert "needs the plug-in of sha256" in capsys.readouterr().err
    assert call("verify", "shared", "--rerun", run_id, "--suite", "mine.yaml") == 0, capsys.readouterr().out


def trials(place):
    found = folders(place / "runs", "my_method")
    return [path for path in found if json.loads((path / "spec.json").read_text())["spec"]["kind"] == "trial"]
