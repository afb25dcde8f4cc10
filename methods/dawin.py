"""DaWin: zero-shot and finetuned weights interpolated anew for groups of test images, by the entropy of both models.

Source: Oh et al., DaWin: Training-free Dynamic Weight Interpolation for Robust Adaptation, ICLR 2025,
arXiv:2410.03782; naver-ai/dawin:dawin_rft/main_dawin.py (negexp_ent_ratio with offset_adjustment, the command of
script/dawin.sh), dawin_rft/mixturemodel.py. With entropies h_0 and h of an image, its coefficient is (e^-h + o / v) /
(e^-h_0 + e^-h + o): o is half the sum of both models' ratio of deviation to mean entropy over the set, v the sum of
both means over that of h_0. A mixture of Beta distributions is fitted to the coefficients of the whole set, and the
images of a component see the weights interpolated at its mean. So the released form looks at all images of a set
before it predicts one: it is transductive here, and ranked beside no other row.
Departures: entropies without temperature (there: one fixed number a backbone and model) and over all classes (there:
of a set with part of the classes, over these). A set of equal coefficients has one component.
"""

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..backbones import DualEncoder
from .base import Context, Method, hyperparameters
from .classifier import Classifier, interpolated
from .predictor import Predictor
from .registry import register
from .training.probe import CHUNK
from .two_classifiers import TwoClassifiers, empty_pair, finished_pair

EPSILON = 10 * float(np.finfo(float).eps)


@hyperparameters
class Hyper:
    """One field."""

    groups: Annotated[int, Field(ge=1)] = 3
    """Components of the mixture, and interpolated models a set; >= 1. Code: 3 (bmm_ncluster)."""


class Interpolating(TwoClassifiers, kind="dawin"):
    """Adapts to a set; what it keeps of an image for that is the image."""

    groups: Tensor

    def __init__(self, encoder: DualEncoder, zero_shot: Classifier, finetuned: Classifier, groups: int):
        super().__init__(encoder, zero_shot, finetuned)
        self.register_buffer("groups", torch.tensor(groups, device=zero_shot.weight.device))

    def features(self, images: Tensor) -> Tensor:
        """The images as they are, bytes where they are bytes: interpolated towers see them again."""
        return images

    def logits(self, features: Tensor) -> Tensor:
        """(B, C) of these images taken as a whole set."""
        return self.adapt(features)

    def adapt(self, features: Tensor) -> Tensor:
        """(N, C) of all images of a set."""
        with torch.no_grad():
            h0, h = (
                torch.cat([entropy(one(part)) for part in features.split(CHUNK)])
                for one in (self.zero_shot, self.finetuned)
            )
            shares = coefficients(h0.double(), h.double()).cpu().numpy()
            means, group = beta_mixture(shares, int(self.groups))
            merged = copy.deepcopy(self.finetuned)
            start, end = self.zero_shot.tensors(), self.finetuned.tensors()
            logits = torch.zeros(len(features), len(merged.weight), device=merged.weight.device)
            for k in np.unique(group):
                merged.overwrite(interpolated(start, end, float(means[k])))
                places = torch.from_numpy(np.flatnonzero(group == k)).to(logits.device)
                for own in places.split(CHUNK):
                    logits[own] = merged(features[own]).float()
        return logits

    @classmethod
    def restore(cls, encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> "Interpolating":
        """The predictor that was saved."""
        return cls(encoder, *empty_pair(encoder, tensors, meta), int(tensors["groups"])).filled(tensors)


def entropy(logits: Tensor) -> Tensor:
    """(B,) nats of the softmax of (B, C) logits."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def coefficients(zero_shot: Tensor, finetuned: Tensor) -> Tensor:
    """(N,) share of the finetuned weights of each image, from (N,) entropies of both models over a set."""
    means = torch.stack([zero_shot.mean(), finetuned.mean()])
    deviations = torch.stack([one.std() if len(one) > 1 else one.sum() * 0 for one in (zero_shot, finetuned)])
    offset = (deviations / means.clamp(min=1e-12)).sum() / 2
    first, second = (-zero_shot).exp(), (-finetuned).exp()
    return (second + offset * means[0] / means.sum().clamp(min=1e-12)) / (first + second + offset)


def beta_mixture(values: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Fits a mixture of Beta distributions by expectation maximisation with moments, from three k-means starts.

    Args:
        values: (N,) in (0, 1). components: at most this many, and no more than there are different values.

    Returns:
        (K,) mean of each component, and (N,) which of them has the largest posterior.

    Source: naver-ai/dawin:dawin_rft/mixturemodel.py.
    """
    from sklearn.cluster import KMeans  # late: see `training.probe`

    values = np.clip(np.asarray(values, dtype=np.float64), 1e-6, 1 - 1e-6)
    count = min(components, len(np.unique(values)))
    if count < 2:
        return np.array([values.mean()]), np.zeros(len(values), dtype=np.int64)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for start in range(3):
        labels = KMeans(n_clusters=count, n_init=1, random_state=1 + start).fit(values[:, None]).labels_
        posterior = np.eye(count)[labels] + EPSILON
        bound = -math.inf
        for _ in range(1000):
            weights, shapes = _moments(values, posterior)
            joint = np.log(weights) + _log_density(values, shapes)
            total = np.logaddexp.reduce(joint, axis=1)
            posterior, before, bound = np.exp(joint - total[:, None]), bound, float(total.mean())
            if abs(bound - before) < 1e-4:
                break
        weights, shapes = _moments(values, posterior)
        if best is None or bound > best[0]:
            best = bound, weights, shapes
    assert best is not None
    _, weights, shapes = best
    group = (np.log(weights) + _log_density(values, shapes)).argmax(axis=1)
    return shapes[:, 0] / shapes.sum(axis=1), group


def _moments(values: np.ndarray, posterior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K,) weights and (K, 2) shape parameters that have the weighted mean and variance of each component."""
    counts = posterior.sum(axis=0) + EPSILON
    mean = posterior.T @ values / counts
    variance = posterior.T @ values**2 / counts - mean**2
    variance = np.minimum(variance, mean * (1 - mean) / 4) + EPSILON
    size = mean * (1 - mean) / (variance + 1e-10) - 1
    return counts / counts.sum(), np.stack([size * mean, size * (1 - mean)], axis=1)


def _log_density(values: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(N, K) log-density of Beta distributions."""
    norm = [math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b) for a, b in shapes]
    a, b = shapes.T
    return (a - 1) * np.log(values)[:, None] + (b - 1) * np.log1p(-values)[:, None] - norm


@register("dawin")
class DaWin(Method[None, None]):
    """Reads the FT run of the same backbone, seed and settings; never trains."""

    Hyper = Hyper
    trained = False

    @classmethod
    def inputs(cls, hyper: Any) -> tuple[str, ...]:
        """The finetuned end."""
        return ("ft",)

    def finish(self, student: None, context: Context) -> Predictor:
        """Both classifiers."""
        return Interpolating(context.encoder, *finished_pair(context, "ft"), self.hyper.groups)
