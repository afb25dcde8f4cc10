"""LP-FT: a linear probe on frozen features, then finetuning of tower and head from exactly that classifier.

Source: Kumar et al. 2022, arXiv:2202.10054;
AnanyaKumar/transfer_learning:unlabeled_extrapolation/log_reg_sk.py. Features are not normalised in either
stage. Departures: the probe sees a fixed number of renderings of each training image; the grid of C is
coarser and C is chosen by ID-validation likelihood, not accuracy (ours).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from .base import Context, hyperparameters
from .classifier import Classifier
from .ft import FT, ImageStudent
from .registry import register
from .training.probe import EncodedOnce, Probe, cached_features, probes


@hyperparameters
class Hyper:
    """The probe's; the second stage is FT."""

    renderings: Annotated[int, Field(ge=1)] = 10
    """Fixed renderings (epochs 0, 1, ...) of each training image that the probe sees; >= 1. Ours; LP-FT: 1,
    no augmentation."""
    c_min: Annotated[float, Field(gt=0)] = 1e-7
    """Smallest inverse regularisation strength, sum-of-losses convention; > 0. Code: 1e-7."""
    c_max: Annotated[float, Field(gt=0)] = 1e2
    """Largest; > 0. Code: 1e2."""
    c_points: Annotated[int, Field(ge=1)] = 19
    """Values on a logarithmic grid, warm-started from small to large; >= 1. Code: 100."""
    iterations: Annotated[int, Field(ge=1)] = 200
    """L-BFGS iterations for each C; >= 1. Code: 200."""


@register("lp_ft")
class LPFT(FT):
    """Multinomial logistic regression on cached features, then FT."""

    Hyper = Hyper
    needs_text = False
    instead = "set c_points=1 and c_min to the C of the probe"

    @classmethod
    def chooses(cls, hyper: Any) -> bool:
        """Between several C."""
        return hyper.c_points > 1

    def student(self, context: Context) -> ImageStudent:
        """Image tower and a head of zeros, which `prepare` fills."""
        encoder = context.encoder
        weight = torch.zeros(len(context.task.class_names), encoder.embed_dim, device=encoder.logit_scale.device)
        return ImageStudent(Classifier(encoder, weight, normalise=False))

    def prepare(self, student: ImageStudent, context: Context) -> dict[str, Any]:
        """The probe; keeps the head of the C with the lowest validation loss (the smallest such C).

        Also tells how many classes have no training image, in a rehearsal for example, where there are any.
        """
        hyper, classifier = self.hyper, student.classifier
        features, labels = cached_features(
            classifier, context.task, hyper.renderings, context.settings.seed, context.check_stop
        )
        grid = np.geomspace(hyper.c_min, hyper.c_max, hyper.c_points).tolist()
        classes = len(context.task.class_names)
        absent = classes - len(np.unique(labels))
        fitted = []
        for probe in probes(features, labels, classes, grid, hyper.iterations):
            context.check_stop()
            fitted.append(probe)
        losses = context.validate_each(_under(classifier, fitted)) if self.chooses(hyper) else [0.0] * len(fitted)
        value, (c, weight, bias) = min(zip(losses, fitted, strict=True), key=lambda one: one[0])  # of equals: the first
        set_head(classifier, weight, bias)
        return {
            "probe_c": c,
            **({"probe_validation": value} if self.chooses(hyper) else {}),
            **({"probe_absent_classes": absent} if absent else {}),
        }


def _under(classifier: Classifier, fitted: Sequence[Probe]) -> list[Callable[[], EncodedOnce]]:
    """The classifier under each probe in turn; its tower sees an image once for all of them."""
    shared = EncodedOnce(classifier)

    def under(weight: torch.Tensor, bias: torch.Tensor) -> EncodedOnce:
        set_head(classifier, weight, bias)
        return shared

    return [partial(under, weight, bias) for _, weight, bias in fitted]


@torch.no_grad()
def set_head(classifier: Classifier, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Copies a (C, D) weight and a (C,) bias into the classifier."""
    classifier.weight.copy_(weight)
    classifier.bias.copy_(bias)
