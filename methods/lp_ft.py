"""LP-FT: a linear probe on frozen features, then finetuning of tower and head from exactly that classifier.

Source: Kumar et al. 2022, arXiv:2202.10054;
AnanyaKumar/transfer_learning:unlabeled_extrapolation/log_reg_sk.py. Features are not normalised in either
stage. Departures: the probe sees a fixed number of renderings of each training image; the grid of C is
coarser and C is chosen by ID-validation likelihood, not accuracy (ours).
"""

import warnings
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .base import Context, hyperparameters
from .classifier import Classifier
from .ft import FT, ImageStudent
from .registry import register

CHUNK = 256


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

    def student(self, context: Context) -> ImageStudent:
        """Image tower and a head of zeros, which `prepare` fills."""
        encoder = context.encoder
        weight = torch.zeros(
            len(context.task.class_names), encoder.embed_dim, device=encoder.logit_scale.device
        )
        return ImageStudent(Classifier(encoder, weight, normalise=False))

    def prepare(self, student: ImageStudent, context: Context) -> dict[str, Any]:
        """The probe; keeps the head of the C with the lowest validation loss (the smallest such C)."""
        hyper, classifier, best = self.hyper, student.classifier, None
        features, labels = _cached_features(classifier, context, hyper.renderings)
        absent = sorted(set(range(len(classifier.weight))) - set(labels.tolist()))
        if absent:
            name = context.task.class_names[absent[0]]
            raise ValueError(f"lp_ft: class {name!r} has no training image; add some or leave the class out.")
        probe = LogisticRegression(max_iter=hyper.iterations, warm_start=True)
        for c in np.geomspace(hyper.c_min, hyper.c_max, hyper.c_points):
            context.check_stop()
            with warnings.catch_warnings():
                # The published probe stops after 200 iterations, converged or not.
                warnings.simplefilter("ignore", ConvergenceWarning)
                probe.set_params(C=float(c)).fit(features, labels)
            _set_head(classifier, probe)
            value = context.validate(classifier)
            if best is None or value < best[0]:
                head = {
                    "weight": classifier.weight.detach().clone(),
                    "bias": classifier.bias.detach().clone(),
                }
                best = value, float(c), head
        classifier.load_state_dict(best[2], strict=False)
        return {"probe_c": best[1], "probe_validation": best[0]}


@torch.no_grad()
def _cached_features(
    classifier: Classifier, context: Context, renderings: int
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 features (N * renderings, D) and labels of fixed renderings of all training images."""
    dataset, device = context.task.dataset, classifier.weight.device
    items = [(epoch, index) for epoch in range(renderings) for index in range(dataset.train_size)]
    features = []
    for i in range(0, len(items), CHUNK):
        context.check_stop()
        images = dataset.train_images(items[i : i + CHUNK], context.settings.seed).to(device)
        features.append(classifier.features(images).double().cpu())
    return torch.cat(features).numpy(), np.tile(dataset.train_labels(), renderings)


@torch.no_grad()
def _set_head(classifier: Classifier, probe: LogisticRegression) -> None:
    """Copies the probe's coefficients; scikit-learn keeps one row for two classes, the other's logit is 0."""
    rows = slice(1, 2) if len(probe.classes_) == 2 else slice(None)
    classifier.weight.zero_()[rows] = torch.from_numpy(probe.coef_).to(classifier.weight)
    classifier.bias.zero_()[rows] = torch.from_numpy(probe.intercept_).to(classifier.bias)
