"""A command is called in somebody's project: nothing of it is imported, here and in jobs, nor heard."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from runs_kit import call, folders, write_suite
from slurm_stub import install

from robustft.benchmarks.host import imports

pytestmark = pytest.mark.programs

# Not types.py and its like, nor robustft: where PYTHONPATH has a dot, Python takes those before any code of ours runs.
NAMES = (
    *(
        "queue",
        "copy",
        "random",
        "token",
        "numbers",
        "profile",
        "signal",
        "select",
        "code",
        "secrets",
        "calendar",
    ),
    *(
        "torch",
        "numpy",
        "yaml",
        "click",
        "rich",
        "open_clip",
        "safetensors",
        "submitit",
        "pandas",
        "methods",
        "results",
    ),
)
ROBUSTFT = Path(sys.executable).with_name("robustft")


@pytest.fixture
def project(tmp_path):
    """A folder with modules that break whoever imports them, and what PYTHONPATH may hold beside it."""
    place = tmp_path / "project"
    place.mkdir()
    for name in NAMES:
        (place / f"{name}.py").write_text(f"raise ImportError('{name}.py of the current folder')")
    (place / "datasets").mkdir()
    (place / "datasets" / "__init__.py").write_text("raise ImportError('a package of the current folder')")
    loud = tmp_path / "loud"
    loud.mkdir()
    (loud / "sitecustomize.py").write_text(
        "import os\nos.write(1, b'hello')\nos.write(1, b'{\"event\": \"done\"}\\n')\n"
    )
    return place


def environment(project, python_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROBUSTFT_", "PYTHON"))}
    return {**kept, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def start(command, project, python_path="", **more):
    given = {**environment(project, python_path), **more}
    return subprocess.run(command, cwd=project, env=given, capture_output=True, text=True, timeout=600)


def test_runs_import_nothing_of_the_current_folder(project):
    suite = write_suite(project.parent, seeds=[0])
    words = ["--method", "ft", "--set", "limit=8", "--jobs", "1", "--runs", "../runs"]
    path = os.pathsep.join(["", ".", str(project.parent / "loud")])
    made = start([ROBUSTFT, "sweep", suite, *words], project, path)
    assert made.returncode == 0, made.stdout + made.stderr
    (folder,) = folders(project.parent / "runs")
    assert json.loads((folder / "record.json").read_text())["method"] == "ft"
    assert "hello" not in (folder / "log").read_text()


def test_neither_workers_nor_jobs_take_a_package_of_the_same_name(project):
    (project / "robustft").mkdir()
    (project / "robustft" / "__init__.py").write_text("raise ImportError('robustft of the current folder')")
    for module, function in (
        ("robustft.benchmarks.execution.worker", "main"),
        ("submitit.core.submission", "submitit_main"),
    ):
        made = start([sys.executable, *imports.starting(module, function), "--help"], project)
        assert made.returncode == 0 and "--help" in made.stdout, made.stderr


def test_a_module_that_is_started_imports_nothing_of_it(project):
    """As torchrun starts workers."""
    for module in ("robustft.benchmarks", "robustft.benchmarks.execution.worker", "robustft.benchmarks.speed"):
        made = start([sys.executable, "-m", module, "--help"], project)
        assert made.returncode == 0 and "--help" in made.stdout, made.stderr


def test_what_pythonpath_names_in_full_is_imported(project, tmp_path):
    code = "from robustft.benchmarks.host import imports; imports.leave_out_current_folder()"
    code += "; import sys; print(sys.path)"
    path = os.pathsep.join([f"{project}/", "", str(tmp_path)])
    made = start([sys.executable, "-c", code], project, path)
    (found,) = [line for line in made.stdout.splitlines() if line.startswith("[")]
    assert f"['{project}', '{tmp_path}', " in found and "''" not in found, made.stderr


SRUN = """#!/bin/bash
while [ "${1:0:1}" = - ]; do [ "$1" = --output ] && shift; shift; done
exec "$@"
"""


def test_a_job_imports_nothing_of_it_and_finds_a_runs_folder_of_any_name(project, monkeypatch):
    """The text that sbatch was given, carried out as a job of this machine."""
    suite = write_suite(project.parent, seeds=[0])
    queue, runs = install(project.parent / "stub", monkeypatch), project / "-100%used [a]*b it's"
    words = [suite, "--method", "zero_shot", "--set", "limit=8", "--executor", "slurm", f"--runs={runs.name}"]
    for more in (["--dry-run"], []):
        made = start([ROBUSTFT, "sweep", *words, *more], project, PATH=os.environ["PATH"])
        assert made.returncode == 0, made.stdout + made.stderr
        if more:
            shown = made.stdout
    ((job, about),) = queue.jobs.items()
    text, quoted = about["text"], str(runs).replace("%", "%%").replace("'", "'\"'\"'")
    assert f"#SBATCH --output='{quoted}/.slurm/{about['name']}/%j_0_log.out'" in text
    assert f"srun --unbuffered --output '{quoted}/.slurm/{about['name']}/%j_%t_log.out' --kill" in text
    for line in text.splitlines():
        assert line.replace(about["name"], f"{about['name'][:-13]}-0") in shown.splitlines(), line
    srun = project.parent / "stub" / "bin" / "srun"
    srun.write_text(SRUN)
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    slurm = {"JOB_ID": job, "JOB_NUM_NODES": "1", "NTASKS": "1", "NODEID": "0", "PROCID": "0", "LOCALID": "0"}
    slurm |= {"JOB_NODELIST": "here", "NODELIST": "here"}
    slurm = {f"SLURM_{name}": value for name, value in slurm.items()}
    path = os.pathsep.join(["", ".", str(project.parent / "loud")])
    made = start(["bash", "-c", text], project, path, PATH=os.environ["PATH"], **slurm)
    assert made.returncode == 0, made.stdout + made.stderr
    (folder,) = folders(runs)
    assert "code_hash" in json.loads((folder / "record.json").read_text())["environment"]


@pytest.mark.parametrize("name", ["x%j", "50%avocado", "a\nb", "a\\b", "a:b"])
def test_a_runs_folder_in_which_jobs_would_not_find_their_files_is_refused(name, project, monkeypatch, capsys):
    install(project.parent / "stub", monkeypatch)
    monkeypatch.chdir(project)
    suite = write_suite(project.parent, seeds=[0])
    words = [suite, "--method", "zero_shot", "--executor", "slurm", "--runs", name, "--dry-run"]
    assert call("sweep", *words) == 2
    said = capsys.readouterr().err
    assert "robustft: --runs: must have none of" in said and "Traceback" not in said, said
    assert not (project / name).exists()
