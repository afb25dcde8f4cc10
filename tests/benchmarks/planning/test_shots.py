"""`shots`: in spec, id and plan, what scales with them, and whose rows stand beside whose."""

import json

import pytest
from make_records import make_record
from own_data_kit import folder
from runs_kit import QUICK, call, write_suite

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.suite import suite as suites
from robustft.results.audit import merged
from robustft.results.board.grouping import sections
from robustft.results.statistics.setting_selection import RULES

BY_HAND = "--set"


def planned(benchmark, method="flyp", backbone="tiny-vit-p8", **values):
    overrides = {key: (value, BY_HAND) for key, value in values.items()}
    return benchmark.resolver().resolve(method, backbone, 0, overrides)[-1]


@pytest.fixture(scope="module")
def digits():
    return Benchmark("digits")


@pytest.fixture(scope="module")
def fewshot():
    return Benchmark("fewshot")


def test_without_shots_spec_and_id_are_as_before(digits):
    spec = planned(digits).spec
    assert spec.shots is None and "shots" not in spec.model_dump() and "shots" not in spec.canonical()
    assert "shots" not in planned(digits).sources  # nor in the record, where the sources of all values stand
    few = planned(digits, shots=4).spec
    assert few.model_dump()["shots"] == 4 and '"shots":4' in few.canonical() and few.run_id != spec.run_id


def test_by_hand_the_passes_stay_and_batch_steps_and_warm_up_follow(digits):
    whole, few = planned(digits), planned(digits, shots=4)
    images = digits.facts.train_size
    assert (few.spec.batch_size, whole.spec.batch_size) == (40, 64)
    assert few.spec.steps == round(whole.spec.steps * 40 / images)
    assert few.spec.warmup_steps == max(1, round(few.spec.steps * 500 / 25030))
    assert "fitted to the shots" in few.sources["steps"]
    given = planned(digits, shots=4, steps=70, batch_size=20, warmup_steps=3).spec
    assert (given.steps, given.batch_size, given.warmup_steps) == (70, 20, 3)


def test_warm_up_is_scaled_even_where_it_would_fit():
    imagenet = Benchmark("imagenet")
    few = planned(imagenet, backbone="ViT-B-16", shots=32).spec  # 620 steps, and the recipe's warm-up has 500
    assert (few.steps, few.warmup_steps) == (620, 12)


def test_inputs_see_the_same_images(digits):
    ft, wise = digits.resolver().resolve("wise_ft", "tiny-vit-p8", 1, {"shots": (2, BY_HAND)})
    assert (ft.spec.shots, wise.spec.shots, ft.spec.seed) == (2, 2, 1)
    alone = digits.resolver().resolve("ft", "tiny-vit-p8", 1, {"shots": (2, BY_HAND)})[-1]
    assert alone.spec == ft.spec


def test_more_than_a_class_has_is_refused_when_it_is_planned(digits):
    with pytest.raises(UserError, match=r"shots: must be at most \d+, the training images of class 'zero' of digits"):
        planned(digits, shots=10_000)
    with pytest.raises(UserError, match="shots"):
        planned(digits, shots=0)


def test_what_reads_several_seeds_is_refused(digits):
    with pytest.raises(UserError, match="left out of model_soup, which reads runs of several seeds"):
        planned(digits, "model_soup", shots=2)


def test_the_suite_plans_each_number_and_scales_steps(fewshot):
    resolver = fewshot.resolver()
    specs = [resolver.plain("flyp", "ViT-B-16", 0, shots)[-1].spec for shots in fewshot.suite.shots]
    assert [(spec.shots, spec.steps) for spec in specs] == [(1, 1550), (2, 3100), (4, 6250), (8, 12500), (16, 25000)]
    assert [spec.warmup_steps for spec in specs] == [31, 62, 125, 250, 499]
    trial = fewshot.resolver(kind="trial").resolve("flyp", "ViT-B-16", 100, {})[-1].spec
    assert trial.shots == fewshot.suite.tuning.shots == 4


def test_one_number_of_the_suite_is_the_suites_own_run(fewshot):
    named = fewshot.resolver().of_suite(16)
    assert named == {"shots": (16, "suite fewshot")} and fewshot.resolver().of_suite(3) == {}


def test_a_suite_of_shots_says_at_which_it_tunes(tmp_path):
    path = write_suite(tmp_path, shots=[1, 2])
    with pytest.raises(UserError, match="tuning.shots must be given where shots is, and nowhere else, got none"):
        suites.load(suites.find(path))


def test_rows_of_other_shots_stand_in_sections_of_their_own():
    records = [make_record("ft", seed=seed, spec={"shots": k} if k else {}) for k in (0, 1, 4) for seed in (0, 1)]
    found = sections({"local": records}, RULES)
    assert [(s.shots, len(s.rows), s.rows[0].seeds) for s in found] == [
        (None, 1, (0, 1)),
        (1, 1, (0, 1)),
        (4, 1, (0, 1)),
    ]
    assert [s.title.partition("recipe ")[2] for s in found] == ["common", "common, 1 shot", "common, 4 shots"]


def test_what_few_shots_choose_on_differs_between_seeds_and_is_no_contradiction():
    few = [make_record("ft", seed=seed, spec={"shots": 2}) for seed in (0, 1)]
    keys = [merged._samples_of(record, "validation") for record in few]
    assert keys[0] != keys[1] and merged._samples_of(few[0], "id") == merged._samples_of(few[1], "id")


def test_a_sweep_on_few_shots_of_ones_own_data(tmp_path, monkeypatch, capsys, runs_here):
    monkeypatch.chdir(tmp_path)
    name = folder(tmp_path / "own", {"a": "apple", "b": "pear"})
    recipe = {"common": {"epochs": 2, "batch_size": 2, "lr": 3e-4, "weight_decay": 0.1}}
    kept = {"dataset": name, "version": "own", "name": "few", "methods": ["flyp"], "tuning": None, "recipes": recipe}
    path = write_suite(tmp_path, **kept, shots=[1, 2], methods_settings={})
    assert call("sweep", path, "--method", "flyp", *QUICK, "--runs", "runs", "--jobs", "1") == 0
    capsys.readouterr()
    found = [json.loads(file.read_text()) for file in tmp_path.glob("runs/few/flyp/*/*/record.json")]
    assert {(r["spec"]["shots"], r["spec"]["steps"], r["sets"]["validation"]["n"]) for r in found} == {
        (1, 2, 2),
        (2, 4, 4),
    }
    assert call("leaderboard", path, "--runs", "runs") == 0
    shown = capsys.readouterr().out
    assert "recipe common, 1 shot\n" in shown and "recipe common, 2 shots\n" in shown
    assert call("sweep", path, "--method", "flyp", "--set", "shots=9", "--runs", "runs") == 2
    assert "shots: must be at most 8, the training images of class 'apple'" in capsys.readouterr().err
