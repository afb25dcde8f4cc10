"""Linear probes: cached features of a frozen tower, and multinomial logistic regression on them.

Source: Kumar et al. 2022, arXiv:2202.10054;
AnanyaKumar/transfer_learning:unlabeled_extrapolation/log_reg_sk.py.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from ..base import Task
from ..classifier import Classifier
from ..predictor import Predictor

CHUNK = 256
"""Images a forward pass."""


Probe = tuple[float, torch.Tensor, torch.Tensor]
"""Strength, weight and bias."""


class EncodedOnce(Predictor):
    """A classifier of a frozen tower whose features of the last few batches are kept while its head changes.

    Args:
        classifier: shared; its tower must not change while this is in use.
        batches: how many are kept; those of a predictor's turn.
    """

    def __init__(self, classifier: Classifier, batches: int = 8):
        nn.Module.__init__(self)
        self.classifier = classifier
        self._kept: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=batches)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Those of the classifier; not computed again where this very tensor was among the last."""
        for seen, features in self._kept:
            if seen is images:
                return features
        features = self.classifier.features(images)
        self._kept.append((images, features))
        return features

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Under the classifier's head as it is now."""
        return self.classifier.logits(features)


class ProbeError(ValueError):
    """There is nothing to separate; one sentence."""


@torch.no_grad()
def cached_features(
    classifier: Classifier, task: Task, renderings: int, seed: int, check_stop: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """What the head sees of fixed renderings (epochs 0, 1, ...) of all N training images.

    Returns:
        (N * renderings, D) float64 features and (N * renderings,) labels.

    Raises:
        ProbeError: all training images are of one class.
    """
    dataset, device = task.dataset, classifier.weight.device
    labels = np.tile(dataset.train_labels(), renderings)
    if labels.min() == labels.max():
        raise ProbeError(
            f"probe: needs training images of two classes, got only {task.class_names[labels[0]]!r}; add images of "
            "another class, or leave the method out."
        )
    items = [(epoch, index) for epoch in range(renderings) for index in range(dataset.train_size)]
    features = []
    for i in range(0, len(items), CHUNK):
        check_stop()
        images = dataset.train_images(items[i : i + CHUNK], seed).to(device)
        features.append(classifier.features(images).double().cpu())
    return torch.cat(features).numpy(), labels


def probes(
    features: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float], iterations: int
) -> Iterator[Probe]:
    """One probe for each inverse regularisation strength, each started from the one before.

    Args:
        features: (N, D) float64. labels: (N,) in 0..classes-1, two or more of them present.
        strengths: C of scikit-learn, > 0.
        iterations: at most this many of L-BFGS, converged or not, as published.

    Yields:
        strength, (classes, D) weight and (classes,) bias, float64. A class without images, whose likelihood has no
        maximum, gets the mean weight, so that no feature speaks for or against it, and the lowest bias of the others.
    """
    # Imported here: scikit-learn takes a second, which no other method should wait for.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=iterations, warm_start=True)
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=float(strength)).fit(features, labels)
        weight, bias = torch.from_numpy(model.coef_.copy()), torch.from_numpy(model.intercept_.copy())
        if len(weight) == 1:  # two classes share one row; the first class's logit is 0
            weight, bias = (torch.cat([torch.zeros_like(t), t]) for t in (weight, bias))
        if len(weight) < classes:
            present = torch.from_numpy(model.classes_.astype(np.int64))
            all_weights = weight.mean(dim=0).repeat(classes, 1)
            all_biases = bias.min().repeat(classes)
            all_weights[present], all_biases[present] = weight, bias
            weight, bias = all_weights, all_biases
        yield float(strength), weight, bias
