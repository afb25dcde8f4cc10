"""Planning: what `--set` means, which value wins, and when two runs are the same run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning import resolver as grid
from robustft.benchmarks.planning import set_flags
from robustft.benchmarks.planning.resolver import Facts, Request, Resolver
from robustft.benchmarks.planning.selection_rules import Selector
from robustft.benchmarks.planning.suite.suite import Suite
from robustft.benchmarks.planning.suite.tuned_values import Choice, TrialResult, Tuned, TunedEntry
from robustft.benchmarks.run_folder.spec import KERNELS, RunSpec
from robustft.methods.base import NoHyper, hyperparameters


@hyperparameters
class Strength:
    lambda_sd: float = Field(default=0.9, ge=0)
    beta: float = 0.5


@hyperparameters
class Alpha:
    alpha: float = Field(default=0.5, ge=0, le=1)


@hyperparameters
class Members:
    members: int = Field(default=3, ge=2)


class Fake:
    """The part of a method that planning reads."""

    Hyper = NoHyper
    trained = True
    seeded = False
    version = 1
    needs_text = False
    strength = None
    path = None
    introduced = {}
    distils_by = ()
    reads = ()

    @classmethod
    def inputs(cls, hyper):
        return cls.reads

    @classmethod
    def input_seeds(cls, hyper, seed):
        return (seed,)

    @classmethod
    def pools(cls):
        return len(cls.input_seeds(cls.Hyper(), 0)) > 1


class Pooled(Fake):
    Hyper = Members
    trained = False
    reads = ("ft",)

    @classmethod
    def input_seeds(cls, hyper, seed):
        return tuple(range(seed, seed + hyper.members))


def make_method(name, hyper=NoHyper, base=Fake, **body):
    return type(name, (base,), {"name": name, "Hyper": hyper, "introduced": {}, **body})


ALONG = {"trained": False, "strength": "alpha", "path": "alpha"}
METHODS = {
    "zero_shot": make_method("zero_shot", trained=False),
    "ft": make_method("ft"),
    "tracer": make_method("tracer", Strength, needs_text=True, strength="lambda_sd", distils_by=(("lambda_sd",),)),
    "wise_ft": make_method("wise_ft", Alpha, reads=("ft",), **ALONG),
    "wise_tracer": make_method("wise_tracer", Alpha, reads=("tracer",), **ALONG),
    "soup": make_method("soup", Members, Pooled),
}
SUITE = {
    "name": "toy",
    "dataset": "toy",
    "version": "toy-v1",
    "backbones": ["tiny-a", "tiny-b"],
    "methods": ["zero_shot", "ft", "wise_ft", "tracer"],
    "seeds": [0, 1, 2],
    "recipes": {
        "common": {"steps": 500, "batch_size": 64, "lr": 0.001, "weight_decay": 0.1},
        "long": {"steps": 1000, "batch_size": 64, "lr": 0.001, "weight_decay": 0.1},
    },
    "tuning": {"trials": 2, "seeds": [100], "space": {"ft": {"lr": [0.1, 0.2]}}},
}
NO_TUNING = Tuned(suite="toy", version="toy-v1", entries={})


def make_suite(**changes):
    return Suite.model_validate({**SUITE, **changes})


def make_facts(**changes):
    values = {
        "methods": METHODS,
        "backbones": ("tiny-a", "tiny-b"),
        "weights": lambda name: f"sha256:{name}",
        "version": "toy-v1",
        "fingerprint": "f00",
        "train_size": 200,
    }
    return Facts(**{**values, **changes})


def expand(*methods, suite=None, tuned=NO_TUNING, facts=None, **request):
    request.setdefault("backbones", ("tiny-a",))
    request.setdefault("seeds", (0,))
    return grid.expand(Request(methods, **request), suite or make_suite(), tuned, facts or make_facts())


def tuned_entry(one_se, best_id=None, trials=1, tuning="0123456789ab"):
    return TunedEntry(
        tuning=tuning,
        recipe="common",
        seeds=[100],
        metric="validation_nll",
        one_se=Choice(values=one_se, nll=0.5, trial=0),
        best_id=Choice(values=best_id or one_se, nll=0.4, trial=0),
        trials=[TrialResult(values={"lr": 0.01}, nll=0.5, runs=["aaaaaaaaaaaa"])] * trials,
    )


def tuned_file(method="tracer", one_se=None, best_id=None, **others):
    entries = {method: tuned_entry(one_se or {"lr": 0.01}, best_id or {"lr": 0.02}), **others}
    return Tuned(suite="toy", version="toy-v1", entries={name: {"tiny-a": entry} for name, entry in entries.items()})


# The run id


def test_run_id_is_the_same_on_every_machine_and_in_every_version():
    spec = RunSpec(
        benchmark="digits",
        benchmark_version="digits-v1",
        fingerprint="0" * 64,
        method="tracer",
        method_version=1,
        backbone="tiny-vit-p8",
        weights="sha256:" + "1" * 64,
        seed=0,
        recipe="common",
        steps=500,
        batch_size=64,
        lr=0.0003,
        weight_decay=0.1,
        warmup_steps=10,
        min_lr=0.0,
        clip_norm=0.0,
        precision="fp32",
        hyper={"lambda_sd": 0.9, "clock": "definition", "keep_initial": True},
    )
    assert spec.canonical() == (
        '{"backbone":"tiny-vit-p8","batch_size":64,"benchmark":"digits","benchmark_version":"digits-v1",'
        '"clip_norm":0.0,"fingerprint":"0000000000000000000000000000000000000000000000000000000000000000",'
        '"hyper":{"clock":"definition","keep_initial":true,"lambda_sd":0.9},"lr":0.0003,"method":"tracer",'
        '"method_version":1,"min_lr":0.0,"precision":"fp32","recipe":"common","seed":0,"steps":500,"threads":1,'
        '"trainable":"all","warmup_steps":10,"weight_decay":0.1,'
        '"weights":"sha256:1111111111111111111111111111111111111111111111111111111111111111"}'
    )
    assert spec.run_id == "95deeabc9dd9"  # if this changes, every finished run on every disk is lost


@given(st.permutations(list(RunSpec.model_fields)))
def test_run_id_ignores_the_order_of_keys(order):
    spec = expand("tracer")[0].spec
    rare = {"given": None, "plugins": [], "method_code": None, "shots": None, "unique_captions": False}  # seldom there
    values = {**rare, **spec.model_dump()}
    shuffled = {key: values[key] for key in order}
    shuffled["hyper"] = dict(reversed(values["hyper"].items()))
    assert RunSpec.model_validate(shuffled).run_id == spec.run_id


def test_run_id_survives_json():
    for run in expand("all"):
        again = RunSpec.model_validate(json.loads(json.dumps(run.spec.model_dump(mode="json"))))
        assert again == run.spec and again.run_id == run.spec.run_id


def test_a_whole_number_and_the_same_float_are_one_run():
    assert expand("tracer", settings=("beta=1",))[0].spec == expand("tracer", settings=("beta=1.0",))[0].spec
    assert expand("ft", settings=("lr=1",))[0].spec.run_id == expand("ft", settings=("lr=1e0",))[0].spec.run_id


@pytest.mark.parametrize(
    "change",
    [
        {"facts": make_facts(fingerprint="bad")},
        {"facts": make_facts(weights=lambda name: "sha256:other")},
        {"facts": make_facts(methods={**METHODS, "ft": make_method("ft", version=2)})},
        {"facts": make_facts(plugins=lambda *_: ["0" * 64])},
        {"facts": make_facts(code=lambda method: "0" * 64)},
        {"facts": make_facts(version="toy-v2"), "suite": make_suite(version="toy-v2")},
        {"suite": make_suite(threads=2)},
        {"suite": make_suite(trainable="image")},
        {"settings": ("lr=0.002",)},
        {"settings": ("precision=bf16",)},
        {"settings": ("limit=10",)},
        {"settings": ("decode=fast",)},
        {"suite": make_suite(decode="fast")},
        {"seeds": (1,)},
        {"backbones": ("tiny-b",)},
        {"recipe": "long"},
        {"kind": "trial"},
    ],
)
def test_run_id_changes_with_all_that_the_numbers_depend_on(change):
    assert expand("ft", **change)[0].spec.run_id != expand("ft")[0].spec.run_id


def test_a_field_at_its_introduction_default_is_not_hashed():
    text = expand("ft")[0].spec.canonical()
    assert not any(f'"{key}"' in text for key in ("kind", "limit", "inputs", "decode"))


def test_how_files_are_decoded_is_the_suites_or_said_and_reaches_what_a_run_reads():
    suite = make_suite(decode="fast")
    (run,) = expand("ft", suite=suite)
    assert run.spec.decode == "fast" and run.sources["decode"] == "suite toy"
    assert [r.spec.decode for r in expand("wise_ft", settings=("decode=fast",))] == ["fast", "fast"]
    assert expand("ft")[0].spec.model_dump()["decode"] == "exact"
    with pytest.raises(UserError, match="decode: .*'exact' or 'fast'.*quick"):
        expand("ft", settings=("decode=quick",))
    with pytest.raises(UserError, match="decode: must be 'exact' on toy, whose pictures are drawn .*got 'fast'"):
        expand("ft", suite=suite, facts=make_facts(embedded=True))


def test_a_hyperparameter_that_comes_later_renames_no_run():
    @hyperparameters
    class Longer:
        lambda_sd: float = Field(default=0.9, ge=0)
        beta: float = 0.5
        extra: float = 1.0

    longer = make_method("tracer", Longer, needs_text=True)
    facts = make_facts(methods={**METHODS, "tracer": longer})
    before = expand("tracer")[0].spec.run_id
    assert expand("tracer", facts=facts)[0].spec.run_id != before
    longer.introduced = {"extra": 0.0}
    assert expand("tracer", facts=facts, settings=("extra=0",))[0].spec.run_id == before
    assert expand("tracer", facts=facts)[0].spec.run_id != before  # its default is not what was before


def test_a_spec_is_strict():
    values = expand("ft")[0].spec.model_dump()
    for bad in ({"steps": "500"}, {"steps": True}, {"steps": 0}, {"lr": float("nan")}, {"colour": "red"}):
        with pytest.raises(ValidationError):
            RunSpec.model_validate({**values, **bad})


# --set


def test_a_comma_is_a_grid_and_brackets_are_a_list():
    parsed = set_flags.parse(["lr=0.1,0.2", "betas=[0.5, 0.25],[1,2]", "name='a,b'", "limit=null", "x=1e-3"])
    assert [setting.values for setting in parsed] == [
        (0.1, 0.2),
        ([0.5, 0.25], [1, 2]),
        ("a,b",),
        (None,),
        (0.001,),
    ]


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=5))
def test_floats_come_through_set_bit_for_bit(values):
    assert list(set_flags.parse(["lr=" + ",".join(map(repr, values))])[0].values) == values


def test_a_key_goes_to_each_listed_method_that_has_it_and_the_others_get_one_run():
    plan = expand("tracer", "ft", "zero_shot", settings=("beta=0.2,0.5,1.0",))
    assert [run.spec.method for run in plan] == ["tracer", "tracer", "tracer", "ft", "zero_shot"]
    assert [run.spec.hyper["beta"] for run in plan[:3]] == [0.2, 0.5, 1.0]


def test_a_training_field_makes_no_second_run_of_a_method_that_trains_nothing():
    plan = expand("ft", "zero_shot", settings=("lr=0.1,0.2",))
    assert [run.spec.method for run in plan] == ["ft", "ft", "zero_shot"]
    assert plan[-1].spec.lr is None


def test_a_method_can_be_addressed_and_that_wins_over_the_bare_key():
    plan = expand("tracer", "ft", settings=("ft.lr=0.5", "lr=0.25"))
    assert [run.spec.lr for run in plan] == [0.25, 0.5]


def test_dash_and_underscore_are_the_same():
    one = expand("zero-shot", "TRACER", backbones=("tiny_a",), settings=("lambda-sd=0.1",))
    other = expand("zero_shot", "tracer", backbones=("tiny-a",), settings=("lambda_sd=0.1",))
    assert [run.spec for run in one] == [run.spec for run in other]


def test_a_value_that_is_given_twice_is_one_run():
    assert len(expand("tracer", "tracer", settings=("beta=0.5,0.50",))) == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"methods": ("tracr",)}, "unknown method 'tracr'; did you mean 'tracer'?"),
        ({"backbones": ("tiny_c",)}, "unknown backbone 'tiny_c'; did you mean 'tiny-"),
        ({"rule": "one-sd"}, "did you mean 'one_se'?"),
        ({"recipe": "comon"}, "did you mean 'common'?"),
        ({"settings": ("lamda_sd=1",)}, "unknown key 'lamda_sd'; did you mean 'lambda_sd'?"),
        ({"settings": ("alpha=1",)}, "no listed method has the key 'alpha'; add wise_ft or wise_tracer to --method"),
        ({"settings": ("wise_ft.alpha=1",)}, "method 'wise_ft' is not listed; add it to --method"),
        ({"settings": ("trcer.beta=1",)}, "unknown method 'trcer'; did you mean 'tracer'?"),
        ({"settings": ("tracer.beat=1",)}, "did you mean 'beta'?"),
        ({"settings": ("seed=1",)}, "'seed' is a flag, not a key; use --seed"),
        ({"settings": ("beta",)}, "must be key=value"),
        ({"settings": ("=1",)}, "must be key=value"),
        ({"settings": ("beta=1,,2",)}, "a value is empty"),
        ({"settings": ("beta=[1,2",)}, "brackets and quotes must be closed"),
        ({"settings": ("beta=1", "beta=2")}, "the key is already in --set beta=1"),
        ({"settings": ("beta=abc",)}, "tracer.beta: input should be a valid number"),
        ({"settings": ("beta=true",)}, "tracer.beta: must be a number, got True"),
        (
            {"settings": ("lambda_sd=-1",)},
            "tracer.lambda_sd: input should be greater than or equal to 0, got -1",
        ),
        (
            {"settings": ("steps=2.5",)},
            "steps: input should be a valid integer, got 2.5; correct it in --set",
        ),
        ({"settings": ("lr=-1",)}, "lr: input should be greater than 0, got -1"),
        ({"settings": ("precision=fp16",)}, "precision: input should be 'fp32' or 'bf16', got 'fp16'"),
        ({"settings": ("batch_size=201",)}, "batch_size: must be at most 200"),
        ({"settings": ("warmup_steps=500",)}, "warmup_steps: must be below the 500 steps"),
        ({"facts": make_facts(has_text=lambda name: False)}, "tracer: needs a backbone with a text tower"),
        ({"facts": make_facts(version="toy-v2")}, "version: must be toy-v2"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_right_name(request_, words):
    request_ = {"methods": ("tracer",), **request_}
    with pytest.raises(UserError) as raised:
        expand(*request_.pop("methods"), **request_)
    text = str(raised.value)
    assert words in text
    assert "\n" not in text and text.endswith(".")


def test_alpha_outside_0_to_1_is_refused():
    with pytest.raises(UserError, match=r"wise_ft\.alpha: .*less than or equal to 1, got 1\.5"):
        expand("wise_ft", settings=("alpha=1.5",))


# Precedence and sources


def test_precedence_is_default_recipe_suite_tuned_set():
    suite = make_suite(methods_settings={"tracer": {"lr": 0.005, "beta": 0.7, "source": "because"}})
    run = expand("tracer", suite=suite)[0]
    assert (run.spec.hyper["lambda_sd"], run.sources["lambda_sd"]) == (0.9, "method default")
    assert (run.spec.steps, run.sources["steps"]) == (500, "recipe common")
    assert (run.spec.lr, run.sources["lr"]) == (0.005, "suite toy: because")
    assert run.spec.hyper["beta"] == 0.7
    run = expand("tracer", suite=suite, tuned=tuned_file())[0]
    assert (run.spec.lr, run.sources["lr"]) == (0.01, "tuned one_se")
    run = expand("tracer", suite=suite, tuned=tuned_file(), rule="best_id")[0]
    assert (run.spec.lr, run.sources["lr"]) == (0.02, "tuned best_id")
    run = expand("tracer", suite=suite, tuned=tuned_file(), settings=("lr=0.3",))[0]
    assert (run.spec.lr, run.sources["lr"]) == (0.3, "--set")


def test_every_value_of_a_run_has_a_source():
    for run in expand("all", tuned=tuned_file()):
        values = {key for key in (*run.spec.hyper, *grid.OTHER_FIELDS)} - {"shots"}  # of which nothing is said here
        if run.spec.steps is not None:
            values |= set(grid.TRAINING_FIELDS) - set(KERNELS)  # of which nothing is said unless somebody asks
        assert set(run.sources) == values


@pytest.mark.parametrize("key", KERNELS)
def test_another_order_of_float_sums_is_another_run_where_somebody_asks_for_it(key):
    plain, off, on = ([*expand("wise_ft")], *(expand("wise_ft", settings=(f"{key}={v}",)) for v in ("false", "true")))
    assert [run.spec.run_id for run in off] == [run.spec.run_id for run in plain]
    assert all(key not in run.spec.model_dump(mode="json") for run in (*plain, *off))
    assert [run.spec.model_dump(mode="json")[key] for run in on] == [True, True]  # what it reads, too
    assert not {run.spec.run_id for run in plain} & {run.spec.run_id for run in on}
    (zero_shot,) = expand("zero_shot", "ft", settings=(f"{key}=true",))[:1]
    assert zero_shot.spec.run_id == expand("zero_shot")[0].spec.run_id  # nothing is trained there


def test_tuned_values_hold_for_their_backbone_and_recipe_alone():
    plan = expand("tracer", tuned=tuned_file(), backbones=("all",))
    assert [run.spec.lr for run in plan] == [0.01, 0.001]
    assert expand("tracer", tuned=tuned_file(), recipe="long")[0].spec.lr == 0.001


def test_warm_up_scales_with_the_steps_unless_it_is_given():
    assert expand("ft")[0].spec.warmup_steps == 10  # 500 of 25,030
    assert expand("ft", settings=("steps=25030",))[0].spec.warmup_steps == 500
    assert expand("ft", settings=("steps=3",))[0].spec.warmup_steps == 1
    assert expand("ft", settings=("steps=1",))[0].spec.warmup_steps == 0
    assert expand("ft", settings=("warmup_steps=7",))[0].spec.warmup_steps == 7


def test_an_unknown_key_of_a_suite_is_refused():
    with pytest.raises(UserError, match="did you mean 'beta'"):
        expand("tracer", suite=make_suite(methods_settings={"tracer": {"beat": 0.7}}))


# Inputs


def test_wise_ft_brings_the_ft_run_of_its_own_settings_first_and_once():
    plan = expand("wise_ft", settings=("lr=0.1", "alpha=0.2,0.8"))
    assert [run.spec.method for run in plan] == ["ft", "wise_ft", "wise_ft"]
    assert not plan[0].requested and plan[1].requested
    assert plan[0].spec.lr == 0.1
    assert plan[1].needs == plan[2].needs == (plan[0].spec.run_id,)
    assert plan[1].spec.inputs == {"ft": plan[0].spec.run_id}


def test_an_input_that_was_asked_for_too_is_one_run():
    plan = expand("wise_ft", "ft")
    assert [(run.spec.method, run.requested) for run in plan] == [("ft", True), ("wise_ft", True)]


def test_the_source_of_an_input_says_where_it_is_not_its_own():
    tuned = tuned_file("wise_ft", one_se={"lr": 0.01, "alpha": 0.25})
    ft = expand("wise_ft", tuned=tuned, settings=("batch_size=32",))[0]
    assert ft.sources["lr"] == "tuned one_se of wise_ft"
    assert ft.sources["batch_size"] == "--set"
    assert ft.sources["steps"] == "recipe common"
    assert ft.sources["warmup_steps"] == "recipe common, scaled with steps"


def test_the_id_of_a_run_covers_the_id_of_its_input():
    facts = make_facts(methods={**METHODS, "ft": make_method("ft", version=2)})
    assert expand("wise_ft", facts=facts)[-1].spec.run_id != expand("wise_ft")[-1].spec.run_id


def test_the_input_of_a_trial_is_a_trial():
    assert {run.spec.kind for run in expand("wise_ft", kind="trial")} == {"trial"}


# Recipes: BatchNorm, epochs, other values on a backbone


def test_bn_is_a_training_field_that_renames_no_run_while_it_is_frozen():
    (frozen,), (released,) = expand("ft"), expand("ft", settings=("bn=released",))
    assert (frozen.spec.bn, frozen.sources["bn"]) == ("frozen", "recipe common")
    assert '"bn"' not in frozen.spec.canonical() and '"bn":"released"' in released.spec.canonical()
    assert expand("ft", settings=("bn=frozen",))[0].spec.run_id == frozen.spec.run_id
    released = make_suite(recipes={"common": {**SUITE["recipes"]["common"], "bn": "released"}})
    assert {run.spec.bn for run in expand("wise_ft", suite=released)} == {"released"}
    (zero_shot,) = expand("zero_shot", suite=released)
    assert zero_shot.spec.bn == "frozen" and "bn" not in zero_shot.sources
    with pytest.raises(UserError, match="bn: input should be 'frozen' or 'released', got 'open'; correct it in --set"):
        expand("ft", settings=("bn=open",))


BY_EPOCHS = {"epochs": 3, "batch_size": 30, "lr": 0.001, "weight_decay": 0.1, "warmup_steps": 2}
SMALL = {**BY_EPOCHS, "backbones": {"tiny-b": {"batch_size": 64, "warmup_steps": 1}}}


def test_epochs_count_full_batches_of_the_training_set():
    run = expand("ft", suite=make_suite(recipes={"common": BY_EPOCHS}))[0]
    assert run.spec.steps == 3 * 6  # 200 images, batches of 30: the seventh is not full
    assert run.sources["steps"] == "recipe common, 3 epochs of 6 steps"
    suite = make_suite(recipes={"common": BY_EPOCHS})
    assert expand("ft", suite=suite, settings=("batch_size=50",))[0].spec.steps == 3 * 4
    assert expand("ft", suite=suite, settings=("batch_size=50", "steps=5"))[0].spec.steps == 5
    with pytest.raises(UserError, match="batch_size: must be at most 200"):
        expand("ft", suite=suite, settings=("batch_size=201",))
    scaled = make_suite(recipes={"common": {**BY_EPOCHS, "epochs": 100, "warmup_steps": "scaled"}})
    assert expand("ft", suite=scaled)[0].spec.warmup_steps == 12  # 600 of 25,030 times 500
    ft, wise = expand("wise_ft", suite=suite)
    assert ft.spec.steps == wise.spec.steps == 18 and ft.sources["steps"] == "recipe common, 3 epochs of 6 steps"


def test_a_recipe_may_give_a_backbone_other_values():
    first, second = expand("ft", suite=make_suite(recipes={"common": SMALL}), backbones=("all",))
    assert (first.spec.batch_size, first.spec.steps, first.spec.warmup_steps) == (30, 18, 2)
    assert (second.spec.batch_size, second.spec.steps, second.spec.warmup_steps) == (64, 9, 1)
    assert (first.sources["batch_size"], second.sources["batch_size"]) == ("recipe common", "recipe common on tiny-b")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({**BY_EPOCHS, "steps": 5}, "exactly one of steps and epochs must be given, got 5 and 3"),
        ({**BY_EPOCHS, "epochs": None}, "exactly one of steps and epochs must be given, got None and None"),
        ({**BY_EPOCHS, "backbones": {"tiny-b": {"steps": 1, "epochs": 1}}}, "not both, got 1 and 1"),
        ({**BY_EPOCHS, "backbones": {"tiny-b": {"batch": 1}}}, "backbones.tiny-b.batch"),
        ({**BY_EPOCHS, "backbones": {"tiny-b": {"batch_size": 1}}}, "backbones.tiny-b.batch_size"),
        ({**BY_EPOCHS, "bn": "batch"}, "'frozen' or 'released'"),
    ],
)
def test_a_recipe_is_validated(recipe, words):
    with pytest.raises(ValidationError, match=words):
        make_suite(recipes={"common": recipe})


# Published recipes: the authors' own values


def sourced(**values):
    return {key: {"value": value, "source": f"code: {key}"} for key, value in values.items()}


TRAINED = {"epochs": 2, "batch_size": 50, "weight_decay": 0.1, "warmup_steps": 1}
AUTHORS = {
    "about": "Scripts.",
    "selection": "last checkpoint",
    "values": sourced(**TRAINED, min_lr=0.0, clip_norm=0.0, precision="fp32", bn="released"),
    "methods": {
        "ft": {"all": sourced(lr=0.5)},
        "tracer": {
            "tiny-a": {**sourced(lr=0.25, lambda_sd=0.5, weight_decay=0.0), "beta": {"value": 2, "our_choice": "none"}},
            "tiny-b": sourced(batch_size=20),
        },
        "wise_ft": {"all": sourced(alpha=0.9)},
    },
    "backbones": {"tiny-b": {"backbone": "tiny-a", "our_choice": "nothing for b"}},
    "departures": {"all": ["no flip"], "tracer": ["80 templates"]},
}


def published(**changes):
    return make_suite(published={"as_published": {**AUTHORS, **changes}})


def as_published(*methods, **request):
    request.setdefault("suite", published())
    return expand(*methods, recipe="as_published", **request)


def test_a_published_recipe_gives_each_value_with_its_source():
    (run,) = as_published("tracer")
    spec = run.spec
    assert (spec.recipe, spec.steps, spec.batch_size, spec.bn) == ("as_published", 8, 50, "released")
    assert (spec.lr, spec.hyper, spec.weight_decay) == (0.25, {"lambda_sd": 0.5, "beta": 2.0}, 0.0)
    assert run.sources["lr"] == "recipe as_published: code: lr"
    assert run.sources["steps"] == "recipe as_published: code: epochs, 2 epochs of 4 steps"
    assert run.sources["beta"] == "recipe as_published: our choice: none"


def test_another_backbone_may_stand_in_and_says_so():
    (run,) = as_published("tracer", backbones=("tiny-b",))
    assert (run.spec.lr, run.spec.batch_size, run.spec.steps) == (0.25, 20, 20)
    assert run.sources["lr"] == "recipe as_published: our choice: nothing for b; there: code: lr"
    assert run.sources["batch_size"] == "recipe as_published: code: batch_size"
    (ft,) = as_published("ft", backbones=("tiny-b",))
    assert ft.sources["lr"] == "recipe as_published: code: lr"


def test_published_values_take_nothing_from_suite_or_tuning_and_set_still_wins():
    suite = make_suite(published={"as_published": AUTHORS}, methods_settings={"tracer": {"beta": 0.7, "lr": 1.0}})
    tuned = tuned_file()
    assert expand("tracer", suite=suite, tuned=tuned)[0].spec.hyper["beta"] == 0.7
    (run,) = as_published("tracer", suite=suite, tuned=tuned)
    assert (run.spec.hyper["beta"], run.spec.lr) == (2.0, 0.25)
    assert as_published("tracer", settings=("lr=0.125",))[0].spec.lr == 0.125


def test_a_published_post_hoc_method_is_trained_as_its_published_input():
    ft, wise = as_published("wise_ft")
    assert ft.spec == as_published("ft")[0].spec
    assert (wise.spec.lr, wise.spec.hyper, wise.spec.steps) == (0.5, {"alpha": 0.9}, 8)
    assert wise.sources["lr"] == "recipe as_published: code: lr, of ft"


def test_published_runs_are_told_apart_and_never_ranked():
    suite, tuned = published(), tuned_file()
    selection = {"rules": ["published"], "tuning": None, "trials": 0, "evaluated": 0}
    for name in ("tracer", "ft", "wise_ft", "zero_shot"):
        run = as_published(name, tuned=tuned)[-1]
        assert selection_of(run, tuned, suite) == selection
        assert selection_of(run.__class__(run.spec.model_copy(update={"limit": 5}), {}), tuned, suite)["rules"] == []
    assert selection_of(as_published("tracer", settings=("lr=0.1",))[0], tuned, suite)["rules"] == []
    assert selection_of(as_published("tracer", kind="trial")[0], tuned, suite)["rules"] == []
    gone = published(methods={"ft": AUTHORS["methods"]["ft"]}, departures={})
    assert selection_of(as_published("tracer")[0], tuned, gone)["rules"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"tracer": {"all": {"lr": {"value": 1.0}}}}}, "exactly one of source and our_choice"),
        ({"methods": {"tracer": {"all": {"lr": 0.1}}}}, "published.as_published.methods.tracer.all.lr"),
        ({"methods": {"tracer": {"all": {}}}}, "published.as_published.methods.tracer.all"),
        ({"values": sourced(steps=1, epochs=1)}, "steps or epochs must be given, not both"),
        ({"departures": {"soup": ["x"]}}, "departures must be of `all` or of a method with values, got soup"),
        ({"departures": {"all": []}}, "published.as_published.departures.all"),
        ({"sources": {}}, "published.as_published.sources"),
    ],
)
def test_a_published_recipe_is_validated(changes, words):
    with pytest.raises(ValidationError) as raised:
        published(**changes)
    assert words in str(raised.value)


def test_what_a_published_recipe_lacks_is_said():
    with pytest.raises(UserError, match=r"has published values on tiny-a for ft, tracer, wise_ft, got soup; choose"):
        as_published("soup")
    values = {key: value for key, value in AUTHORS["values"].items() if key != "batch_size"}
    words = r"batch_size: must be set for ft, got null \(recipe as_published, which does not give it\)"
    with pytest.raises(UserError, match=words):
        as_published("ft", suite=published(values=values))
    with pytest.raises(UserError, match="did you mean 'as_published'"):
        expand("ft", suite=published(), recipe="as-publishd")
    with pytest.raises(ValidationError, match="published must not have the name of a recipe, got long in both"):
        make_suite(published={"long": AUTHORS})


# The trap of a main script whose coefficients are all 0


def test_a_method_that_distils_with_weight_0_is_refused_unless_a_person_says_so():
    off = make_suite(methods_settings={"tracer": {"lambda_sd": 0.0}})
    words = r"tracer: must distil with some weight above 0, got lambda_sd=0 \(suite toy\), which trains plain FLYP"
    with pytest.raises(UserError, match=words):
        expand("tracer", suite=off)
    assert expand("tracer", settings=("lambda_sd=0",))[0].spec.hyper["lambda_sd"] == 0
    with pytest.raises(UserError, match="plain FLYP"):
        as_published("tracer", suite=published(methods={"tracer": {"all": sourced(lr=0.1, lambda_sd=0)}}))


# Studies: a grid of settings


def study(grid, **changes):
    changes.setdefault("tuning", None)
    return make_suite(grid=grid, **changes)


def test_a_grid_is_crossed_or_listed_and_runs_for_each_backbone_and_seed():
    crossed = study({"tracer": {"beta": [0.5, 1.0], "lambda_sd": [0.0, 2.0, 3.0]}})
    plan = expand("tracer", "ft", suite=crossed, backbones=("all",), seeds=(0, 1))
    assert len(plan) == 2 * 2 * 6 + 2 * 2
    assert [run.spec.hyper for run in plan[:2]] == [{"beta": 0.5, "lambda_sd": 0.0}, {"beta": 0.5, "lambda_sd": 2.0}]
    assert plan[0].sources["beta"] == "grid of toy" and plan[0].requested
    listed = study({"tracer": [{"beta": 0.1}, {"lambda_sd": 3.0, "lr": 0.5}]})
    assert [run.spec.hyper for run in expand("tracer", suite=listed)] == [
        {"lambda_sd": 0.9, "beta": 0.1},
        {"lambda_sd": 3.0, "beta": 0.5},
    ]


def test_a_training_field_may_be_in_a_grid():
    suite = study({"ft": {"bn": ["frozen", "released"]}, "wise_ft": {"bn": ["frozen", "released"]}})
    assert [run.spec.bn for run in expand("ft", suite=suite)] == ["frozen", "released"]
    plan = expand("wise_ft", suite=suite)
    assert [(run.spec.method, run.spec.bn) for run in plan] == [
        ("ft", "frozen"),
        ("wise_ft", "frozen"),
        ("ft", "released"),
        ("wise_ft", "released"),
    ]


def test_set_goes_over_the_grid_and_tuned_below_it():
    suite = study({"tracer": {"lr": [0.1, 0.2]}})
    assert [run.spec.lr for run in expand("tracer", suite=suite, tuned=tuned_file())] == [0.1, 0.2]
    assert [run.spec.lr for run in expand("tracer", suite=suite, settings=("lr=0.7",))] == [0.7]
    other = study({"tracer": {"beta": [0.1, 0.2]}})
    assert [run.spec.lr for run in expand("tracer", suite=other, tuned=tuned_file())] == [0.01, 0.01]
    assert len(expand("tracer", suite=other, settings=("lr=0.7,0.8",))) == 4


def test_nothing_in_a_study_is_ranked():
    suite, tuned = study({"tracer": {"beta": [0.5, 1.0]}}), tuned_file()
    run = expand("tracer", suite=suite, tuned=tuned)[0]
    assert run.spec == expand("tracer", tuned=tuned)[0].spec  # the benchmark's own run, were it not a study's
    assert selection_of(run, tuned, suite) == {"rules": [], "tuning": None, "trials": 0, "evaluated": 0}
    assert rules_of(run, tuned) == ["one_se"]


@pytest.mark.parametrize(
    "grid",
    [{"tracer": 3}, {"tracer": {"beta": 3}}, {"tracer": {"beta": []}}, {"tracer": []}, {"tracer": [3]}, {"tracer": {}}],
)
def test_a_grid_is_validated(grid):
    words = "grid.tracer must be a list of settings or a mapping of keys to lists, got"
    with pytest.raises(ValidationError, match=words):
        study(grid)


def test_a_study_has_no_tuning():
    with pytest.raises(ValidationError, match="tuning must not be there in a study"):
        make_suite(grid={"tracer": {"beta": [1.0]}})


# Post-hoc methods: what is tuned of the input, and one strength of their own

FT = {"one_se": {"lr": 0.01}, "best_id": {"lr": 0.02}}
ALPHA = tuned_entry({"alpha": 0.3}, {"alpha": 0.7}, trials=11, tuning="aaaa")
BOTH = tuned_file("ft", **FT, wise_ft=ALPHA)


def one(*methods, **request):
    return expand(*methods, **request)[-1]


def test_a_post_hoc_method_is_trained_as_its_input_was_tuned():
    ft, wise = expand("wise_ft", tuned=BOTH)
    assert ft.spec == expand("ft", tuned=BOTH)[0].spec
    assert (wise.spec.lr, wise.sources["lr"]) == (0.01, "tuned one_se of ft")
    assert (wise.spec.hyper["alpha"], wise.sources["alpha"]) == (0.3, "tuned one_se")
    assert wise.sources["steps"] == "recipe common" and ft.sources["lr"] == "tuned one_se"
    ft, wise = expand("wise_ft", tuned=BOTH, rule="best_id")
    assert ft.spec == expand("ft", tuned=BOTH, rule="best_id")[0].spec
    assert (wise.spec.lr, wise.spec.hyper["alpha"]) == (0.02, 0.7)


def test_the_tuned_values_of_the_input_stand_between_suite_and_own_tuned_values():
    suite = make_suite(methods_settings={"wise_ft": {"lr": 0.5, "source": "because"}, "ft": {"weight_decay": 0.0}})
    ft, wise = expand("wise_ft", tuned=BOTH, suite=suite)
    assert (wise.spec.lr, wise.sources["lr"]) == (0.5, "suite toy: because")
    assert (wise.spec.weight_decay, wise.sources["weight_decay"]) == (0.0, "suite toy of ft")
    assert (ft.spec.lr, ft.sources["lr"]) == (0.5, "suite toy: because of wise_ft")
    own = tuned_file("ft", **FT, wise_ft=tuned_entry({"lr": 0.07, "alpha": 0.3}))
    assert one("wise_ft", tuned=own).spec.lr == 0.07
    assert one("wise_ft", tuned=own, settings=("lr=0.09",)).spec.lr == 0.09


def test_an_input_keeps_its_own_tuned_strength():
    tuned = tuned_file("tracer", {"lr": 0.01, "lambda_sd": 0.2}, wise_tracer=ALPHA)
    tracer, wise = expand("wise_tracer", tuned=tuned)
    assert tracer.spec == expand("tracer", tuned=tuned)[0].spec
    assert tracer.spec.hyper["lambda_sd"] == 0.2 and "lambda_sd" not in wise.spec.hyper


def test_trials_of_a_post_hoc_method_read_the_trial_that_one_se_chose():
    resolver = Resolver(make_suite(), BOTH, make_facts(), None, None, "trial")
    runs = [resolver.resolve("wise_ft", "tiny-a", 100, {"alpha": (a, "tuning space")}) for a in (0.0, 0.5, 1.0)]
    (ft_id,) = {run[0].spec.run_id for run in runs}
    assert ft_id == resolver.resolve("ft", "tiny-a", 100, {"lr": (0.01, "tuning space")})[-1].spec.run_id
    assert len({run[-1].spec.run_id for run in runs}) == 3


# The rule `fixed`


def test_fixed_is_the_default_place_on_the_path_over_the_input_of_one_se():
    ft, wise = expand("wise_ft", tuned=BOTH, rule="fixed")
    assert ft.spec == expand("ft", tuned=BOTH)[0].spec
    assert (wise.spec.hyper["alpha"], wise.sources["alpha"]) == (0.5, "method default")
    assert (wise.spec.lr, wise.sources["lr"]) == (0.01, "tuned one_se of ft")
    with pytest.raises(UserError, match="--rule fixed: is for methods with a path as wise_ft, got ft"):
        expand("ft", tuned=BOTH, rule="fixed")


def test_a_sweep_adds_the_fixed_run_unless_the_place_on_the_path_was_set():
    plan = expand("wise_ft", "ft", "zero_shot", tuned=BOTH, companions=True)
    assert [(run.spec.method, run.requested) for run in plan] == [
        ("ft", True),
        ("wise_ft", True),
        ("wise_ft", True),
        ("zero_shot", True),
    ]
    assert [run.spec.hyper["alpha"] for run in plan[1:3]] == [0.3, 0.5]
    assert plan[1].spec.inputs == plan[2].spec.inputs
    assert len(expand("wise_ft", tuned=BOTH)) == 2
    assert len(expand("wise_ft", tuned=BOTH, companions=True, settings=("alpha=0.1",))) == 2
    with_lr = tuned_file("ft", **FT, wise_ft=tuned_entry({"lr": 0.07, "alpha": 0.3}))
    assert len(expand("wise_ft", tuned=with_lr, companions=True)) == 4  # two rates, so two FT runs
    assert len(expand("wise_ft", tuned=with_lr, companions=True, settings=("alpha=0.1",))) == 2
    assert len(expand("wise_ft", tuned=BOTH, companions=True, rule="best_id")) == 2
    assert [run.spec.lr for run in expand("wise_ft", tuned=BOTH, companions=True, settings=("lr=0.3",))] == [0.3] * 3
    assert len(expand("wise_ft", companions=True)) == 2  # nothing tuned: the default is the same run


# Pooled inputs


def test_a_pooled_method_runs_once_and_reads_several_seeds():
    plan = expand("soup", tuned=BOTH, seeds=(2, 5, 7))
    assert [(run.spec.method, run.spec.seed, run.requested) for run in plan] == [
        ("ft", 2, False),
        ("ft", 3, False),
        ("ft", 4, False),
        ("soup", 2, True),
    ]
    soup = plan[-1]
    assert list(soup.spec.inputs) == ["ft:2", "ft:3", "ft:4"]
    assert soup.needs == tuple(soup.spec.inputs.values()) == tuple(run.spec.run_id for run in plan[:3])
    assert {run.spec.lr for run in plan} == {0.01}
    assert len(expand("soup", settings=("members=2",))) == 3
    assert [run.spec.seed for run in expand("soup") if run.requested] == [0]
    assert len(expand("soup", "ft", seeds=(0, 1, 2))) == 4


# Selection


def selection_of(run, tuned=NO_TUNING, suite=None, **more):
    resolver = Resolver(suite or make_suite(), tuned, make_facts(), run.spec.recipe, None)
    return Selector(resolver).of(run.spec, **more)


def rules_of(run, tuned=NO_TUNING, **more):
    return selection_of(run, tuned, **more)["rules"]


def test_a_run_belongs_to_the_rules_whose_values_it_has():
    tuned = tuned_file()
    assert rules_of(expand("tracer", tuned=tuned)[0], tuned) == ["one_se"]
    assert rules_of(expand("tracer", tuned=tuned, rule="best_id")[0], tuned) == ["best_id"]
    assert rules_of(expand("tracer", settings=("lr=0.02",))[0], tuned) == ["best_id"]
    same = tuned_file(best_id={"lr": 0.01})
    assert rules_of(expand("tracer", tuned=same)[0], same) == ["one_se", "best_id"]


def test_one_selector_answers_for_every_seed_and_setting_as_a_new_one_does():
    together = Selector(Resolver(make_suite(), BOTH, make_facts(), None, None))
    asked = {"seeds": (0, 1, 2, 100), "tuned": BOTH}
    runs = [*expand("tracer", **asked), *expand("wise_ft", **asked), *expand("tracer", settings=("lr=0.02",), **asked)]
    found = [together.of(run.spec) for run in runs]
    assert found == [selection_of(run, BOTH) for run in runs]
    assert {bool(each["rules"]) for each in found} == {True, False}
    (read,) = [run for run in runs if run.spec.method == "wise_ft" and run.spec.seed == 1 and run.spec.inputs]
    other = read.spec.model_copy(update={"inputs": dict.fromkeys(read.spec.inputs, "0" * 12)})
    assert together.of(read.spec)["rules"] and not together.of(other)["rules"]


def test_a_run_outside_the_tuning_belongs_to_no_rule():
    tuned = tuned_file()
    for outside in (
        {"settings": ("beta=0.1",)},
        {"settings": ("limit=5",)},
        {"seeds": (100,)},
        {"recipe": "long"},
    ):
        assert rules_of(expand("tracer", tuned=tuned, **outside)[0], tuned) == []
    assert rules_of(expand("tracer", tuned=tuned, kind="trial")[0], tuned) == []
    assert rules_of(expand("tracer")[0]) == []  # never tuned


def test_a_method_without_training_belongs_to_every_rule():
    assert rules_of(expand("zero_shot")[0]) == ["one_se", "best_id"]
    assert rules_of(expand("zero_shot", settings=("limit=5",))[0]) == []


def test_selection_names_the_tuning_and_its_trials():
    tuned = tuned_file()
    run = expand("tracer", tuned=tuned)[0]
    selection = Selector(Resolver(make_suite(), tuned, make_facts(), None, None)).of(run.spec)
    assert selection == {"rules": ["one_se"], "tuning": "0123456789ab", "trials": 1, "evaluated": 0}


def test_a_post_hoc_method_counts_the_trials_of_its_input_too():
    selection = {"tuning": "aaaa", "trials": 12, "evaluated": 11}
    assert selection_of(one("wise_ft", tuned=BOTH), BOTH) == {"rules": ["one_se"], **selection}
    assert selection_of(one("wise_ft", tuned=BOTH, rule="best_id"), BOTH) == {"rules": ["best_id"], **selection}
    fixed = selection_of(one("wise_ft", tuned=BOTH, rule="fixed"), BOTH)
    assert fixed == {"rules": ["fixed"], "tuning": "0123456789ab", "trials": 1, "evaluated": 0}
    same = tuned_file("ft", {"lr": 0.01}, {"lr": 0.01}, wise_ft=tuned_entry({"alpha": 0.5}))
    assert rules_of(one("wise_ft", tuned=same), same) == ["one_se", "best_id", "fixed"]
    assert rules_of(one("wise_ft", tuned=BOTH, settings=("alpha=0.1",)), BOTH) == []
    assert rules_of(one("ft", tuned=BOTH), BOTH) == ["one_se"]  # without a path there is no fixed


def test_a_post_hoc_method_is_ranked_only_where_its_own_and_its_inputs_values_were_chosen_today():
    run, fixed = one("wise_ft", tuned=BOTH), one("wise_ft", tuned=BOTH, rule="fixed")
    only_input = tuned_file("ft", **FT)
    assert rules_of(one("wise_ft", tuned=only_input), only_input) == ["fixed"]  # alpha 0.5 was not chosen
    only_own = tuned_file("wise_ft", {"alpha": 0.3})
    assert rules_of(one("wise_ft", tuned=only_own), only_own) == []
    assert rules_of(run, BOTH, current=lambda method, backbone: method != "ft") == []
    assert rules_of(fixed, BOTH, current=lambda method, backbone: method != "ft") == []
    assert rules_of(run, BOTH, current=lambda method, backbone: method != "wise_ft") == []
    assert rules_of(fixed, BOTH, current=lambda method, backbone: method != "wise_ft") == ["fixed"]


def test_a_soup_is_ranked_by_the_tuning_of_its_members():
    run = one("soup", tuned=BOTH)
    assert selection_of(run, BOTH) == {"rules": ["one_se"], "tuning": "0123456789ab", "trials": 1, "evaluated": 0}
    assert rules_of(one("soup", tuned=BOTH, rule="best_id"), BOTH) == ["best_id"]
    assert rules_of(one("soup", tuned=BOTH, seeds=(1,)), BOTH) == []  # a second soup of the same members
    assert rules_of(one("soup", tuned=BOTH, settings=("members=2",)), BOTH) == []
    assert rules_of(run) == []
    near = make_suite(tuning={"trials": 2, "seeds": [5], "space": {}}, seeds=[4])
    reaching = one("soup", tuned=BOTH, suite=near, seeds=(4,))
    assert rules_of(reaching, BOTH, suite=near) == []  # a member of seed 5 would be a run of the tuning


def test_only_the_first_recipe_is_ranked():
    entry = tuned_entry({"lr": 0.01}).model_copy(update={"recipe": "long"})
    tuned = Tuned(suite="toy", version="toy-v1", entries={"tracer": {"tiny-a": entry}})
    run = expand("tracer", tuned=tuned, recipe="long")[0]
    assert run.sources["lr"] == "tuned one_se" and rules_of(run, tuned) == []
