"""Teachers, kernels and schedules against the golden file and numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from methods_kit import Scalar, follow
from repository import golden
from torch import nn

from robustft.methods.schedules import clip_limit, learning_rate, linear_momentum
from robustft.methods.teachers import EMATeacher, StaticTeacher, WMATeacher, beta_kernel, kernel_weights, online_weights

pytestmark = pytest.mark.computes

TEACHERS, SCHEDULES = golden("teachers.json"), golden("schedules.json")


def close(value, expected, absolute=1e-12):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(torch.as_tensor(value, dtype=torch.float64), expected, atol=absolute, rtol=1e-11)


@pytest.mark.parametrize("case", TEACHERS["wma"], ids=lambda c: f"T{c['T']}-beta{c['beta']}-every{c['update_every']}")
def test_wma_teacher_and_its_weights(case):
    total, every, kernel = case["T"], case["update_every"], beta_kernel(case["beta"])
    trajectory, steps = TEACHERS["students"][f"T{total}"], case["updates_after_step"]
    alphas = kernel_weights(kernel, total)
    for clock, expected in (("released", case["released_code"]), ("definition", case["paper_definition"])):
        if "teacher" not in expected:  # one closed form covers both where every = 1
            close(follow(lambda s: WMATeacher(s, total, kernel), trajectory), expected["teacher_closed_form"])
            expected = case["released_code"]
        picked = alphas[expected["kernel_index"]]
        close(picked, expected["kernel_weight"])
        omegas = online_weights(picked)
        close(omegas, expected["omega"])
        close(omegas[1:] / (1 - omegas[1:]), expected["relative_weight"])
        close((1 - omegas[1:]).prod(), expected["final_share_of_initial"])
        for dtype, absolute in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            make = lambda s: WMATeacher(s, total, kernel, every=every, clock=clock)  # noqa: B023, E731
            values = follow(make, trajectory, dtype)
            close([values[k] for k in steps], expected["teacher"], absolute)
            unchanged = [k for k in range(1, total + 1) if k not in steps]
            assert all(values[k] == values[k - 1] for k in unchanged)
    if every == 1:
        make = lambda s: WMATeacher(s, total, kernel, keep_initial=False)  # noqa: E731
        close(follow(make, trajectory), case["paper_algorithm_1"]["teacher"])


@pytest.mark.parametrize("case", TEACHERS["ema"], ids=lambda c: f"T{c['T']}-every{c['update_every']}")
def test_ema_teacher(case):
    total = case["T"]
    known = dict(case["theta_at"]) if "theta_at" in case else dict(enumerate(TEACHERS["students"][case["student"]]))
    student = Scalar(known[0])
    teacher = EMATeacher(
        student,
        total,
        start=case["momentum_start"],
        end=case["momentum_end"],
        warmup_fraction=case["warmup_fraction"],
        every=case["update_every"],
    )
    expected = {step: value for step, _, value in case["updates"]}
    for step in range(total):
        before = teacher.model.theta.item()
        with torch.no_grad():
            student.theta.fill_(known.get(step + 1, float("nan")))
        teacher.update(step)
        close(teacher.model.theta.item(), expected.get(step, before))


@pytest.mark.parametrize("case", TEACHERS["ema_momentum_schedule"], ids=lambda c: f"T{c['T']}")
def test_momentum_schedule(case):
    for step, momentum in case["values"]:
        close(linear_momentum(step, case["src"], case["tar"], case["warm"], case["T"]), momentum)


def test_shares_at_imagenet_scale():
    example = TEACHERS["imagenet_scale_example"]
    total = example["T"]
    for row in example["rows"]:
        row = dict(zip(example["columns"], row, strict=True))
        steps = [k for k in range(1, total + 1) if (k - 1) % row["update_every"] == 0 or k == total]
        assert len(steps) == row["updates"]
        kernel = beta_kernel(row["beta"])
        for name, index in (("paper", [0, *steps]), ("released", range(len(steps) + 1))):
            weights = torch.tensor([kernel((k + 0.5) / (total + 1)) for k in index], dtype=torch.float64)
            close(weights[0] / weights.sum(), row[f"share_initial_{name}"])
            close(weights[-1] / weights.sum(), row[f"share_last_{name}"])


@pytest.mark.parametrize("case", SCHEDULES["cosine_lr"], ids=lambda c: f"T{c['total']}-floor{c['min_lr']}")
def test_learning_rate(case):
    for step, rate in case["values"]:
        value = learning_rate(step, case["base_lr"], case["warmup"], case["total"], case["min_lr"])
        assert value == pytest.approx(rate, abs=1e-12 * case["base_lr"], rel=1e-12)


def test_learning_rate_of_two_groups():
    case = SCHEDULES["cosine_lr_two_groups"]
    for step, *rates in case["values"]:
        for base, rate in zip(case["base_lrs"], rates, strict=True):
            value = learning_rate(step, base, case["warmup"], case["total"], case["min_lr"])
            assert value == pytest.approx(rate, abs=1e-12 * base, rel=1e-12)


@pytest.mark.parametrize("case", SCHEDULES["cosine_grad_norm"], ids=lambda c: f"T{c['total']}-{c['initial']}")
def test_clip_limit(case):
    for step, limit in case["values"]:
        assert clip_limit(step, case["initial"], case["final"], case["total"]) == pytest.approx(limit, rel=1e-12)


def test_online_weights_by_hand():
    close(
        online_weights(kernel_weights(beta_kernel(0.5), 4)),
        [1, 0.395644, 0.266116, 0.225020, 0.255800],
        absolute=5e-7,
    )
    close(online_weights(kernel_weights(beta_kernel(0.5), 3)), [1, 0.405869, 0.288696, 0.297066], absolute=5e-7)
    close(online_weights(kernel_weights(beta_kernel(1), 9)), [1 / (t + 1) for t in range(10)])


def test_ema_by_hand():
    """m = 0.9, teacher 1, student 0 -> 0.9; then student 0 again -> 0.81."""
    close(follow(lambda s: EMATeacher(s, 2, start=0.9, end=0.9), [1.0, 0.0, 0.0]), [1, 0.9, 0.81])


def test_wma_by_hand():
    """Uniform kernel: the plain mean of all weights so far, the pretrained ones included."""
    close(follow(lambda s: WMATeacher(s, 3, beta_kernel(1)), [1.0, 0.0, 0.5, 2.5]), [1, 0.5, 0.5, 1])


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    trajectory=st.lists(st.floats(-10, 10), min_size=2, max_size=30),
    beta1=st.floats(0.1, 3),
    beta2=st.floats(0.1, 3),
)
def test_wma_teacher_is_the_kernel_weighted_mean(trajectory, beta1, beta2):
    total, kernel = len(trajectory) - 1, beta_kernel(beta1, beta2)
    alphas = kernel_weights(kernel, total)
    omegas = online_weights(alphas)
    assert ((omegas >= 0) & (omegas <= 1)).all()
    mean = (alphas * torch.tensor(trajectory, dtype=torch.float64)).sum() / alphas.sum()
    close(follow(lambda s: WMATeacher(s, total, kernel), trajectory)[-1], mean, absolute=1e-9)


@pytest.mark.parametrize(
    "make",
    [StaticTeacher, lambda s: EMATeacher(s, 5), lambda s: WMATeacher(s, 5)],
    ids=["static", "ema", "wma"],
)
def test_teacher_of_a_student_that_rests_stays_put_and_gets_no_gradient(make):
    student = Scalar(0.7)
    teacher = make(student)
    (student(torch.tensor(2.0)) + teacher.embed(torch.tensor(2.0))).backward()
    for step in range(5):
        teacher.update(step)
    assert teacher.model.theta.item() == student.theta.item() and teacher.model.theta.grad is None
    assert not teacher.embed(torch.tensor(2.0)).requires_grad and not teacher.model.training


def test_static_teacher_never_moves():
    assert follow(StaticTeacher, [1.0, 2.0, 3.0]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("make", [lambda s: EMATeacher(s, 3, start=0.5, end=0.5), lambda s: WMATeacher(s, 3)])
def test_a_teacher_follows_weights_that_were_given_other_memory(make):
    """`p.data = ...`, as Module.to and other people's code do it."""
    values, teachers = [], []
    for rebind in (False, True):
        student = Scalar(1.0)
        teachers.append(make(student))
        for step, theta in enumerate((2.0, 3.0, 5.0)):
            new = torch.tensor(theta, dtype=torch.float64)
            if rebind:
                student.theta.data = new
            else:
                student.theta.data.copy_(new)
            teachers[-1].update(step)
        values.append(teachers[-1].model.theta.item())
    assert values[0] == values[1] != 1.0


def test_a_kernel_that_is_zero_in_floats_near_its_ends_still_gives_its_weighted_mean():
    kernel, trajectory = beta_kernel(200), [math.sin(k) for k in range(501)]
    alphas = kernel_weights(kernel, 500)
    assert alphas[0] == alphas[-1] == 0 < alphas[250]
    mean = (alphas * torch.tensor(trajectory, dtype=torch.float64)).sum() / alphas.sum()
    assert follow(lambda s: WMATeacher(s, 500, kernel), trajectory)[-1] == pytest.approx(mean.item(), abs=1e-12)


def test_buffers_are_not_averaged():
    student = nn.BatchNorm1d(2)
    teacher = WMATeacher(student, 4)
    student.running_mean.fill_(9.0)
    teacher.update(0)
    assert torch.equal(teacher.model.running_mean, torch.zeros(2))


@pytest.mark.parametrize(
    "make",
    [lambda s: EMATeacher(s, 8, every=2), lambda s: WMATeacher(s, 8, every=3, clock="released")],
    ids=["ema", "wma"],
)
def test_a_restored_teacher_goes_on_bit_for_bit(make):
    trajectory = [0.3, 0.1, 0.7, 0.2, 0.9, 0.4, 0.6, 0.8, 0.5]
    whole = follow(make, trajectory)[-1]
    student = Scalar(trajectory[0])
    teacher = make(student)
    for step, theta in enumerate(trajectory[1:]):
        if step == 4:
            state = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
            teacher = make(student)
            teacher.load_state_dict(state)
        student.theta.data.fill_(theta)
        teacher.update(step)
    assert teacher.model.theta.item() == whole


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: beta_kernel(0), "shape parameters must be > 0"),
        (lambda: beta_kernel(1, math.inf), "shape parameters must be > 0 and finite"),
        (lambda: EMATeacher(Scalar(1.0), 0), "EMATeacher: total_steps and every must be >= 1"),
        (lambda: EMATeacher(Scalar(1.0), 3, every=0), "EMATeacher: total_steps and every must be >= 1"),
        (lambda: EMATeacher(Scalar(1.0), 3, end=1.1), r"must be in \[0, 1\], got 0.05, 1.1 and 0.2"),
        (lambda: WMATeacher(Scalar(1.0), 0), "total_steps and every must be >= 1"),
        (lambda: WMATeacher(Scalar(1.0), 3, clock="wall"), "clock must be"),
    ],
)
def test_wrong_arguments_are_one_sentence(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
