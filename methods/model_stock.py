"""Model Stock: a few finetuned models and the pretrained one, weighed for each tensor by the angle between them.

Source: Jang et al. 2024, arXiv:2403.19522, equation for N models (its repository holds no code). Angles are between
the differences to the pretrained weights. Departures, ours: a negative cosine counts as 0, and a tensor that did not
move stays; the members are FT runs of several seeds at one tuned setting, merged once, after training.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .base import Context
from .model_soup import ModelSoup, mean
from .registry import register
from .two_tower import zero_shot_classifier


@register("model_stock")
class ModelStock(ModelSoup):
    """Reads FT runs of `members` seeds; one row, n = 1."""

    def merge(self, members: Sequence[Mapping[str, Tensor]], context: Context) -> dict[str, Tensor]:
        """Each entry between the zero-shot classifier and the mean of the members."""
        return stock(zero_shot_classifier(context.encoder, context).tensors(), members)


def stock(start: Mapping[str, Tensor], members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """t * mean + (1 - t) * start for each tensor, t = N cos / (1 + (N - 1) cos).

    Args:
        start: pretrained tensors. members: N >= 2 finetuned models with the same names and shapes.

    Returns:
        New tensors; cos is the mean cosine between all pairs of differences to `start`, at least 0.

    Example: differences (1, 0) and (0.6, 0.8): cos 0.6, t 0.75, so start + (0.6, 0.3).
    """
    merged = mean(members)
    for name, origin in start.items():
        if origin.is_floating_point():
            origin = origin.to(merged[name])
            merged[name] = torch.lerp(origin, merged[name], _ratio([m[name] - origin for m in members]))
    return merged


def _ratio(deltas: list[Tensor]) -> Tensor:
    """() t of one tensor; 0 where all differences are 0."""
    flat = torch.stack([delta.flatten() for delta in deltas]).double()  # (N, entries)
    unit = torch.nn.functional.normalize(flat, dim=1)
    n = len(deltas)
    cosine = ((unit.sum(dim=0).square().sum() - unit.square().sum()) / (n * (n - 1))).clamp(min=0)
    return (n * cosine / (1 + (n - 1) * cosine)).to(deltas[0].dtype)
