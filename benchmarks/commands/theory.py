"""`robustft theory`: the paper's linear analysis with numbers, one table and two figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..host.places import Place
from ..host.printed import counted
from .console import make_console

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

SINGULAR_VALUES = (2.0, 1.2, 0.8, 0.5)  # of the data: a task subspace of 4 in 8 dimensions
QUARTERS = (0.25, 0.5, 0.75, 1.0)
LENGTHS = (10, 18, 32, 56, 100, 178, 316, 562, 1000, 1778, 3162, 5623, 10000)
KERNELS = {"uniform": 1.0, "Beta(0.5)": 0.5}


class Problem(NamedTuple):
    """Least squares of a task that sees a part of the space."""

    w0: Tensor
    """(D, d) pretrained weights."""
    x: Tensor
    """(d, n) data of rank 4 with `SINGULAR_VALUES`."""
    y: Tensor
    """(D, n) contrastive targets."""


def make_problem(seed: int, dimension: int = 8, embedding: int = 4, samples: int = 10) -> Problem:
    """Gaussian weights, random directions; d = 8, D = 4, n = 10 in float64."""
    import torch

    from ...methods.linear_theory import contrastive_targets

    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rank = len(SINGULAR_VALUES)
    left, right = (torch.linalg.qr(draw(size, rank)).Q for size in (dimension, samples))
    x = left @ torch.diag(torch.tensor(SINGULAR_VALUES, dtype=torch.float64)) @ right.T
    return Problem(draw(embedding, dimension), x, contrastive_targets(draw(embedding, 6) / samples, draw(6, samples)))


class Study(NamedTuple):
    """What the table and the figures show."""

    weights: dict[str, Tensor]
    """The (last) student of each strategy, pretrained weights first."""
    descent: dict[str, float]
    """Largest difference between those weights and gradient descent on the same objective."""
    gaps: dict[str, list[float]]
    """By teacher: ||(W^t - W_T^t) X|| after steps 1 to T, relative to a static teacher's."""
    held: dict[str, list[float]]
    """By teacher: ||(W_T^T - W*) P|| / ||(W0 - W*) P|| for runs of `LENGTHS` steps (Theorem C.8)."""
    floors: list[float]
    """For the same lengths: the floor under the Beta(0.5) kernel's (C.6)."""


def study(problem: Problem, strength: float, steps: int, momentum: float) -> Study:
    """Every closed form, the descent that it is the limit of, and four teachers over a run.

    Args:
        strength: lambda. steps: T. momentum: of the EMA, constant, as in Eq. 16.
    """
    import torch

    from ...methods import linear_theory as theory

    w0, x, y = problem

    def objective(penalty: Callable[[Tensor], Tensor | float], w: Tensor) -> Tensor:
        return (w @ x - y).square().sum() / 2 + penalty(w)

    def distilling(teacher: Tensor, w: Tensor) -> Tensor:
        return strength / 2 * ((w - teacher) @ x).square().sum()

    solution = y @ torch.linalg.pinv(x)
    weights = {
        "pretrained": w0,
        "direct": theory.direct_finetuning(w0, x, y),
        "L2-SP": theory.l2_sp(w0, x, y, strength),
    }
    penalties: dict[str, Callable[[Tensor], Tensor | float]] = {
        "direct": lambda w: 0.0,
        "L2-SP": lambda w: strength / 2 * (w - w0).square().sum(),
    }
    largest, smallest = SINGULAR_VALUES[0] ** 2, SINGULAR_VALUES[-1] ** 2
    curvatures = {"direct": (largest, smallest), "L2-SP": (largest + strength, smallest + strength)}
    gaps: dict[str, list[float]] = {}
    for name, omegas in _omegas(steps, momentum).items():
        teacher, gaps[name] = w0, []
        for omega in omegas.tolist():
            before = teacher
            student, teacher = theory.wma_step(w0, teacher, x, y, strength, omega)
            gaps[name].append(_ratio((student - teacher) @ x, (w0 - solution) @ x) * (1 + strength))
        weights[name] = student
        penalties[name] = partial(distilling, before)
        curvatures[name] = ((1 + strength) * largest, (1 + strength) * smallest)

    descent = {}
    for name, penalty in penalties.items():
        steepest, flattest = curvatures[name]  # of what the gradient ever reaches: the steps do not grow with lambda
        limit = theory.gradient_descent(partial(objective, penalty), w0, 1 / steepest, round(26 * steepest / flattest))
        descent[name] = float((limit - weights[name]).abs().max())

    held: dict[str, list[float]] = {name: [] for name in gaps}
    floors = []
    for length in LENGTHS:
        for name, omegas in _omegas(length, momentum).items():
            held[name].append(float(theory.teacher_errors(omegas, strength)[-1]))
        floors.append(theory.persistence_bound(_alphas("Beta(0.5)", length), strength))
    return Study(weights, descent, gaps, held, floors)


def _alphas(kernel: str, steps: int) -> Tensor:
    from ...methods.teachers import beta_kernel, kernel_weights

    return kernel_weights(beta_kernel(KERNELS[kernel]), steps)


def _omegas(steps: int, momentum: float) -> dict[str, Tensor]:
    """By teacher, the new student's share at steps 1 to T."""
    import torch

    from ...methods.teachers import online_weights

    static = torch.zeros(steps, dtype=torch.float64)
    kernels = {name: online_weights(_alphas(name, steps))[1:] for name in KERNELS}
    return {"static": static, "EMA": static + (1 - momentum), **kernels}


def kept(problem: Problem, weights: Tensor) -> list[float]:
    """Share of W0 in the weights: along each direction of the task, strongest first, then on the complement.

    Along direction u the weights are c W0 u + (1 - c) W* u, and c is the share.
    """
    import torch

    w0, x, y = problem
    directions = torch.linalg.svd(x).U  # the first four span the task
    rank = len(SINGULAR_VALUES)
    start, end = (w0 - y @ torch.linalg.pinv(x)) @ directions, (weights - y @ torch.linalg.pinv(x)) @ directions
    kept_shares = (start * end).sum(dim=0)[:rank] / start.square().sum(dim=0)[:rank]
    outside = (start[:, rank:] * end[:, rank:]).sum() / start[:, rank:].square().sum()
    return [*kept_shares.tolist(), float(outside)]


def _point(problem: Problem, weights: Tensor) -> tuple[float, float]:
    """(way from W0 to W* on the task subspace, share of W0 kept on the complement)."""
    import torch

    from ...methods.linear_theory import task_projector

    w0, x, y = problem
    way = y @ torch.linalg.pinv(x) - w0 @ task_projector(x)
    return float(((weights - w0) * way).sum() / way.square().sum()), kept(problem, weights)[-1]


def _ratio(one: Tensor, other: Tensor) -> float:
    return float(one.norm() / other.norm())


def _table(problem: Problem, found: Study, title: str) -> Table:
    from rich.table import Table

    def column(name: str) -> None:
        table.add_column(name, justify="right", no_wrap=True)

    table = Table(title=title, title_justify="left")
    table.add_column("strategy")
    for name in ("W0 kept, orthogonal", f"s={SINGULAR_VALUES[0]:g}", f"s={SINGULAR_VALUES[-1]:g}", "misfit", "descent"):
        column(name)
    for quarter in QUARTERS:
        column(f"gap {quarter:.0%}")
    start, best = (problem.w0 @ problem.x - problem.y).norm(), found.weights["direct"] @ problem.x - problem.y
    for name, weights in found.weights.items():
        parts = kept(problem, weights)
        misfit = float(((weights @ problem.x - problem.y).norm() - best.norm()) / (start - best.norm()))
        row: list[Any] = [name, f"{parts[-1]:.6f}", *(f"{abs(v):.3f}" for v in (parts[0], parts[-2], misfit))]
        row.append(f"{found.descent[name]:.0e}" if name in found.descent else "")
        gaps = found.gaps.get(name)
        row += [f"{gaps[round(quarter * len(gaps)) - 1]:.3f}" if gaps else "" for quarter in QUARTERS]
        table.add_row(*row)
    return table


NOTES = """\
W0 kept: share of the pretrained weights left, on the part of the space that the task never sees and along the strongest
and the weakest direction of the data (singular value s). misfit: 0 as direct finetuning, 1 as pretrained. descent:
largest difference between the closed form and gradient descent on its objective. gap: distance of teacher and student
after a part of the run, relative to a static teacher's.
Every strategy keeps the orthogonal part exactly, L2-SP included: its closed form (Theorem 3.2) says so, against the
paper's words and its Figure 2b ("blends all directions"). They differ on the task subspace only."""


@click.command("theory")
@click.option("--lambda", "strength", type=click.FloatRange(min=0, min_open=True), default=0.9, help="Weight of R.")
@click.option("--steps", type=click.IntRange(min=4, max=100_000), default=1000, help="Steps of student and teacher.")
@click.option("--momentum", type=click.FloatRange(0, 1), default=0.99, help="Of the EMA teacher, constant.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of weights and data.")
@click.option("--results", type=Place(folder=True), default=Path("results"), help="Where the figures go.")
def theory(strength: float, steps: int, momentum: float, seed: int, results: Path) -> int:
    """The linear theory (paper, section 3): a table, and two figures in results/."""
    from ...results.plots.theory import plot_gap, plot_geometry

    console, problem = make_console(), make_problem(seed)
    found = study(problem, strength, steps, momentum)
    title = f"linear theory, lambda {strength:g}, {counted(steps, 'step')}, momentum {momentum:g}"
    console.print(_table(problem, found, title))
    console.print(NOTES, soft_wrap=True)
    points = {name: _point(problem, weights) for name, weights in found.weights.items()}
    kept_shares = {name: kept(problem, weights) for name, weights in found.weights.items() if name != "pretrained"}
    files = plot_geometry(points, kept_shares, SINGULAR_VALUES, results / "theory_geometry")
    files += plot_gap(found.gaps, LENGTHS, found.held, found.floors, results / "theory_gap")
    for file in files:
        console.print(f"wrote {file}", soft_wrap=True)
    return 0
