"""What tests of the command line share: a suite of seconds, the program, records without their clocks."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import yaml

from robustft.benchmarks import cli
from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.planning.suite.suite import SUITES
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.plan import Plan
from robustft.methods.training import dynamics

BACKBONE = "tiny-vit-p16"  # the fastest
SUITE = {
    "name": "digits",
    "dataset": "digits",
    "version": "digits-v1",
    "backbones": [BACKBONE],
    "methods": ["zero_shot", "ft", "lp_ft", "wise_ft", "flyp", "ema", "tracer"],
    "seeds": [0],
    "threads": 1,
    "recipes": {"common": {"steps": 3, "batch_size": 16, "lr": 3e-4, "weight_decay": 0.1}},
    "methods_settings": {"lp_ft": {"c_points": 2, "renderings": 1, "source": "short"}},
    "tuning": {
        "trials": 2,
        "seeds": [100],
        "space": {"ft": {"lr": [1e-4, 1e-3]}, "wise_ft": {"lr": [1e-3], "alpha": [0.25, 0.75]}},
    },
}
QUICK = ("--set", "limit=32")
"""Evaluate the first 32 samples of each set."""


def write_suite(folder, **changes):
    """A suite file whose runs take a second; returns its path as text."""
    path = Path(folder) / "quick.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}, sort_keys=False))
    return str(path)


def copy_of(tmp_path, name="digits", *changes):
    """A copy of a shipped suite and its tuned values, with texts replaced."""
    text = (SUITES / f"{name}.yaml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    tuned = SUITES / f"{name}.tuned.yaml"
    if tuned.exists():
        (tmp_path / tuned.name).write_text(tuned.read_text())
    return str(path)


def plan_runs(root, method, *settings, seed=3, rule="one_se", backbone=BACKBONE):
    """Run folders of a method and of what it reads, planned as `robustft sweep` plans them."""
    benchmark = sweep.load(write_suite(root))
    made = []
    for planned in sweep.expand(benchmark, Request((method,), (backbone,), (seed,), settings, rule)):
        folder = RunFolder.of(Path(root) / "runs", planned.spec)
        selection = benchmark.selector().of(planned.spec)
        Plan(planned.spec, benchmark.suite.dataset, planned.sources, selection).write(folder)
        made.append(folder)
    return made


def program(*arguments, **options):
    """Start the real command line in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("ROBUSTFT_RUNS", None)
    command = [sys.executable, "-m", "robustft.benchmarks", *map(str, arguments)]
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": environment,
        **options,
    }
    return subprocess.Popen(command, **options)


def call(*arguments):
    """The command line in this process; returns its exit code."""
    with contextlib.suppress(KeyError):
        del os.environ["ROBUSTFT_RUNS"]
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    raise AssertionError("main returned")


def never():
    """No stop is asked for."""
    return False


def after(count):
    """A stop that is asked for when it has been looked at `count` times."""
    left = [count]

    def should_stop():
        left[0] -= 1
        return left[0] < 0

    return should_stop


HERE = Options(device="cpu", workers=0)
"""Of a run whose subject is not how its images are loaded: for each set of files a loader forks this process."""


def run_here(launcher):
    """`Launcher.run` without worker processes.

    For tests whose subject is not the processes, each of which imports torch anew, and for what only this one knows.
    """
    for job in launcher.jobs:
        if job.folder.done():
            job.state, job.earlier = "done", True
            continue
        with mock.patch.object(dynamics, "PROBE_IMAGES", 32):  # 256 take longer than the run that they look at
            outcome = work(job.folder.path, HERE, never)
        job.state, job.reason = outcome["event"], outcome.get("reason", "")
        job.mistake = outcome.get("mistake", False)
    return launcher.jobs


def folders(runs, method="*"):
    """The run folders below a root."""
    return sorted(path.parent for path in Path(runs).glob(f"*/{method}/*/seed*/spec.json"))


def essence(folder):
    """A run's record and files, without what a clock or the machine's load decides."""
    record = json.loads((folder / "record.json").read_text())
    for key in ("cost", "finished", "environment"):
        record.pop(key)
    files = [
        folder / "weights" / "final.safetensors",
        folder / "curves.parquet",
        folder / "per_class.parquet",
        *folder.glob("path.json"),
        *folder.glob("weights/text.safetensors"),
        *folder.glob("predictions/*"),
    ]
    return record, {str(path.relative_to(folder)): path.read_bytes() for path in files}


def starts(folder):
    """How many times a process began to work on the run."""
    return (folder / "log").read_text().count(" start ")
