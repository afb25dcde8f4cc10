"""DiWA: the plain mean of several finetuned runs that all start from a linear probe.

Source: Rame et al., Diverse Weight Averaging for Out-of-Distribution Generalization, NeurIPS 2022, arXiv:2205.09739;
alexrame/diwa:domainbed/scripts/diwa.py (uniform). Beside `model_soup`, which averages runs that start from the
zero-shot head.
Departures: members are LP-FT runs that share one tuned setting and differ in the seed (there: mild random
hyperparameters); each seed has a probe of its own renderings (there: one probe for all).
"""

from typing import Any

from .model_soup import ModelSoup
from .registry import register


@register("diwa")
class DiWA(ModelSoup):
    """Reads LP-FT runs of `members` seeds; one row, n = 1."""

    @classmethod
    def inputs(cls, hyper: Any) -> tuple[str, ...]:
        """What is averaged."""
        return ("lp_ft",)
