"""Submission to SLURM, against commands that only keep a queue: nothing is lost, nothing twice."""

import json
import os
import pickle
import stat

import pytest
from runs_kit import BACKBONE, call, write_suite
from slurm_stub import install

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.errors import UserError
from robustft.benchmarks.executors.slurm import code_snapshot, submission
from robustft.benchmarks.executors.slurm import job as job_module
from robustft.benchmarks.executors.slurm import job as slurm_job
from robustft.benchmarks.executors.slurm.arrays import Arranger, Cluster
from robustft.benchmarks.executors.slurm.profile import Profile
from robustft.benchmarks.executors.slurm.submission import Submitter
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.lease import Observer, claim
from robustft.benchmarks.run_folder.plan import Plan

PROFILE = Profile(gpus=0, time="1h")
CODE = "0123456789abcdef"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """The stub of SLURM; the snapshot is one empty folder, for most tests do not look into it."""
    monkeypatch.setattr(code_snapshot, "take", lambda runs: CODE)
    monkeypatch.setattr(code_snapshot, "exists", lambda runs, name: True)
    return install(tmp_path / "stub", monkeypatch)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    benchmark = sweep.load(write_suite(tmp_path_factory.mktemp("suite")))
    plan = sweep.expand(benchmark, Request(("ft", "wise_ft"), (BACKBONE,), (0, 1, 2)))
    return benchmark, plan


@pytest.fixture
def folders(tmp_path, planned):
    """Three runs of ft and the three of wise_ft that read them, planned."""
    benchmark, plan = planned
    made = []
    for run in plan:
        folder = RunFolder.of(tmp_path / "runs", run.spec)
        Plan(run.spec, benchmark.suite.dataset, run.sources, {"rules": []}).write(folder)
        made.append(folder)
    assert len(made) == 6
    return made


def submit(folders, profile=PROFILE, **options):
    runs = folders[0].path.parents[3]
    return Submitter(runs, Cluster(profile, **options), "cpu", 600, print).submit(folders)


def finish(folder):
    """Give a run its record."""
    folder.record.write_text(json.dumps({"run_id": folder.path.name.rpartition("-")[2]}))


def in_pickles(runs, queue):
    """Job in the queue -> the run folders that its pickle names."""
    found = {}
    for job, about in queue.jobs.items():
        content = (runs / ".slurm" / about["name"] / f"{job}_submitted.pkl").read_bytes()
        delayed = pickle.loads(content)
        assert type(delayed.function) is job_module.MakeRuns and vars(delayed.function) == {}
        assert delayed.kwargs == {}
        found[job] = [str(path) for path in delayed.args]
    return found


def assert_each_once(folders, queue):
    """Every run that is not done is in exactly one job of the queue, and may start."""
    held = in_pickles(folders[0].path.parents[3], queue)
    made = sorted(path for paths in held.values() for path in paths)
    assert made == sorted(str(folder.path) for folder in folders if not folder.done())
    assert not any(about["held"] for about in queue.jobs.values())


def test_a_plan_becomes_arrays_and_what_reads_a_run_waits_for_it(folders, queue):
    outcome = submit(folders)
    assert_each_once(folders, queue)
    assert len(outcome.submitted) == 6 and outcome.arrays == ["1", "2"] and not outcome.left
    after = {job: about["after"] for job, about in queue.jobs.items()}
    assert set(after.values()) == {"", "afterany:1_0:1_1:1_2"}
    paths = in_pickles(folders[0].path.parents[3], queue)
    assert all(("wise_ft" in paths[job][0]) == bool(after[job]) for job in paths)


def test_the_profiles_setup_stands_before_the_run(folders, queue):
    """In the order given, and before what needs the modules and the environment that they load."""
    setup = ["module load cuda/12.4", 'eval "$(conda shell.bash hook)"', "conda activate robustft"]
    submit(folders, Profile(gpus=0, time="1h", setup=setup))
    texts = [about["text"] for about in queue.jobs.values()]
    assert len(texts) == 6
    for text in texts:
        assert_setup_comes_first(text, setup)


def test_each_process_of_a_run_has_all_of_its_processors(folders, queue):
    """srun must be told again what sbatch was told: since SLURM 22.05 it takes one where it is not."""
    submit(folders, Profile(gpus=4, cpus=12, nodes=2, time="1h"))
    for about in queue.jobs.values():
        (srun,) = (line for line in about["text"].splitlines() if line.startswith("srun "))
        assert "--cpus-per-task=12" in srun.split()
        assert {"#SBATCH --cpus-per-task=12", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4"} <= set(
            about["text"].splitlines()
        )


def options_of(text):
    """What the #SBATCH lines of a job say."""
    return {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}


@pytest.mark.parametrize(
    ("keys", "has", "has_not"),
    [
        ({"gpus": 2}, {"--gpus-per-node=2", "--ntasks-per-node=2"}, "gres"),
        ({"gpus": 2, "gpu_type": "a100"}, {"--gpus-per-node=a100:2"}, "gres"),
        ({"gpu_type": "1g.10gb"}, {"--gpus-per-node=1g.10gb:1"}, "gres"),
        ({"gres": "gpu:h100:4"}, {"--gres=gpu:h100:4", "--ntasks-per-node=4"}, "gpus"),
        ({"gres": "", "gpus": 2}, {"--ntasks-per-node=2"}, "gpus"),
        ({"cpus": "site"}, {"--gpus-per-node=1"}, "cpus"),
        (
            {"reservation": "course", "exclude": "n[1-3]", "comment": "my words", "licenses": "data:1"},
            {"--reservation=course", "--exclude='n[1-3]'", "--comment='my words'", "--licenses=data:1"},
            "gres",
        ),
        ({"extra": {"mail_type": "FAIL", "exclusive": True, "nice": 7}}, {"--mail-type=FAIL", "--exclusive"}, "gres"),
    ],
)
def test_each_key_of_a_profile_becomes_an_option_of_sbatch(folders, queue, keys, has, has_not):
    submit(folders[:1], Profile(**{"cpus": 4, "time": "1h", **keys}))
    (about,) = queue.jobs.values()
    options = options_of(about["text"])
    assert has <= options and not [option for option in options if option.startswith(f"--{has_not}")]
    (srun,) = (line for line in about["text"].splitlines() if line.startswith("srun "))
    assert has_not not in srun


def test_runs_with_keys_of_their_own_are_arrays_of_their_own(folders, queue):
    profile = Profile.model_validate({"time": "2h", "methods": {"wise_ft": {"time": "1h", "micro_batch": 7}}})
    outcome = submit(folders, profile)
    times = {job.partition("_")[0]: "--time=60" in options_of(about["text"]) for job, about in queue.jobs.items()}
    assert [times[array] for array in outcome.arrays] == [False, True]
    kept = [json.loads(path.read_text()) for path in folders[0].path.parents[3].glob(".slurm/*/batch.json")]
    assert sorted((batch["runs"][0][0].split("/")[1], batch["micro_batch"]) for batch in kept) == [
        ("ft", None),
        ("wise_ft", 7),
    ]


def test_a_dry_run_warns_of_partitions_that_cancel_and_of_names_that_no_run_has(tmp_path, queue, capsys):
    (tmp_path / "mine.yaml").write_text("gpus: 0\npartition: idle\nmethods: {tracre: {time: 9h}}\n")
    words = ("sweep", write_suite(tmp_path), "--method", "ft", "--seeds", "0", "--runs", tmp_path / "runs", "--dry-run")
    assert call(*words, "--executor", "slurm", "--profile", tmp_path / "mine.yaml") == 0
    shown = capsys.readouterr().out
    assert "partition idle: SLURM cancels what it preempts there" in shown and "--keep-going" in shown
    assert "profile: methods.tracre is of no run of this plan" in shown
    assert call(*words, "--executor", "slurm") == 0
    assert "cancels what it preempts" not in capsys.readouterr().out
    assert call(*words, "--keep-going") == 2


def test_a_dry_run_shows_the_profiles_setup_before_the_run(tmp_path, queue, capsys):
    setup = ["module purge", "module load cuda/12.4"]
    (tmp_path / "mine.yaml").write_text("gpus: 0\nsetup:\n" + "".join(f"  - {line}\n" for line in setup))
    words = ("sweep", write_suite(tmp_path), "--method", "ft", "--runs", tmp_path / "runs", "--dry-run")
    assert call(*words, "--executor", "slurm", "--profile", tmp_path / "mine.yaml") == 0
    assert_setup_comes_first(capsys.readouterr().out.partition("/submission.sh")[2], setup)


def assert_setup_comes_first(text, setup):
    """The lines of a profile follow each other after the last #SBATCH line, and the runs start after them."""
    lines = text.splitlines()
    (first,) = (number for number, line in enumerate(lines) if line == setup[0])
    assert lines[first : first + len(setup)] == setup
    starts = [number for number, line in enumerate(lines) if "srun" in line]
    assert len(starts) == 1 and "robustft" in text and first + len(setup) <= starts[0]
    assert all(number < first for number, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_jobs_that_are_released_with_a_complaint_block_nothing(folders, queue, capsys):
    """As where a profile asks for more GPUs than a node has: said once, and the next call goes on."""
    queue.set(grumbles="Requested partition configuration not available now")
    outcome = submit(folders)
    assert len(outcome.submitted) == 6 and not outcome.left
    assert "1: Requested partition configuration not available now; the jobs wait" in capsys.readouterr().out
    assert_each_once(folders, queue)
    assert len(submit(folders).queued) == 6
    assert capsys.readouterr().out == ""


def test_a_second_call_submits_nothing(folders, queue):
    submit(folders)
    outcome = submit(folders)
    assert (len(outcome.submitted), len(outcome.queued), queue.world["calls"]) == (0, 6, 2)


def test_arrays_are_split_at_the_size_that_the_cluster_takes(folders, queue):
    queue.set(max_array=2)
    assert len(submit(folders).arrays) == 4
    assert_each_once(folders, queue)


def test_some_runs_share_a_job(folders, queue):
    submit(folders, pack=2)
    assert_each_once(folders, queue)
    assert sorted(map(len, in_pickles(folders[0].path.parents[3], queue).values())) == [1, 1, 2, 2]


def test_an_input_that_was_not_asked_for_is_submitted_too(folders, queue):
    submit([folder for folder in folders if "wise_ft" in str(folder.path)])
    assert_each_once(folders, queue)


def test_finished_inputs_are_not_waited_for(folders, queue):
    for folder in folders:
        if "wise_ft" not in str(folder.path):
            finish(folder)
    submit(folders)
    assert_each_once(folders, queue)
    assert {about["after"] for about in queue.jobs.values()} == {""}


def test_what_vanished_or_failed_is_submitted_again_and_nothing_else(folders, queue):
    submit(folders)
    gone = [job for job in queue.jobs if job.startswith("1_")][:2]
    paths = in_pickles(folders[0].path.parents[3], queue)
    queue.finish(*gone)
    RunFolder(folders[0].path.parent / os.path.basename(paths[gone[0]][0])).write_state(state="failed", reason="x")
    outcome = submit(folders)
    assert sorted(str(folder.path) for folder in outcome.submitted) == sorted(paths[gone[0]] + paths[gone[1]])
    assert_each_once(folders, queue)


def test_sbatch_obeys_the_profile_and_not_the_users_defaults_for_other_jobs(folders, queue, monkeypatch):
    for name in ("SBATCH_JOB_NAME", "SBATCH_PARTITION", "SBATCH_SIGNAL", "SBATCH_EXPORT", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    submit(folders, Profile(gpus=0, time="1h", partition="low"))
    for about in queue.jobs.values():
        assert [name for name in about["environment"] if name.startswith("SBATCH_")] == ["SBATCH_ACCOUNT"]
    assert os.environ["SBATCH_PARTITION"] == "x"


def test_jobs_do_not_take_the_job_in_which_they_are_submitted_for_their_own(folders, queue, monkeypatch):
    own = ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_CPU_BIND", "SLURMD_NODENAME", "SUBMITIT_EXECUTOR")
    shared = ("SLURM_CONF", "SBATCH_ACCOUNT", "ROBUSTFT_DATA")
    for name in (*own, *shared):
        monkeypatch.setenv(name, "x")
    submit(folders)
    for about in queue.jobs.values():
        assert set(shared) <= set(about["environment"]) and not set(own) & set(about["environment"])
    assert all(os.environ[name] == "x" for name in own)


def test_status_says_what_jobs_wait_for(folders, queue, capsys):
    runs = folders[0].path.parents[3]
    submit(folders)
    first, second = [job for job in queue.jobs if job.startswith("1_")][:2]
    queue.wait_for("ReqNodeNotAvail, UnavailableNodes:node[1-3]", first)
    queue.wait_for("AssocGrpGRES", second)
    assert call("status", "--runs", runs) == 0
    said = capsys.readouterr().out
    assert f"(job {second}, AssocGrpGRES)" in said
    assert "waiting: 4 for Priority, 1 for ReqNodeNotAvail, UnavailableNodes:node[1-3], 1 for AssocGrpGRES\n" in said
    assert "  ReqNodeNotAvail: the nodes that it could have are down or reserved" in said
    assert call("status", "--json", "--runs", runs) == 0
    waits = {entry["job"]: entry["waits"] for entry in json.loads(capsys.readouterr().out)["runs"]}
    assert waits[second] == "AssocGrpGRES" and list(waits.values()).count("Priority") == 4


@pytest.mark.parametrize("again", ["the sweep", "retry"])
def test_a_job_that_can_never_start_is_told_of_and_replaced(folders, queue, capsys, monkeypatch, again):
    runs = folders[0].path.parents[3]
    submit(folders)
    late = [job for job in queue.jobs if queue.jobs[job]["after"]]
    queue.wait_for("DependencyNeverSatisfied", late[0])
    assert call("status", "--runs", runs) == 0
    said = capsys.readouterr().out
    assert "1 for DependencyNeverSatisfied" in said
    assert "  DependencyNeverSatisfied: never starts" in said
    assert f"`robustft retry --runs {runs}` or the same sweep again" in said
    if again == "retry":
        assert call("retry", "--executor", "slurm", "--runs", runs) == 0
    else:
        (run,) = submit(folders).submitted
        assert str(run.path) in in_pickles(runs, queue)[run.read_state()["job"]]
    assert late[0] not in queue.jobs and len(queue.jobs) == 6
    assert_each_once(folders, queue)


def test_a_run_that_a_living_process_holds_is_left_to_it(folders, queue):
    lease = claim(folders[0], Observer())
    outcome = submit(folders)
    assert folders[0].path in {folder.path for folder in outcome.queued}
    assert len(outcome.left) == 1  # no dependency can be made on a process that is not SLURM's
    lease.release()
    submit(folders)
    assert_each_once(folders, queue)


# killed while submitting


def dies(where, when):
    """A function that ends its process before or after it did its work."""

    def die(*arguments, **options):
        if when == "after":
            where(*arguments, **options)
        os._exit(9)

    return die


def in_child(action):
    """Run in a forked process; its exit code."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


POINTS = [
    (submission.Batch, "intend"),
    (Submitter, "_hold"),
    (Submitter, "_write"),
    (Submitter, "_release"),
    (RunFolder, "write_state"),
    (submission.queue, "release"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point[1])
def test_killed_at_any_point_nothing_is_lost_or_submitted_twice(folders, queue, monkeypatch, point, when):
    owner, name = point

    def killed():
        setattr(owner, name, dies(getattr(owner, name), when))
        submit(folders)

    assert in_child(killed) == 9
    submit(folders)
    assert_each_once(folders, queue)
    assert len({about["name"] for about in queue.jobs.values()}) == 2


def test_killed_between_sbatch_and_its_pickles(folders, queue):
    from submitit.core.utils import JobPaths

    def killed():
        JobPaths.move_temporary_file = dies(JobPaths.move_temporary_file, "after")
        submit(folders)

    assert in_child(killed) == 9
    assert all(about["held"] for about in queue.jobs.values()) and len(queue.jobs) == 3
    submit(folders)
    assert_each_once(folders, queue)


def test_an_sbatch_that_outlives_its_caller_is_undone(folders, queue):
    """Its job appears only after the next call looked for it; it is held, and cancelled by the call after."""

    def killed():
        Submitter._hold = dies(Submitter._hold, "after")
        submit(folders)

    in_child(killed)
    late = queue.jobs
    queue.set(jobs={})
    submit(folders)
    queue.set(jobs=queue.jobs | late)
    submit(folders)
    assert_each_once(folders, queue)


def test_two_submitters_at_once(folders, queue):
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                submit(folders)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert queue.world["calls"] == 2
    assert_each_once(folders, queue)


def test_without_an_answer_from_slurm_nothing_is_submitted(folders, queue):
    submit(folders[:1])
    queue.set(silent=True)
    with pytest.raises(UserError, match="Unable to contact"):
        submit(folders)
    queue.set(silent=False)
    submit(folders)
    assert_each_once(folders, queue)


def test_a_partial_refusal_leaves_the_rest_planned(folders, queue):
    queue.set(room=2)
    outcome = submit(folders)
    assert (len(outcome.submitted), len(outcome.left)) == (2, 4)
    assert "job submit limit" in outcome.refusal
    assert len(in_pickles(folders[0].path.parents[3], queue)) == 2
    states = sorted(folder.read_state()["state"] for folder in folders)
    assert states == ["planned"] * 4 + ["submitted"] * 2
    queue.set(room=100)
    submit(folders)
    assert_each_once(folders, queue)


# what is written down


def test_no_secret_of_the_environment_is_written(folders, queue, monkeypatch):
    """Nor where the home folder is, but in submitit's pickles, which hold the run folders."""
    monkeypatch.setenv("WANDB_API_KEY", "canary-31415")
    monkeypatch.setenv("HOME", str(folders[0].path.parents[4]))
    submit(folders, Profile(gpus=0, time="1h", setup=[f"source {os.environ['HOME']}/env.sh"]))
    for path in folders[0].path.parents[3].rglob("*"):
        assert not path.is_file() or path.suffix == ".pkl" or os.environ["HOME"].encode() not in path.read_bytes()
    kept = next(folders[0].path.parents[3].glob(".slurm/*/*_submission.sh")).read_text()
    assert "source ~/env.sh" in kept and "--output=~/" in kept
    given = next(iter(queue.jobs.values()))["text"]
    assert f"source {os.environ['HOME']}/env.sh" in given  # SLURM's own copy
    home = folders[0].path.parents[3] / ".slurm"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for path in home.glob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700 or path.name.startswith(".lease")
    for path in folders[0].path.parents[3].rglob("*"):
        assert path.is_dir() or b"canary" not in path.read_bytes()


def test_jobs_run_the_snapshot_with_the_threads_of_their_runs(folders, queue):
    submit(folders)
    text = next(iter(queue.jobs.values()))["text"]
    assert f"export PYTHONPATH='{folders[0].path.parents[3]}/.code/{CODE}'${{PYTHONPATH:+:$PYTHONPATH}}" in text
    assert "export OMP_NUM_THREADS=1 " in text
    queue.finish()
    submit(folders, live=True)
    assert "PYTHONPATH" not in next(iter(queue.jobs.values()))["text"]


def test_what_began_with_a_snapshot_goes_on_with_it_unless_it_failed(folders, queue, monkeypatch):
    submit(folders)
    queue.finish()
    stopped, failed = folders[0], folders[1]
    stopped.write_state(state="checkpointed", snapshot=CODE)
    failed.write_state(state="failed", snapshot=CODE)
    monkeypatch.setattr(code_snapshot, "take", lambda runs: "f" * 16)
    submit([stopped, failed])
    code = {}
    for job, paths in in_pickles(folders[0].path.parents[3], queue).items():
        code[paths[0]] = CODE in queue.jobs[job]["text"]
    assert code[str(stopped.path)] and not code[str(failed.path)]


def test_the_signal_comes_early_enough_for_the_slowest_save(folders, queue):
    folders[0].write_state(state="checkpointed", save_seconds=100.0)
    submit(folders[:1])
    assert "--signal=USR2@301" in next(iter(queue.jobs.values()))["text"]


def test_more_threads_than_processors_are_refused(folders, queue, monkeypatch):
    monkeypatch.setattr(
        Arranger, "spec", lambda self, path: Plan.read(RunFolder(path)).spec.model_copy(update={"threads": 4})
    )
    with pytest.raises(UserError, match="profile.cpus: must be at least 4"):
        submit(folders)


# the command


def test_the_command_submits_and_says_what_it_did(tmp_path, queue, capsys):
    profile = tmp_path / "mine.yaml"
    profile.write_text("gpus: 0\ntime: 2h\n")
    words = ("sweep", write_suite(tmp_path), "--method", "ft", "--seeds", "0,1", "--runs", tmp_path / "runs")
    words = (*words, "--executor", "slurm", "--profile", profile, "--results", tmp_path / "results")
    assert call(*words, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "1 array" in shown and "2 jobs, a run each" in shown and "#SBATCH --time=120" in shown
    assert not (tmp_path / "runs").exists() and not queue.jobs
    assert call(*words) == 0
    assert "2 runs: 0 finished earlier, 2 submitted as 1 array (1)" in capsys.readouterr().out
    queue.finish()
    queue.set(room=1)
    assert call(*words) == 1
    told = capsys.readouterr().err
    assert "1 run still planned and not submitted. SLURM refused" in told and "when there is room" in told
    queue.set(room=100, wrong="sbatch: error: Batch job submission failed: Invalid feature specification")
    assert call(*words) == 2
    assert "Invalid feature specification. Mend --profile" in capsys.readouterr().err


def test_without_a_profile_jobs_are_on_processors_and_a_gpu_needs_one(tmp_path, queue, capsys):
    words = ("sweep", write_suite(tmp_path), "--method", "ft", "--executor", "slurm", "--runs", tmp_path / "runs")
    assert call(*words, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "with 0 GPUs" in shown and "gpus" not in shown and "#SBATCH --cpus-per-task=2" in shown
    assert call(*words, "--dry-run", "--device", "cuda") == 2
    assert "--profile: must say what the cluster needs for cuda" in capsys.readouterr().err


def test_workers_reach_the_jobs(tmp_path, queue, monkeypatch):
    """From the command's flag to what a job hands to each of its runs; without the flag, a run decides itself."""
    profile = tmp_path / "mine.yaml"
    profile.write_text("gpus: 0\ntime: 2h\n")
    words = ("sweep", write_suite(tmp_path), "--method", "ft", "--executor", "slurm", "--profile", profile)
    handed = {}
    monkeypatch.setattr(job_module, "processes", lambda: 1)
    monkeypatch.setattr(slurm_job, "Signals", lambda: lambda: False)
    monkeypatch.setattr(slurm_job, "make_all", lambda folders, options, _: handed.update({place: options}) or ["done"])
    for place, flag in (("three", ("--workers", 3)), ("none", ("--workers", 0)), ("left", ())):
        runs = tmp_path / place
        assert call(*words, *flag, "--runs", runs, "--results", tmp_path / "results") == 0
        (batch,) = (runs / ".slurm").glob("robustft-*")
        monkeypatch.setenv("SUBMITIT_FOLDER", str(batch))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # a cluster need not pass it on
        with pytest.raises(SystemExit):
            slurm_job.main([])
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert {place: options.workers for place, options in handed.items()} == {"three": 3, "none": 0, "left": None}


def test_a_snapshot_is_the_package_and_its_hash_is_that_of_its_content(tmp_path):
    name = code_snapshot.take(tmp_path)
    copy = code_snapshot.place(tmp_path, name) / "robustft"
    assert code_snapshot.content_hash(copy) == name == code_snapshot.content_hash()
    assert code_snapshot.take(tmp_path) == name and len(list((tmp_path / ".code").iterdir())) == 1
    with (copy / "methods" / "ft.py").open("a") as file:
        file.write("# changed\n")
    assert code_snapshot.content_hash(copy) != name


def test_before_the_first_run_the_suites_own_cost_is_told_and_the_layout_of_its_folders(tmp_path, queue, capsys):
    """Nine runs of tracer on imagenet: 2,502 steps an epoch of 512 images, ten epochs, three seeds a backbone."""
    words = ("sweep", "imagenet", "--method", "tracer,wise_ft", "--executor", "slurm", "--profile", "h100")
    assert call(*words, "--dry-run", "--runs", tmp_path / "runs") == 0
    line, disk = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("GPU-hours", "disk"))]
    assert "of training for 18 of 27 runs, by the suite's cost (one H100, by TRACER's Table 4)" in line
    hours = float(line.split("about ")[1].split(" ")[0])
    assert hours == pytest.approx(2 * 3 * 10 * 1_255_167 * (0.00036 + 0.00089 + 0.0041) / 3600, rel=0.03)
    # MB a seed of tracer, ft and wise_ft, by the formulas of docs/cost.md: RN50, ViT-B/16, ViT-L/14.
    kept = 3 * sum((470.4, 215.7, 249.7, 658.8, 405.1, 439.1, 1771.9, 1277.2, 1311.2))
    assert "for 27 of 27 runs, by estimate, no run has been measured; up to" in disk
    assert disk.startswith(f"disk: {kept / 1000:.0f} GB ")
    assert call(*words, "--dry-run", "--runs", tmp_path / "runs", "--device", "cpu") == 0
    assert "GPU-hours: not known: no earlier record is of such a run" in capsys.readouterr().out
