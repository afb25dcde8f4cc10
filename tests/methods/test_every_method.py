"""The contract of a method, one body over the whole registry, and what is special to each."""

import copy
import dataclasses
import functools
import operator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from methods_kit import (
    CLASSES,
    PROMPTS,
    Data,
    context,
    copies,
    encoder,
    finished,
    images,
    inputs_of,
    make,
    moved,
    run,
    settings,
    started,
    task,
    validation_nll,
)
from repository import golden
from sklearn.linear_model import LogisticRegression

from robustft import methods
from robustft.backbones.zero_shot import build_head
from robustft.methods import registry
from robustft.methods.base import HyperError, Method, Start, Validation
from robustft.methods.classifier import Classifier, interpolate
from robustft.methods.ft import ImageStudent
from robustft.methods.predictor import restore
from robustft.methods.training.checkpoints import Checkpoints
from robustft.methods.training.probe import ProbeError
from robustft.methods.training.trainer import Training, fit
from robustft.methods.two_tower import TwoTower

pytestmark = pytest.mark.computes

EVERY = registry.names()
TRAINED = [name for name in EVERY if registry.get(name).trained]
KINDS = ["vit", "rn"]


# -- the whole registry


def test_the_registry_has_every_file_that_registers_and_under_its_name():
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py") if "\n@register(" in path.read_text()}
    assert set(EVERY) == files and {"ft", "flyp", "tracer", "wise_ft", "zero_shot"} <= files
    for name in EVERY:
        assert registry.get(name).__module__ == f"robustft.methods.{name}" and name in methods.__all__


@pytest.mark.parametrize("name", EVERY)
def test_every_hyperparameter_has_a_default_a_range_and_words(name):
    method = registry.get(name)
    hyper = method.Hyper()
    assert method.configure(dataclasses.asdict(hyper)) == hyper
    for key, field in method.Hyper.__pydantic_fields__.items():
        assert field.description and len(field.description) > 20, (name, key)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(hyper, key, 1)
    assert method.strength is None or method.strength in method.Hyper.__pydantic_fields__
    assert method.conservative in ("larger", "smaller") and method.__doc__ and method.version >= 1


def test_strengths_are_those_that_tuning_may_move():
    strengths = {name: registry.get(name).strength for name in EVERY}
    distilling = ("carot", "ema", "static_sd", "tracer", "tracer_ema_teacher", "tracer_static_teacher")
    ours = {
        **dict.fromkeys(distilling, "lambda_sd"),
        **dict.fromkeys(("l2_sp", "lipsum_ft", "car_ft", "ldifs", "spd", "starft"), "strength"),
        **dict.fromkeys(("wise_ft", "flyp_wise"), "alpha"),
    }
    assert ours.items() <= strengths.items()
    for name in EVERY:
        method = registry.get(name)
        if method.path is not None and method.strength == method.path:  # 0 is zero-shot: the smaller, the closer
            assert method.conservative == "smaller"
        elif name in ours:
            assert method.conservative == "larger"


@functools.cache
def walk(name, kind, trainable):
    """What a method's first steps show, two or three, taken as the trainer takes them: to read, for several tests."""
    training, ctx, data = started(name, kind, trainable)
    model, student, method = ctx.encoder, training.student, training.method
    groups = {
        "image": model.image_parameters(),
        "text": model.text_parameters(),
        "scale": [model.clip.logit_scale],
    }
    before = {group: copies(parameters) for group, parameters in groups.items()}
    seen = SimpleNamespace(terms=[], grads=[], untouched=[], taught=training.teacher is not None)
    for step, batch in enumerate(data[: 3 if trainable == "all" else 2]):
        if seen.taught:
            _watch(training.teacher, seen.untouched)
        seen.terms.append(training.step(step, batch))
        seen.grads.append(all(p.grad is not None and p.grad.isfinite().all() for p in training.parameters))
        if step == 1:
            seen.moves = {group: moved(parameters, before[group]) for group, parameters in groups.items()}
            # What is trained moves; a low-rank factor that is 0 stays so behind a BatchNorm whose weight is 0 and
            # frozen, and a method that puts weights back after a step may hold any.
            seen.free = [p.requires_grad and bool(p.any()) for p in groups["image"]]
    seen.held = method.anchored and "after_step" in vars(type(method))
    seen.two_towers = isinstance(student, TwoTower) and trainable == "all"
    if isinstance(student, ImageStudent):
        head = student.classifier
        assert head.weight.grad is not None and head.bias.grad is not None and head.bias.abs().sum() > 0
    return seen


def _watch(teacher, untouched):
    """Looks at the teacher's weights when it is updated, which is after backward and the optimizer's step."""
    taught, update = copies(teacher.model.parameters()), type(teacher).update

    def watched(step):
        still = not any(moved(teacher.model.parameters(), taught))
        untouched.append(still and all(p.grad is None and not p.requires_grad for p in teacher.model.parameters()))
        update(teacher, step)

    teacher.update = watched


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRAINED)
def test_terms_are_finite_and_the_teacher_is_untouched_by_backward(name, kind):
    seen = walk(name, kind, "all")
    for terms in seen.terms:
        assert all(term.ndim == 0 and term.isfinite() and not term.requires_grad for term in terms.values())
        assert all(term.dtype == torch.float32 for term in terms.values())
    assert seen.grads == [True] * 3
    assert seen.untouched == [True] * 3 * seen.taught


@pytest.mark.parametrize("name", TRAINED)
def test_losses_of_bf16_runs_are_float32_and_finite(name):
    training, _, data = started(name)
    training.settings = dataclasses.replace(training.settings, precision="bf16")
    for step, batch in enumerate(data[:2]):
        terms = training.step(step, batch)
        assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in training.parameters)


@pytest.mark.parametrize("name", ["flyp", "tracer", "ft"])
def test_no_caption_is_tokenised_during_the_steps(name, tmp_path):
    """Captions are ids that the task has; the prompts of a head are read before the first step or after the last."""
    model, calls = encoder(), []
    data, tokenizer, done = task(model), model.tokenizer, []
    model.tokenizer = lambda texts: calls.append(len(done)) or tokenizer(texts)
    options = {"checkpoints": Checkpoints(tmp_path, 1e9), "validate": validation_nll}
    fit(make(name), model, data, settings(), on_step=lambda step, total: done.append(step), **options)
    assert done == [1, 2, 3, 4, 5, 6] and calls and set(calls) <= {0, 6}


@pytest.mark.parametrize("trainable", ["all", "image"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRAINED)
def test_which_tower_moves_in_which_method(name, kind, trainable):
    seen = walk(name, kind, trainable)
    image, free = seen.moves["image"], seen.free
    assert any(image) and (all(map(operator.le, image, free)) if seen.held else image == free)
    assert all(seen.moves["text"]) if seen.two_towers else not any(seen.moves["text"])
    assert seen.moves["scale"] == [seen.two_towers]


@pytest.mark.parametrize("name", TRAINED)
def test_same_seed_gives_the_same_two_steps(name):
    training, _, data = started(name)
    values = [training.step(step, batch)["total"].item() for step, batch in enumerate(data[:2])]
    assert values == [terms["total"].item() for terms in walk(name, "vit", "all").terms[:2]]


@pytest.mark.parametrize("name", TRAINED)
def test_a_fresh_anchor_costs_nothing_but_icl(name):
    if "skip_first_step" in make(name).Hyper.__pydantic_fields__:
        training, _, data = started(name, skip_first_step=False)
        terms = training.step(0, data[0])
    else:
        terms = walk(name, "vit", "all").terms[0]
    for term in ("fd", "crd", "cross_kd", "l2_to_start", "lipsum", "context", "ldifs", "spurious"):
        assert terms.get(term, torch.tensor(0.0)).abs() < 1e-5
    if "icl" in terms:
        assert terms["icl"].item() == pytest.approx(0.9 * terms["contrastive"].item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()  # as in evaluation; a frozen tower takes another path through attention otherwise
def test_a_short_run_ends_in_a_predictor_that_can_be_kept(name, kind, tmp_path):
    with torch.enable_grad():
        read = inputs_of(make(name), kind)
        fitted = run(make(name), tmp_path / name, kind, inputs=read, total_steps=3, warmup_steps=1)
    logits = fitted.classifier(images())
    assert logits.shape == (12, len(CLASSES)) and logits.dtype == torch.float32 and logits.isfinite().all()
    assert not fitted.classifier.training
    kept = finished(fitted)
    again = restore(encoder(kind, seed=1), kept["tensors"], kept["meta"])
    assert torch.equal(again(images()), logits)
    assert bool(fitted.curves) == registry.get(name).trained


# -- zero-shot, FT, LP-FT, WiSE-FT


def zero_shot(kind="vit", tmp_path=None):
    return run(make("zero_shot"), tmp_path, kind).classifier


@torch.no_grad()
def test_zero_shot_logits_are_scaled_cosines_to_the_head(tmp_path):
    model = encoder()
    features = torch.nn.functional.normalize(model.image_features(images()), dim=-1)
    expected = features @ build_head(model, CLASSES, PROMPTS).T
    torch.testing.assert_close(zero_shot(tmp_path=tmp_path)(images()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_ft_starts_at_the_zero_shot_logits_exactly(kind, tmp_path):
    training, _, _ = started("ft", kind)
    classifier = training.student.classifier.eval()
    assert torch.equal(classifier(images()), zero_shot(kind, tmp_path)(images()))
    assert torch.equal(classifier.bias, torch.zeros(len(CLASSES)))


@pytest.mark.parametrize("kind", KINDS)
def test_lp_ft_starts_stage_two_at_the_probes_function(kind):
    """The head is the multinomial probe on un-normalised features: its probabilities are scikit-learn's."""
    model, method = encoder(kind), make("lp_ft", c_points=1, c_min=0.3)
    ctx = context(model)
    student = method.student(ctx).eval()
    frozen = copies(model.image_parameters())
    info = method.prepare(student, ctx)
    assert not any(moved(model.image_parameters(), frozen)) and info["probe_c"] == pytest.approx(0.3)
    data = ctx.task.dataset
    items = [(epoch, index) for epoch in range(2) for index in range(data.train_size)]
    with torch.no_grad():
        features = model.image_features(data.train_images(items, 0)).double().numpy()
        probe = LogisticRegression(C=0.3, max_iter=200).fit(features, np.tile(data.train_labels(), 2))
        stage_one = student.classifier(images())
        expected = probe.predict_log_proba(model.image_features(images()).double().numpy())
        stage_two = Training(method, student, settings()).student.eval().classifier(images())
    log_p = torch.from_numpy(expected).float()
    torch.testing.assert_close(stage_one.log_softmax(-1), log_p, atol=1e-4, rtol=1e-3)
    assert torch.equal(stage_two, stage_one)


def test_lp_ft_keeps_the_c_of_lowest_validation_loss():
    method, seen = make("lp_ft", c_points=4), []

    def validate(classifier):
        seen.append(classifier.classifier.weight.detach().clone())
        return [3.0, 1.0, 2.0, 1.0][len(seen) - 1]

    ctx = dataclasses.replace(context(encoder()), validate=validate)
    student = method.student(ctx).eval()
    info = method.prepare(student, ctx)
    assert torch.equal(student.classifier.weight, seen[1]) and info["probe_validation"] == 1.0
    assert info["probe_c"] == pytest.approx(1e-4)  # the second of four; a tie goes to the smaller


def test_lp_ft_encodes_a_validation_batch_once_for_all_probes(monkeypatch):
    method, encoded, batch = make("lp_ft", c_points=3), [], images()

    def each(makers):
        return [make()(batch).logsumexp(1).mean().item() for make in makers]  # one batch, one predictor after the other

    ctx = dataclasses.replace(context(encoder()), validate=Validation(each))
    student = method.student(ctx).eval()
    tower = student.classifier.visual.forward
    monkeypatch.setattr(student.classifier.visual, "forward", lambda x: encoded.append(len(x)) or tower(x))
    info = method.prepare(student, ctx)
    trained = len(ctx.task.dataset.train_labels()) * method.hyper.renderings
    assert sum(encoded) == trained + len(batch)
    assert ctx.validate(student.classifier) == pytest.approx(info["probe_validation"])


def test_lp_ft_probe_with_two_classes_and_with_classes_that_have_no_image():
    model = encoder()
    two = dataclasses.replace(task(model), class_names=("zero", "one"), dataset=TwoClasses())
    ctx = dataclasses.replace(context(model), task=two, validate=lambda classifier: 0.0)
    method = make("lp_ft", c_points=1)
    student = method.student(ctx).eval()
    method.prepare(student, ctx)
    assert student.classifier(images()).shape == (12, 2) and student.classifier.weight[1].abs().sum() > 0
    between_two = student.classifier(images())
    wide = dataclasses.replace(ctx, task=dataclasses.replace(two, class_names=CLASSES))
    student = method.student(wide).eval()
    assert method.prepare(student, wide)["probe_absent_classes"] == len(CLASSES) - 2
    logits = student.classifier(images())
    # the two classes are told apart as before, and never is another one preferred to both
    assert torch.allclose(logits[:, 1] - logits[:, 0], between_two[:, 1] - between_two[:, 0], atol=1e-4)
    assert bool((logits[:, 2:] <= logits[:, :2].amax(dim=1, keepdim=True)).all()) and logits.isfinite().all()
    one = dataclasses.replace(wide, task=dataclasses.replace(wide.task, dataset=OneClass()))
    with pytest.raises(ProbeError, match=f"images of two classes, got only '{CLASSES[1]}'; add images of another"):
        method.prepare(method.student(one).eval(), one)


class TwoClasses(Data):
    def train_labels(self):
        return super().train_labels() % 2


class OneClass(Data):
    def train_labels(self):
        return np.ones_like(super().train_labels())


@pytest.mark.parametrize("kind", KINDS)
def test_wise_ft_has_both_end_points_bit_for_bit(kind, tmp_path):
    ft = run(make("ft"), tmp_path / "ft", kind, bn="released")  # the statistics move too
    kept, logits = finished(ft), ft.classifier(images())
    before = copy.deepcopy(kept["tensors"])
    ends = {
        alpha: run(make("wise_ft", alpha=alpha), tmp_path / str(alpha), kind, inputs={"ft": kept}).classifier
        for alpha in (0, 0.5, 1)
    }
    assert torch.equal(ends[0](images()), zero_shot(kind, tmp_path)(images()))
    assert torch.equal(ends[1](images()), logits)
    assert not torch.equal(ends[0.5](images()), logits)
    assert all(torch.equal(kept["tensors"][name], before[name]) for name in before)  # inputs untouched
    start, middle = zero_shot(kind, tmp_path).tensors(), ends[0.5].tensors()
    moved = {name for name in before if not torch.equal(start[name], before[name])}
    assert any("running_var" in name for name in moved) == (kind == "rn")
    for name in before:  # every entry, head, bias and buffers included
        torch.testing.assert_close(middle[name].float(), ((start[name] + before[name]) / 2).float())


def test_wise_ft_reads_ft_and_takes_no_step():
    assert make("wise_ft").inputs(None) == ("ft",) and not registry.get("wise_ft").trained


@pytest.mark.parametrize("index", range(len(golden("weight_interpolation.json")["results"])))
def test_interpolation_is_the_released_one(index):
    data = golden("weight_interpolation.json")
    load = lambda d: torch.tensor(d["values"], dtype=getattr(torch, d["dtype"])).reshape(d["shape"])  # noqa: E731
    keys, result = data["wise_ft_keys"], data["results"][index]
    start, end = ({key: load(data[side][key]) for key in keys} for side in ("zero_shot", "finetuned"))
    merged = interpolate(start, end, result["alpha"])
    assert merged.keys() == result["wise_ft_merge"].keys()
    for key, expected in result["wise_ft_merge"].items():
        for values in (expected, result["tracer_merge"][key]):
            torch.testing.assert_close(merged[key].float(), load(values), atol=1e-6, rtol=1e-6)
    floor = data["fisher"]["floor"]
    fisher = tuple({key: load(f) for key, f in data["fisher"][side].items()} for side in ("zero_shot", "finetuned"))
    weighted = interpolate(start, end, result["alpha"], fisher, floor)
    assert result["fisher_merge"].keys() == fisher[0].keys()
    for key, expected in result["fisher_merge"].items():
        torch.testing.assert_close(weighted[key], load(expected), atol=1e-6, rtol=1e-6)
    for key in set(keys) - fisher[0].keys():  # no Fisher, no weighting
        assert torch.equal(weighted[key], merged[key])


ODD_INPUTS = {  # (zero-shot, finetuned) shapes of each of the golden file's odd cases
    "key_missing_in_finetuned": ({"a": (2,), "b": (2,)}, {"a": (2,)}),
    "key_missing_in_zero_shot": ({"a": (2,)}, {"a": (2,), "b": (2,)}),
    "shape_differs": ({"a": (2, 2)}, {"a": (2, 3)}),
    "shape_broadcasts": ({"a": (1, 3)}, {"a": (2, 3)}),
}


@pytest.mark.parametrize("case", golden("weight_interpolation.json")["odd_inputs"])
def test_interpolation_refuses_what_the_released_codes_disagree_on(case):
    start, end = ({key: torch.zeros(shape) for key, shape in side.items()} for side in ODD_INPUTS[case])
    with pytest.raises(ValueError, match="interpolate equal architectures"):
        interpolate(start, end, 0.5)


@pytest.mark.parametrize(
    "fisher", [({"a": torch.ones(1)}, {}), ({"a": torch.ones(2)},) * 2, ({"c": torch.ones(1)},) * 2]
)
def test_a_fisher_of_one_side_or_of_another_shape_is_refused(fisher):
    with pytest.raises(ValueError, match="Fisher of '[ac]' must be given for both models"):
        interpolate({"a": torch.zeros(1)}, {"a": torch.ones(1)}, 0.5, fisher)


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2),
    alpha=st.floats(0, 1),
)
def test_interpolation_stays_between_its_end_points(values, alpha):
    start, end = ({"a": torch.tensor([value])} for value in values)
    merged = interpolate(start, end, alpha)["a"].item()
    slack = 1e-6 * max(map(abs, values))
    assert min(values) - slack <= merged <= max(values) + slack
    assert torch.equal(interpolate(start, end, 0)["a"], start["a"])
    assert torch.equal(interpolate(start, end, 1)["a"], end["a"])
    assert interpolate(start, start, alpha)["a"].item() == values[0]


def test_weights_of_another_backbone_are_refused(tmp_path):
    kept = finished(run(make("ft"), tmp_path))
    with pytest.raises(ValueError, match="test-vit.*test-rn"):
        Classifier.restore(encoder("rn"), kept["tensors"], kept["meta"])
    with pytest.raises(ValueError, match="do not fit"):
        Classifier.restore(encoder("rn"), kept["tensors"], kept["meta"] | {"backbone": "test-rn"})


# -- two towers


def test_the_head_is_rebuilt_from_the_trained_text_tower(tmp_path):
    training, ctx, data = started("flyp")
    for step, batch in enumerate(data):
        training.step(step, batch)
    classifier = training.method.finish(training.student, ctx)
    assert torch.equal(classifier.weight, build_head(ctx.encoder, CLASSES, PROMPTS))
    assert not torch.equal(classifier.weight, build_head(encoder(), CLASSES, PROMPTS))


def test_static_sd_teacher_never_moves_and_tracers_does():
    for name, moves in (("static_sd", False), ("tracer", True), ("ema", True)):
        training, _, data = started(name)
        before = copies(training.teacher.model.parameters())
        training.step(0, data[0])
        assert any(moved(training.teacher.model.parameters(), before)) == moves


def test_ema_interval_scales_with_the_run():
    model = torch.nn.Linear(1, 1)
    for total, every in ((25030, 500), (500, 10), (6, 1)):
        assert make("ema").teacher(model, settings(total_steps=total)).every == every
    assert make("ema", update_every=7).teacher(model, settings()).every == 7


def test_weights_of_zero_leave_terms_out():
    training, _, data = started("tracer", crd_weight=0, icl_weight=0, cross_frobenius_weight=0)
    training.step(0, data[0])
    assert set(training.step(1, data[1])) == {"contrastive", "fd", "cross_kd", "total"}


def test_crd_half_halves_crd():
    values = []
    for half in (True, False):
        training, _, data = started("tracer", crd_half=half)
        training.step(0, data[0])
        values.append(training.step(1, data[1])["crd"].item())
    assert values[1] == pytest.approx(2 * values[0], rel=1e-5)


def test_l2_sp_pulls_towards_the_start():
    training, _, data = started("l2_sp", strength=3.0)
    training.step(0, data[0])
    expected = 1.5 * sum((p - s).square().sum() for p, s in zip(*training.start, strict=True)).item()
    assert training.step(1, data[1])["l2_to_start"].item() == pytest.approx(expected, rel=1e-4)
    assert not started("flyp")[0].start.values  # only methods that ask for it pay for a copy


# -- names and values


@pytest.mark.parametrize("name", ["wise-ft", "WISE_FT", " wise_ft "])
def test_names_are_forgiving(name):
    assert registry.get(name).name == "wise_ft"


def test_an_unknown_method_gets_the_nearest_name():
    with pytest.raises(registry.UnknownMethod, match="'tracr'; did you mean 'tracer'?") as error:
        registry.get("tracr")
    assert isinstance(error.value, ValueError) and f"Known: {', '.join(EVERY)}." in str(error.value)


def test_registering_twice_names_both_files():
    with pytest.raises(ValueError, match=r"flyp.*twice.*flyp\.py.*test_every_method\.py"):
        registry.register("flyp")(type("Again", (Method,), {"__module__": __name__}))


@pytest.mark.parametrize(
    "name, values, words",
    [
        ("tracer", {"lamda_sd": 1}, "no hyperparameter 'lamda_sd'; did you mean 'lambda_sd'?"),
        ("ft", {"alpha": 1}, "ft: no hyperparameter 'alpha'. Known: none."),
        ("wise_ft", {"alpha": 1.5}, "wise_ft.alpha: .*less than or equal to 1, got 1.5"),
        ("tracer", {"lambda_sd": -1}, "tracer.lambda_sd: .*greater than or equal to 0, got -1"),
        ("tracer", {"lambda_sd": float("nan")}, "tracer.lambda_sd: .*finite number"),
        ("tracer", {"beta": 0}, "tracer.beta: .*greater than 0"),
        ("tracer", {"clock": "wall"}, "tracer.clock: .*'definition' or 'released'"),
        ("tracer", {"kernel": "exponential", "keep_initial": False}, "tracer.keep_initial: must be true with kernel="),
        ("ema", {"momentum_end": "high"}, "ema.momentum_end: .*valid number"),
        ("ema", {"update_every": 1.5}, "ema.update_every: .*integer"),
    ],
)
def test_wrong_hyperparameters_are_one_sentence(name, values, words):
    with pytest.raises(HyperError, match=words) as error:
        registry.get(name).configure(values)
    assert "\n" not in str(error.value)


def test_a_new_method_is_one_class():
    """What a newcomer writes: a loss; everything else has a default."""

    class Least(registry.get("flyp")):
        def loss(self, student, teacher, batch):
            return {"distance": (student.image - student.text).square().sum(dim=1).mean()}

    model = encoder()
    ctx = context(model)
    method = Least()
    training = Training(method, method.student(ctx), settings())
    assert method.penalty(training.student, Start([], [])) == {} and training.teacher is None
