"""status, retry and cancel: they say what is true of every run, and start and end what was asked for, once."""

import json
import os
from collections import Counter

import pytest
from lease_kit import dead_process, plant
from runs_kit import after, call, never, plan_runs, starts

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.commands.monitoring import cancel, status
from robustft.benchmarks.execution import run
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.executors.run_states import Choice, survey
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.lease import Observer, claim

QUICK = ("limit=16",)


@pytest.fixture
def in_process(monkeypatch):
    """Retried runs are made here, one after the other: processes are for tests/faults."""

    def make(plan, console, executor, **_):
        events = [work(folder.path, Options(), never)["event"] for _, folder in plan]
        return int(set(events) != {"done"})

    monkeypatch.setattr(sweep, "make", make)


def make(root, name, told=None, **files):
    """A run folder with a state and files, as some process might have left it."""
    path = root / "digits" / "ft" / "tiny" / name
    path.mkdir(parents=True)
    (path / "spec.json").write_text("{}")
    if told is not None:
        (path / "state.json").write_text(json.dumps(told))
    for file, content in files.items():
        (path / file.replace("record", "record.json")).write_text(content)
    return RunFolder(path)


def of(root, queue=lambda jobs: None):
    """Folder name -> the state that a survey gives it."""
    return {seen.folder.path.name: seen for seen in survey(root, Observer(), queue, grace=0)}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A run in every state, on a machine without SLURM."""
    monkeypatch.setenv("PATH", str(tmp_path / "no commands"))
    make(tmp_path, "seed0-000000000000", {"state": "done", "wall_seconds": 100.0}, record='{"run_id": "000000000000"}')
    make(tmp_path, "seed1-000000000001", {"state": "planned"})
    make(tmp_path, "seed2-000000000002", {"state": "checkpointed", "step": 7, "total": 10, "wall_seconds": 70.0})
    make(
        tmp_path, "seed3-000000000003", {"state": "failed", "reason": "it broke", "step": 2}, log="one\ntwo\nthree\nend"
    )
    make(tmp_path, "seed4-000000000004", {"state": "running", "step": 3, "host": "far", "pid": 12})
    make(tmp_path, "seed5-000000000005", {"state": "planned"}, cancel="")
    make(tmp_path, "seed6-000000000006", {"state": "submitted", "job": "41_0"})
    lease = claim(make(tmp_path, "seed7-000000000007", {"state": "planned"}), Observer())
    lease.folder.write_state(state="running", step=5, total=10, wall_seconds=50.0)
    return tmp_path


WANTED = ("done", "planned", "checkpointed", "failed", "vanished", "cancelled", "submitted", "running")


def test_each_state_is_told_from_the_folders(zoo):
    assert tuple(seen.state for seen in of(zoo).values()) == WANTED
    assert "process 12 on far" in of(zoo)["seed4-000000000004"].reason


def test_a_folder_without_a_plan_is_no_run(zoo):
    (zoo / "digits" / "ft" / "tiny" / "notes").mkdir()
    assert len(of(zoo)) == len(WANTED)


@pytest.mark.parametrize("word", ["running", "planned"])
def test_a_killed_process_has_vanished_whatever_it_wrote_last(tmp_path, word):
    folder = make(tmp_path, "seed0-0123456789ab", {"state": word, "step": 4})
    plant(folder, **dead_process())
    assert of(tmp_path)[folder.path.name].state == "vanished"


def test_a_record_that_is_damaged_or_gone_is_not_done(tmp_path):
    make(tmp_path, "seed0-00000000000a", {"state": "done"})
    make(tmp_path, "seed1-00000000000b", {"state": "done"}, record="{")
    gone, damaged = of(tmp_path).values()
    assert gone.state == "vanished" and "record is gone" in gone.reason
    assert damaged.state == "failed" and "must be the record of this run" in damaged.reason


@pytest.mark.parametrize(
    "word, state, reason",
    [
        ("PENDING Priority", "submitted", ""),
        ("RUNNING", "submitted", ""),
        ("COMPLETED", "vanished", "SLURM calls its job 41_0 COMPLETED, but it left no record"),
        ("CANCELLED by 0", "vanished", "SLURM calls its job 41_0 CANCELLED, but it left no record"),
        (None, "vanished", "SLURM no longer knows its job 41_0, but it left no record"),
    ],
)
def test_the_queue_is_believed_about_jobs_and_the_record_about_runs(zoo, word, state, reason):
    asked = []

    def queue(jobs):
        asked.append(jobs)
        return {} if word is None else {"41_0": word}

    found = of(zoo, queue)
    # Once, for all; and again of a job that has just ended without a record.
    assert asked == [["41_0"]] * (2 if state == "vanished" else 1)
    assert (found["seed6-000000000006"].state, found["seed6-000000000006"].reason) == (state, reason)
    assert [seen.state for seen in found.values()][:6] == list(WANTED[:6])


def test_a_run_that_ends_while_the_queue_is_asked_is_done(tmp_path):
    folder = make(tmp_path, "seed0-0123456789ab", {"state": "submitted", "job": "9"})

    def queue(jobs):
        folder.record.write_text('{"run_id": "0123456789ab"}')
        return {"9": "COMPLETED"}

    assert of(tmp_path, queue)[folder.path.name].state == "done"


def test_a_record_that_is_seen_late_is_believed(tmp_path, monkeypatch):
    """On a shared disk a job can be gone from the queue before this machine sees what it wrote."""
    folder = make(tmp_path, "seed0-0123456789ab", {"state": "submitted", "job": "9"})
    monkeypatch.setattr("time.sleep", lambda _: folder.record.write_text('{"run_id": "0123456789ab"}'))
    assert of(tmp_path, lambda jobs: {})[folder.path.name].state == "done"


@pytest.mark.parametrize("word", ["PREEMPTED", "TIMEOUT", None])
@pytest.mark.parametrize("told", ["submitted", "running"])
def test_a_job_that_is_queued_again_and_for_a_moment_in_no_list_has_not_vanished(tmp_path, told, word):
    folder = make(tmp_path, "seed0-0123456789ab", {"state": told, "step": 4, "job": "9"})
    plant(folder, **dead_process())
    answers = [{} if word is None else {"9": word}, {"9": "PENDING"}]
    assert of(tmp_path, lambda jobs: answers.pop(0))[folder.path.name].state == "submitted"
    assert answers == []


def test_what_gave_no_sign_of_life_for_long_is_not_waited_for(tmp_path):
    """A look at a sweep of which some runs are lost for good must stay quick."""
    folder = make(tmp_path, "seed0-0123456789ab", {"state": "submitted", "job": "9"})
    os.utime(folder.state, (0, 0))
    assert survey(tmp_path, Observer(), lambda jobs: {}, grace=10**6)[0].state == "vanished"


def test_without_a_queue_a_submitted_run_stays_submitted(zoo):
    assert of(zoo, lambda jobs: None)["seed6-000000000006"].state == "submitted"


def test_a_lease_of_another_machine_whose_job_is_over_holds_nothing(tmp_path):
    folder = make(tmp_path, "seed0-0123456789ab", {"state": "running", "step": 4, "job": "9"})
    plant(folder, host="far")
    assert of(tmp_path)[folder.path.name].state == "running"  # nobody to ask but its heartbeat
    assert of(tmp_path, lambda jobs: {"9": "RUNNING"})[folder.path.name].state == "running"
    assert of(tmp_path, lambda jobs: {"9": "NODE_FAIL"})[folder.path.name].state == "vanished"


def test_status_for_a_person(zoo, capsys):
    assert call("status", "--runs", zoo) == 0
    output = capsys.readouterr().out
    for words in (
        "1 of 8 runs done (12 %)",
        "running: digits/ft/tiny/seed7-000000000007 at step 5 of 10",
        "checkpointed: digits/ft/tiny/seed2-000000000002 at step 7 of 10",
        "submitted: digits/ft/tiny/seed6-000000000006 (job 41_0)",
        "failed: digits/ft/tiny/seed3-000000000003 at step 2: it broke\n  | two\n  | three\n  | end\n",
        "vanished: digits/ft/tiny/seed4-000000000004 at step 3: the process that had it is gone",
    ):
        assert words in output
    assert "one\n" not in output
    assert call("status", "imagenet", "--runs", zoo) == 2
    assert "has runs of: digits" in capsys.readouterr().err


def test_of_a_job_that_died_before_our_code_only_slurms_own_words_are_told(zoo, capsys):
    """Setup lines and programs may print what they like, values of the environment among it."""
    output = zoo / ".slurm" / "robustft-digits-abc" / "41_0_0_log.out"
    output.parent.mkdir(parents=True)
    killed = "slurmstepd-n1: error: *** JOB 41 ON n1 CANCELLED DUE TO TIME LIMIT ***"
    output.write_text(f"+ export HF_TOKEN=canary-2718\nslurm_script: line 9: canary-2718: not found\n{killed}\n")
    found = survey(zoo, Observer(), lambda jobs: {"41_0": "TIMEOUT"})
    (entry,) = (each for each in status.report(found)["runs"] if each["job"])
    assert (entry["log"], entry["output"]) == ([killed], ".slurm/robustft-digits-abc/41_0_0_log.out")
    shown = "\n".join(map(str, status.picture(found, zoo)))
    assert killed in shown and entry["output"] in shown and "canary" not in shown


def test_runs_that_failed_alike_are_told_of_once(tmp_path, capsys):
    for i in range(300):
        make(tmp_path, f"seed{i}-{i:012x}", {"state": "failed", "reason": "no room"})
    call("status", "--runs", tmp_path)
    output = capsys.readouterr().out
    assert output.count("no room") == 1 and "(and 299 more)" in output


def test_the_time_to_go_follows_from_finished_runs_and_those_under_way(zoo):
    # finished: 100 s; running: 50 s for half of it, so 100 s, 50 s of them to go; stopped: 30 s to go; and three whole
    # ones: planned, submitted, vanished
    assert status.eta_seconds(survey(zoo, Observer())) == pytest.approx(50 + 30 + 300)


def test_no_time_to_go_is_invented(tmp_path):
    make(tmp_path, "seed0-00000000000a", {"state": "planned"})
    assert status.eta_seconds(survey(tmp_path, Observer())) is None
    claim(make(tmp_path, "seed1-00000000000b", {"state": "planned"}), Observer())
    assert status.eta_seconds(survey(tmp_path, Observer())) is None


@pytest.mark.parametrize(
    "seconds, words", [(42, "42 s"), (185, "3 min"), (7500, "2 h 05 min"), (4 * 86400 + 3600 * 5, "4 d 5 h")]
)
def test_durations_are_short(seconds, words):
    assert status.duration(seconds) == words


def test_status_as_json_has_every_run_with_the_same_keys(zoo, capsys):
    assert call("status", "--json", "--runs", zoo) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1 and told["eta_seconds"] == pytest.approx(380)
    assert told["counts"] == dict.fromkeys(WANTED, 1)
    assert [entry["state"] for entry in told["runs"]] == list(WANTED)
    assert {tuple(entry) for entry in told["runs"]} == {
        (
            *("run", "benchmark", "method", "backbone", "run_id", "state", "step", "total", "wall_seconds"),
            *("restarts", "job", "reason", "waits", "log", "output"),
        )
    }
    failed = told["runs"][3]
    assert failed["run"] == "digits/ft/tiny/seed3-000000000003" and failed["log"] == ["two", "three", "end"]
    assert str(zoo) not in json.dumps(told)


def test_watching_looks_again_until_nothing_is_left_to_come(zoo, capsys, monkeypatch):
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            for name in ("seed1-000000000001", "seed6-000000000006", "seed7-000000000007"):
                folder = RunFolder(zoo / "digits" / "ft" / "tiny" / name)
                folder.write_state(state="done")
                folder.record.write_text(json.dumps({"run_id": name[-12:]}))

    monkeypatch.setattr(status.time, "sleep", nap)
    assert call("status", "--watch", "--every", "3", "--runs", zoo) == 0
    assert naps == [3.0, 3.0]
    assert "4 of 8 runs done" in capsys.readouterr().out


def test_cancel_must_be_told_what(zoo, capsys):
    assert call("cancel", "--runs", zoo) == 2
    assert "must be told which runs" in capsys.readouterr().err
    assert call("cancel", "--method", "tracer", "--runs", zoo) == 2
    assert call("cancel", "--run", "ffffffffffff", "--runs", zoo) == 2
    assert tuple(seen.state for seen in of(zoo).values()) == WANTED


def test_cancel_ends_what_is_open_and_leaves_results_and_failures(zoo, capsys):
    assert call("cancel", "digits", "--runs", zoo) == 2
    assert "scancel: must be installed" in capsys.readouterr().err  # one of them is in a queue
    (zoo / "digits" / "ft" / "tiny" / "seed6-000000000006" / "state.json").unlink()
    for path in zoo.rglob("cancel"):
        path.unlink()
    (zoo / "digits" / "ft" / "tiny" / "seed5-000000000005" / "cancel").touch()
    assert call("cancel", "digits", "--runs", zoo) == 0
    output = capsys.readouterr().out
    assert "4 runs cancelled" in output and "1 running" in output
    states = Counter(seen.state for seen in of(zoo).values())
    # the running one is still running: it has only been asked
    assert states == {"done": 1, "cancelled": 5, "failed": 1, "running": 1}


def test_cancel_takes_waiting_jobs_out_of_the_queue_and_lets_running_ones_save(tmp_path):
    make(tmp_path, "seed0-00000000000a", {"state": "submitted", "job": "1_0"})
    make(tmp_path, "seed1-00000000000b", {"state": "submitted", "job": "2"})  # one of two runs of a job
    make(tmp_path, "seed2-00000000000c", {"state": "submitted", "job": "2"})
    claim(make(tmp_path, "seed3-00000000000d", {"state": "running", "job": "3"}), Observer()).folder.write_state(
        state="running", job="3"
    )
    make(tmp_path, "seed4-00000000000e", {"state": "submitted", "job": "3"})  # waits behind the running one
    gone = []

    def end(*ids):
        chosen = Choice(ids=ids)
        jobs = {job: "PENDING" for job in ("1_0", "2", "3")}
        assert (
            cancel.cancel(status.Console(quiet=True), tmp_path, chosen, queue=lambda _: jobs, scancel=gone.extend) == 0
        )

    end("00000000000a", "00000000000b", "00000000000d", "00000000000e")
    assert gone == ["1_0"]
    end("00000000000c")
    assert gone == ["1_0", "2"]


def test_a_cancelled_run_is_not_started_and_a_running_one_saves_first(tmp_path, in_process):
    (folder,) = plan_runs(tmp_path, "ft", *QUICK, "steps=6")
    folder.ask_to_cancel()
    assert work(folder.path, Options(), never)["event"] == "cancelled"
    assert not folder.log.exists() or not starts(folder.path)
    folder.forget_cancel()
    looks = []

    def cancelled_at_step_three():
        looks.append(1)
        if len(looks) == 4:  # the first look is before the first step
            folder.ask_to_cancel()
            seen[0].next_look = 0.0  # it looks once a second
        return False

    seen, real = [], run.Attempt.__init__

    def remember(self, folder, lease, plan, options, should_stop):
        seen.append(should_stop)
        real(self, folder, lease, plan, options, should_stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Attempt, "__init__", remember)
        assert work(folder.path, Options(), cancelled_at_step_three)["event"] == "cancelled"
    assert folder.read_state()["state"] == "cancelled" and list(folder.checkpoints.glob("*.json"))
    assert of(tmp_path / "runs")[folder.path.name].state == "cancelled"
    assert call("retry", "--runs", tmp_path / "runs") == 0
    assert not folder.done()  # what was cancelled is not simply tried again
    assert call("retry", "--cancelled", "--runs", tmp_path / "runs") == 0
    assert folder.done() and not folder.cancelled()
    assert folder.read_state()["start_step"] > 0  # it went on


def test_who_plans_a_run_again_wants_it(tmp_path):
    (folder,) = plan_runs(tmp_path, "zero_shot", *QUICK)
    folder.ask_to_cancel()
    plan_runs(tmp_path, "zero_shot", *QUICK)
    assert not folder.cancelled()


def test_retry_goes_on_where_it_was_and_adds_the_inputs_that_are_missing(tmp_path, capsys, in_process):
    ft, wise = plan_runs(tmp_path, "wise_ft", *QUICK, "steps=6")
    work(ft.path, Options(), after(4))
    assert work(wise.path, Options(), never)["event"] == "failed"
    runs = tmp_path / "runs"
    assert call("retry", "--method", "wise_ft", "--dry-run", "--runs", runs) == 0
    assert "1 run would start again" in capsys.readouterr().out and not ft.done()
    assert call("retry", "--method", "wise_ft", "--runs", runs) == 0
    assert ft.done() and wise.done()
    assert ft.read_state()["start_step"] > 0  # from its checkpoint
    assert call("retry", "--runs", runs) == 0
    assert "nothing to start again" in capsys.readouterr().out


def test_a_run_that_makes_no_progress_is_tried_a_few_times_and_named(tmp_path, capsys, monkeypatch, in_process):
    (folder,) = plan_runs(tmp_path, "ft", *QUICK)
    for restarts in range(3):
        with monkeypatch.context() as broken:
            broken.setattr(run, "fit", lambda *_, **__: 1 / 0)
            assert work(folder.path, Options(), never)["event"] == "failed"
        assert folder.read_state()["restarts"] == restarts
    runs = tmp_path / "runs"
    assert call("retry", "--restarts", "2", "--runs", runs) == 1
    output = capsys.readouterr().out
    assert "failed after 2 restarts without progress: ZeroDivisionError" in output and "raise --restarts 2" in output
    assert call("retry", "--runs", runs) == 0
    assert folder.done()


def test_a_new_checkpoint_is_progress(tmp_path):
    (folder,) = plan_runs(tmp_path, "ft", *QUICK, "steps=6")
    restarts = []
    for looks in (2, 1, 1, 3):
        work(folder.path, Options(), after(looks))
        restarts.append(folder.read_state()["restarts"])
    # from step 0, 2, 3 and 4: each began where the one before had not been
    assert restarts == [0, 0, 0, 0] and folder.read_state()["start_step"] == 4
    work(folder.path, Options(), after(0))
    work(folder.path, Options(), after(0))
    assert folder.read_state()["restarts"] == 1


def test_a_record_that_cannot_be_read_is_not_run_over(tmp_path, capsys):
    (folder,) = plan_runs(tmp_path, "zero_shot", *QUICK)
    folder.record.write_text("{")
    assert call("retry", "--runs", tmp_path / "runs") == 1
    assert "restore it, or delete it" in capsys.readouterr().out
    assert folder.record.read_text() == "{"
