"""Greedy model soup: finished FT runs, the best first, each taken into the mean if ID validation does not suffer.

Source: Wortsman et al. 2022, arXiv:2203.05482, Recipe 1; mlfoundations/model-soups:main.py (greedy).
Departures: members share one tuned setting and differ in the seed, so that a soup costs no further search (there: a
hyperparameter search of one seed); both the order and each test are by ID-validation likelihood, not accuracy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .base import Context
from .classifier import Classifier
from .model_soup import ModelSoup, mean
from .registry import register


@register("greedy_soup")
class GreedySoup(ModelSoup):
    """Reads FT runs of `members` seeds; one row, n = 1."""

    instead = "run model_soup, which takes all members"

    @classmethod
    def chooses(cls, hyper: Any) -> bool:
        """Which members."""
        return True

    def merge(self, members: Sequence[Mapping[str, Tensor]], context: Context) -> dict[str, Tensor]:
        """The mean of the members that were taken."""
        meta = next(iter(context.inputs.values()))["meta"]

        def loss(tensors: Mapping[str, Tensor]) -> float:
            context.check_stop()
            return context.validate(Classifier.restore(context.encoder, tensors, meta))

        ranked = sorted((loss(member), place) for place, member in enumerate(members))  # of equals the first seed
        best, taken = ranked[0][0], [members[ranked[0][1]]]
        for _, place in ranked[1:]:
            tried = loss(mean([*taken, members[place]]))
            if tried <= best:
                best, taken = tried, [*taken, members[place]]
        return mean(taken)
