"""The optimizer that methods share."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW


def adamw(parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, weight_decay: float) -> AdamW:
    """AdamW as every run has it: betas 0.9 and 0.999, epsilon 1e-8, fused.

    Args:
        parameters: trained ones, or groups of them, [{"params": ..., "lr": ..., "weight_decay": ...}], where a group
            may have a rate and a decay of its own.
        lr: at the peak of the schedule. weight_decay: decoupled.
    """
    return AdamW(parameters, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, fused=True)
