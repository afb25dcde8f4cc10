"""What a signal means in a job, and when a lease of another node counts for nothing."""

import json
import os
import signal
from types import SimpleNamespace

import pytest

from robustft.benchmarks.executors.slurm import client as queue
from robustft.benchmarks.executors.slurm import job
from robustft.benchmarks.executors.slurm import job as slurm_job
from robustft.benchmarks.executors.slurm.client import Entry
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.lease import Observer, claim


@pytest.fixture
def handlers():
    """Puts back the handlers of this process."""
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals(handlers, monkeypatch):
    """Our handlers over one that only counts its calls, as submitit's own would be there."""
    monkeypatch.setattr(slurm_job, "NOTICE_SECONDS", 0.2)
    asked = []
    signal.signal(signal.SIGUSR2, lambda *_: asked.append(1))
    made = slurm_job.Signals()
    made.asked = asked
    return made


def end(signals, *numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
    with pytest.raises(SystemExit) as left:
        slurm_job._end_interrupted(signals)
    return left.value.code


def test_a_signal_only_sets_a_flag(signals):
    assert not signals()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert signals() and not signals.asked


def test_after_usr2_the_job_is_queued_again_by_submitit(signals):
    assert end(signals, signal.SIGUSR2) != 0
    assert signals.asked == [1]


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGUSR2, signal.SIGTERM], []])
def test_after_term_it_is_not(signals, numbers):
    assert end(signals, *numbers) != 0
    assert not signals.asked


@pytest.mark.parametrize(
    ("events", "begun"), [(["done", "failed", "done"], 3), (["done", "interrupted", "done"], 2), (["busy", "done"], 2)]
)
def test_the_runs_of_a_job_follow_each_other_until_one_is_interrupted(monkeypatch, events, begun):
    left = iter(events)
    monkeypatch.setattr(slurm_job, "make_one", lambda *_: {"event": next(left)})
    options = SimpleNamespace(team=None)
    assert slurm_job.make_all(events, options, lambda: False) == events[:begun]
    assert slurm_job.make_all(events, options, lambda: True) == []


def test_where_several_processes_make_a_run_its_failure_ends_the_job(monkeypatch):
    monkeypatch.setattr(slurm_job, "make_one", lambda *_: {"event": "failed"})
    assert slurm_job.make_all(["a", "b"], SimpleNamespace(team=object()), lambda: False) == ["failed"]


def test_queued_again_a_job_is_told_nothing_but_its_folders():
    again = job.MakeRuns().checkpoint("/runs/a", "/runs/b")
    assert (again.args, again.kwargs, vars(again.function)) == (("/runs/a", "/runs/b"), {}, {})


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A run folder whose lease is held by job 7_1 on another machine; its token."""
    folder = RunFolder(tmp_path)
    token = claim(folder, Observer()).holder.token
    owner = folder.lease / "owner.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "host": "node9", "job": "7_1"}))
    monkeypatch.setattr(slurm_job, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(queue, "listed", lambda: [Entry("7_1", "robustft-x", "RUNNING", "None")])
    return folder, token


def test_a_lease_of_a_job_in_the_queue_is_respected(elsewhere):
    folder, _ = elsewhere
    assert slurm_job.dead_lease(folder, Observer()) is None


def test_a_lease_of_a_job_that_left_the_queue_is_dead(elsewhere, monkeypatch):
    folder, token = elsewhere
    monkeypatch.setattr(queue, "listed", list)
    assert slurm_job.dead_lease(folder, Observer()) == token


def test_a_lease_of_this_job_before_it_was_queued_again_is_dead(elsewhere, monkeypatch):
    folder, token = elsewhere
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert slurm_job.dead_lease(folder, Observer()) == token


def test_without_an_answer_of_the_queue_the_heartbeat_tells(elsewhere, monkeypatch):
    def silent():
        raise queue.QueueError("no answer")

    folder, token = elsewhere
    monkeypatch.setattr(queue, "listed", silent)
    assert slurm_job.dead_lease(folder, Observer(interval=0.01)) == token


def test_a_lease_of_this_machine_is_judged_by_its_process(tmp_path):
    claim(RunFolder(tmp_path), Observer())
    assert slurm_job.dead_lease(RunFolder(tmp_path), Observer()) is None
