"""What changes over a run: learning rate, clipping limit, teacher momentum. Pure functions of the step,
from 0.

Source of all three: HesamAsad/TRACER:src/models/utils.py and beta_moving_average.py (learning rate:
wise-ft's).
"""

import math


def learning_rate(step: int, base: float, warmup_steps: int, total_steps: int, min_lr: float = 0.0) -> float:
    """Linear warm-up `base * (step + 1) / warmup_steps`, then half a cosine down to `min_lr`.

    The floor is added to the cosine, as released, so that the rate right after the warm-up is base + min_lr.

    Args:
        step: optimizer steps done, >= 0; the value holds for the step that comes next.
        base: peak rate. warmup_steps: >= 0. total_steps: > warmup_steps. min_lr: rate at the end.

    Example: base 1, warm-up 500 of 25030 steps: 0.002 at step 0, 1 at steps 499 and 500.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress)) * base + min_lr


def clip_limit(step: int, initial: float, final: float, total_steps: int) -> float:
    """Gradient-norm limit that rises from `initial` to `final` along half a cosine and stays there; 0 is no
    clipping.

    The last of `total_steps` steps already has `final`. Only the released FLYP script of TRACER lets it rise.
    """
    progress = min(step / (total_steps - 1), 1.0) if total_steps > 1 else 0.0
    return final + 0.5 * (initial - final) * (1 + math.cos(math.pi * progress))


def linear_momentum(step: int, start: float, end: float, warmup_fraction: float, total_steps: int) -> float:
    """EMA momentum: `start` at step 0, `end` from step `warmup_fraction * total_steps` on, a line between.

    Example: 0.05 to 0.9 over the first fifth: 0.475 after a tenth of the run.
    """
    warmup = warmup_fraction * total_steps
    return end if step >= warmup else start + (end - start) * step / warmup
