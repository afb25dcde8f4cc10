"""What stays of a finished run: nothing, its final weights, or the checkpoints too."""

import pytest
from runs_kit import BACKBONE, after, call, folders, never, plan_runs, write_suite

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution.run import Attempt, Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder


@pytest.mark.parametrize(
    "what, weights, checkpoints",
    [(None, True, False), ("final", True, False), ("all", True, True), ("none", False, False)],
)
def test_a_finished_run_keeps_what_was_asked_for(tmp_path, what, weights, checkpoints):
    (folder,) = plan_runs(tmp_path, "ft", "limit=16", "steps=4")
    if what:
        folder.keep(what)
    assert work(folder.path, Options(), after(3))["event"] == "interrupted"
    assert list(folder.checkpoints.glob("*.json"))
    assert work(folder.path, Options(), never)["event"] == "done"
    assert folder.weights.exists() == weights
    assert folder.checkpoints.exists() == checkpoints
    assert folder.record.exists() and folder.curves.exists() and list(folder.predictions.glob("*.parquet"))


def test_weights_that_were_not_kept_are_missed_in_one_sentence(tmp_path, monkeypatch, capfd):
    ft, wise = plan_runs(tmp_path, "wise_ft", "limit=16")
    ft.keep("none")
    assert work(ft.path, Options(), never)["event"] == "done"
    outcome = work(wise.path, Options(), never)
    assert outcome["event"] == "failed" and outcome["mistake"]
    assert "wise_ft: needs the final weights of ft, which were not kept (--keep none)" in outcome["reason"]
    told = wise.log.read_text() + "".join(capfd.readouterr())
    assert told.rstrip().endswith(outcome["reason"]) and "Traceback" not in told

    def broken(self):
        raise RuntimeError("of ours")

    monkeypatch.setattr(Attempt, "carry_out", broken)
    outcome = work(wise.path, Options(), never)
    assert outcome["reason"] == "RuntimeError: of ours" and not outcome["mistake"]
    assert "Traceback" in wise.log.read_text() + "".join(capfd.readouterr())  # there, it is needed


def test_a_sweep_says_so_before_it_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path)
    assert call("sweep", suite, "--method", "wise_ft", "--keep", "none") == 2
    assert "--keep: must be final or all where wise_ft reads the weights of ft" in capsys.readouterr().err
    assert not folders("runs")
    plan = sweep.expand(sweep.load(suite), Request(("ft",), (BACKBONE,)))
    folder = RunFolder.of(tmp_path / "runs", plan[0].spec)
    folder.path.mkdir(parents=True)
    folder.record.write_text(f'{{"run_id": "{plan[0].spec.run_id}"}}')  # done, and nothing kept
    assert call("sweep", suite, "--method", "wise_ft") == 2
    assert "reads the final weights of ft tiny-vit-p8 seed 0, which were not kept" in capsys.readouterr().err
    assert call("sweep", suite, "--method", "ft", "--keep", "some") == 2
