"""Runs on a real SLURM that are disturbed in every way that a cluster knows: each is done once, with the same bits."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import own_data_kit
import pandas as pd
import pytest
from cluster import PATIENCE, commands_of
from runs_kit import BACKBONE, call, essence, starts, write_suite

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.executors import keep_going, run_states
from robustft.benchmarks.executors.slurm import client as queue
from robustft.benchmarks.executors.slurm.arrays import Cluster
from robustft.benchmarks.executors.slurm.profile import Profile
from robustft.benchmarks.executors.slurm.submission import PREFIX, Submitter
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.lease import Observer
from robustft.benchmarks.run_folder.plan import Plan

pytestmark = pytest.mark.slurm

STEPS = {"steps": 80, "batch_size": 16, "lr": 3e-4, "weight_decay": 0.1}
PROFILE = Profile(partition="low", gpus=1, cpus=1, time="30m")
INTERACTIVE = {
    **{"SLURM_JOB_ID": "4711", "SLURM_MEM_PER_CPU": "64", "SLURM_MEM_PER_NODE": "128", "SLURM_NTASKS": "2"},
    **{"SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x8", "SLURM_CPU_BIND": "quiet,mask_cpu:0x8"},
    **{"SLURM_NTASKS_PER_NODE": "2", "SLURM_THREADS_PER_CORE": "2", "SLURM_GPUS_PER_TASK": "2"},
    **{"SBATCH_EXPORT": "NONE", "SBATCH_JOB_NAME": "mine", "SBATCH_PARTITION": "none", "SQUEUE_STATES": "RUNNING"},
}
"""Some of what srun sets in a shell that it starts, and of what users set for other jobs."""
LONG = 300
"""Patience with a run, in seconds; a busy machine needs a minute."""


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"), recipes={"common": STEPS})


@pytest.fixture(scope="session")
def plan(suite):
    benchmark = sweep.load(suite)
    return sweep.expand(benchmark, Request(("tracer", "wise_ft"), (BACKBONE,), (0,), ("limit=8",)))


def place(plan, root, *methods):
    """The run folders of these methods below a root, planned."""
    folders = []
    for run in plan:
        if run.spec.method in methods:
            folder = RunFolder.of(root / "runs", run.spec)
            Plan(run.spec, "digits", run.sources, {"rules": []}).write(folder)
            folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def undisturbed(plan, tmp_path_factory):
    """What each run leaves where nothing happens to it, made in this process without SLURM."""
    found = {}
    for folder in place(plan, tmp_path_factory.mktemp("undisturbed"), "ft", "wise_ft", "tracer"):
        assert work(folder.path, Options(), lambda: False)["event"] == "done"
        found[folder.path.name] = essence(folder.path)
    return found


@pytest.fixture
def folders(cluster, plan, tmp_path):
    """One planned run of TRACER; afterwards no job is left."""
    yield place(plan, tmp_path, "tracer")
    queue.cancel(entry.job for entry in queue.listed())
    cluster.wait_for(lambda: not queue.listed(), "an empty queue")
    cluster.wait_for(cluster.ready, "an idle node")


def submit(folders, profile=PROFILE):
    made = Submitter(folders[0].path.parents[3], Cluster(profile), "cpu", 600, print).submit(folders)
    assert not made.left
    return made


def catch(cluster, folder, step=1):
    """Stop the process of a run in the middle of its training (SIGSTOP), so that a fault finds it there; its pid."""

    def there():
        state = folder.read_state()
        return state.get("state") == "running" and step <= state["step"] < STEPS["steps"]

    def arrived():
        assert not folder.done(), "the run was over before it could be caught"
        return there()

    cluster.wait_for(arrived, f"step {step}\n{folder.read_state()}", LONG)
    pid = folder.read_state()["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert there()
    return pid


def go_on(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def finish(cluster, folders):
    """Wait until all is done; a job that was queued again need not wait two minutes for its BeginTime.

    It has to wait for a few seconds: for those in which slurmd killed it, slurmd takes it for the killed one.
    """
    hastened = set()

    def done():
        for entry in queue.listed():
            if entry.state == "PENDING" and entry.reason == "BeginTime" and entry.job not in hastened:
                cluster.call("scontrol", "update", f"JobId={entry.job}", "StartTime=now+3")
                hastened.add(entry.job)
        waiting = bool(queue.listed())
        left = [folder for folder in folders if not folder.done()]
        assert waiting or not left, told(left)
        return not left and not waiting

    cluster.wait_for(done, "the runs", LONG)


def told(folders):
    """What is known of runs that did not end."""
    parts = []
    for folder in folders:
        parts.append(f"{folder.path}: {folder.read_state()}\n{folder.log.read_text() if folder.log.exists() else ''}")
        parts.append(job_logs(folder))
    return "\n".join(parts)


def assert_once_and_the_same(folders, undisturbed, attempts):
    for folder in folders:
        log = folder.log.read_text()
        assert (starts(folder.path), log.count(" done in ")) == (attempts, 1), log
        record, files = essence(folder.path)
        wanted, wanted_files = undisturbed[folder.path.name]
        record["info"].pop("code"), wanted["info"].pop("code", None)
        record.pop("selection"), wanted.pop("selection", None)
        assert record == wanted
        assert files == wanted_files
        assert not folder.checkpoints.exists() and not folder.lease.exists()


def steps_of_checkpoints(folder):
    return [json.loads(path.read_text())["step"] for path in folder.checkpoints.glob("*.json")]


def test_a_sweep_from_the_command_to_the_board(cluster, folders, suite, tmp_path, undisturbed, capsys, monkeypatch):
    """No file of it, jobs' output among them, holds a value of the environment that the jobs inherit.

    The command is given in a job of its own, whose variables are not those of the jobs that it submits.
    """
    monkeypatch.setenv("WANDB_API_KEY", "canary-1618")
    for name, value in INTERACTIVE.items():
        monkeypatch.setenv(name, value)
    profile = tmp_path / "mine.yaml"
    setup = """setup: ['test canary-1618 = "$WANDB_API_KEY" || exit 9']"""
    profile.write_text(f"partition: low\ngpus: 1\ncpus: 1\ntime: 30m\n{setup}\n")
    words = ("sweep", suite, "--method", "tracer,wise_ft", "--seeds", "0", "--set", "limit=8")
    words = (*words, "--runs", tmp_path / "runs", "--results", tmp_path / "results", "--device", "cpu")
    words = (*words, "--executor", "slurm", "--profile", profile)
    assert call(*words) == 0
    runs = [RunFolder(path.parent) for path in (tmp_path / "runs").glob("*/*/*/*/spec.json")]
    assert len(runs) == 3

    def seen():
        return {each.parts[1]: each for each in run_states.survey(tmp_path / "runs", Observer())}

    assert seen()["wise_ft"].state == "submitted" and seen()["ft"].state in ("submitted", "running")
    cluster.wait_for(lambda: seen()["wise_ft"].waits == "Dependency", "why the last job waits")
    assert "3 submitted as 2 arrays" in capsys.readouterr().out
    finish(cluster, runs)
    assert call(*words) == 0
    assert (tmp_path / "results" / "leaderboard.md").exists()
    code = {json.loads(run.record.read_text())["environment"]["code_hash"] for run in runs}
    assert code == {path.name for path in (tmp_path / "runs" / ".code").iterdir()}
    assert_once_and_the_same(runs, undisturbed, attempts=1)
    assert list((tmp_path / "runs").glob(".slurm/*/*_log.out"))
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != profile]
    assert [path for path in written if b"canary-1618" in path.read_bytes()] == []


def test_preempted_by_the_high_partition(cluster, folders, undisturbed):
    submit(folders)
    pid = catch(cluster, folders[0])
    urgent = cluster.call("sbatch", "--parsable", "-phigh", "-n2", "--output=/dev/null", "--wrap=true").strip()
    cluster.wait_for(lambda: signalled(pid, folders[0]), "the signal")
    go_on(pid)
    cluster.wait_for(lambda: "Caught signal SIGUSR2" in job_logs(folders[0]), "the requeue")
    assert steps_of_checkpoints(folders[0])
    cluster.wait_for(lambda: urgent not in {entry.job for entry in queue.listed()}, "the urgent job")
    (seen,) = run_states.survey(folders[0].path.parents[3], Observer())
    assert seen.state in ("submitted", "running")
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=2)


def signalled(pid, folder):
    """Whether SIGUSR2 waits for a stopped process, or was acted upon, for SLURM wakes what it preempts."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        masks = [line.split()[1] for line in file if line.startswith(("SigPnd", "ShdPnd"))]
        if any(int(mask, 16) >> (signal.SIGUSR2 - 1) & 1 for mask in masks):
            return True
    return "Caught signal SIGUSR2" in job_logs(folder)


def job_logs(folder):
    return "".join(log.read_text() for log in folder.path.parents[3].glob(".slurm/*/*.out"))


def test_its_time_is_up(cluster, folders, undisturbed):
    """SLURM looks at limits every half minute; this one is set when the run has been caught."""
    began = time.monotonic()
    submit(folders, PROFILE.model_copy(update={"signal_seconds": 100}))
    pid = catch(cluster, folders[0])
    job = folders[0].read_state()["job"]
    cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={int(time.monotonic() - began) // 60 + 2}")
    cluster.wait_for(lambda: signalled(pid, folders[0]), "the signal", 150)
    go_on(pid)
    cluster.wait_for(lambda: "Caught signal SIGUSR2" in job_logs(folders[0]), "the requeue")
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=2)


def test_requeued_by_an_administrator(cluster, folders, undisturbed):
    submit(folders)
    pid = catch(cluster, folders[0])
    cluster.call("scontrol", "requeue", folders[0].read_state()["job"])
    go_on(pid)
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=2)


def test_cancelled_it_saves_and_is_not_queued_again_until_asked(cluster, folders, undisturbed):
    submit(folders)
    pid = catch(cluster, folders[0])
    cluster.call("scancel", folders[0].read_state()["job"])
    go_on(pid)
    cluster.wait_for(lambda: not queue.listed(), "the job's end")
    assert folders[0].read_state()["state"] == "checkpointed" and steps_of_checkpoints(folders[0])
    submit(folders)
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=2)


def test_killed_without_a_word_it_is_called_vanished_and_goes_on_when_asked(cluster, folders, undisturbed):
    submit(folders)
    os.kill(catch(cluster, folders[0]), signal.SIGKILL)
    cluster.wait_for(lambda: not queue.listed(), "the job's end")
    (seen,) = run_states.survey(folders[0].path.parents[3], Observer())
    assert seen.state == "vanished"
    submit(folders)
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=2)


def test_the_daemons_die_in_the_middle(cluster, folders, undisturbed):
    """slurmd and slurmctld killed and started again; two submitters at once; the run never notices."""
    submit(folders)
    pid = catch(cluster, folders[0])
    cluster.kill("slurmd")
    cluster.kill("slurmctld")
    assert run_states.survey(folders[0].path.parents[3], Observer())[0].state == "running"
    cluster.start("slurmctld")
    cluster.wait_for(lambda: "UP" in cluster.try_call("scontrol", "ping"), "slurmctld")
    cluster.start("slurmd")
    children = [in_child(lambda: submit(folders)) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert len(queue.listed()) == 1
    go_on(pid)
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=1)


def in_child(action):
    """Fork and run; the child's pid."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child


def test_a_submitter_killed_with_jobs_held(cluster, folders, undisturbed, monkeypatch):
    """After sbatch and before anything was written down: those jobs never start, and others make the run."""

    def killed():
        monkeypatch.setattr(Submitter, "_write", lambda *_: os._exit(9))
        submit(folders)

    os.waitpid(in_child(killed), 0)
    (held,) = queue.listed()
    assert held.reason == "JobHeldUser"
    submit(folders)
    assert held.job not in {entry.job for entry in queue.listed()}
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=1)


def test_a_job_that_can_never_start_is_told_of_and_replaced(cluster, folders, undisturbed, capsys):
    runs = folders[0].path.parents[3]
    urgent, failed = (
        cluster.call("sbatch", "--parsable", "-phigh", "-n2", "--output=/dev/null", f"--wrap={command}").strip()
        for command in ("sleep 600", "false")
    )
    submit(folders)
    (dead,) = {entry.job for entry in queue.listed(PREFIX)}
    cluster.call("scontrol", "update", f"JobId={dead}", f"Dependency=afterok:{failed}")
    queue.cancel([urgent])
    cluster.wait_for(lambda: [entry.reason for entry in queue.listed(PREFIX)] == [queue.NEVER], "the failed job")
    capsys.readouterr()
    assert call("status", "--runs", runs) == 0
    assert f"(job {dead}, DependencyNeverSatisfied)" in capsys.readouterr().out
    submit(folders)
    assert dead not in {entry.job for entry in queue.listed()}
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=1)


def test_where_preempted_jobs_are_cancelled_a_sweep_keeps_going(cluster, folders, suite, undisturbed, tmp_path):
    """The job is caught and ended by a more urgent one; who watches is logged out, and then killed; another goes on."""
    (tmp_path / "cheap.yaml").write_text("partition: cheap\ngpus: 1\ncpus: 1\ntime: 30m\n")
    words = ("sweep", suite, "--method", "tracer", "--seeds", "0", "--set", "limit=8", "--device", "cpu")
    words = (*words, "--runs", tmp_path / "runs", "--results", tmp_path / "results")
    words = (*words, "--executor", "slurm", "--profile", tmp_path / "cheap.yaml", "--keep-going")
    first = watch(words)
    cluster.wait_for(lambda: folders[0].read_state().get("state") == "running", "the run", LONG)
    pid = catch(cluster, folders[0])
    first.send_signal(signal.SIGHUP)
    urgent = cluster.call("sbatch", "--parsable", "-phigh", "-n2", "--output=/dev/null", "--wrap=true").strip()
    go_on(pid)
    cluster.wait_for(lambda: urgent not in {entry.job for entry in queue.listed()}, "the urgent job", LONG)
    cluster.wait_for(lambda: "again 1" in logged(tmp_path / "runs"), "the watch to submit it again", LONG)
    first.kill()
    first.wait()
    assert watch(words).wait(LONG) == 0
    assert (tmp_path / "results" / "leaderboard.md").exists()
    assert_once_and_the_same(folders, undisturbed, attempts=2)


def watch(words):
    """The command in a process of its own, which looks at the queue every second."""
    code = "import sys; from robustft.benchmarks import cli; from robustft.benchmarks.executors import keep_going\n"
    code += "keep_going.POLL_SECONDS = 1; cli.main(sys.argv[1:])"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], start_new_session=True)


def logged(runs):
    """What a watch has said since its terminal is gone."""
    path = runs / ".slurm" / keep_going.LOG
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("keys", [{"gres": "gpu:1"}, {"gres": "", "extra": {"gpus": 1}}, {"cpus": "site"}])
def test_other_ways_to_ask_for_gpus(cluster, folders, undisturbed, keys):
    submit(folders, Profile(**{"partition": "low", "cpus": 1, "time": "30m", "comment": "a b", **keys}))
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=1)


def retry(folders, tmp_path):
    """`robustft retry` on the cluster; its exit code."""
    profile = tmp_path / "mine.yaml"
    profile.write_text("partition: low\ngpus: 1\ncpus: 1\ntime: 30m\n")
    words = ("retry", "--executor", "slurm", "--profile", profile, "--device", "cpu")
    return call(*words, "--runs", folders[0].path.parents[3])


@contextlib.contextmanager
def mounted(place, *options):
    """Something is mounted there; on leaving it is gone again."""
    subprocess.run(["mount", *options, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place):
    """Write until the disk is full; the file that fills it."""
    filler = place / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def test_the_disk_is_full_until_somebody_makes_room(cluster, plan, tmp_path, undisturbed, capsys):
    """A run in its training fails; `retry` submits nothing while there is no room, and then goes on."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=60m,X-mount.mkdir", "none"):
        folders = place(plan, tmp_path / "disk", "tracer")
        submit(folders)
        pid = catch(cluster, folders[0])
        filler = fill(tmp_path / "disk")
        go_on(pid)
        cluster.wait_for(lambda: not queue.listed(), "the job's end", LONG)
        assert not folders[0].done()
        (seen,) = run_states.survey(tmp_path / "disk" / "runs", Observer())
        assert seen.state in ("failed", "vanished")  # by what could still be written down
        capsys.readouterr()
        assert retry(folders, tmp_path) == 2
        assert "space left on device" in capsys.readouterr().err and not queue.listed()
        filler.unlink()
        assert retry(folders, tmp_path) == 0
        finish(cluster, folders)
        assert_once_and_the_same(folders, undisturbed, attempts=2)


def test_a_job_finds_its_run_folder_unwritable(cluster, folders, undisturbed, tmp_path, capsys):
    """Root may write everywhere but on what is mounted read-only. The job leaves, and `retry` makes the run."""
    (folder,) = folders
    cluster.call("scontrol", "update", f"NodeName={cluster.host}", "State=DRAIN", "Reason=test")
    submit(folders)
    with mounted(folder.path, "--bind", folder.path):
        subprocess.run(["mount", "-o", "remount,bind,ro", folder.path], check=True)
        cluster.call("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")
        cluster.wait_for(lambda: not queue.listed(), "the job's end", LONG)
        assert "Read-only file system" in job_logs(folder)
    (seen,) = run_states.survey(folder.path.parents[3], Observer())
    assert seen.state == "vanished"
    assert retry(folders, tmp_path) == 0
    finish(cluster, folders)
    assert_once_and_the_same(folders, undisturbed, attempts=1)


def test_two_processes_make_one_run(cluster, folders, undisturbed):
    """On two GPUs, as far as SLURM knows."""
    submit(folders, PROFILE.model_copy(update={"gpus": 2, "micro_batch": 5}))
    finish(cluster, folders)
    assert "batch of 16: 2 processes x 8 images, 2 forward passes of up to 5" in folders[0].log.read_text()
    assert_made_by_two(folders[0], undisturbed)


def test_two_nodes_make_one_run(two_nodes, plan, tmp_path, undisturbed):
    """One process on each; queued again in the middle, so that both stop at the same step and meet again."""
    (folder,) = place(plan, tmp_path, "tracer")
    with commands_of(two_nodes):
        submit([folder], PROFILE.model_copy(update={"nodes": 2}))
        pid = catch(two_nodes, folder)
        job = folder.read_state()["job"]
        nodes = two_nodes.call("squeue", "--noheader", f"--jobs={job}", "--format=%D %N").split()
        assert nodes[0] == "2" and "localhost" in nodes[1] and two_nodes.host in nodes[1]
        two_nodes.call("scancel", "--signal=USR2", job)
        go_on(pid)
        finish(two_nodes, [folder])
    assert_made_by_two(folder, undisturbed, attempts=2)


def assert_made_by_two(folder, undisturbed, attempts=1):
    """Two processes made the run together: the same losses to rounding, one record, and one process that writes."""
    record, files = essence(folder.path)
    wanted, wanted_files = undisturbed[folder.path.name]
    assert json.loads(folder.record.read_text())["environment"]["processes"] == 2
    ours, alone = (pd.read_parquet(io.BytesIO(each["curves.parquet"])) for each in (files, wanted_files))
    assert (ours - alone).abs().max().max() < 1e-5  # float sums in another order, over 80 steps
    assert abs(record["summary"]["nll_id"] - wanted["summary"]["nll_id"]) < 1e-4
    assert (starts(folder.path), folder.log.read_text().count(" done in ")) == (attempts, 1)


def test_copies_on_a_nodes_disk_outlive_killed_jobs_and_go_with_the_last_one(cluster, tmp_path, monkeypatch):
    """Two jobs at once read one set of copies; both are killed; those that go on find the copies, and remove them."""
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    own_data_kit.folder(tmp_path / "data" / "mine", {"a": "zero", "b": "one", "c": "two"})
    own = own_data_kit.suite(tmp_path / "own.yaml", "folder:mine", recipes={"common": STEPS})
    benchmark = sweep.load(str(own))
    runs = sweep.expand(benchmark, Request(("ft", "flyp"), (BACKBONE,), (0,)))
    alone, staged = ([RunFolder.of(tmp_path / root / "runs", run.spec) for run in runs] for root in ("alone", "staged"))
    for run, *folders in zip(runs, alone, staged, strict=True):
        for folder in folders:
            sweep.write_plan(benchmark, run, folder, None)
    profile = PROFILE.model_copy(update={"stage": "$NODES_DISK/mine", "setup": [f"export NODES_DISK={tmp_path}"]})
    submit(staged, profile)
    for pid in [catch(cluster, folder) for folder in staged]:
        os.kill(pid, signal.SIGKILL)
    cluster.wait_for(lambda: not queue.listed(), "the jobs' end")
    assert len(list(tmp_path.glob("mine/.robustft-*/files/**/*.png"))) == 60
    submit(staged, profile)
    finish(cluster, staged)
    logs = "".join(folder.log.read_text() for folder in staged)
    assert logs.count(f"stage: 60 files read from {tmp_path}/mine") == 4
    assert (logs.count("; 60 files copied"), logs.count("; 0 files copied")) == (1, 3)
    assert not (tmp_path / "mine").exists()
    for folder in alone:
        assert work(folder.path, Options(), lambda: False)["event"] == "done"
    assert_once_and_the_same(staged, {folder.path.name: essence(folder.path) for folder in alone}, attempts=2)


def test_with_accounts_a_limit_refuses_and_endings_are_known(accounts, plan, tmp_path):
    """Two jobs at most: the first is taken, the others stay planned until there is room."""
    folders = place(plan, tmp_path, "tracer", "ft", "wise_ft")
    with commands_of(accounts):
        accounts.call("sacctmgr", "-n", "-i", "add", "account", "lab")
        accounts.call("sacctmgr", "-n", "-i", "add", "user", "root", "account=lab")
        accounts.call("sacctmgr", "-n", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=1")
        submitter = Submitter(tmp_path / "runs", Cluster(PROFILE), "cpu", 600, print)
        made = submitter.submit(folders)
        assert (len(made.submitted), len(made.left)) == (1, 2) and "limit" in made.refusal
        (job,) = {entry.job for entry in queue.listed()}
        queue.cancel([job])
        accounts.wait_for(lambda: queue.states([job]).get(job) == "CANCELLED", "the accounts", PATIENCE)
