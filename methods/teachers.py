"""Teachers: copies of the student that get no gradient. One interface: `embed`, `update`, `state_dict`.

A teacher holds the student that it follows. The trainer calls `update(step)` after each optimizer step,
step counted from 0, so that the student then has done step + 1 updates. Parameters are averaged (the log of
the logit scale like any other), buffers are not. Frozen BatchNorm statistics stay as they were at the start;
where the trainer leaves the teacher's BatchNorm layers in train mode (`Settings.bn` "released"), the teacher
has statistics of its own, fed by its own forward passes, as in the code of CaRot and TRACER.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .schedules import linear_momentum

Kernel = Callable[[float], float]
"""Weight of the point tau in (0, 1) of a run."""


class StaticTeacher:
    """The student as it was at construction, for good.

    Args:
        student: the module to copy. The copy is in eval mode; only the trainer may say otherwise.
    """

    def __init__(self, student: nn.Module):
        self.model = copy.deepcopy(student).eval().requires_grad_(False)
        self._own: list[Tensor] = list(self.model.parameters())
        self._followed: list[Tensor] = list(student.parameters())

    @torch.no_grad()
    def embed(self, batch: Any) -> Any:
        """The teacher model's output for a batch, without autograd bookkeeping."""
        return self.model(batch)

    def update(self, step: int) -> None:
        """Does what the teacher does after optimizer step `step` (from 0); a static teacher does nothing."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that `load_state_dict` needs to go on bit for bit."""
        return {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        model = {name: tensor for name, tensor in state.items() if name.startswith("model.")}
        self.model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in model.items()})

    @torch.no_grad()
    def _move(self, weight: float) -> None:
        """Teacher becomes (1 - weight) * teacher + weight * student, in place, all parameters in one call."""
        torch._foreach_lerp_(self._own, self._followed, weight)


class EMATeacher(StaticTeacher):
    """Exponential moving average whose momentum rises linearly, then stays (CaRot; Eq. 16 of TRACER has it
    constant).

    After step t, if t is a multiple of `every`: teacher <- m(t) teacher + (1 - m(t)) student. The first
    update, at step 0 with momentum `start`, already replaces 95 % of the pretrained weights.

    Args:
        student: the module to follow.
        total_steps: T, the length of the run.
        start: momentum at step 0, in [0, 1].
        end: momentum after the warm-up, in [0, 1].
        warmup_fraction: part of T over which it rises, in [0, 1].
        every: steps between updates, >= 1.

    Raises:
        ValueError: if total_steps or every is below 1, or a momentum or the fraction is outside [0, 1].

    Source: MLAI-Yonsei/CaRot:src/models/carot_loss.py.
    """

    def __init__(
        self,
        student: nn.Module,
        total_steps: int,
        *,
        start: float = 0.05,
        end: float = 0.9,
        warmup_fraction: float = 0.2,
        every: int = 1,
    ):
        super().__init__(student)
        if total_steps < 1 or every < 1:
            raise ValueError(f"EMATeacher: total_steps and every must be >= 1, got {total_steps} and {every}.")
        if not all(0 <= share <= 1 for share in (start, end, warmup_fraction)):
            given = f"{start}, {end} and {warmup_fraction}"
            raise ValueError(f"EMATeacher: start, end and warmup_fraction must be in [0, 1], got {given}.")
        self.total_steps, self.every = total_steps, every
        self.start, self.end, self.warmup_fraction = start, end, warmup_fraction

    def update(self, step: int) -> None:
        if step % self.every == 0:
            momentum = linear_momentum(step, self.start, self.end, self.warmup_fraction, self.total_steps)
            self._move(1 - momentum)


class WMATeacher(StaticTeacher):
    """Kernel-weighted mean of the student's trajectory, made online (TRACER, Definition 3.3).

    With tau_k = (k + 0.5) / (T + 1) and alpha_k = kernel(tau_k) for the weights after k optimizer steps, an
    update after k steps is teacher <- (1 - omega) teacher + omega student, omega = alpha_k / sum of the
    alphas so far. Updates happen after step t if t is a multiple of `every`, and after the last step.

    Args:
        student: the module to follow.
        total_steps: T, the length of the run.
        kernel: weight over normalised time; `beta_kernel(0.5)` is the paper's.
        every: steps between updates, >= 1.
        clock: what k is when `every` > 1. "definition": the true step, so that the whole kernel is used.
            "released": the number of updates done, as in the released code, over the same horizon T: only
            the first 1/every of the kernel is ever seen, and a U-shaped kernel becomes a decreasing one.
            Equal when every = 1.
        keep_initial: False starts the sum at 0, as Algorithm 1 prints it: the first update then copies the
            student and the pretrained weights are lost. Definition 3.3 and the released code keep alpha_0.

    Raises:
        ValueError: if total_steps or every is below 1, or the clock is unknown.

    Example: T = 4, beta_kernel(0.5): omegas 0.395644, 0.266116, 0.225020, 0.255800.
    """

    def __init__(
        self,
        student: nn.Module,
        total_steps: int,
        kernel: Kernel | None = None,
        *,
        every: int = 1,
        clock: Literal["definition", "released"] = "definition",
        keep_initial: bool = True,
    ):
        super().__init__(student)
        if total_steps < 1 or every < 1:
            raise ValueError(f"WMATeacher: total_steps and every must be >= 1, got {total_steps} and {every}.")
        if clock not in ("definition", "released"):
            raise ValueError(f"WMATeacher: clock must be 'definition' or 'released', got {clock!r}.")
        self.total_steps, self.every, self.clock = total_steps, every, clock
        self.kernel = kernel or beta_kernel(0.5)
        self.updates = 0
        self.normaliser = self._alpha(0) if keep_initial else 0.0

    def _alpha(self, k: int) -> float:
        return self.kernel((k + 0.5) / (self.total_steps + 1))

    def update(self, step: int) -> None:
        if step % self.every == 0 or step == self.total_steps - 1:
            self.updates += 1
            alpha = self._alpha(step + 1 if self.clock == "definition" else self.updates)
            self.normaliser += alpha
            if alpha:  # a steep kernel is 0 in floats near its ends, where 0 of 0 would be no share
                self._move(alpha / self.normaliser)

    def state_dict(self) -> dict[str, Tensor]:
        counters = {
            "updates": torch.tensor(self.updates),
            "normaliser": torch.tensor(self.normaliser, dtype=torch.float64),
        }
        return super().state_dict() | counters

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.updates, self.normaliser = int(state["updates"]), float(state["normaliser"])


def beta_kernel(beta1: float, beta2: float | None = None) -> Kernel:
    """Density of the Beta distribution as a kernel on (0, 1).

    Args:
        beta1: the first shape parameter, > 0 and finite; (0.5, 0.5) is U-shaped, (1, 1) uniform.
        beta2: the second, by default the first.

    Raises:
        ValueError: if a shape parameter is not > 0 and finite.

    Source: TRACER, arXiv:2605.29380, section 3.
    """
    a, b = beta1, beta1 if beta2 is None else beta2
    if not (0 < a < math.inf and 0 < b < math.inf):
        raise ValueError(f"beta_kernel: shape parameters must be > 0 and finite, got {a} and {b}.")
    log_normaliser = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return lambda tau: math.exp(log_normaliser + (a - 1) * math.log(tau) + (b - 1) * math.log1p(-tau))


def kernel_weights(kernel: Kernel, total_steps: int) -> Tensor:
    """The alphas: kernel at tau_k = (k + 0.5) / (T + 1), k = 0..T.

    Args:
        kernel: weight over normalised time. total_steps: T >= 0.

    Returns:
        (T + 1,) float64, not normalised; entry k belongs to the weights after k steps, entry 0 to the
        pretrained ones.
    """
    return torch.tensor([kernel((k + 0.5) / (total_steps + 1)) for k in range(total_steps + 1)], dtype=torch.float64)


def online_weights(alphas: Sequence[float] | Tensor) -> Tensor:
    """The omegas: share of the new student in each update, alpha_t / sum_{j <= t} alpha_j.

    Args:
        alphas: (T + 1,) kernel weights.

    Returns:
        (T + 1,) float64 in [0, 1]; the first is 1 (the initial copy). Uniform alphas give 1 / (t + 1).
    """
    alphas = torch.as_tensor(alphas, dtype=torch.float64)
    return alphas / alphas.cumsum(0)
