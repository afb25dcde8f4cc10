"""FT: cross-entropy finetuning of the image tower and a linear head that starts as the zero-shot head.

Source: WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903; mlfoundations/wise-ft:src/models/finetune.py. The
text tower takes no part after the head is built; the head's bias starts at 0 and is trained, as released.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .base import Context, LossTerms, Method
from .classifier import Classifier
from .registry import register
from .two_tower import zero_shot_classifier

if TYPE_CHECKING:
    from ..datasets.loaders import Batch


class ImageStudent(nn.Module):
    """A classifier as a student: a batch to (B, C) logits of its images."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, batch: "Batch") -> Tensor:
        return self.classifier(batch.images)


@register("ft")
class FT(Method[ImageStudent, Tensor]):
    """Label cross-entropy; at step 0 the logits are zero-shot's exactly."""

    def student(self, context: Context) -> ImageStudent:
        """Image tower and zero-shot head."""
        return ImageStudent(zero_shot_classifier(context.encoder, context))

    def loss(self, student: Tensor, teacher: Tensor | None, batch: "Batch") -> LossTerms:
        """Mean over the batch, in nats."""
        return {"cross_entropy": cross_entropy(student, batch.labels)}

    def finish(self, student: ImageStudent, context: Context) -> Classifier:
        """The trained tower and head."""
        return student.classifier
