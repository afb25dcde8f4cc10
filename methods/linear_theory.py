"""The linear analysis of TRACER, section 3 and appendix C, as closed forms: a study, used by no method.

One linear encoder W (D, d), the other tower fixed. Data X (d, n), targets Y (D, n), start W0 (D, d). Every strategy
is gradient descent from W0 on

    L(W) = 1/2 ||W X - Y||_F^2 + R(W),

and they differ in R. With X = U diag(s) V^T cut to its rank, P = U U^T projects on the task subspace range(X), and
W* = Y X^+ = Y X^T (X X^T)^+ is the smallest solution of the unregularised problem. Weights are compared on P (the
task) and on I - P (what the task never sees).

All four keep W0 (I - P) exactly: every gradient has its rows in range(X), but for L2-SP's lambda (W - W0), which is 0
on I - P at the start and stays so. The paper's words and its Figure 2b say otherwise of L2-SP ("blends all
directions"); its own Theorem 3.2 has it as here. What differs is the share of W0 that is left on P, along the
direction of singular value s_i:

    direct 0,  L2-SP lambda / (s_i^2 + lambda),  self-distillation lambda / (1 + lambda) in every direction.

Everything is computed in float64. Source: arXiv:2605.29380, Theorem 3.2, appendices C.1 to C.9.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """Both models after one step of teacher and student."""

    student: Tensor
    """(D, d) W^t."""
    teacher: Tensor
    """(D, d) W_T^t."""


def contrastive_targets(text_weights: Tensor, texts: Tensor) -> Tensor:
    """Targets that make least squares the linear contrastive loss: Y = W_T X_T (n I - J), J all ones.

    With texts v_j = W_T x_j, the sum over all i and j of -<W x_i, v_i - v_j> is -<W X, Y>: data i is pulled to its own
    text and pushed from the others. Adding 1/2 ||W X||_F^2 gives 1/2 ||W X - Y||_F^2 up to a constant.

    Args:
        text_weights: (D, m) W_T, the fixed text encoder. texts: (m, n) X_T, text i belongs to column i of the data.

    Returns:
        (D, n); every row sums to 0. Embeddings [[1, 3]] give [[-2, 2]].
    """
    text_weights, texts = _float64(text_weights, texts)
    embeddings = text_weights @ texts  # (D, n)
    return embeddings.shape[1] * embeddings - embeddings.sum(dim=1, keepdim=True)


def task_projector(x: Tensor) -> Tensor:
    """P = X (X^T X)^+ X^T, the orthogonal projector on range(X).

    Args:
        x: (d, n) data, of any rank.

    Returns:
        (d, d), symmetric, P P = P, P X = X.
    """
    basis = _svd(_float64(x)[0])[0]
    return basis @ basis.T


def direct_finetuning(w0: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """No regularisation: W = W0 (I - P) + W*.

    Args:
        w0: (D, d) pretrained weights.
        x: (d, n) data, of any rank.
        y: (D, n) targets.

    Returns:
        (D, d). W0 is forgotten on P, and fits Y as well as any linear map does.
    """
    return _moved(w0, x, y, lambda s: 1 / s)


def l2_sp(w0: Tensor, x: Tensor, y: Tensor, strength: float) -> Tensor:
    """R = lambda/2 ||W - W0||_F^2: W = (Y X^T + lambda W0) (X X^T + lambda I)^-1.

    On I - P this is W0, exactly: (X X^T + lambda I)^-1 is 1/lambda there and Y X^T is 0.

    Args:
        w0: (D, d) pretrained weights.
        x: (d, n) data, of any rank.
        y: (D, n) targets.
        strength: lambda, >= 0; at 0 the limit, which is direct finetuning.

    Returns:
        (D, d). Keeps W0 with weight lambda / (s_i^2 + lambda) along the i-th left singular direction of X: little
        where the data are strong, nearly all where they are weak.
    """
    _check_strength(strength)
    return _moved(w0, x, y, lambda s: s / (s.square() + strength))


def static_self_distillation(w0: Tensor, x: Tensor, y: Tensor, strength: float) -> Tensor:
    """R = lambda/2 ||W X - W0 X||_F^2: W = W0 (I - P / (1 + lambda)) + W* / (1 + lambda).

    Args:
        w0: (D, d) pretrained weights.
        x: (d, n) data, of any rank.
        y: (D, n) targets.
        strength: lambda, >= 0; towards 0 the result is direct finetuning, towards infinity W0.

    Returns:
        (D, d). Keeps W0 with weight lambda / (1 + lambda) along every direction of P.
    """
    _check_strength(strength)
    return _moved(w0, x, y, lambda s: 1 / (s * (1 + strength)))


def wma_step(w0: Tensor, teacher: Tensor, x: Tensor, y: Tensor, strength: float, omega: float) -> Step:
    """One step of student and teacher, R = lambda/2 ||W X - W_T^{t-1} X||_F^2.

    The student solves its problem, W^t = W0 (I - P) + (lambda W_T^{t-1} P + W*) / (1 + lambda), then the teacher
    moves: W_T^t = (1 - omega_t) W_T^{t-1} + omega_t W^t. With errors against the task's solution, E^t = (W_T^t - W*) P
    (Theorem C.8):

        teacher contraction  E^t = (1 - omega_t / (1 + lambda)) E^{t-1}
        student tracking     (W^t - W*) P = lambda / (1 + lambda) E^{t-1}

    so that E^T is E^0 times a product: linear convergence where omega stays above a bound (C.9), as in an EMA, and
    never below (alpha_0 / sum_k alpha_k)^(1 / (1 + lambda)) for a kernel with alphas alpha_k (C.6; see
    `persistence_bound`).

    Args:
        w0: (D, d) pretrained weights.
        teacher: (D, d) W_T^{t-1}; W0 at the first step.
        x: (d, n) data, of any rank.
        y: (D, n) targets.
        strength: lambda, >= 0.
        omega: the new student's share of the teacher, in [0, 1]; 0 is a static teacher. A kernel's: `online_weights`.

    Returns:
        Student and teacher after the step.

    Raises:
        ValueError: if strength or omega is out of range.
    """
    _check_strength(strength)
    if not 0 <= omega <= 1:
        raise ValueError(f"wma_step: omega must be in [0, 1], got {omega}.")
    w0, teacher, x, y = _float64(w0, teacher, x, y)
    # From a start that agrees with the teacher on P and with W0 on I - P, this is self-distillation from the teacher.
    student = static_self_distillation(w0 + (teacher - w0) @ task_projector(x), x, y, strength)
    return Step(student, torch.lerp(teacher, student, omega))


def teacher_errors(omegas: Tensor, strength: float) -> Tensor:
    """How much of its first error a teacher still has: ||E^t|| / ||E^0|| = prod_{j <= t} (1 - omega_j / (1 + lambda)).

    Args:
        omegas: (T,) shares of the new student, for steps 1 to T.
        strength: lambda, >= 0.

    Returns:
        (T + 1,) entry t for the teacher after t steps; entry 0 is 1. A constant omega gives a geometric sequence.
    """
    _check_strength(strength)
    omegas = _float64(omegas)[0]
    return torch.cat([omegas.new_ones(1), (1 - omegas / (1 + strength)).cumprod(0)])


def persistence_bound(alphas: Tensor, strength: float) -> float:
    """A floor under `teacher_errors` of a kernel at the end of its run: (alpha_0 / sum_k alpha_k)^(1 / (1 + lambda)).

    The base is the share of the pretrained weights in the final teacher, prod_t (1 - omega_t); the power follows from
    1 - c omega >= (1 - omega)^c for c in [0, 1]. It is positive for every finite run and falls like a power of its
    length (T^(-1/2) for the base of Beta(0.5, 0.5), 1/T of a uniform kernel), where an EMA's falls exponentially.

    Args:
        alphas: (T + 1,) kernel weights, alpha_0 first; see `kernel_weights`.
        strength: lambda, >= 0.

    Returns:
        A fraction in (0, 1].
    """
    _check_strength(strength)
    alphas = _float64(alphas)[0]
    return float(alphas[0] / alphas.sum()) ** (1 / (1 + strength))


def gradient_descent(loss: Callable[[Tensor], Tensor], start: Tensor, rate: float, steps: int) -> Tensor:
    """Plain gradient descent, `W <- W - rate * dL/dW`, `steps` times; what the closed forms are the limit of.

    Args:
        loss: scalar of (D, d) weights. start: (D, d). rate: below 2 / the largest curvature of the loss.

    Returns:
        (D, d) float64.
    """
    weights = _float64(start)[0].detach().clone().requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(weights), weights)
        weights.data.sub_(rate * gradient)
    return weights.detach()


def _moved(w0: Tensor, x: Tensor, y: Tensor, inverse: Callable[[Tensor], Tensor]) -> Tensor:
    """W0 + (Y - W0 X) V diag(inverse(s)) U^T: the form that all four share, exact on I - P whatever the rank."""
    w0, x, y = _float64(w0, x, y)
    basis, singular, directions = _svd(x)
    return w0 + ((y - w0 @ x) @ directions * inverse(singular)) @ basis.T


def _svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (d, r), s (r,), V (n, r) of X = U diag(s) V^T, without what is zero up to rounding."""
    basis, singular, directions = torch.linalg.svd(x, full_matrices=False)
    kept = singular > singular.amax().clamp(min=0) * max(x.shape) * torch.finfo(x.dtype).eps
    return basis[:, kept], singular[kept], directions.T[:, kept]


def _float64(*arrays: Tensor) -> list[Tensor]:
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


def _check_strength(strength: float) -> None:
    if not strength >= 0:
        raise ValueError(f"linear_theory: strength (lambda) must be >= 0, got {strength}.")
