"""The rows that a reviewer asks for beside the main methods: what each is made of, against hand-made values."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from methods_kit import (
    CLASSES,
    PROMPTS,
    Scalar,
    context,
    copies,
    encoder,
    follow,
    images,
    inputs_of,
    make,
    moved,
    run,
    settings,
    started,
)
from torch.nn.functional import cross_entropy, normalize

from robustft.backbones.zero_shot import build_head
from robustft.methods import registry
from robustft.methods.classifier import interpolate
from robustft.methods.distillation import feature_distillation
from robustft.methods.lipsum_ft import random_texts
from robustft.methods.model_soup import mean
from robustft.methods.model_stock import stock
from robustft.methods.objectives import orthogonality
from robustft.methods.teachers import EMATeacher, StaticTeacher, WMATeacher, kernel_weights, online_weights
from robustft.methods.wma import wma_teacher

TRAJECTORY = [0.0, 1.0, -2.0, 3.0, 0.5, 2.5, -1.0]
STEPS = len(TRAJECTORY) - 1


# -- kernels of TRACER's teacher


@pytest.mark.parametrize(
    "hyper, density",
    [
        ({"kernel": "uniform"}, lambda tau: 1.0),
        ({"kernel": "linear"}, lambda tau: tau),
        ({"beta": 0.5}, lambda tau: (tau * (1 - tau)) ** -0.5),
        ({"beta": 2.0, "beta2": 0.5}, lambda tau: tau * (1 - tau) ** -0.5),
    ],
)
def test_each_kernel_weighs_the_trajectory_as_it_says(hyper, density):
    made = make("tracer", **hyper)
    seen = follow(lambda student: wma_teacher(made.hyper, student, STEPS), TRAJECTORY)[1:]
    weights = [density((k + 0.5) / (STEPS + 1)) for k in range(STEPS + 1)]
    for t in range(1, STEPS + 1):
        mean = sum(w * x for w, x in zip(weights[: t + 1], TRAJECTORY, strict=False)) / sum(weights[: t + 1])
        assert seen[t - 1] == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.999])
def test_the_exponential_kernel_is_an_ema_of_constant_momentum(momentum):
    """Its closed form alpha_k = (1 - m) m^(T-k), alpha_0 = m^T, folded online, is the EMA recursion."""
    made = make("tracer", kernel="exponential", kernel_momentum=momentum)
    seen = follow(lambda student: wma_teacher(made.hyper, student, STEPS), TRAJECTORY)[1:]
    by_hand, teacher = [], TRAJECTORY[0]
    for value in TRAJECTORY[1:]:
        teacher = momentum * teacher + (1 - momentum) * value
        by_hand.append(teacher)
    assert seen == pytest.approx(by_hand, rel=1e-12)
    if momentum > 0:

        def kernel(tau):
            k = round(tau * (STEPS + 1) - 0.5)
            return momentum**STEPS if k == 0 else (1 - momentum) * momentum ** (STEPS - k)

        weighted = follow(lambda student: WMATeacher(student, STEPS, kernel), TRAJECTORY)[1:]
        assert weighted == pytest.approx(by_hand, rel=1e-9)
        assert online_weights(kernel_weights(kernel, STEPS))[1:].tolist() == pytest.approx([1 - momentum] * STEPS)


def test_tracer_without_new_fields_is_what_it_was():
    assert registry.get("tracer").introduced == {
        "kernel": "beta",
        "beta2": None,
        "kernel_momentum": 0.999,
        "fd_reduction": "sum",
        "orthogonality_side": "embedding",
        "clamp_logit_scale": False,
    }


# -- TRACER's loss under other teachers, and the other conventions


def test_only_the_teacher_differs_between_tracers_rows():
    kinds = {"tracer": WMATeacher, "tracer_ema_teacher": EMATeacher, "tracer_static_teacher": StaticTeacher}
    terms = {}
    for name, kind in kinds.items():
        training, _, data = started(name)
        assert type(training.teacher) is kind
        training.teacher = StaticTeacher(training.student)  # the same teacher for all: the same terms
        terms[name] = [{k: v.item() for k, v in training.step(step, data[step]).items()} for step in range(3)]
    assert terms["tracer"] == terms["tracer_ema_teacher"] == terms["tracer_static_teacher"]
    assert set(terms["tracer"][1]) == {"contrastive", "fd", "crd", "icl", "cross_kd", "cross_frobenius", "total"}
    assert make("tracer_ema_teacher").teacher(Scalar(), settings(total_steps=500)).every == 1  # tracer_ema.sh


def test_static_sd_is_ema_with_a_teacher_that_stays():
    values = {}
    for name in ("ema", "static_sd", "carot"):
        training, _, data = started(name, **({"orthogonality_weight": 0} if name == "carot" else {}))
        training.teacher = StaticTeacher(training.student)
        values[name] = [training.step(step, data[step]) for step in range(2)]
    for key in ("contrastive", "distillation"):
        assert values["ema"][1][key] == values["static_sd"][1][key]
    assert values["carot"][0].keys() == {"contrastive", "cross_frobenius", "total"}


def test_carot_is_ema_with_both_penalties_at_the_scripts_weights():
    training, ctx, data = started("carot")
    assert type(training.teacher) is EMATeacher
    start = orthogonality(ctx.encoder.image_projection).item()
    terms = training.step(0, data[0])
    assert terms["orthogonality"].item() == pytest.approx(0.2 * start, rel=1e-6)
    assert set(training.step(1, data[1])) == {
        "contrastive",
        "distillation",
        "cross_frobenius",
        "orthogonality",
        "total",
    }


def test_the_wide_side_of_a_resnets_projection_cannot_reach_zero():
    training, ctx, data = started("carot", "rn", orthogonality_side="width", orthogonality_weight=1.0)
    width, dim = ctx.encoder.image_projection.shape
    assert training.step(0, data[0])["orthogonality"].item() >= math.sqrt(width - dim)


def test_fd_by_mean_is_d_times_smaller_than_by_sum():
    values = {}
    for reduction in ("sum", "mean"):
        training, ctx, data = started("tracer", fd_reduction=reduction, fd_weight=1.0)
        training.step(0, data[0])
        values[reduction] = training.step(1, data[1])["fd"].item()
    assert values["sum"] == pytest.approx(ctx.encoder.embed_dim * values["mean"], rel=1e-5)
    # 2000 x mean over 512 dimensions is 3.906 x sum, the default in `common` for every width
    assert make("tracer").hyper.fd_weight == pytest.approx(2000 / 512, abs=3e-4)
    assert feature_distillation.__doc__.count("2000")


def test_the_clamp_of_pretraining_is_one_switch():
    for clamp in (False, True):
        training, ctx, data = started("tracer", clamp_logit_scale=clamp)
        with torch.no_grad():
            ctx.encoder.clip.logit_scale.fill_(math.log(130.0))
        training.step(0, data[0])
        scale = ctx.encoder.logit_scale.item()
        assert scale == pytest.approx(100.0, rel=1e-5) if clamp else scale > 120


# -- averages and interpolations


def test_flyp_wma_trains_as_flyp_and_is_judged_at_the_average(tmp_path):
    trainings = {name: started(name) for name in ("flyp", "flyp_wma")}
    for step in range(4):
        totals = {name: training.step(step, data[step]) for name, (training, _, data) in trainings.items()}
        assert totals["flyp"] == totals["flyp_wma"]  # the average teaches nothing
    a, b = (copies(training.parameters) for training, _, _ in trainings.values())
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    wma, flyp = (run(make(name), tmp_path / name).classifier.tensors() for name in ("flyp_wma", "flyp"))
    start = run(make("zero_shot"), tmp_path / "zs").classifier.tensors()
    assert all(not torch.equal(wma[key], flyp[key]) for key in ("weight", "visual.proj"))
    distance = {key: (value["visual.proj"] - start["visual.proj"]).norm() for key, value in (("w", wma), ("f", flyp))}
    assert distance["w"] < distance["f"]  # a mean that counts the pretrained weights is nearer to them


def test_flyp_wma_evaluates_the_kernel_weighted_mean_of_the_trajectory(tmp_path):
    trajectory = []
    method = make("flyp_wma")
    method.after_step = lambda student, start, step: trajectory.append(
        student.encoder.clip.visual.proj.detach().double().clone()
    )
    fitted = run(method, tmp_path)
    points = [encoder().clip.visual.proj.detach().double(), *trajectory]
    weights = [((k + 0.5) / len(points) * (1 - (k + 0.5) / len(points))) ** -0.5 for k in range(len(points))]
    expected = sum(w * p for w, p in zip(weights, points, strict=True)) / sum(weights)
    torch.testing.assert_close(fitted.classifier.tensors()["visual.proj"].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["wise_ft", "flyp_wise"])
def test_the_whole_line_is_there_and_its_points_are_the_runs(name, tmp_path):
    inputs = inputs_of(make(name))
    model = encoder()
    line = make(name).line(context(model, **inputs))
    assert line.values == tuple(k / 10 for k in range(11))
    for value in (1.0, 0.0, 0.5, 1.0):  # in any order, and again
        alone = run(make(name, alpha=value), tmp_path / str(value), inputs=inputs).classifier
        assert torch.equal(line.at(value).eval()(images()), alone(images())), value


def test_flyp_wise_interpolates_tower_and_head_of_flyp(tmp_path):
    inputs = inputs_of(make("flyp_wise"))
    assert list(inputs) == ["flyp"]
    end = run(make("flyp_wise", alpha=1.0), tmp_path / "end", inputs=inputs).classifier
    assert torch.equal(end.tensors()["weight"], inputs["flyp"]["tensors"]["weight"])
    start = run(make("zero_shot"), tmp_path / "zs").classifier.tensors()
    half = run(make("flyp_wise"), tmp_path / "half", inputs=inputs).classifier.tensors()
    expected = interpolate(start, inputs["flyp"]["tensors"], 0.5)
    assert all(torch.equal(half[key], expected[key]) for key in expected)


def test_a_soup_is_the_mean_of_the_seeds(tmp_path):
    method = make("model_soup", members=2)
    inputs = inputs_of(method)
    assert list(inputs) == ["ft:0", "ft:1"] and method.pools() and method.input_seeds(method.hyper, 4) == (4, 5)
    soup = run(method, tmp_path / "soup", inputs=inputs).classifier.tensors()
    one, two = (run_["tensors"] for run_ in inputs.values())
    assert not torch.equal(one["weight"], two["weight"])
    for key in soup:
        torch.testing.assert_close(soup[key].float(), (one[key].double() + two[key]).float() / 2)
    assert all(torch.equal(value, one[key]) for key, value in mean([one]).items())  # of one model: that model


def test_model_stock_by_hand():
    start = {"w": torch.tensor([1.0, 1.0]), "still": torch.ones(2), "n": torch.tensor(3)}
    members = [
        {"w": torch.tensor([2.0, 1.0]), "still": torch.ones(2), "n": torch.tensor(3)},
        {"w": torch.tensor([1.6, 1.8]), "still": torch.ones(2), "n": torch.tensor(3)},
    ]
    merged = stock(start, members)  # cos 0.6, t 0.75: start + 0.75 * (0.8, 0.4)
    torch.testing.assert_close(merged["w"], torch.tensor([1.6, 1.3]))
    assert torch.equal(merged["still"], start["still"]) and merged["n"] == 3
    same = stock(start, [members[0]] * 3)
    torch.testing.assert_close(same["w"], members[0]["w"])  # equal differences: t = 1
    opposite = stock({"w": torch.zeros(1)}, [{"w": torch.ones(1)}, {"w": -torch.ones(1)}])
    assert opposite["w"].item() == 0


@hypothesis_settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(0, 10_000))
def test_model_stock_lies_between_the_start_and_the_mean(n, seed):
    generator = torch.Generator().manual_seed(seed)
    start = {"w": torch.randn(6, generator=generator)}
    members = [{"w": torch.randn(6, generator=generator)} for _ in range(n)]
    deltas = [m["w"] - start["w"] for m in members]
    pairs = [torch.cosine_similarity(deltas[i], deltas[j], dim=0).item() for i in range(n) for j in range(n) if i != j]
    cos = max(0.0, sum(pairs) / len(pairs))
    t = n * cos / (1 + (n - 1) * cos)
    expected = start["w"] + t * (mean(members)["w"] - start["w"])
    torch.testing.assert_close(stock(start, members)["w"], expected, atol=1e-5, rtol=1e-5)


# -- Lipsum-FT


def test_lipsum_starts_as_zero_shot_and_keeps_the_text_tower(tmp_path):
    training, ctx, data = started("lipsum_ft")
    student = training.student.eval()
    classifier = run(make("zero_shot"), tmp_path).classifier
    batch = data[0]
    torch.testing.assert_close(student(batch).logits, classifier(batch.images), atol=1e-4, rtol=1e-5)
    text = copies([*ctx.encoder.text_parameters(), ctx.encoder.clip.logit_scale])
    for step, batch in enumerate(data):
        training.step(step, batch)
    assert not any(moved([*ctx.encoder.text_parameters(), ctx.encoder.clip.logit_scale], text))
    assert torch.equal(student.tower.bias, torch.zeros(len(CLASSES)))
    finished_one = training.method.finish(student, ctx)
    torch.testing.assert_close(finished_one(batch.images), student(batch).logits, atol=1e-4, rtol=1e-5)


def test_lipsums_term_is_half_the_mean_square_of_the_change():
    training, ctx, data = started("lipsum_ft", strength=0.7, texts=5)
    training.step(0, data[0])
    with torch.no_grad():
        student, teacher = training.student(data[1]), training.teacher.embed(data[1])
        tokens = random_texts(ctx.encoder, 5, 8, 0, 1)
        texts = normalize(ctx.encoder.text_features(tokens), dim=-1)
        change = ctx.encoder.logit_scale * (student.image @ texts.T - teacher.image @ texts.T)  # (B, M)
        expected = 0.7 * (change.square().sum(dim=1) / (2 * 5)).mean()
        plain = cross_entropy(student.logits, data[1].labels)
    terms = training.step(1, data[1])
    assert terms["lipsum"].item() == pytest.approx(expected.item(), rel=1e-4) and expected > 0
    assert terms["cross_entropy"].item() == pytest.approx(plain.item(), rel=1e-6)


def test_random_texts_follow_from_seed_and_step_alone():
    model = encoder()
    texts = random_texts(model, 80, 8, seed=1, step=3)
    assert texts.shape == (80, 10) and torch.equal(texts, random_texts(model, 80, 8, seed=1, step=3))
    start, end = model.tokenize(["a"])[0, 0], model.tokenize(["a"]).max()
    assert (texts[:, 0] == start).all() and (texts[:, -1] == end).all()
    inner = texts[:, 1:-1]
    assert inner.max() < start and inner.min() >= 0 and len(inner.unique()) > 100
    for other in ({"seed": 1, "step": 4}, {"seed": 2, "step": 3}):
        assert not torch.equal(texts, random_texts(model, 80, 8, **other))


def test_a_resumed_lipsum_run_sees_the_same_texts(tmp_path):
    whole = run(make("lipsum_ft"), tmp_path / "whole").classifier.tensors()
    stops = iter([False, False, False, False, True])
    from robustft.methods.training.trainer import Interrupted

    with pytest.raises(Interrupted):
        run(make("lipsum_ft"), tmp_path / "cut", should_stop=lambda: next(stops))
    resumed = run(make("lipsum_ft"), tmp_path / "cut").classifier.tensors()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_no_row_changes_its_inputs(tmp_path):
    for name in ("model_soup", "model_stock", "flyp_wise"):
        method = make(name)
        inputs = inputs_of(method)
        before = copy.deepcopy({key: value["tensors"] for key, value in inputs.items()})
        run(method, tmp_path / name / "out", inputs=inputs)
        for key, tensors in before.items():
            assert all(torch.equal(tensors[k], inputs[key]["tensors"][k]) for k in tensors)


def test_heads_of_two_tower_rows_come_from_the_text_tower_that_is_evaluated():
    training, ctx, data = started("flyp_wma")
    for step, batch in enumerate(data):
        training.step(step, batch)
    model = training.teacher.model
    classifier = training.method.finish(model, ctx)
    assert torch.equal(classifier.weight, build_head(model.encoder, CLASSES, PROMPTS))
    assert not torch.equal(classifier.weight, build_head(ctx.encoder, CLASSES, PROMPTS))
