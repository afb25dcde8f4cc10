"""Several processes make one run: the batch is shared, one of them writes, and the losses are those of one process."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from runs_kit import plan_runs, starts

from robustft.benchmarks.execution import process_group
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work


@pytest.mark.parametrize(
    ("batch", "processes", "micro_batch", "said"),
    [
        (512, 4, None, "batch of 512: 4 processes x 128 images, 1 forward pass of up to 128"),
        (512, 4, 50, "batch of 512: 4 processes x 128 images, 3 forward passes of up to 50"),
        (10, 1, 4, "batch of 10: 10 images, 3 forward passes of up to 4"),
        (10, 4, 100, "batch of 10: 4 processes x 3 images, 1 forward pass of up to 3"),
    ],
)
def test_how_a_batch_is_shared_is_said(batch, processes, micro_batch, said):
    assert process_group.batch_text(batch, processes, micro_batch) == said


@pytest.mark.programs
def test_two_processes_under_torchrun_give_the_losses_of_one(tmp_path):
    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
    (alone,) = plan_runs(tmp_path / "alone", "tracer", "limit=8")
    (shared,) = plan_runs(tmp_path / "shared", "tracer", "limit=8")
    assert work(alone.path, Options(), lambda: False)["event"] == "done"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + ["-m", "robustft.benchmarks.execution.worker", "--micro-batch", "5", str(shared.path)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ours, single = pd.read_parquet(shared.curves), pd.read_parquet(alone.curves)
    assert list(ours.columns) == list(single.columns) and len(ours) == len(single) > 0
    assert (ours - single).abs().max().max() < 1e-6
    record = json.loads(shared.record.read_text())
    assert record["run_id"] == json.loads(alone.record.read_text())["run_id"]
    assert record["environment"]["processes"] == 2 and record["environment"]["micro_batch"] == 5
    assert "batch of 16: 2 processes x 8 images, 2 forward passes of up to 5" in shared.log.read_text()
    assert starts(shared.path) == 1
    assert {path.name for path in shared.path.iterdir()} == {path.name for path in alone.path.iterdir()}
    assert {path.name for path in shared.predictions.iterdir()} == {path.name for path in alone.predictions.iterdir()}
