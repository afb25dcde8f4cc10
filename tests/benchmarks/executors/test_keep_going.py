"""`--keep-going` on a queue of which the test plays the cluster: jobs end, vanish, fail, or find no room."""

import json

import pytest
from runs_kit import BACKBONE, call, write_suite
from slurm_stub import install

from robustft.benchmarks.commands import sweep as sweeps
from robustft.benchmarks.commands.console import make_console
from robustft.benchmarks.executors import keep_going
from robustft.benchmarks.executors.slurm import code_snapshot
from robustft.benchmarks.executors.slurm.arrays import Cluster
from robustft.benchmarks.executors.slurm.profile import Profile
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.plan import Plan

CODE = "0123456789abcdef"


class World:
    """What happens between two looks: `plays` are called one after the other, then no more jobs may be left."""

    def __init__(self, queue, runs):
        self.queue, self.runs, self.plays, self.pauses = queue, runs, [], 0

    def pause(self):
        self.pauses += 1
        assert self.pauses < 30, "it never ends"
        if self.plays:
            self.plays.pop(0)()
        else:
            self.finish()

    @property
    def folders(self):
        return [RunFolder(path.parent) for path in sorted(self.runs.glob("*/*/*/*/spec.json"))]

    def in_queue(self):
        return [folder for folder in self.folders if folder.read_state().get("job") in self.queue.jobs]

    def finish(self):
        """What is in the queue and waits for nothing is made."""
        for folder in self.in_queue():
            if not self.queue.jobs[folder.read_state()["job"]]["after"]:
                folder.record.write_text(json.dumps({"run_id": folder.path.name.rpartition("-")[2]}) + "\n")
        self.end({folder.read_state()["job"] for folder in self.in_queue() if folder.record.exists()})
        jobs = {job: {**about, "after": ""} for job, about in self.queue.jobs.items()}
        self.queue.set(jobs=jobs)

    def end(self, jobs):
        self.queue.set(jobs={job: about for job, about in self.queue.jobs.items() if job not in jobs})

    def preempt(self, **state):
        """Every job is killed, and not queued again; what their runs have written down."""
        for folder in self.in_queue():
            folder.write_state(**{**folder.read_state(), "state": "running", **state})
        self.queue.finish()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(code_snapshot, "take", lambda runs: CODE)
    monkeypatch.setattr(code_snapshot, "exists", lambda runs, name: True)
    made = World(install(tmp_path / "stub", monkeypatch), tmp_path / "runs")
    monkeypatch.setattr(keep_going, "pause", made.pause)
    monkeypatch.setattr("robustft.benchmarks.executors.run_states.GRACE_SECONDS", 0.0)
    return made


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def plan(suite):
    benchmark = sweeps.load(suite)
    return sweeps.expand(benchmark, Request(("ft", "wise_ft"), (BACKBONE,), (0, 1, 2)))


def sweep(plan, world, method="ft", seeds="0,1,2"):
    """Have the runs made; the exit code."""
    folders = []
    for planned in plan:
        if planned.spec.method in ("ft", method) and str(planned.spec.seed) in seeds.split(","):
            folders.append(RunFolder.of(world.runs, planned.spec))
            if not folders[-1].spec.exists():
                Plan(planned.spec, "digits", planned.sources, {"rules": []}).write(folders[-1])
    console = make_console()
    return keep_going.keep_going(folders, console, world.runs, Cluster(Profile(gpus=0, time="1h")), "cpu", 10)


def test_leftovers_are_submitted_when_there_is_room(plan, world, capsys):
    world.queue.set(room=1)
    assert sweep(plan, world) == 0
    said = capsys.readouterr().out
    assert "1 submitted, 2 planned; no room for more now" in said and "3 of 3 runs done" in said
    assert len(world.folders) == 3 and all(folder.done() for folder in world.folders)
    assert world.queue.world["calls"] == 3


def test_what_is_cancelled_for_more_urgent_jobs_goes_on_until_it_is_done(plan, world, capsys):
    """More often than a run may be started in vain, for each time it went on."""
    world.plays = [lambda step=step: world.preempt(step=step) for step in (3, 6, 9, 12, 15)]
    assert sweep(plan, world, seeds="0") == 0
    said = capsys.readouterr().out
    assert said.count("again 1 vanished run: SLURM no longer knows its job") == 5 and "1 of 1 run done" in said


def test_what_makes_no_step_is_given_up_and_what_reads_it_too(plan, world, capsys):
    world.plays = [world.preempt] * keep_going.IN_VAIN
    assert sweep(plan, world, method="wise_ft", seeds="0") == 1
    said = capsys.readouterr().out
    assert said.count("again 2 vanished runs: SLURM no longer knows") == 2
    assert "given up:" in said and "2 runs given up; mend the causes" in said
    assert not world.queue.jobs


def test_a_mistake_that_only_the_user_can_mend_is_not_tried_again(plan, world, capsys):
    def fail():
        for folder in world.in_queue():
            state = {**folder.read_state(), "state": "failed", "reason": "no data there.", "mistake": True}
            folder.write_state(**state)
        world.queue.finish()

    world.plays = [fail]
    assert sweep(plan, world, seeds="0") == 1
    assert "failed: no data there\n" in capsys.readouterr().out and world.queue.world["calls"] == 1


def test_a_controller_that_is_silent_is_asked_again(plan, world, capsys):
    world.queue.set(silent=True)
    world.plays = [lambda: None, lambda: world.queue.set(silent=False)]
    assert sweep(plan, world, seeds="0") == 0
    assert capsys.readouterr().out.count("SLURM gives no answer") == 1


def test_a_run_that_the_user_cancels_is_left_alone(plan, world, capsys):
    def cancel():
        assert call("cancel", "--runs", world.runs, "--run", world.folders[0].path.name.rpartition("-")[2]) == 0

    world.plays = [cancel]
    assert sweep(plan, world, seeds="0,1") == 1
    said = capsys.readouterr().out
    assert "1 run given up" in said and world.queue.world["calls"] == 1


def test_a_refused_profile_ends_the_command(suite, world, capsys):
    world.queue.set(wrong="sbatch: error: Batch job submission failed: Invalid feature specification")
    words = ("sweep", suite, "--method", "ft", "--seeds", "0", "--runs", world.runs, "--executor", "slurm")
    assert call(*words, "--keep-going") == 2
    assert "Invalid feature specification; mend --profile" in capsys.readouterr().err


def test_a_second_call_goes_on_where_the_first_one_died(plan, world):
    def die():
        raise KeyboardInterrupt

    world.plays = [die]
    with pytest.raises(KeyboardInterrupt):
        sweep(plan, world)
    assert len(world.queue.jobs) == 3
    assert sweep(plan, world) == 0
    assert world.queue.world["calls"] == 1
