"""Output ensemble: the probabilities of the zero-shot classifier and of a finished FT run, averaged.

Source: the output-space ensemble that WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903) and VRF (Zhu et al., NeurIPS
2024) compare with; BeierZhu/VRF:src/baselines.py, (1 - w) p_0 + w p. Two towers are evaluated, twice the cost of one.
Departures: w is tuned by ID-validation likelihood or stays at 1/2 (there: by accuracy on ImageNet's validation set,
which is its ID test set); on a set with part of the classes, probabilities are mixed over all classes and then cut,
there logits are cut first.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..backbones import DualEncoder
from .base import Context, Line, Method, hyperparameters
from .classifier import Classifier
from .predictor import Predictor
from .registry import register
from .two_classifiers import TwoClassifiers, empty_pair, finished_pair
from .wise_ft import ALPHAS

BATCHES = 8
"""Whose logits are remembered: as many as evaluation decodes before it goes on to the next point of a path."""


@hyperparameters
class Hyper:
    """One field."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the finetuned probabilities, w; [0, 1]: 0 is zero-shot, 1 the finetuned run. Ours: 0.5."""


class Mixture(TwoClassifiers, kind="output_ensemble"):
    """log((1 - alpha) p_0 + alpha p)."""

    alpha: Tensor

    def __init__(self, encoder: DualEncoder, zero_shot: Classifier, finetuned: Classifier, alpha: float):
        super().__init__(encoder, zero_shot, finetuned)
        self.register_buffer("alpha", torch.tensor(alpha, device=zero_shot.weight.device))
        self._seen: list[tuple[Tensor, int, Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) float32 log-probabilities, which are their own softmax's logits."""
        return mixed(*self._logits(images), self.alpha)

    def _logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of both; along a path the same few batches come once for each alpha, and go through the towers once."""
        if torch.is_grad_enabled():
            return self.zero_shot(images), self.finetuned(images)
        for seen, version, first, second in self._seen:
            if seen is images and version == images._version:
                return first, second
        first, second = self.zero_shot(images), self.finetuned(images)
        self._seen = [*self._seen[1 - BATCHES :], (images, images._version, first, second)]
        return first, second

    def overwrite(self, tensors: Iterable[tuple[str, Tensor]]) -> "Mixture":
        """Other weights have other logits."""
        self._seen = []
        return super().overwrite(tensors)

    @classmethod
    def restore(cls, encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> "Mixture":
        """The ensemble that was saved."""
        return cls(encoder, *empty_pair(encoder, tensors, meta), float(tensors["alpha"])).filled(tensors)


def mixed(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """log((1 - share) softmax(first) + share softmax(second)) of (B, C) logits.

    Args:
        share: () or (B, 1) in [0, 1]; at 0 and 1 the one side alone, to the last bit.
    """
    first, second = first.log_softmax(dim=1), second.log_softmax(dim=1)
    both = torch.logaddexp(first + torch.log1p(-share), second + share.log())
    return torch.where(share == 0, first, torch.where(share == 1, second, both))


@register("output_ensemble")
class OutputEnsemble(Method[None, None]):
    """Reads the FT run of the same backbone, seed and settings; never trains."""

    Hyper = Hyper
    trained = False
    strength = "alpha"
    path = "alpha"
    conservative = "smaller"

    @classmethod
    def inputs(cls, hyper: Any) -> tuple[str, ...]:
        """The finetuned member."""
        return ("ft",)

    def finish(self, student: None, context: Context) -> Predictor:
        """Both classifiers at `alpha`."""
        return self.line(context).at(self.hyper.alpha)

    def line(self, context: Context) -> Line:
        """alpha = 0, 0.1, ... 1 with the encoder of the context, which must hold the pretrained weights."""
        both = Mixture(context.encoder, *finished_pair(context, "ft"), self.hyper.alpha).eval()

        def at(alpha: float) -> Predictor:
            both.alpha.fill_(alpha)
            return both

        return Line(ALPHAS, at)
