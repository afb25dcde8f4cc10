"""LDIFS: cross-entropy finetuning that keeps features of several depths where the pretrained model has them.

Source: Mukhoti et al., TMLR 2024, arXiv:2308.13320; omegafragger/ldifs_code:loss/ldifs.py, model/modeling.py. Squared
L2 distance of the features before the first block and after each quarter of the blocks, to those of the pretrained
model on the same image. As released, a feature is divided by its norm over positions (axis 1 of batch, positions,
width), then squares are averaged over positions, width, depths and batch. Tower and head are trained; the head starts
as zero-shot's.
Departures: the released code hands a transposed sequence to its blocks, which was right for the open_clip of its day
and is not needed here; ResNets (ours, not in the code) are read behind stem and blocks, with pixels as positions;
towers with fewer than four blocks have fewer depths. The authors start from a linear probe too.
"""

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ..backbones.encoder import at_least_float32
from ..backbones.traits import Traits
from .base import Context, LossTerms, Method, Settings, hyperparameters
from .classifier import Classifier
from .image_blocks import image_parts, refusal
from .registry import register
from .teachers import StaticTeacher
from .two_tower import zero_shot_classifier

if TYPE_CHECKING:
    from ..datasets.loaders import Batch


@hyperparameters
class Hyper:
    """One field."""

    strength: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the feature distance; no unit, >= 0. Code: 10 (args.py)."""


class Outputs(NamedTuple):
    """What the student makes of a batch."""

    logits: Tensor
    """(B, C)."""
    features: Tensor
    """(B, F) features of all depths in one row, scaled so that the squared distance of two rows is LDIFS."""


class FeatureStudent(nn.Module):
    """A classifier that also gives what is between its blocks."""

    def __init__(self, classifier: Classifier, depths: list[str]):
        super().__init__()
        self.classifier = classifier
        self._depths = depths  # names of modules, so that a copy reads its own

    def forward(self, batch: "Batch") -> Outputs:
        taken: list[Tensor] = []
        hooks = [
            self.classifier.get_submodule(name).register_forward_hook(lambda module, given, out: taken.append(out))
            for name in self._depths
        ]
        try:
            logits = self.classifier(batch.images)
        finally:
            for hook in hooks:
                hook.remove()
        with torch.autocast(logits.device.type, enabled=False):
            rows = [_row(at_least_float32(feature)) for feature in taken]
            return Outputs(logits, torch.cat(rows, dim=1) / len(rows) ** 0.5)


def _row(feature: Tensor) -> Tensor:
    """(B, positions * width) of a feature (B, positions, width) or (B, width, height, breadth)."""
    if feature.ndim == 4:
        feature = feature.flatten(2).transpose(1, 2)
    unit = normalize(feature, dim=1, eps=1e-10)
    return unit.flatten(1) / (unit.shape[1] * unit.shape[2]) ** 0.5


@register("ldifs")
class LDIFS(Method[FeatureStudent, Outputs]):
    """Label cross-entropy and the distance of features to the pretrained model's."""

    Hyper = Hyper
    strength = "strength"

    @classmethod
    def refuses(cls, hyper: Any, traits: Traits) -> str:
        """A tower without blocks."""
        return refusal("ldifs", traits)

    def student(self, context: Context) -> FeatureStudent:
        """Image tower, zero-shot head and five depths, fewer in a tower with fewer than four blocks."""
        classifier = zero_shot_classifier(context.encoder, context)
        parts = image_parts(context.encoder, "ldifs")
        count = len(parts.blocks)
        read = [parts.stem, *(parts.blocks[k] for k in sorted({-(-count * q // 4) - 1 for q in (1, 2, 3, 4)}))]
        names = {id(module): name for name, module in classifier.named_modules()}
        return FeatureStudent(classifier, [names[id(module)] for module in read])

    def teacher(self, student: FeatureStudent, settings: Settings) -> StaticTeacher:
        """The pretrained model."""
        return StaticTeacher(student)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: "Batch") -> LossTerms:
        """Nats; the distance has no unit."""
        assert teacher is not None  # it teaches at every step
        distance = (student.features - teacher.features.detach()).square().sum(dim=1).mean()
        return {"cross_entropy": cross_entropy(student.logits, batch.labels), "ldifs": self.hyper.strength * distance}

    def finish(self, student: FeatureStudent, context: Context) -> Classifier:
        """The trained tower and head."""
        return student.classifier
