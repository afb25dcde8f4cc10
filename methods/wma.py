"""What the methods share whose teacher is a weighted moving average: its hyperparameters, and making it.

With the default kernel, Beta(0.5, 0.5) at (t + 0.5)/(T + 1), it is the Beta moving average of CLIPood (Shu et al., ICML
2023, arXiv:2302.00864; thuml/CLIPood:engine.py), which TRACER (arXiv:2605.29380) takes as its teacher.
"""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from .base import hyperparameters
from .teachers import EMATeacher, StaticTeacher, WMATeacher, beta_kernel

INTRODUCED = {"kernel": "beta", "beta2": None, "kernel_momentum": 0.999}
"""Fields that came after the first runs, with the value that means "as before"."""


@hyperparameters
class WMAHyper:
    """The kernel and the clock of a WMA teacher."""

    kernel: Literal["beta", "uniform", "linear", "exponential"] = "beta"
    """Weight over normalised time tau in (0, 1). "beta": `beta`, `beta2`; paper: section 3. "uniform": 1.
    "linear": tau. "exponential": an EMA of constant momentum `kernel_momentum`, pretrained weights included; it
    counts updates, whatever the `clock`, and has none of its own after the last step."""
    beta: Annotated[float, Field(gt=0)] = 0.5
    """Shape parameter of the Beta kernel, both if `beta2` is not given, > 0; below 1 it is U-shaped. Paper:
    section 5.2.1."""
    beta2: Annotated[float, Field(gt=0)] | None = None
    """Second shape parameter, > 0; none: as the first. The paper's kernels are symmetric."""
    kernel_momentum: Annotated[float, Field(ge=0, le=1)] = 0.999
    """Share of the old teacher kept at each update of the exponential kernel; [0, 1]. Ours: a common EMA."""
    update_every: Annotated[int, Field(ge=1)] = 1
    """Steps between teacher updates, >= 1. Paper and code: 1."""
    clock: Literal["definition", "released"] = "definition"
    """Kernel time if `update_every` > 1. "definition" (3.3): the true step. "released": number of updates
    over the same horizon, so that only the kernel's beginning is used."""
    keep_initial: bool = True
    """Counts the pretrained weights (alpha_0), as Definition 3.3 and the code do; Algorithm 1 forgets them
    at its first update."""

    def __post_init__(self) -> None:
        if self.kernel == "exponential" and not self.keep_initial:
            raise ValueError("keep_initial: must be true with kernel=exponential, which is an EMA, got False.")


def wma_teacher(hyper: Any, student: nn.Module, total_steps: int) -> StaticTeacher:
    """The teacher that a `WMAHyper` describes.

    The exponential kernel, alpha_k = (1 - m) m^(T-k) with alpha_0 = m^T, is run as the EMA that it equals: its
    weights leave the range of floats within a few hundred steps.
    """
    if hyper.kernel == "exponential":
        momentum = hyper.kernel_momentum
        return EMATeacher(student, total_steps, start=momentum, end=momentum, every=hyper.update_every)
    kernels = {"beta": (hyper.beta, hyper.beta2), "uniform": (1.0, 1.0), "linear": (2.0, 1.0)}
    options = {"every": hyper.update_every, "clock": hyper.clock, "keep_initial": hyper.keep_initial}
    return WMATeacher(student, total_steps, beta_kernel(*kernels[hyper.kernel]), **options)
