"""Output ensemble: the probabilities of the zero-shot classifier and of a finished FT run, averaged.

Source: the output-space ensemble that WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903) and VRF (Zhu et al., NeurIPS
2024) compare with; BeierZhu/VRF:src/baselines.py, (1 - w) p_0 + w p. Two towers are evaluated, twice the cost of one.
Departures: w is tuned by ID-validation likelihood or stays at 1/2 (there: ID test accuracy); on a set with part of the
classes, probabilities are mixed over all classes and then cut, there logits are cut first.
"""

import copy
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..backbones import DualEncoder
from .base import Context, Line, Method, hyperparameters
from .classifier import Classifier
from .predictor import Predictor
from .registry import register
from .two_tower import zero_shot_classifier
from .wise_ft import ALPHAS


@hyperparameters
class Hyper:
    """One field."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the finetuned probabilities, w; [0, 1]: 0 is zero-shot, 1 the finetuned run. Ours: 0.5."""


class TwoClassifiers(Predictor, kind="output_ensemble"):
    """log((1 - alpha) p_0 + alpha p) of two classifiers, each with a tower of its own."""

    alpha: Tensor

    def __init__(self, encoder: DualEncoder, first: Classifier, second: Classifier, alpha: float):
        super().__init__(encoder)
        self.first, self.second = first, second
        self.register_buffer("alpha", torch.tensor(alpha, device=first.weight.device))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) float32 log-probabilities, which are their own softmax's logits."""
        first, second = (one(images).log_softmax(dim=1) for one in (self.first, self.second))
        if self.alpha in (0, 1):
            return second if self.alpha else first
        return torch.logaddexp(first + torch.log1p(-self.alpha), second + self.alpha.log())

    def meta(self) -> dict[str, str]:
        """What `restore` needs beside the tensors."""
        return super().meta() | {"normalise": str(self.second.normalise).lower()}

    @classmethod
    def restore(cls, encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> "TwoClassifiers":
        """The ensemble that was saved."""
        head = tensors["first.weight"].to(encoder.logit_scale.device)
        first, second = Classifier(encoder, head), Classifier(copy.deepcopy(encoder), head)
        second.normalise = meta["normalise"] == "true"
        return cls(encoder, first, second, float(tensors["alpha"])).filled(tensors)


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
        run = context.inputs["ft"]
        first = zero_shot_classifier(context.encoder, context)
        device = context.encoder.logit_scale.device
        tensors = {name: tensor.to(device) for name, tensor in run["tensors"].items()}
        second = Classifier.restore(copy.deepcopy(context.encoder), tensors, run["meta"])
        both = TwoClassifiers(context.encoder, first, second, self.hyper.alpha).eval()

        def at(alpha: float) -> Predictor:
            both.alpha.fill_(alpha)
            return both

        return Line(ALPHAS, at)
