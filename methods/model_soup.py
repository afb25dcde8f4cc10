"""Uniform model soup: the plain mean of several finished FT runs that differ in the seed.

Source: Wortsman et al. 2022, arXiv:2203.05482; mlfoundations/model-soups:main.py (uniform). Departure: the published
pool varies hyperparameters too; here the members share one tuned setting, so that a soup costs no further search.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from .base import Context, Method, hyperparameters
from .classifier import Classifier
from .registry import register


@hyperparameters
class Hyper:
    """One field."""

    members: Annotated[int, Field(ge=2)] = 3
    """Runs in the pool, of as many seeds counted up from this run's own; >= 2. Paper: up to 72; ours: the seeds that
    a board has anyway."""


@register("model_soup")
class ModelSoup(Method[None, None]):
    """Reads FT runs of `members` seeds; one row, n = 1."""

    Hyper = Hyper
    trained = False

    @classmethod
    def inputs(cls, hyper: Any) -> tuple[str, ...]:
        """What is averaged."""
        return ("ft",)

    @classmethod
    def input_seeds(cls, hyper: Any, seed: int) -> tuple[int, ...]:
        """`members` seeds, counted up."""
        return tuple(range(seed, seed + hyper.members))

    def finish(self, student: None, context: Context) -> Classifier:
        """A new classifier with the merged weights: image tower, head and buffers."""
        encoder, runs = context.encoder, list(context.inputs.values())
        device = encoder.logit_scale.device
        members = [{name: tensor.to(device) for name, tensor in run["tensors"].items()} for run in runs]
        return Classifier.restore(encoder, self.merge(members, context), runs[0]["meta"])

    def merge(self, members: Sequence[Mapping[str, Tensor]], context: Context) -> dict[str, Tensor]:
        """The mean of each entry."""
        return mean(members)


def mean(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each entry of equal models, in float32; an entry that is equal in all stays as it is."""
    merged = {}
    for name, first in members[0].items():
        stacked = torch.stack([member[name] for member in members])
        same = not first.is_floating_point() and bool((stacked == first).all())
        merged[name] = first.clone() if same else stacked.float().mean(dim=0)
    return merged
