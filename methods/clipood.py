"""CLIPood: the image tower trained with a margin metric softmax on frozen class texts; the Beta moving average is
evaluated.

Source: Shu et al., ICML 2023, arXiv:2302.00864, section 3.2 (margin metric softmax) and 3.3 (Beta moving average);
thuml/CLIPood:engine.py, main.py, scripts.sh. A wrong class c of label y gets lambda (1 - cos(t_y, t_c)) on top of its
cosine, so that texts far from the label's must stay further away; the code subtracts lambda t_y from the image
feature, which is the same loss, shifted by a constant. Text tower and logit_scale stay as pretrained, and so does the
head.
Departures: the head averages all templates of the task (there: one); recipe, batches and precision are the shared ones
(there: half precision weights, no warm-up, an epoch of 500 steps); `update_every`, other kernels and clocks are the
options that all averages here have.
"""

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from . import wma
from .base import Context, LossTerms, Method, Settings, hyperparameters
from .classifier import Classifier
from .registry import register
from .two_tower import zero_shot_classifier

if TYPE_CHECKING:
    from ..datasets.loaders import Batch
    from .teachers import StaticTeacher


@hyperparameters
class Hyper(wma.WMAHyper):
    """The margin, and the average's."""

    margin: Annotated[float, Field(ge=0)] = 0.3
    """lambda, in cosine; >= 0, 0 is plain cross-entropy. Code: 0.3 for domain shifts and open classes, 0.1 for both at
    once (scripts.sh)."""


class FrozenHead(nn.Module):
    """Image tower under a head that stays; a batch to (B, C) logits."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier
        classifier.weight.requires_grad_(False)
        classifier.bias.requires_grad_(False)

    def forward(self, batch: "Batch") -> Tensor:
        return self.classifier(batch.images)


def margin_metric_softmax(logits: Tensor, labels: Tensor, head: Tensor, margin: float) -> Tensor:
    """Cross-entropy of logits that were raised by scale * margin * (1 - cos(t_y, t_c)).

    Args:
        logits: (B, C) scale times cosine of image and class text.
        labels: (B,) classes.
        head: (C, D) rows scale * t_c, t_c of unit length.
        margin: lambda, in cosine.

    Returns:
        () mean over the batch, in nats.

    Example: one image halfway between two orthogonal texts, scale 1, margin 0.3: logits 0 and 0.3, so ln(1 + e^0.3).

    Source: arXiv:2302.00864, section 3.2; thuml/CLIPood:engine.py.
    """
    texts = normalize(head, dim=1)
    distance = 1 - texts[labels] @ texts.T  # (B, C), 0 at the label
    return cross_entropy(logits + margin * head[0].norm() * distance, labels)


@register("clipood")
class CLIPood(Method[FrozenHead, Tensor]):
    """Margin metric softmax; the kernel-weighted mean of the trajectory is evaluated and teaches nothing."""

    Hyper = Hyper
    strength = "margin"
    conservative = "smaller"
    evaluates = "teacher"

    def student(self, context: Context) -> FrozenHead:
        """Image tower and zero-shot head."""
        student = FrozenHead(zero_shot_classifier(context.encoder, context))
        self._head = student.classifier.weight.detach()
        return student

    def teacher(self, student: FrozenHead, settings: Settings) -> "StaticTeacher":
        """The running average."""
        return wma.wma_teacher(self.hyper, student, settings.total_steps)

    def teaches(self, step: int) -> bool:
        """Never."""
        return False

    def loss(self, student: Tensor, teacher: Tensor | None, batch: "Batch") -> LossTerms:
        """Mean over the batch, in nats."""
        with torch.autocast(student.device.type, enabled=False):
            return {"margin_softmax": margin_metric_softmax(student, batch.labels, self._head, self.hyper.margin)}

    def finish(self, student: FrozenHead, context: Context) -> Classifier:
        """The averaged tower under the zero-shot head."""
        return student.classifier
