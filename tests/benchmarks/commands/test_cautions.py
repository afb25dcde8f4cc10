"""What a plan says before hours are spent: each warning where it holds, and only there, by the real command."""

import json

import pytest
from make_records import make_record
from runs_kit import BACKBONE, call, folders, write_suite

from robustft.benchmarks.commands import cautions, sweep
from robustft.benchmarks.planning.request import Request
from robustft.methods import registry
from robustft.methods.base import Method
from robustft.results.records.run_id import run_id
from robustft.results.tables import leaderboard

HERE = ("--backbone", "tiny-vit-p8", "--dry-run")
FEW_STEPS = "fewer than 50 optimiser steps"
THREADS = "more than the 2 cores here"
BF16 = "precision=bf16 (--set) on a CPU"
FEW_IMAGES = "fewer than 200 validation images: 199 decide"
NOT_TUNED = (
    "not tuned: {}. Such runs have the recipe's values, which nobody chose for them, and are not ranked: first run"
)
END = "tuned values at the end of their grid"
ONE_RUN = "one run for each backbone and setting"


@pytest.fixture(autouse=True)
def two_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(cautions, "cores", lambda: 2)
    monkeypatch.chdir(tmp_path)  # a checkout that has made runs plans nothing more, and has nothing to be cautious of


def cautious(capsys, *arguments):
    """The lines of caution that a command prints."""
    assert call(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    return "\n".join(line for line in lines if line.startswith("caution: "))


CASES = [
    (FEW_STEPS, "ft", ["--set", "steps=49"], ["--set", "steps=50"]),
    (FEW_STEPS, "wise_ft", ["--set", "steps=49"], ["--set", "steps=50"]),  # its input trains
    (THREADS, "ft", ["--set", "threads=3"], ["--set", "threads=2"]),
    (THREADS, "zero_shot", ["--set", "threads=3"], ["--set", "threads=2"]),
    (THREADS, "ft", ["--jobs", "3"], ["--jobs", "2"]),
    (THREADS, "ft", ["--jobs", "3"], ["--jobs", "3", "--seeds", "1,2"]),  # no more than there are runs
    (BF16, "ft", ["--set", "precision=bf16"], ["--set", "precision=fp32"]),
    (BF16, "ft", ["--set", "precision=bf16"], ["--set", "precision=bf16", "--device", "cuda"]),
    (FEW_IMAGES, "lp_ft", ["--limit", "199"], ["--limit", "200"]),
    (FEW_IMAGES, "lp_ft", ["--limit", "199"], ["--limit", "199", "--set", "c_points=1"]),  # chooses nothing
    (END, "tracer", [], ["--set", "lr=0.0001", "--set", "lambda_sd=1"]),
    (END, "ft", [], ["--set", "lr=0.00015"]),  # one's own, at the same place
    (NOT_TUNED.format("clipood"), "clipood", [], ["--set", "lr=1e-4"]),  # by hand
    (NOT_TUNED.format("clipood"), "clipood", [], ["--method", "ft"]),
    (ONE_RUN, "zero_shot", ["--seeds", "1,2"], ["--seeds", "1"]),
    (ONE_RUN, "model_soup", ["--seeds", "1,2"], ["--seeds", "1"]),
    (ONE_RUN, "zero_shot", [], ["--method", "wise_ft"]),
]


@pytest.mark.parametrize(("words", "method", "having", "lacking"), CASES)
def test_it_is_said_once_where_it_holds_and_not_elsewhere(words, method, having, lacking, capsys):
    chosen = ("sweep", "digits", "--method", method, *HERE)
    said = cautious(capsys, *chosen, *having)
    (line,) = [line for line in said.splitlines() if words in line]
    assert said.count(words) == 1 and (method in line or words == THREADS or "of ft (--set)" in line)
    if "--method" in lacking:
        chosen = ("sweep", "digits", *HERE)
    assert words not in cautious(capsys, *chosen, *lacking)


def test_tuned_values_at_the_end_of_their_grid_are_one_line_for_all_methods(capsys):
    said = cautious(capsys, "sweep", "digits", "--method", "all", "--dry-run")
    (line,) = [line for line in said.splitlines() if END in line]
    assert "lr=0.00015 (largest tried): ft, lp_ft" in line and "lambda_sd=0.3 (smallest tried): tracer, " in line
    assert "strength=0.002 (smallest tried): l2_sp on tiny-vit-p16, tiny-rn;" in line  # on the third it lies inside
    assert "alpha=1 (the end of its range): wise_ft, flyp_wise" in line and len(line) < 800
    assert len(said.splitlines()) == 2 and "zero_shot (nothing in it is random); model_soup, model_stock" in said


def test_a_study_and_the_other_rule_are_told_of_the_values_that_they_take(capsys):
    assert "lambda_sd=0.3 (smallest tried): tracer_ema_teacher" not in cautious(
        capsys, "sweep", "digits", "--method", "tracer_ema_teacher", *HERE
    )
    chosen = ("sweep", "digits", "--method", "tracer_ema_teacher", "--rule", "best_id", *HERE)
    assert "lambda_sd=0.3 (smallest tried): tracer_ema_teacher" in cautious(capsys, *chosen)
    assert "widen tuning.space in digits.yaml" in cautious(
        capsys, "sweep", "ablation-beta", "--method", "tracer", "--dry-run"
    )


def test_few_validation_images_also_count_for_tuned_values_and_for_trials(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cautions, "FEW_IMAGES", 481)
    said = cautious(capsys, "sweep", "digits", "--method", "ft", *HERE)
    assert "fewer than 481 validation images: 480 decide the tuned values of ft," in said
    assert "validation images" not in cautious(capsys, "sweep", "digits", "--method", "ft", "--set", "lr=1e-4", *HERE)
    monkeypatch.setattr(cautions, "FEW_IMAGES", 200)
    assert "validation images" not in cautious(capsys, "sweep", "digits", "--method", "ft", *HERE)
    tune = ("tune", write_suite(tmp_path), "--method", "ft", "--dry-run")
    assert "fewer than 200 validation images: 199 decide what tuning takes for ft," in cautious(
        capsys, *tune, "--limit", "199"
    )
    assert "validation images" not in cautious(capsys, *tune)


def test_a_cluster_is_asked_by_its_profile_and_not_for_the_cores_here(capsys):
    far = ("sweep", "digits", "--method", "ft", *HERE, "--executor", "slurm", "--profile")
    settings = ("--set", "threads=3", "--set", "precision=bf16")
    said = cautious(capsys, *far, "h100", *settings)
    assert THREADS not in said and BF16 not in said
    assert BF16 in cautious(capsys, *far, "cpu", "--set", "precision=bf16")


# One run where nothing is random


class Copy(Method):
    """Reads the zero-shot run: nothing in it is random either."""

    trained = False

    @classmethod
    def inputs(cls, hyper):
        return ("zero_shot",)


class Drawn(Method):
    """Trains nothing and draws."""

    trained = False
    seeded = True


@pytest.fixture
def strangers(monkeypatch):
    for name, method in (("copied", Copy), ("drawn", Drawn)):
        monkeypatch.setattr(method, "name", name, raising=False)
        monkeypatch.setitem(registry._methods, name, method)


def planned(*methods, seeds=(), settings=()):
    plan = sweep.expand(sweep.load("digits"), Request(methods, (BACKBONE,), seeds, settings))
    return [(run.spec.method, run.spec.seed) for run in plan if run.requested]


def test_what_is_random_is_asked_of_the_class(strangers):
    assert planned("zero_shot") == [("zero_shot", 0)]
    assert planned("zero_shot", seeds=(4, 2)) == [("zero_shot", 4)]
    assert planned("zero_shot", seeds=(4, 2), settings=("threads=1,2",)) == [("zero_shot", 4)] * 2
    assert planned("copied", seeds=(1, 2)) == [("copied", 1)]
    assert planned("drawn", seeds=(1, 2)) == [("drawn", 1), ("drawn", 2)]
    for method in ("ft", "wise_ft", "flyp_wise"):
        assert planned(method, seeds=(1, 2)) == [(method, 1), (method, 2)]


def test_a_real_start_says_the_same_and_makes_one_run_of_several_seeds(tmp_path, capsys, monkeypatch, runs_here):
    monkeypatch.chdir(tmp_path)
    command = ("sweep", write_suite(tmp_path), "--method", "zero_shot,ft", "--seeds", "0,1", "--set", "limit=16")
    said = cautious(capsys, *command)
    assert said.count(ONE_RUN) == 1 and said.count(f"{FEW_STEPS}, after which a model has hardly moved: 3 of ft") == 1
    made = [json.loads((path / "record.json").read_text()) for path in folders("runs")]
    assert sorted((record["method"], record["seed"]) for record in made) == [("ft", 0), ("ft", 1), ("zero_shot", 0)]
    assert call(*command) == 0
    again = capsys.readouterr()
    assert "3 runs, all finished earlier; nothing to do" in again.out and FEW_STEPS not in again.out
    assert call(*command[:-2], "--set", "limit=17", "--jobs", "1", "--dry-run") == 0
    assert "3 runs, 0 finished, 3 to run" in capsys.readouterr().out


def test_one_run_without_randomness_lacks_no_seed_on_a_board():
    def add(method, seeds, steps=None):
        for seed in seeds:
            record = make_record(method, seed=seed)
            spec = {**record["spec"], "steps": steps}
            records.append({**record, "spec": spec, "run_id": run_id(spec)})

    records = [make_record("ft", seed=seed) for seed in (0, 1, 2)]
    add("copied", (0,))
    add("drawn", (0, 1))
    add("flyp", (0,), steps=500)
    rows = {row.method: row for section in leaderboard.build(records).sections for row in section.rows}
    assert "seeds" not in rows["copied"].marks and not rows["copied"].varies
    assert rows["drawn"].marks["seeds"] == rows["flyp"].marks["seeds"].replace("1 of 3", "2 of 3").replace("1, 2", "2")
    assert rows["ft"].varies and not rows["ft"].marks
