"""A run that was cut anywhere ends as one that was not, bit for bit."""

import json
import shutil

import pytest
from runs_kit import BACKBONE, after, essence, folders, never, write_suite
from safetensors.torch import load_file

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution import run as run_module
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.lease import LeaseLost, Observer, claim
from robustft.benchmarks.run_folder.plan import Plan

pytestmark = pytest.mark.usefixtures("few_probes")
STEPS = 6
METHODS = ("ft", "tracer", "ema", "lp_ft")


def plan_runs(root, method):
    """Run folders of one method, planned as `robustft sweep` plans them."""
    benchmark = sweep.load(write_suite(root))
    plan = sweep.expand(benchmark, Request((method,), (BACKBONE,), (3,), (f"steps={STEPS}", "limit=16")))
    made = []
    for planned in plan:
        folder = RunFolder.of(root / "runs", planned.spec)
        selection = benchmark.selector().of(planned.spec)
        Plan(planned.spec, benchmark.suite.dataset, planned.sources, selection).write(folder)
        made.append(folder)
    return made


def damage(path):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, few_probes):
    """One finished run of each method that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    for method in METHODS:
        (folder,) = plan_runs(root, method)
        assert work(folder.path, Options(), never)["event"] == "done"
    return root / "runs"


def finished(undisturbed, folder):
    """The path of the same run, which nothing disturbed."""
    return undisturbed / folder.path.relative_to(folder.path.parents[3])


def same(undisturbed, folder):
    """Record, weights, curves and predictions equal those of the undisturbed run."""
    record, files = essence(folder.path)
    wanted, wanted_files = essence(finished(undisturbed, folder))
    assert record == wanted
    assert files.keys() == wanted_files.keys()
    for name in files:
        assert files[name] == wanted_files[name], name
    return True


@pytest.mark.parametrize("method", METHODS)
def test_stopped_again_and_again_it_ends_in_the_same_bits(undisturbed, tmp_path, method):
    (folder,) = plan_runs(tmp_path, method)
    events = []
    for looks in (
        0,
        1,
        3,
        2,
        4,
        5,
        6,
        7,
        8,
        9,
        100,
    ):  # looks at the flag: steps, stages and evaluation batches
        events.append(work(folder.path, Options(), after(looks))["event"])
        if events[-1] == "done":
            break
        assert not folder.record.exists() and not folder.lease.exists()
        assert folder.read_state()["state"] == "checkpointed"
    assert events.count("interrupted") >= 3 and events[-1] == "done"
    assert same(undisturbed, folder)


def test_it_resumes_and_does_not_begin_anew(tmp_path):
    (folder,) = plan_runs(tmp_path, "ft")
    assert work(folder.path, Options(), after(4))["event"] == "interrupted"
    (saved,) = folder.checkpoints.glob("*.json")
    assert json.loads(saved.read_text())["step"] == 4
    seen = []
    work(folder.path, Options(), lambda: bool(seen.append(1)))
    assert len(seen) < STEPS + 8 - 3  # two steps were left, and eight sets


@pytest.mark.parametrize("left", ["weights", "predictions", "damaged weights", "half a record"])
def test_cut_between_training_and_record_it_only_does_the_rest(undisturbed, tmp_path, monkeypatch, left):
    (folder,) = plan_runs(tmp_path, "tracer")
    shutil.copytree(finished(undisturbed, folder), folder.path, dirs_exist_ok=True)
    folder.record.unlink()
    if left == "weights":
        shutil.rmtree(folder.predictions)
    elif left == "damaged weights":
        damage(folder.weights)
    elif left == "half a record":
        (folder.path / f".record.json.123-{'a' * 32}").write_text("{")
    if left != "damaged weights":
        monkeypatch.setattr(run_module, "fit", None)  # must not be called
    assert work(folder.path, Options(), never)["event"] == "done"
    assert same(undisturbed, folder)
    assert not list(folder.path.glob(".*"))


def test_a_damaged_checkpoint_costs_time_and_no_bits(undisturbed, tmp_path):
    (folder,) = plan_runs(tmp_path, "tracer")
    for looks in (2, 2):
        assert work(folder.path, Options(), after(looks))["event"] == "interrupted"
    newest = max(folder.checkpoints.glob("*.safetensors"))
    damage(newest)
    with pytest.warns(UserWarning, match="damaged"):
        assert work(folder.path, Options(), never)["event"] == "done"
    assert same(undisturbed, folder)


def test_a_finished_run_is_not_run_again(undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed, tmp_path / "runs")
    monkeypatch.setattr(run_module, "Attempt", None)
    for path in folders(tmp_path / "runs"):
        before = (path / "record.json").stat().st_mtime_ns
        assert work(path, Options(), never)["event"] == "done"
        assert (path / "record.json").stat().st_mtime_ns == before


def test_a_run_that_another_process_holds_is_left_alone(tmp_path):
    (folder,) = plan_runs(tmp_path, "ft")
    lease = claim(folder, Observer())
    before = sorted(path.name for path in folder.path.iterdir())
    assert work(folder.path, Options(), never)["event"] == "busy"
    assert sorted(path.name for path in folder.path.iterdir()) == before
    lease.check()


def test_who_loses_its_lease_in_the_middle_writes_no_more(tmp_path, undisturbed):
    (folder,) = plan_runs(tmp_path, "ft")
    taken = []

    def taken_over_at_step_two():
        if len(taken) == 2:
            taken.append(claim(folder, Observer(), dead=json.loads((folder.lease / "owner.json").read_text())["token"]))
        elif len(taken) < 2:
            taken.append(None)
        return False

    assert work(folder.path, Options(), taken_over_at_step_two)["event"] == "busy"
    assert not folder.weights.exists() and not folder.record.exists()
    taken[2].check()  # the new holder still has it
    taken[2].release()
    assert work(folder.path, Options(), never)["event"] == "done"
    assert same(undisturbed, folder)


def test_wise_ft_reads_the_finished_ft_and_never_trains(undisturbed, tmp_path, monkeypatch):
    ft, wise = plan_runs(tmp_path, "wise_ft")
    outcome = work(wise.path, Options(), never)
    assert outcome["event"] == "failed" and outcome["mistake"]  # its input is not there yet
    assert "must hold the final weights" in outcome["reason"]
    assert work(ft.path, Options(), never)["event"] == "done"
    assert work(wise.path, Options(), never)["event"] == "done"
    assert same(undisturbed, ft)
    ends = [load_file(path.weights) for path in (ft, wise)]
    assert ends[0].keys() == ends[1].keys()


def test_a_plan_of_other_code_or_data_is_refused(tmp_path):
    (folder,) = plan_runs(tmp_path, "ft")
    benchmark = sweep.load(write_suite(tmp_path))
    planned = sweep.expand(benchmark, Request(("ft",), (BACKBONE,), (3,)))[0]
    stale = planned.spec.model_copy(update={"fingerprint": "0" * 64})
    folder = RunFolder.of(tmp_path / "runs", stale)
    Plan(stale, "digits", planned.sources, {"rules": []}).write(folder)
    outcome = work(folder.path, Options(), never)
    assert outcome["event"] == "failed" and outcome["mistake"]
    assert "fingerprint: must be 0000" in outcome["reason"] and "plan anew" in outcome["reason"]


@pytest.mark.parametrize("content", ["{", "{}", '{"spec": {"steps": "many"}}'])
def test_a_damaged_plan_is_refused(tmp_path, content):
    (folder,) = plan_runs(tmp_path, "ft")
    folder.spec.write_text(content)
    outcome = work(folder.path, Options(), never)
    assert outcome["event"] == "failed" and "delete" in outcome["reason"]


def test_the_heartbeat_stops_where_the_lease_is_lost(tmp_path):
    (folder,) = plan_runs(tmp_path, "ft")
    lease = claim(folder, Observer())
    lease.beat()
    assert (folder.lease / "beat").read_text() == "1"
    claim(folder, Observer(), dead=lease.holder.token)
    with pytest.raises(LeaseLost):
        lease.beat()


def test_a_run_that_two_states_of_the_code_worked_on_is_no_clean_commit(tmp_path, monkeypatch):
    clean = {**run_module.environment.describe(), "commit": "this commit", "dirty": False}
    monkeypatch.setattr(run_module.environment, "describe", lambda: clean)
    (folder,) = plan_runs(tmp_path, "flyp")
    work(folder.path, Options(checkpoint_seconds=0), after(2))
    state = folder.read_state()
    (folder.path / "state.json").write_text(json.dumps({**state, "code": ["another commit"]}))
    assert work(folder.path, Options(), never)["event"] == "done"
    record = json.loads(folder.record.read_text())
    assert record["environment"]["dirty"] is True
    assert record["info"]["code"] == ["another commit", "this commit"]
