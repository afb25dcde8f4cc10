"""VRF: each image has its own mix of zero-shot and finetuned probabilities, by its distance to where zero-shot failed.

Source: Zhu, Cui and Zhang, Robust Fine-tuning of Zero-shot Models via Variance Reduction, NeurIPS 2024;
BeierZhu/VRF:src/knn_distance.py, src/main.py. The zero-shot failures are the training images that the finetuned model
classifies rightly and the zero-shot one wrongly; d is the squared distance of an image's unit feature, finetuned
tower, to the k-th nearest of theirs, k = round(1000 times their share of the training images). The finetuned share is
sigmoid((center - d) / width). Two towers are evaluated, and the failures' features are part of the final weights.
Departures: no temperatures (there, both models are calibrated so that confidence equals accuracy on ImageNet's
validation set, its ID test set); failures come from one rendering of each training image, as the shared augmentation
draws it; k is at least 1, and where there is no failure zero-shot is left; probabilities are mixed over all classes,
then cut.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..backbones import DualEncoder
from .base import Context, Method, hyperparameters
from .classifier import Classifier
from .output_ensemble import mixed
from .predictor import Predictor
from .registry import register
from .training.probe import CHUNK
from .two_classifiers import TwoClassifiers, empty_pair, finished_pair

ROWS = 64
"""Images whose distances to all failures are held at once."""


@hyperparameters
class Hyper:
    """Where the mix turns, in squared distance of unit features, which lies in [0, 4]."""

    center: float = 1.5
    """Distance at which both count alike. Code: 1.5 (a)."""
    width: Annotated[float, Field(gt=0)] = 0.6
    """How slowly it turns; > 0. Code: 0.6 (b)."""
    neighbours: Annotated[float, Field(gt=0)] = 1000.0
    """k as a multiple of the failures' share of the training images; > 0. Code: 1000."""


class NearFailures(TwoClassifiers, kind="vrf"):
    """log((1 - w) p_0 + w p), w a function of the image.

    Args:
        encoder, zero_shot, finetuned: as for `TwoClassifiers`.
        failures: (N, D) unit features of the finetuned tower.
        settings: (3,) k, center and width.
    """

    failures: Tensor
    settings: Tensor

    def __init__(
        self, encoder: DualEncoder, zero_shot: Classifier, finetuned: Classifier, failures: Tensor, settings: Tensor
    ):
        super().__init__(encoder, zero_shot, finetuned)
        self.register_buffer("failures", failures)
        self.register_buffer("settings", settings)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) float32 log-probabilities, which are their own softmax's logits."""
        features = self.finetuned.features(images)
        return mixed(self.zero_shot(images), self.finetuned.logits(features), self.shares(features))

    def shares(self, features: Tensor) -> Tensor:
        """(B, 1) finetuned share of images from (B, D) features of the finetuned tower."""
        if not len(self.failures):
            return torch.zeros_like(features[:, :1])
        neighbours, (center, width) = int(self.settings[0]), self.settings[1:]
        with torch.autocast(features.device.type, enabled=False):
            unit = torch.nn.functional.normalize(features, dim=1)
            near = [(2 - 2 * rows @ self.failures.T).kthvalue(neighbours, dim=1).values for rows in unit.split(ROWS)]
            return torch.sigmoid((center - torch.cat(near)) / width)[:, None]

    @classmethod
    def restore(cls, encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> "NearFailures":
        """The predictor that was saved."""
        device = encoder.logit_scale.device
        kept = (tensors[name].to(device) for name in ("failures", "settings"))
        return cls(encoder, *empty_pair(encoder, tensors, meta), *kept).filled(tensors)


@register("vrf")
class VRF(Method[None, None]):
    """Reads the FT run of the same backbone, seed and settings; never trains."""

    Hyper = Hyper
    trained = False
    strength = "center"
    conservative = "smaller"

    @classmethod
    def inputs(cls, hyper: Any) -> tuple[str, ...]:
        """The finetuned member."""
        return ("ft",)

    def finish(self, student: None, context: Context) -> Predictor:
        """Both classifiers, and the zero-shot failures of the training images."""
        zero_shot, finetuned = finished_pair(context, "ft")
        failures = zero_shot_failures(zero_shot, finetuned, context)
        share = len(failures) / context.task.dataset.train_size
        k = min(max(1, round(self.hyper.neighbours * share)), max(1, len(failures)))
        settings = torch.tensor([k, self.hyper.center, self.hyper.width], device=failures.device)
        return NearFailures(context.encoder, zero_shot, finetuned, failures, settings)


@torch.no_grad()
def zero_shot_failures(zero_shot: Classifier, finetuned: Classifier, context: Context) -> Tensor:
    """(N, D) unit features, finetuned tower, of the training images that only the finetuned model gets right."""
    dataset, device = context.task.dataset, finetuned.weight.device
    labels = torch.from_numpy(dataset.train_labels()).to(device)
    found = [finetuned.weight[:0]]
    for first in range(0, dataset.train_size, CHUNK):
        context.check_stop()
        indices = range(first, min(first + CHUNK, dataset.train_size))
        images = dataset.train_images([(0, index) for index in indices], context.settings.seed).to(device)
        features, own = finetuned.features(images), labels[first : first + CHUNK]
        right = finetuned.logits(features).argmax(dim=1) == own
        wrong = zero_shot(images).argmax(dim=1) != own
        found.append(torch.nn.functional.normalize(features[right & wrong], dim=1))
    return torch.cat(found)
