"""A job whose profile has a stage reads copies, changes no number by it, and leaves nothing on the node."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import own_data_kit
import pytest
from runs_kit import call, essence

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.executors.slurm import job as slurm_job
from robustft.benchmarks.executors.slurm import stage as slurm_stage
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.datasets import decoding, staging

IMAGES = 3 * (8 + 4 + 4 + 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with one's own data; the suite that is of them."""
    root = tmp_path_factory.mktemp("datasets")
    own_data_kit.folder(root / "mine", {"a": "zero", "b": "one", "c": "two"})
    return root, str(own_data_kit.suite(tmp_path_factory.mktemp("suite") / "own.yaml", "folder:mine"))


@pytest.fixture(autouse=True)
def at_the_root(data, monkeypatch):
    monkeypatch.setenv("ROBUSTFT_DATA", str(data[0]))
    monkeypatch.setattr(staging, "SETTLED_NS", 0)


def planned(root, suite):
    benchmark = sweep.load(suite)
    (run,) = sweep.expand(benchmark, Request(("ft",), ("tiny-vit-p8",), (0,)))
    folder = RunFolder.of(root / "runs", run.spec)
    sweep.write_plan(benchmark, run, folder, None)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """What the run leaves that knows of no stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTFT_DATA", str(data[0]))
        folder = planned(tmp_path_factory.mktemp("undisturbed"), data[1])
        assert work(folder.path, Options(workers=0), lambda: False)["event"] == "done"
    return essence(folder.path)


@pytest.fixture
def in_a_job(tmp_path, data, monkeypatch):
    """Makes the run in what is a SLURM job but for SLURM; the exit code and the run folder."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}

    def make(stage):
        folder, batch = planned(tmp_path, data[1]), tmp_path / "runs" / ".slurm" / "robustft-own-1"
        batch.mkdir(parents=True)
        about = {"device": "cpu", "checkpoint_seconds": 600, "micro_batch": None, "workers": 1, "stage": stage}
        (batch / "batch.json").write_text(json.dumps(about))
        monkeypatch.setenv("SUBMITIT_FOLDER", str(batch))
        monkeypatch.setattr(slurm_job, "processes", lambda: 1)
        with pytest.raises(SystemExit) as end:
            slurm_job.main([folder.path])
        return end.value.code, folder

    yield make
    for number, handler in before.items():
        signal.signal(number, handler)


def test_copies_are_read_and_the_numbers_are_the_same(in_a_job, undisturbed, data, tmp_path, monkeypatch):
    told = tmp_path / "told"

    def content(path):  # also in the processes that load images
        found = staging.content(path)
        with told.open("a") as file:
            file.write("copy\n" if any(path.startswith(folder) for folder in staging._copies) else "source\n")
        return found

    monkeypatch.setattr(decoding, "staging", SimpleNamespace(content=content))
    monkeypatch.setenv("NODES_DISK", str(tmp_path / "disk"))
    code, folder = in_a_job("$NODES_DISK")
    assert code == 0
    said = f"stage: {IMAGES} files read from {tmp_path}/disk; {IMAGES} files copied, "
    assert said in folder.log.read_text()
    sources, copies = told.read_text().split("copy\n", 1)
    assert sources == "source\n" * 4  # the first image of each set, looked at before
    assert set(copies.split()) == {"copy"}
    assert essence(folder.path) == undisturbed
    assert not (tmp_path / "disk").exists() and not staging._copies


def test_where_there_can_be_no_copies_the_shared_images_are_read(in_a_job, undisturbed, tmp_path):
    code, folder = in_a_job(f"{tmp_path}/no/disk")
    assert code == 0
    said = f"stage: {tmp_path}/no/disk cannot be used (No such file or directory). The images are read where they are"
    assert said in folder.log.read_text()
    assert essence(folder.path) == undisturbed


def test_a_variable_that_the_node_does_not_have_is_a_mistake(in_a_job):
    code, folder = in_a_job("/scratch/$NOT_SET_HERE")
    state = folder.read_state()
    assert (code, state["state"], state["mistake"]) == (1, "failed", True)
    assert state["reason"].startswith("stage: $NOT_SET_HERE is not set on ")


def test_a_place_among_the_data_is_refused_on_the_node_too(in_a_job, data, monkeypatch):
    monkeypatch.setenv("NODES_DISK", str(data[0] / "mine"))
    code, folder = in_a_job("$NODES_DISK/copies")
    assert code == 1 and "which is in the data root" in folder.read_state()["reason"]


PROCESS = """
import os, sys
from pathlib import Path
from robustft.benchmarks.executors.slurm import job
job.processes, job.meet = lambda: int(os.environ["WORLD_SIZE"]), lambda: None
job.main([Path(sys.argv[1])])
"""


@pytest.mark.programs
def test_the_processes_of_a_run_share_the_copies_of_their_node(tmp_path, data):
    """Whoever is first copies, and the others wait for each other before the training."""
    folder, batch = planned(tmp_path, data[1]), tmp_path / "runs" / ".slurm" / "robustft-own-1"
    batch.mkdir(parents=True)
    about = {"device": "cpu", "checkpoint_seconds": 600, "micro_batch": None, "workers": 0}
    (batch / "batch.json").write_text(json.dumps({**about, "stage": str(tmp_path / "disk")}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder.path)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "SUBMITIT_FOLDER": str(batch), **together, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    copied = sorted(int(number) for number in re.findall(r"; (\d+) files copied", folder.log.read_text() + told[1]))
    assert copied == [0, IMAGES]
    assert not (tmp_path / "disk").exists()


def dry_run(tmp_path, suite, stage, *more):
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"gpus: 0\nstage: {stage}\n")
    words = ("sweep", suite, "--method", "ft", "--executor", "slurm", "--profile", profile, "--runs", tmp_path / "runs")
    return call(*words, "--dry-run", *more)


def test_a_dry_run_says_what_would_be_copied(data, tmp_path, capsys, monkeypatch):
    assert dry_run(tmp_path, data[1], "/scratch/$SLURM_JOB_ID") == 0
    size = sum(path.stat().st_size for path in data[0].rglob("*.png"))
    line = f"stage /scratch/$SLURM_JOB_ID: up to {IMAGES} files ({size / 1e3:.0f} kB) would be copied, once a node"
    assert line in capsys.readouterr().out
    assert dry_run(tmp_path, data[1], "/scratch", "--set", "limit=2") == 0
    assert f"up to {3 * (8 + 4) + 2 + 2} files (" in capsys.readouterr().out
    monkeypatch.setattr(slurm_stage, "WEIGHED", 7)
    assert dry_run(tmp_path, data[1], "/scratch") == 0
    assert f"up to {IMAGES} files (about " in (told := capsys.readouterr().out) and " kB, by 7 of them)" in told
    assert dry_run(tmp_path, "digits", "/scratch") == 0
    assert "stage /scratch: nothing is copied, the images come with the package" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["{data}/copies", "{runs}", "{data}/$SLURM_JOB_ID"])
def test_a_stage_among_data_or_runs_is_refused_before_anything_is_submitted(data, tmp_path, capsys, where):
    stage = where.format(data=data[0], runs=tmp_path / "runs")
    assert dry_run(tmp_path, data[1], stage) == 2
    assert f"got '{stage}', which is in the " in capsys.readouterr().err.replace("\n", " ")
