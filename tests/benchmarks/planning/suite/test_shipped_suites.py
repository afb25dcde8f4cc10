"""The suites that ship: they plan, keep every finished run's id, and hold what they say they hold."""

import csv
import itertools

import numpy as np
import pytest
from animals_kit import make
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from repository import GOLDEN
from runs_kit import copy_of

from robustft.benchmarks import cli
from robustft.benchmarks.commands import sweep
from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning import tuning as tune
from robustft.benchmarks.planning.benchmark import Benchmark, data_facts, dataset
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.planning.suite import suite
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.spec import RunSpec
from robustft.datasets import catalogue, plain_yaml
from robustft.results.records import predictions
from robustft.results.records.records import gather_reference

SUITES = suite.SUITES
RECORDS = gather_reference("digits")
STUDIES = {"ablation-components": 16, "ablation-lambda": 14, "ablation-interval": 18, "ablation-beta": 6}


def plan(benchmark, *methods, encoders=(), seeds=(), settings=(), rule="one_se", recipe=None, **more):
    loaded = Benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    return sweep.expand(loaded, Request(methods, encoders, seeds, settings, rule, recipe, **more))


# Every suite


@pytest.fixture
def own_images(tmp_path, monkeypatch):
    """Makes the data of suites whose classes nobody knows before; what is remembered of them is forgotten."""
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path))

    def of(loaded):
        prefix, _, place = loaded.dataset.partition(":")
        if prefix == "folder":
            make(tmp_path / place, {"train": (50, 50, 50), "id_test": (1, 1, 1), "night": (1, 1, 0)})
        for d, domain in enumerate(sorted({name for recipe in loaded.recipes.values() for name in recipe.pool})):
            for c, k in itertools.product(range(2), range(12)):
                file = tmp_path / place / domain / f"class{c}" / f"{k}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (20 * k, 60 * d, 100 * c)).save(file)

    yield of
    dataset.cache_clear()
    data_facts.cache_clear()


@pytest.mark.parametrize("name", suite.names())
def test_every_suite_plans_all_its_methods_without_data_or_weights(name, own_images):
    loaded = suite.load(suite.find(name))
    if catalogue.is_own(loaded.dataset):
        own_images(loaded)
    benchmark = Benchmark(name)
    for recipe in benchmark.suite.ranked_recipes[1:]:
        own = {run.spec.fingerprint for run in plan(benchmark, "all", recipe=recipe)}
        assert len(own) == 1 and own != {run.spec.fingerprint for run in plan(benchmark, "zero_shot")}
    runs = plan(benchmark, "all", companions=True)
    assert {run.spec.method for run in runs if run.requested} == set(benchmark.suite.methods)
    assert {run.spec.backbone for run in runs} == set(benchmark.suite.backbones)
    for recipe in benchmark.suite.published:
        for method, on in benchmark.suite.published[recipe].methods.items():
            elsewhere = () if {"all", *benchmark.suite.backbones} & on.keys() else tuple(on)  # as of ftp, RN50 alone
            assert plan(benchmark, method, recipe=recipe, encoders=elsewhere)


def test_the_id_of_every_reference_run_is_what_its_spec_hashes_to():
    assert len(RECORDS) >= 100
    for record in RECORDS:
        assert RunSpec.model_validate(record["spec"]).run_id == record["run_id"]


def test_planning_the_reference_gives_the_ids_of_its_runs():
    benchmark = Benchmark("digits")
    methods = tuple(sorted({record["method"] for record in RECORDS}))
    seeds = sorted({record["seed"] for record in RECORDS})
    planned = {
        (rule, run.spec.run_id)
        for rule in ("one_se", "best_id")
        for seed in seeds  # each alone: of several, a method without randomness has one run
        for run in plan(benchmark, *methods, seeds=(seed,), rule=rule)
    }
    for record in RECORDS:
        for rule in set(record["selection"]["rules"]) & {"one_se", "best_id"}:
            assert (rule, record["run_id"]) in planned, (record["method"], record["backbone"], record["seed"])


def test_a_suite_may_name_data_of_ones_own(tmp_path):
    changes = [("dataset: digits\n", f"dataset: folder:{tmp_path / 'nowhere'}\n")]
    with pytest.raises(ValueError, match="nowhere"):  # the dataset's own sentence, not an unknown name
        Benchmark(copy_of(tmp_path, "digits", *changes))
    with pytest.raises(UserError, match="unknown dataset 'digit'; did you mean 'digits'"):
        Benchmark(copy_of(tmp_path, "digits", ("dataset: digits\n", "dataset: digit\n")))


# Studies


def settings_of(name):
    (method,) = (loaded := Benchmark(name).suite).grid
    return [tuple(sorted(setting.items())) for setting in loaded.settings_of(method)]


def printed(table):
    """The settings of a printed table: list of name -> value."""
    with (GOLDEN / "tracer_ablations.csv").open() as file:
        variants = [row["variant"] for row in csv.DictReader(file) if row["table"] == table]
    return [{key: float(value) for key, value in (pair.split("=") for pair in text.split(";"))} for text in variants]


def same(name, expected):
    assert sorted(settings_of(name)) == sorted(tuple(sorted(setting.items())) for setting in expected)


def test_components_are_the_16_of_table_8():
    on = {"fd": ("fd_weight", 3.906), "cross_kd": ("cross_kd_weight", 1.0), "icl": ("icl_weight", 1.0)}
    on["crd"] = ("crd_weight", 1.0)
    table = printed("table8")
    assert len(table) == 16
    same("ablation-components", [{on[k][0]: on[k][1] * v for k, v in row.items()} for row in table])


def test_lambdas_are_the_14_of_table_9():
    table = printed("table9")
    assert len(table) == 14
    same("ablation-lambda", table)


def test_intervals_are_the_9_of_table_10_by_both_clocks():
    table = printed("table10")
    assert len(table) == 9
    intervals = [int(row["teacher_update_every"]) for row in table]
    clocks = ("definition", "released")
    same("ablation-interval", [{"update_every": i, "clock": clock} for i in intervals for clock in clocks])


def test_betas_are_the_6_of_table_11():
    table = printed("table11")
    assert len(table) == 6
    same("ablation-beta", table)


@pytest.mark.parametrize(("name", "count"), STUDIES.items())
def test_a_study_runs_every_setting_on_every_backbone_and_seed(name, count):
    benchmark, base = Benchmark(name), Benchmark("digits")
    runs = plan(benchmark, "tracer")
    assert len(runs) == count * len(base.suite.backbones) * len(base.suite.seeds)
    assert len({run.spec.run_id for run in runs}) == len(runs)
    first, own = runs[0], plan(base, "tracer")[0]
    assert first.spec.benchmark == name and first.spec.lr == own.spec.lr
    assert first.sources["lr"] == "tuned one_se (digits)"
    assert sweep.selection_of(benchmark, first.spec)["rules"] == []
    grid = {key for key, _ in settings_of(name)[0]} | {"lambda_sd"}
    for key in set(own.spec.hyper) - grid:
        assert first.spec.hyper[key] == own.spec.hyper[key]


@pytest.mark.parametrize("name", STUDIES)
def test_one_word_takes_a_study_to_imagenet(name, tmp_path):
    runs = plan(copy_of(tmp_path, name, ("based_on: digits\n", "based_on: imagenet\n")), "tracer")
    spec = runs[0].spec
    assert (spec.benchmark, spec.benchmark_version) == (name, "imagenet-v1")
    assert {run.spec.backbone for run in runs} == {"RN50", "ViT-B-16", "ViT-L-14"}
    assert (spec.batch_size, spec.precision, spec.lr) == (512, "bf16", 1e-5)
    assert len(runs) == STUDIES[name] * 9


def test_tracer_with_every_term_off_is_planned_where_a_grid_says_so():
    off = [run for run in plan("ablation-components", "tracer") if not any(run.spec.hyper[k] for k in TERMS)]
    assert len(off) == 9
    assert {run.spec.hyper["cross_frobenius_weight"] for run in off} == {0.0}
    with pytest.raises(UserError, match="tracer: must distil with some weight above 0, got fd_weight=0"):
        from robustft.benchmarks.planning.resolver import Resolver

        loaded = Benchmark("digits")
        zero = loaded.suite.model_copy(update={"methods_settings": {"tracer": dict.fromkeys(TERMS, 0.0)}})
        Resolver(zero, loaded.tuned, loaded.facts, None, "one_se").resolve("tracer", "tiny-rn", 0, {})


TERMS = ("fd_weight", "crd_weight", "icl_weight", "cross_kd_weight")


def test_bn_compares_both_statistics_on_the_backbone_that_has_them():
    runs = plan("bn", "all")
    assert {run.spec.backbone for run in runs} == {"tiny-rn"}
    assert {(run.spec.method, run.spec.bn) for run in runs} == {
        (method, bn) for method in ("ft", "flyp", "ema", "tracer") for bn in ("frozen", "released")
    }


def test_a_study_judges_its_tuned_values_as_the_suite_that_it_is_based_on():
    study, base = Benchmark("ablation-beta"), Benchmark("digits")
    assert study.tuned == base.tuned
    for backbone in base.suite.backbones:
        expected = tune.is_current(base, "tracer", backbone, "common")
        assert tune.is_current(study, "tracer", backbone, "common") == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("based_on: digits", "based_on: digit")], "ablation-beta.yaml: based_on: unknown benchmark 'digit'; did you"),
        ([("based_on: digits", "based_on: ablation-lambda")], "based_on must be a suite that stands for itself, got"),
        ([("    beta:", "    bta:")], "ablation-beta.grid.tracer: unknown key 'bta'; did you mean 'beta'"),
        ([("  tracer:\n", "  tracr:\n")], "ablation-beta.grid: unknown method 'tracr'; did you mean 'tracer'"),
        ([("  tracer:\n", "  Tracer:\n")], "ablation-beta.grid: must be written 'tracer', got 'Tracer'"),
        ([("    beta: [0.2,", "    beta: [-1,")], "tracer.beta: input should be greater than 0, got -1; correct it in"),
        ([("name: ablation-beta\n", "name: ablation-beta\ncolour: red\n")], "ablation-beta.yaml: colour: is no known"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(changes, words, tmp_path):
    with pytest.raises(UserError) as raised:
        plan(copy_of(tmp_path, "ablation-beta", *changes), "tracer")
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "      wise_ft:\n        all:",
            "      wise_fit:\n        all:",
            "published.as_published.methods: unknown method",
        ),
        (
            "      wise_ft:\n        all:\n          alpha:",
            "      wise_ft:\n        all:\n          alfa:",
            "published.as_published.methods.wise_ft.all: unknown key 'alfa'; did you mean 'alpha'",
        ),
        ("        RN50:\n          lr:", "        RN-5O:\n          lr:", "methods.tracer: unknown backbone 'RN-5O'"),
        (
            "ViT-L-14: {batch_size: 224}",
            "ViT-L/14: {batch_size: 224}",
            "recipes.common.backb",
        ),
        (
            "RN50:\n        backbone: ViT-B-16",
            "RN50:\n        backbone: ViT-B",
            "as_published.backbones: unknown backbone 'ViT-B'",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_one_sentence(old, new, words, tmp_path):
    with pytest.raises(UserError) as raised:
        plan(copy_of(tmp_path, "imagenet", (old, new)), "tracer")
    assert words in str(raised.value) and "\n" not in str(raised.value)


# Tuning of a post-hoc method, on digits


ALPHAS = [k / 10 for k in range(11)]


@pytest.fixture
def posthoc(tmp_path):
    """A copy of digits, where the search of WiSE-FT is alpha alone."""
    path = copy_of(tmp_path)
    assert Benchmark(path).suite.tuning.space["wise_ft"] == {"alpha": ALPHAS}
    return path


def test_a_post_hoc_search_trains_one_run_that_ft_has_tried_anyway(posthoc):
    benchmark = Benchmark(posthoc)
    search = tune.Search(benchmark, ["wise_ft"], ["tiny-rn"])
    assert [run.spec.method for run in search.plan] == ["ft", *["wise_ft"] * 11]
    assert [run.spec.hyper["alpha"] for run in search.plan[1:]] == ALPHAS
    assert {run.spec.kind for run in search.plan} == {"trial"} and {run.spec.seed for run in search.plan} == {100}
    tried = {run.spec.run_id for run in tune.Search(benchmark, ["ft"], ["tiny-rn"]).plan}
    assert search.plan[0].spec.run_id in tried
    assert search.plan[0].spec.lr == benchmark.tuned.entry("ft", "tiny-rn", "common").one_se.values["lr"]
    assert tune.stages(benchmark, ["wise_ft", "tracer", "ft"]) == [["tracer", "ft"], ["wise_ft"]]


def write_predictions(search, runs, best):
    """Predictions whose NLL is lowest at one alpha."""
    rng = np.random.default_rng(0)
    for run in search.plan:
        distance = abs(run.spec.hyper.get("alpha", 0.0) - best)
        columns = {"sample_id": [], "unit_id": [], "label": [], "p_label": []}
        for index, noise in enumerate(rng.normal(0, 1e-4, 60)):
            columns["sample_id"].append(f"s{index}")
            columns["unit_id"].append(f"u{index // 2}")
            columns["label"].append(0)
            columns["p_label"].append(float(np.exp(-0.1 - distance - abs(noise))))
        folder = RunFolder.of(runs, run.spec)
        predictions.write(folder.predictions / "validation.parquet", columns)


def test_what_a_post_hoc_search_chose_is_alpha_and_goes_stale_with_its_input(posthoc, tmp_path):
    benchmark = Benchmark(posthoc)
    backbone = "tiny-rn"
    search = tune.Search(benchmark, ["wise_ft"], [backbone])
    write_predictions(search, tmp_path / "runs", best=0.4)
    folders = {run.spec.run_id: RunFolder.of(tmp_path / "runs", run.spec) for run in search.plan}
    entry = search.choose(folders)["wise_ft"][backbone]
    assert entry.one_se.values == entry.best_id.values == {"alpha": 0.4} and len(entry.trials) == 11
    tune.write(benchmark, {"wise_ft": {backbone: entry}})
    benchmark = benchmark.reload()
    assert tune.is_current(benchmark, "wise_ft", backbone, "common")
    run = plan(benchmark, "wise_ft", encoders=(backbone,), seeds=(0,))[-1]
    selection = sweep.selection_of(benchmark, run.spec)
    assert "one_se" in selection["rules"] and (selection["trials"], selection["evaluated"]) == (11 + 9, 11)
    ft = benchmark.tuned.entry("ft", backbone, "common")
    other = next(i for i, trial in enumerate(ft.trials) if trial.values != ft.one_se.values)
    choice = ft.one_se.model_copy(update={"values": ft.trials[other].values, "trial": other})
    changed = ft.model_copy(update={"one_se": choice})
    changed = changed.model_copy(update={"tuning": changed.digest()})
    tune.write(benchmark, {"ft": {backbone: changed}})
    after = benchmark.reload()
    assert tune.is_current(after, "ft", backbone, "common")
    assert not tune.is_current(after, "wise_ft", backbone, "common")
    again = plan(after, "wise_ft", encoders=(backbone,), seeds=(0,))[-1]
    assert again.spec.lr == choice.values["lr"] and again.spec.run_id != run.spec.run_id
    assert "one_se" not in sweep.selection_of(after, again.spec)["rules"]


def test_a_post_hoc_search_needs_the_tuned_values_of_its_input(posthoc, tmp_path):
    part = {"limit": 64, "train_limit": 64}
    with pytest.raises(UserError, match="got those of all images; run `.* --method ft,wise_ft --limit 64`"):
        tune.Search(Benchmark(posthoc), ["wise_ft"], ["tiny-rn"], part=part)
    (tmp_path / "digits.tuned.yaml").unlink()
    words = (
        r"wise_ft: must have tuned values of ft on tiny-rn to read, got none; run `robustft tune digits.yaml --method "
    )
    with pytest.raises(UserError, match=words):
        tune.Search(Benchmark(posthoc), ["wise_ft"], ["tiny-rn"])


def test_only_trained_settings_are_counted(posthoc, tmp_path):
    benchmark = Benchmark(posthoc)
    assert tune.tuning_of(benchmark).trials == 9
    names = ["zero_shot", "ft", "wise_ft", "model_soup"]
    assert tune.tunable(benchmark, names, explicit=False) == ["ft", "wise_ft"]
    with pytest.raises(UserError, match="'model_soup' has nothing to tune; leave it out"):
        tune.tunable(benchmark, names[1:], explicit=True)
    space = {**benchmark.suite.tuning.space, "wise_ft": {"alpha": [0.5], "lr": [1e-4]}}
    tuning = benchmark.suite.tuning.model_copy(update={"space": space})
    benchmark.suite = benchmark.suite.model_copy(update={"tuning": tuning})
    with pytest.raises(UserError, match="wise_ft: must give 9 settings, as for every method, got 1"):
        tune.tuning_of(benchmark)


def test_a_study_cannot_be_tuned():
    with pytest.raises(UserError, match="ablation-beta: is a study, from which nothing is chosen.*; tune digits"):
        tune.Search(Benchmark("ablation-beta"), ["tracer"], ["tiny-rn"])


def test_a_published_recipe_cannot_be_tuned():
    with pytest.raises(UserError, match="--recipe: must be a recipe to tune, got as_published, whose values are publi"):
        tune.Search(Benchmark("imagenet"), ["ft"], ["RN50"], "as_published")


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return end.value.code


def test_a_dry_run_of_tuning_says_what_waits_for_the_trials(posthoc, tmp_path, capsys):
    (tmp_path / "digits.tuned.yaml").unlink()
    arguments = ("tune", posthoc, "--backbone", "tiny-rn", "--runs", tmp_path, "--dry-run")
    assert call(*arguments, "--method", "ft,wise_ft") == 0
    out = capsys.readouterr().out
    assert "9 runs" in out and "wise_ft: planned when the trials above have chosen" in out
    assert call(*arguments, "--method", "wise_ft") == 2


def test_a_soup_of_digits_reads_three_seeds_once_for_each_backbone():
    runs = plan("digits", "model_soup", seeds=(0, 1, 2, 3, 4))
    soups = [run for run in runs if run.requested]
    assert [(run.spec.backbone, run.spec.seed) for run in soups] == [
        (backbone, 0) for backbone in Benchmark("digits").suite.backbones
    ]
    reference = {record["run_id"] for record in RECORDS if record["method"] == "ft"}
    for run in soups:
        assert list(run.spec.inputs) == ["ft:0", "ft:1", "ft:2"]
        assert set(run.needs) <= reference  # no FT run is made for it


HEX = st.sampled_from("0123456789abcdef")


@given(
    st.from_regex(r"[0-9]{1,11}e[0-9]{1,11}", fullmatch=True, alphabet=HEX)
    | st.from_regex(r"[0-9a-f]{12}", fullmatch=True, alphabet=HEX)
)
def test_a_run_id_that_looks_like_a_number_stays_a_text_in_a_tuned_file(run_id):
    value = {"runs": [run_id], "lr": 1e-05, "alpha": 0.5, "count": 3}
    assert suite.parse_yaml(plain_yaml.dump(value), "x.tuned.yaml") == value
