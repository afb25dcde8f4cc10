"""Recipes of the authors' own values: every number, every source, and what is not done as they did it.

The expected numbers are written here once more, by method, backbone and benchmark, with the script or paper that has
them: mlfoundations/wise-ft, locuslab/FLYP, MLAI-Yonsei/CaRot, HesamAsad/TRACER (commit 1f1e612), cs-giung/lipsum-ft,
alinlab/StarFT, BeierZhu/VRF, naver-ai/dawin, GT-RIPL/FTP, thuml/CLIPood, and TRACER's paper, arXiv:2605.29380.
"""

import itertools
import re

import pytest
from repository import ROOT
from runs_kit import call

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.commands.console import make_console
from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning import resolver
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.request import hyper_keys
from robustft.benchmarks.planning.suite.suite import find, load
from robustft.benchmarks.planning.suite.suite import names as suite_names
from robustft.methods import registry

BACKBONES = ("RN50", "ViT-B-16", "ViT-L-14")
WMA = {"kernel": "beta", "beta": 0.5, "update_every": 1, "keep_initial": True}
CODE = {"fd_reduction": "mean", "crd_half": True, "cross_frobenius_form": "norm", "skip_first_step": True}
TERMS = {"crd_weight": 1.0, "icl_weight": 1.0, "cross_kd_weight": 1.0}
EMA = {"lambda_sd": 1.5, "update_every": 500, "momentum_start": 0.05, "momentum_end": 0.9, "momentum_warmup": 0.2}
LINE = {"batch_size": 512, "warmup_steps": 500, "weight_decay": 0.1, "min_lr": 0.0, "bn": "released"}

# (benchmark, recipe, method, backbone) -> values
EXPECTED = {
    # WiSE-FT, App. D.2; wise-ft:src/models/finetune.py; TRACER:example_scripts/ft.sh
    ("imagenet", "as_published", "ft", "ViT-B-16"): {**LINE, "lr": 3e-5, "clip_norm": 1.0, "precision": "fp32"},
    # No source has the rate of the second stage; all of train is trained on, so the probe has one C to choose from.
    ("imagenet", "as_published", "lp_ft", "ViT-B-16"): {
        **LINE, "lr": 1e-5, "clip_norm": 1.0, "c_min": 0.316, "c_points": 1, "iterations": 200
    },
    ("imagenet", "as_published", "wise_ft", "ViT-B-16"): {"alpha": 0.5, "lr": 3e-5, "clip_norm": 1.0},
    # FLYP:README.md
    ("imagenet", "as_published", "flyp", "ViT-B-16"): {
        **LINE, "lr": 1e-5, "clip_norm": 0.0, "precision": "fp32", "cross_frobenius_weight": 0.0
    },
    ("iwildcam", "as_published", "flyp", "ViT-B-16"): {
        "steps": 20 * (129_809 // 256), "lr": 1e-5, "weight_decay": 0.2, "batch_size": 256, "warmup_steps": 500
    },
    ("fmow", "as_published", "flyp", "ViT-B-16"): {
        "steps": 20 * (76_863 // 256), "lr": 1e-5, "weight_decay": 0.2, "batch_size": 256, "warmup_steps": 500
    },
    # CaRot:example_scripts/carot.sh, src/args.py
    ("imagenet", "as_published", "carot", "ViT-B-16"): {
        **LINE, **EMA, "lr": 1e-5, "clip_norm": 0.0, "cross_frobenius_weight": 0.05, "orthogonality_weight": 0.2
    },
    ("imagenet", "as_published", "ema", "ViT-B-16"): {**LINE, **EMA, "lr": 1e-5, "orthogonality_weight": 0.0},
    # TRACER:example_scripts/tracer_beta.sh, tracer_ema.sh, tracer_rn50.sh, tracer_iwilds.sh
    ("imagenet", "as_published", "tracer", "ViT-B-16"): {
        **LINE, **WMA, **CODE, **TERMS, "lr": 1e-5, "lambda_sd": 0.9, "fd_weight": 2000.0, "precision": "bf16",
        "cross_frobenius_weight": 0.05, "orthogonality_weight": 0.0, "clip_norm": 0.0,
    },
    ("imagenet", "as_published", "tracer_ema_teacher", "ViT-B-16"): {
        **LINE, **CODE, **TERMS, "lr": 1e-5, "lambda_sd": 0.9, "fd_weight": 2000.0, "cross_frobenius_weight": 0.05,
        "orthogonality_weight": 0.2, "update_every": 1, "momentum_start": 0.05, "momentum_end": 0.9,
    },
    ("imagenet", "as_published", "tracer", "RN50"): {
        **LINE, **WMA, **CODE, **TERMS, "lr": 9e-6, "weight_decay": 0.02, "lambda_sd": 0.01, "fd_weight": 200.0,
        "cross_frobenius_weight": 0.01, "orthogonality_weight": 0.0, "clip_norm": 0.0, "precision": "bf16",
    },
    ("iwildcam", "as_published", "tracer", "ViT-B-16"): {
        **WMA, **CODE, "crd_weight": 0.0, "icl_weight": 1.0, "cross_kd_weight": 1.0, "lr": 1e-5, "weight_decay": 0.2,
        "lambda_sd": 0.1, "fd_weight": 5000.0, "cross_frobenius_weight": 0.05, "orthogonality_weight": 0.05,
        "batch_size": 256, "steps": 20 * (129_809 // 256), "bn": "released",
    },
    # cs-giung/lipsum-ft: 50,000 steps of 256, no decay, a tenth of warm-up
    ("imagenet", "as_published", "lipsum_ft", "ViT-B-16"): {
        "steps": 50_000, "batch_size": 256, "lr": 1e-5, "weight_decay": 0.0, "warmup_steps": 5_000, "clip_norm": 0.0,
        "precision": "bf16", "strength": 1.0, "texts": 80, "length": 8,
    },
    # alinlab/StarFT:scripts/train.sh, README.md (train.sh contrastive spurious_bg star 0.5), src/args.py
    ("imagenet", "as_published", "starft", "ViT-B-16"): {
        **LINE, "lr": 1e-5, "clip_norm": 0.0, "precision": "fp32", "strength": 0.5, "cross_frobenius_weight": 0.0
    },
    # BeierZhu/VRF:src/main.py, src/knn_distance.py, on WiSE-FT's finetuned model; naver-ai/dawin:dawin_rft/script
    ("imagenet", "as_published", "vrf", "ViT-B-16"): {
        "lr": 3e-5, "clip_norm": 1.0, "center": 1.5, "width": 0.6, "neighbours": 1000.0
    },
    ("imagenet", "as_published", "dawin", "ViT-B-16"): {"groups": 3, "lr": 3e-5},
    # GT-RIPL/FTP:README.md (AdamP, 4 GPUs of 64), main_finetune.py, util/FTP.py
    ("domainnet", "as_published", "ftp", "RN50"): {
        "steps": 50 * (108_815 // 256), "batch_size": 256, "lr": 1e-4, "weight_decay": 0.0, "warmup_steps": 0,
        "precision": "fp32", "bn": "released", "kappa": 1.0, "radius_lr": 1e-2, "keep_weight_decay": False,
    },
    # TRACER's paper: section 5.2.1, Eq. 20 and 23, Algorithm 1, Definition 3.3, App. C.1 and E.2
    **{
        ("imagenet", "as_printed", "tracer", backbone): {
            **TERMS, **WMA, "batch_size": batch, "warmup_steps": 500, "weight_decay": 0.01, "lr": 1e-5,
            "lambda_sd": 0.9, "fd_weight": 1.0, "fd_reduction": "sum", "crd_half": False, "precision": "bf16",
            "cross_frobenius_weight": 0.05, "cross_frobenius_form": "half_squared", "skip_first_step": False,
            "clock": "definition",
        }
        for backbone, batch in (("RN50", 512), ("ViT-B-16", 512), ("ViT-L-14", 224))
    },
}  # fmt: skip
NOT_APPLICABLE = {"beta2", "kernel_momentum"}
"""Of kernels that TRACER does not have."""


def resolve(benchmark, recipe, method, backbone):
    loaded = Benchmark(benchmark)
    return loaded.resolver(recipe, rule="one_se").resolve(method, backbone, 0, {})[-1]


def value(run, key):
    if key in hyper_keys(registry.get(run.spec.method)):
        return run.spec.hyper.get(key, registry.get(run.spec.method).introduced.get(key))
    return getattr(run.spec, key)


def every_pair(names=("imagenet", "iwildcam", "fmow")):
    for name in names:
        loaded = Benchmark(name).suite
        for recipe, published in loaded.published.items():
            for method in published.methods:
                for backbone in loaded.backbones:
                    yield name, recipe, method, backbone


@pytest.mark.parametrize("where", EXPECTED, ids="-".join)
def test_published_values_are_the_authors(where):
    run = resolve(*where)
    assert {key: value(run, key) for key in EXPECTED[where]} == EXPECTED[where]


@pytest.mark.parametrize(
    ("suite", "lr"),
    [
        ("domainbed", 5e-6),
        ("domainbed_vlcs", 5e-6),
        ("domainbed_office_home", 1e-5),
        ("domainbed_terra_incognita", 5e-6),
    ],
)
def test_clipoods_values_are_those_of_its_script_for_each_data(suite, lr):
    """thuml/CLIPood:scripts.sh, -b 12 (of each of three domains) --epochs 10 (of 500 steps) --lambda 0.3 --beta 0.5."""
    given = {key: v for key, v, _ in load(find(suite)).published["as_published"].layers("clipood", "ViT-B-16")}
    told = {
        "lr": lr,
        "steps": 5000,
        "batch_size": 36,
        "margin": 0.3,
        "beta": 0.5,
        "weight_decay": 0.1,
        "warmup_steps": 0,
    }
    assert {key: given[key] for key in told} == told


def test_the_page_says_of_each_method_where_its_recipe_is_or_why_there_is_none():
    table = (ROOT / "docs" / "methods.md").read_text("utf-8").partition("## Recipes of")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    told = {name: where for names, where, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert all(where.strip() or why.strip() for _, where, why in rows)
    published = {}
    for benchmark in suite_names():
        for recipe in load(find(benchmark)).published.values():
            for method in recipe.methods:
                published.setdefault(method, set()).add(benchmark)
    for method, benchmarks in published.items():
        assert benchmarks & {*re.findall(r"`(\w+)`", told[method])}, method
    assert {name for name, where in told.items() if where.strip()} == set(published)
    assert set(told) == set(registry.names()) - {"zero_shot"}


@pytest.mark.parametrize("where", list(every_pair()), ids="-".join)
def test_every_published_value_says_where_it_is_from(where):
    benchmark, recipe, method, _ = where
    run = resolve(*where)
    for key, source in run.sources.items():
        if key in resolver.OTHER_FIELDS:
            assert source == f"suite {benchmark}"
        elif key not in NOT_APPLICABLE:
            assert source.startswith(f"recipe {recipe}: "), (key, source)
    assert set(run.sources) >= set(hyper_keys(registry.get(method)))
    assert run.spec.bn == "released"


def test_a_backbone_without_values_is_told_which_has_some():
    with pytest.raises(
        UserError, match="on ViT-B-16 for no method, got ftp; take --backbone RN50, or the recipe common"
    ):
        resolve("domainnet", "as_published", "ftp", "ViT-B-16")


def test_what_no_source_gives_is_marked_as_our_choice():
    def ours(*where):
        return {key for key, source in resolve(*where).sources.items() if "our choice" in source}

    published = ("imagenet", "as_published")
    assert "lr" in ours(*published, "lp_ft", "ViT-B-16")
    assert ours(*published, "ft", "ViT-B-16") == set()
    assert ours(*published, "tracer", "RN50") == ours(*published, "tracer", "ViT-B-16") == {"orthogonality_side"}
    assert {"lr", "lambda_sd", "fd_weight"} <= ours(*published, "tracer", "ViT-L-14")
    assert "batch_size" not in ours(*published, "tracer", "ViT-L-14")
    assert {"lr", "lambda_sd", "orthogonality_weight"} <= ours(*published, "carot", "RN50")
    for backbone, method in itertools.product(("RN50", "ViT-L-14"), ("ft", "flyp", "carot")):
        sources = resolve(*published, method, backbone).sources
        for key in ("steps", "batch_size", "weight_decay", "warmup_steps"):  # WiSE-FT, FLYP and CaRot are ViT-B/16's
            assert sources[key].startswith("recipe as_published: TRACER "), (backbone, method, key)
            assert "scripts" not in sources[key]


def test_large_batches_follow_the_backbone_in_both_recipes():
    for recipe in ("common", "as_published"):
        sizes = {b: resolve("imagenet", recipe, "tracer", b).spec.batch_size for b in BACKBONES}
        assert sizes == {"RN50": 512, "ViT-B-16": 512, "ViT-L-14": 224}
    spec = resolve("imagenet", "common", "flyp", "ViT-L-14").spec
    assert spec.steps == 10 * ((1_281_167 - 26_000) // 224)


def test_common_gives_all_methods_the_same_training():
    shared = {}
    for name in ("imagenet", "iwildcam", "fmow"):
        for method in Benchmark(name).suite.methods[1:]:
            spec = resolve(name, None, method, "ViT-B-16").spec
            shared.setdefault(name, set()).add(
                (spec.steps, spec.batch_size, spec.warmup_steps, spec.clip_norm, spec.precision, spec.bn)
            )
            assert spec.hyper.get("cross_frobenius_weight", 0.0) == 0.0
    assert shared["imagenet"] == {(24_510, 512, 500, 0.0, "bf16", "frozen")}
    assert all(len(values) == 1 for values in shared.values())


def test_suites_on_files_have_the_backbones_seeds_and_length_of_their_studies():
    """TRACER section 5.2.1; FLYP's 20 epochs of 256 on WILDS; ten seeds, as WILDS asks for Camelyon17."""
    studies = {
        "imagenet": (BACKBONES, range(3), 24_510, 512),
        "iwildcam": (("ViT-B-16",), range(3), 20 * (129_809 // 256), 256),
        "fmow": (("ViT-B-16",), range(3), 20 * (76_863 // 256), 256),
        "camelyon17": (("ViT-B-16",), range(10), 5 * (302_436 // 256), 256),
    }
    for name, (backbones, seeds, steps, batch) in studies.items():
        suite = Benchmark(name).suite
        assert (tuple(suite.backbones), tuple(suite.seeds)) == (backbones, tuple(seeds)), name
        spec = resolve(name, None, "tracer", "ViT-B-16").spec
        assert (spec.steps, spec.batch_size, spec.warmup_steps, spec.precision) == (steps, batch, 500, "bf16"), name


@pytest.mark.parametrize("name", ["imagenet", "iwildcam", "fmow"])
def test_common_is_the_default_and_published_recipes_are_never_ranked(name):
    benchmark = Benchmark(name)
    assert benchmark.suite.default_recipe == "common" and list(benchmark.suite.recipes) == ["common"]
    for recipe, published in benchmark.suite.published.items():
        for method in published.methods:
            run = benchmark.resolver(recipe, rule="one_se").resolve(method, "ViT-B-16", 0, {})[-1]
            selection = sweep.selection_of(benchmark, run.spec)
            assert selection == {"rules": ["published"], "tuning": None, "trials": 0, "evaluated": 0}
    common = benchmark.resolver(rule="one_se").resolve("flyp", "ViT-B-16", 0, {})[-1]
    assert sweep.selection_of(benchmark, common.spec)["rules"] == []  # nothing is tuned yet


@pytest.mark.parametrize(
    ("benchmark", "method", "words"),
    [
        ("imagenet", "tracer", ["86 templates", "flip", "25,030", "tracer.sh"]),
        ("imagenet", "ft", ["still scaled", "true gradients", "25,030"]),
        ("imagenet", "lp_ft", ["still scaled", "SGD"]),
        ("imagenet", "lipsum_ft", ["0.08 to 1.0 and flip", "87.5 %", "best of 50"]),
        ("imagenet", "carot", ["raises an error"]),
        ("imagenet", "starft", ["spurious_bg.pt", "25,030"]),
        ("imagenet", "vrf", ["temperature", "crop"]),
        ("imagenet", "dawin", ["Model Stock"]),
        ("domainnet", "ftp", ["new one", "0.08 to 1.0"]),
        ("iwildcam", "tracer", ["ID validation", "partial batch", "flip"]),
        ("iwildcam", "flyp", ["lower case"]),
        ("fmow", "flyp", ["ID validation", "14 templates"]),
    ],
)
def test_what_the_authors_do_and_we_do_not_is_listed(benchmark, method, words):
    departures = " ".join(Benchmark(benchmark).suite.published["as_published"].departures_of(method))
    assert [word for word in words if word not in departures] == []
    selection = Benchmark(benchmark).suite.published["as_published"].selection
    assert "last checkpoint" in selection and "unknown" in selection


def test_tracers_main_script_is_plain_flyp_and_refused():
    loaded = Benchmark("imagenet")
    weights = dict.fromkeys(("lambda_sd", "fd_weight", "crd_weight", "icl_weight", "cross_kd_weight"), 0.0)
    script = loaded.suite.model_copy(update={"methods_settings": {"tracer": weights}})
    with pytest.raises(UserError, match=r"tracer: must distil with some weight above 0, got lambda_sd=0.*plain FLYP"):
        resolver.Resolver(script, loaded.tuned, loaded.facts, "common", None).resolve("tracer", "RN50", 0, {})


def test_a_listing_names_the_source_of_each_value(capsys, monkeypatch):
    from robustft.benchmarks.commands import listing

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert call("list", "tracer", "--backbone", "RN50", "--benchmark", "imagenet", "--recipe", "as_published") == 0
    out = capsys.readouterr().out
    assert "TRACER:example_scripts/tracer_rn50.sh (paper: 1e-5)" in out
    assert "departure: prompts: the 80 standard templates" in " ".join(out.split())
    assert "tracer_rn50.sh (paper: 0.01 or 0.1)" in out and "--recipe as_printed" in out
    listing.catalogue(make_console(), "tracer", "imagenet", "ViT-L/14")
    out = capsys.readouterr().out
    assert "recipe common on ViT-L-14" in out and "--recipe as_published or as_printed" in out
    with pytest.raises(UserError, match="--recipe needs --benchmark"):
        listing.catalogue(make_console(), "tracer", None, None, "common")
