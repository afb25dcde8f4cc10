"""`--executor local`: N runs side by side, each on a GPU of its own where there are GPUs."""

import os
from types import SimpleNamespace

import pytest
from runs_kit import call, write_suite

from robustft.benchmarks.commands import executor_options
from robustft.benchmarks.commands.options import Asked
from robustft.benchmarks.errors import UserError
from robustft.benchmarks.executors import local as launch
from robustft.benchmarks.host import environment as environment_module


@pytest.mark.parametrize(
    "device, environment, wanted",
    [
        ("cpu", "0,1", ()),
        ("cuda:1", "0,1", ()),
        ("cuda", "0,1", ("0", "1")),
        ("cuda", "GPU-a, MIG-b", ("GPU-a", "MIG-b")),
        ("cuda", "", ()),
        ("cuda", None, ("0", "1", "2")),
    ],
)
def test_the_gpus_to_share_out_are_those_that_may_be_used(monkeypatch, device, environment, wanted):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    if environment is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    assert environment_module.visible_gpus(device) == wanted


@pytest.mark.parametrize(
    "gpus, wanted", [(("4", "7"), ["4", "7", "4", "7"]), (("4",), ["4"] * 4), ((), ["as it was"] * 4)]
)
def test_each_worker_sees_the_gpu_that_has_the_fewest(monkeypatch, gpus, wanted):
    seen = []

    def start(command, env, **_):
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        return SimpleNamespace(stdout=os.fdopen(os.pipe()[0], "rb"), stdin=None)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
    monkeypatch.setattr(launch.subprocess, "Popen", start)
    launcher = launch.Launcher([], 4, None, (), gpus)
    for _ in range(4):
        launcher._free_worker(threads=1).job = "busy"
    assert seen == wanted and launcher._free_worker(threads=1) is None
    gone = launcher.workers[1]
    launcher._forget(gone)
    launcher._free_worker(threads=1)
    assert seen[-1] == wanted[1]  # the place that became free


@pytest.mark.parametrize("executor", ["local", "LOCAL"])
def test_the_local_executor_may_be_named(tmp_path, capsys, executor):
    suite = write_suite(tmp_path)
    for command in ("sweep", "run", "tune"):
        assert call(command, suite, "--method", "ft", "--executor", executor, "--dry-run") == 0
    assert call("retry", "--executor", executor, "--runs", tmp_path) == 0
    assert call("sweep", suite, "--method", "ft", "--executor", "pbs", "--dry-run") == 2
    assert "unknown executor" in capsys.readouterr().err


def test_more_memory_and_time_are_asked_of_a_cluster(tmp_path):
    options = {"runs": tmp_path, "executor": "slurm", "profile": "cpu", "pack": None, "live": False, "device": None}
    options |= {"checkpoint_minutes": None, "memory": "99G", "time": "48h"}
    asked = executor_options.choose(Asked(**options)).cluster.profile
    plain = executor_options.choose(Asked(**{**options, "memory": None, "time": None})).cluster.profile
    assert (asked.memory, asked.minutes) == ("99G", 48 * 60)
    assert asked.model_copy(update={"memory": plain.memory, "time": plain.time}) == plain
    with pytest.raises(UserError, match="time"):
        executor_options.choose(Asked(**{**options, "time": "long"}))
    with pytest.raises(UserError, match="--memory, --time: are for a cluster"):
        executor_options.choose(Asked(**{**options, "executor": "local", "profile": None}))
