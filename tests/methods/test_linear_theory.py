"""The paper's linear theory: descent reaches the closed forms, what they keep and forget, how teachers move."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_kit import call

from robustft.benchmarks.commands import theory as command
from robustft.methods import linear_theory as theory
from robustft.methods.teachers import EMATeacher, WMATeacher, beta_kernel, kernel_weights, online_weights
from robustft.results.plots.theory import plot_geometry

pytestmark = pytest.mark.computes

EXACT = {"rtol": 0, "atol": 1e-10}
quick = settings(max_examples=12, deadline=None, derandomize=True)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def problems(draw_from):
    """(w0, x, y): x of any rank below or at full, singular values in [0.6, 2]."""
    d, n, out = (draw_from(st.integers(1, 6)) for _ in range(3))
    rank = draw_from(st.integers(1, min(d, n)))
    seed = draw_from(st.integers(0, 10_000))
    values = draw_from(st.lists(st.floats(0.6, 2), min_size=rank, max_size=rank))
    left, right = (torch.linalg.qr(draw(seed + i, size, rank)).Q for i, size in ((1, d), (2, n)))
    x = left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T
    return draw(seed + 3, out, d), x, draw(seed + 4, out, n)


strengths = st.floats(0.05, 3)


def descend(problem, penalty, curvature):
    w0, x, y = problem
    loss = lambda w: (w @ x - y).square().sum() / 2 + penalty(w)  # noqa: E731
    return theory.gradient_descent(loss, w0, 1.8 / curvature, 150)


def parts(problem):
    """(P, I - P, W*) by numpy's pseudo-inverse, apart from the module's own decomposition."""
    _, x, y = (np.asarray(array) for array in problem)
    projector = x @ np.linalg.pinv(x, rcond=1e-10)
    return projector, np.eye(len(x)) - projector, y @ np.linalg.pinv(x, rcond=1e-10)


# what descent converges to


@quick
@given(problems())
def test_descent_converges_to_direct_finetuning(problem):
    reached = descend(problem, lambda w: 0.0, 4)
    torch.testing.assert_close(reached, theory.direct_finetuning(*problem), rtol=0, atol=1e-8)


@quick
@given(problems(), strengths)
def test_descent_converges_to_l2_sp(problem, strength):
    reached = descend(problem, lambda w: strength / 2 * (w - problem[0]).square().sum(), 4 + strength)
    torch.testing.assert_close(reached, theory.l2_sp(*problem, strength), rtol=0, atol=1e-8)


@quick
@given(problems(), strengths)
def test_descent_converges_to_static_self_distillation(problem, strength):
    w0, x, _ = problem
    reached = descend(problem, lambda w: strength / 2 * (w @ x - w0 @ x).square().sum(), 4 * (1 + strength))
    torch.testing.assert_close(reached, theory.static_self_distillation(*problem, strength), rtol=0, atol=1e-8)


@quick
@given(problems(), strengths, st.floats(0, 1))
def test_descent_converges_to_the_student_of_a_wma_step(problem, strength, omega):
    w0, x, y = problem
    teacher = theory.wma_step(w0, w0, x, y, strength, 0.3).teacher
    reached = descend(problem, lambda w: strength / 2 * (w @ x - teacher @ x).square().sum(), 4 * (1 + strength))
    step = theory.wma_step(w0, teacher, x, y, strength, omega)
    torch.testing.assert_close(reached, step.student, rtol=0, atol=1e-8)
    torch.testing.assert_close(step.teacher, (1 - omega) * teacher + omega * step.student, **EXACT)


@quick
@given(problems(), strengths)
def test_closed_forms_are_the_papers_equations(problem, strength):
    w0, x, y = (np.asarray(array) for array in problem)
    projector, outside, solution = parts(problem)
    teacher = w0 + draw(1, *w0.shape).numpy() @ projector
    np.testing.assert_allclose(theory.task_projector(x), projector, **EXACT)
    np.testing.assert_allclose(theory.direct_finetuning(w0, x, y), w0 @ outside + solution, **EXACT)
    ridge = (y @ x.T + strength * w0) @ np.linalg.inv(x @ x.T + strength * np.eye(len(x)))
    np.testing.assert_allclose(theory.l2_sp(w0, x, y, strength), ridge, **EXACT)
    distilled = w0 @ (np.eye(len(x)) - projector / (1 + strength)) + solution / (1 + strength)
    np.testing.assert_allclose(theory.static_self_distillation(w0, x, y, strength), distilled, **EXACT)
    student = w0 @ outside + (strength * teacher @ projector + solution) / (1 + strength)
    np.testing.assert_allclose(theory.wma_step(w0, teacher, x, y, strength, 0.2).student, student, **EXACT)


# what is kept


@quick
@given(problems(), strengths)
def test_every_strategy_keeps_the_orthogonal_part_l2_sp_too(problem, strength):
    """Against the paper's words and Figure 2b, where L2-SP blends all directions: Theorem 3.2 itself says this."""
    w0, x, y = problem
    _, outside, _ = parts(problem)
    for weights in (
        theory.direct_finetuning(w0, x, y),
        theory.l2_sp(w0, x, y, strength),
        theory.static_self_distillation(w0, x, y, strength),
        *theory.wma_step(w0, w0, x, y, strength, 0.5),
    ):
        np.testing.assert_allclose(weights.numpy() @ outside, w0.numpy() @ outside, rtol=0, atol=1e-12)


def test_l2_sp_forgets_by_direction_and_self_distillation_evenly():
    x = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))  # two directions of the task, one outside
    w0, y = torch.ones(1, 3), torch.zeros(1, 3)  # W* = 0: what is left is W0's share
    assert theory.l2_sp(w0, x, y, 1.0).tolist()[0] == pytest.approx([1 / 5, 1 / 2, 1])
    assert theory.static_self_distillation(w0, x, y, 1.0).tolist()[0] == pytest.approx([1 / 2, 1 / 2, 1])
    assert theory.direct_finetuning(w0, x, y).tolist()[0] == pytest.approx([0, 0, 1])


@quick
@given(problems())
def test_self_distillation_runs_from_direct_finetuning_to_the_pretrained_weights(problem):
    direct = theory.direct_finetuning(*problem)
    torch.testing.assert_close(theory.static_self_distillation(*problem, 1e-13), direct, **EXACT)
    torch.testing.assert_close(theory.static_self_distillation(*problem, 0), direct, **EXACT)
    torch.testing.assert_close(theory.l2_sp(*problem, 0), direct, **EXACT)
    for strong in (theory.static_self_distillation, theory.l2_sp):
        torch.testing.assert_close(strong(*problem, 1e14), problem[0], rtol=0, atol=1e-9)


def test_data_that_say_nothing_change_nothing():
    w0, x, y = draw(0, 2, 3), torch.zeros(3, 4), draw(1, 2, 4)
    for weights in (theory.direct_finetuning(w0, x, y), theory.wma_step(w0, w0, x, y, 1.0, 0.5).teacher):
        assert torch.equal(weights, w0)


def test_contrastive_targets_make_least_squares_the_linear_contrastive_loss():
    w, x, text_weights, texts = draw(0, 2, 3), draw(1, 3, 5), draw(2, 2, 4), draw(3, 4, 5)
    v, u = text_weights @ texts, w @ x
    contrastive = -sum(u[:, i] @ (v[:, i] - v[:, j]) for i in range(5) for j in range(5))
    y = theory.contrastive_targets(text_weights, texts)
    least_squares = ((u - y).square().sum() - y.square().sum() - u.square().sum()) / 2
    assert contrastive.item() == pytest.approx(least_squares.item(), rel=1e-12)
    torch.testing.assert_close(y @ torch.ones(5, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), **EXACT)
    assert theory.contrastive_targets([[1.0]], [[1.0, 3.0]]).tolist() == [[-2, 2]]


# how teachers move


@quick
@given(problems(), strengths, st.floats(0.2, 2), st.integers(1, 12))
def test_teacher_contracts_and_student_tracks(problem, strength, beta, steps):
    """Theorem C.8, at every step of a run."""
    w0, x, y = problem
    projector, _, solution = parts(problem)
    omegas = online_weights(kernel_weights(beta_kernel(beta), steps))[1:]
    errors = theory.teacher_errors(omegas, strength)
    teacher, start = w0, (w0.numpy() - solution) @ projector
    for t, omega in enumerate(omegas.tolist(), start=1):
        before = (teacher.numpy() - solution) @ projector
        student, teacher = theory.wma_step(w0, teacher, x, y, strength, omega)
        after = (teacher.numpy() - solution) @ projector
        np.testing.assert_allclose(after, (1 - omega / (1 + strength)) * before, **EXACT)
        tracking = (student.numpy() - solution) @ projector
        np.testing.assert_allclose(tracking, strength / (1 + strength) * before, **EXACT)
        np.testing.assert_allclose(after, errors[t].item() * start, **EXACT)


@quick
@given(st.floats(0.2, 2), st.floats(0.2, 2), strengths, st.integers(1, 400))
def test_a_teacher_whose_share_stays_up_converges_at_a_linear_rate(beta1, beta2, strength, steps):
    """C.9: the error after t steps is below (1 - omega_min / (1 + lambda))^t."""
    omegas = online_weights(kernel_weights(beta_kernel(beta1, beta2), steps))[1:]
    errors = theory.teacher_errors(omegas, strength)
    rate = 1 - omegas.min() / (1 + strength)
    assert (errors <= rate ** torch.arange(steps + 1) * (1 + 1e-12)).all() and (errors.diff() < 0).all()


@quick
@given(st.floats(0.1, 1), st.floats(0.1, 1), strengths, st.integers(1, 500))
def test_a_kernel_persists_over_a_finite_horizon(beta1, beta2, strength, steps):
    """C.6: what is left of the pretrained model stays above a positive floor, its share in the average to a power."""
    alphas = kernel_weights(beta_kernel(beta1, beta2), steps)
    omegas = online_weights(alphas)[1:]
    floor = theory.persistence_bound(alphas, strength)
    assert 0 < floor <= theory.teacher_errors(omegas, strength)[-1] * (1 + 1e-12)
    share = float((1 - omegas).prod())
    assert floor == pytest.approx(share ** (1 / (1 + strength)), rel=1e-9)


def test_kernels_fall_like_a_power_of_the_horizon_and_an_ema_exponentially():
    def left(steps, omegas=None, beta=None):
        omegas = online_weights(kernel_weights(beta_kernel(beta), steps))[1:] if omegas is None else omegas
        return math.log(theory.teacher_errors(omegas, 1.0)[-1])

    for beta, power in ((0.5, 1 / 2), (1.0, 1.0)):  # of the share of the pretrained weights; here to 1 / (1 + lambda)
        slope = (left(8000, beta=beta) - left(2000, beta=beta)) / math.log(4)
        assert slope == pytest.approx(-power / 2, abs=0.01)
    ema = [left(steps, omegas=torch.full((steps,), 0.1)) for steps in (100, 200, 400)]
    assert ema == pytest.approx([steps * math.log(0.95) for steps in (100, 200, 400)])
    assert left(1000, beta=0.5) > left(1000, beta=1.0) > left(1000, omegas=torch.full((1000,), 0.1))


def test_an_ema_collapses_onto_its_student_and_a_kernel_does_not():
    found = command.study(command.make_problem(3), strength=0.9, steps=400, momentum=0.9)
    assert found.gaps["static"] == pytest.approx([1.0] * 400)
    assert found.gaps["EMA"][-1] < 1e-9 < 0.1 < found.gaps["Beta(0.5)"][-1]
    ratios = np.array(found.gaps["EMA"][1:]) / np.array(found.gaps["EMA"][:-1])
    np.testing.assert_allclose(ratios[:200], 1 - 0.1 / 1.9, rtol=1e-6)  # geometric, to the last digit that is left
    assert found.gaps["uniform"][-1] < found.gaps["Beta(0.5)"][-1]
    assert max(found.descent.values()) < 1e-8


@pytest.mark.parametrize("strength", [1e-6, 1e3, 1e6])
def test_descent_meets_every_closed_form_in_as_many_steps_whatever_lambda_is(monkeypatch, strength):
    taken, descend = [], theory.gradient_descent
    monkeypatch.setattr(theory, "gradient_descent", lambda *a: taken.append(a[-1]) or descend(*a))
    found = command.study(command.make_problem(0), strength, steps=8, momentum=0.9)
    assert len(taken) == len(found.descent) == 6 and max(taken) < 1000
    assert max(found.descent.values()) < 1e-9


@pytest.mark.parametrize("kind", ["wma", "ema"])
def test_the_teachers_that_methods_use_move_like_the_theorys(kind):
    """The same run with `WMATeacher` and `EMATeacher`, on a module whose weights are set to each step's solution."""
    w0, x, y = command.make_problem(1)
    steps, strength = 9, 0.7
    student = torch.nn.Linear(*w0.T.shape, bias=False, dtype=torch.float64)
    student.weight.data.copy_(w0)
    if kind == "wma":
        teacher = WMATeacher(student, steps, beta_kernel(0.5))
        omegas = online_weights(kernel_weights(beta_kernel(0.5), steps))[1:].tolist()
    else:
        teacher, omegas = EMATeacher(student, steps, start=0.8, end=0.8), [0.2] * steps
    expected = w0
    for step, omega in enumerate(omegas):
        weights, expected = theory.wma_step(w0, expected, x, y, strength, omega)
        student.weight.data.copy_(weights)
        teacher.update(step)
        torch.testing.assert_close(teacher.model.weight.data, expected, rtol=0, atol=1e-12)


def test_values_out_of_range_are_refused_by_name():
    w0, x, y = draw(0, 2, 3), draw(1, 3, 4), draw(2, 2, 4)
    for call_it in (theory.l2_sp, theory.static_self_distillation):
        with pytest.raises(ValueError, match="strength .* got -1"):
            call_it(w0, x, y, -1)
    with pytest.raises(ValueError, match=r"omega must be in \[0, 1\], got 1.5"):
        theory.wma_step(w0, w0, x, y, 1.0, 1.5)


# the command


def test_the_command_prints_the_table_and_saves_two_figures(tmp_path, capsys):
    assert call("theory", "--steps", "40", "--results", str(tmp_path)) == 0
    output = capsys.readouterr().out
    table = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in output.splitlines() if "│" in line}
    assert list(table) == ["pretrained", "direct", "L2-SP", "static", "EMA", "uniform", "Beta(0.5)"]
    assert {row[0].strip() for row in table.values()} == {"1.000000"}  # the orthogonal part, of every strategy
    assert [cell.strip() for cell in table["static"][-4:]] == ["1.000"] * 4
    assert float(table["L2-SP"][1]) == pytest.approx(0.9 / (2.0**2 + 0.9), abs=5e-4)
    assert float(table["L2-SP"][2]) == pytest.approx(0.9 / (0.5**2 + 0.9), abs=5e-4)
    assert float(table["static"][1]) == float(table["static"][2]) == pytest.approx(0.9 / 1.9, abs=5e-4)
    assert all(float(row[4]) < 1e-8 for name, row in table.items() if name != "pretrained")
    assert 'against the\npaper\'s words and its Figure 2b ("blends all directions")' in output
    names = [f"theory_{figure}.{suffix}" for figure in ("geometry", "gap") for suffix in ("svg", "png")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


def test_the_command_refuses_what_makes_no_sense(capsys):
    assert call("theory", "--momentum", "1.5") == 2
    assert "'--momentum': 1.5 is not in the range" in capsys.readouterr().err


def test_same_numbers_same_bytes(tmp_path):
    points = {"pretrained": (0.0, 1.0), "direct": (1.0, 1.0), "L2-SP": (0.4, 1.0)}
    shares = {"direct": [0.0, 0.0, 1.0], "L2-SP": [0.2, 0.6, 1.0]}
    first, second = (plot_geometry(points, shares, (2.0, 0.5), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
