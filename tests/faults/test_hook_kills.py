"""Runs of methods that use what a method may beside its loss, killed without warning: the same bits, every time."""

import os
import signal
import subprocess
import sys

import hooks_kit
import pytest
from kills_kit import PATIENCE, wait_until
from repository import KITS, TESTS
from runs_kit import essence, never, plan_runs

from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work

pytestmark = pytest.mark.faults
SETTINGS = ("steps=60", "batch_size=4", "limit=16")


def process(folder):
    """One that works on the run, and saves after every step."""
    path = os.pathsep.join([str(TESTS), str(KITS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", "import sys, hooks_kit; hooks_kit.work_on(sys.argv[1])", str(folder.path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def furthest(folder):
    return max((int(path.stem.removeprefix("step-")) for path in folder.checkpoints.glob("step-*.json")), default=0)


@pytest.mark.parametrize("name", list(hooks_kit.METHODS))
def test_sigkill_in_the_middle_of_training_changes_no_bit(name, tmp_path):
    for root in (tmp_path / "whole", tmp_path / "killed"):
        root.mkdir()
    with hooks_kit.known():
        (whole,) = plan_runs(tmp_path / "whole", name, *SETTINGS)
        (folder,) = plan_runs(tmp_path / "killed", name, *SETTINGS)
        assert work(whole.path, Options(), never)["event"] == "done"
    reached = 0
    for _ in range(2):
        started = process(folder)
        assert wait_until(lambda: furthest(folder) > reached + 5, started)  # noqa: B023 (asked here alone)
        os.kill(started.pid, signal.SIGKILL)
        started.communicate(timeout=PATIENCE)
        assert started.returncode == -signal.SIGKILL and not folder.record.exists()
        reached = furthest(folder)
    started = process(folder)
    said, _ = started.communicate(timeout=PATIENCE)
    assert "'event': 'done'" in said, said
    record, files = essence(folder.path)
    wanted, wanted_files = essence(whole.path)
    assert record == wanted
    assert files == wanted_files
