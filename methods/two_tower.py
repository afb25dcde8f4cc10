"""What the methods share that train both towers on captions: the student, the projection penalty, the
rebuilt head."""

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..backbones import DualEncoder
from ..backbones.encoder import at_least_float32
from ..backbones.traits import Traits
from .base import Context, LossTerms, Method, Start, hyperparameters
from .classifier import Classifier
from .distillation import Embeddings, Pairs, SigmoidEmbeddings
from .objectives import cross_frobenius, orthogonality

if TYPE_CHECKING:
    from ..datasets.loaders import Batch


MAX_LOG_LOGIT_SCALE = math.log(100)
"""Limit of CLIP's pretraining (Radford et al. 2021, section 2.5)."""


class TwoTower(nn.Module):
    """A dual encoder as a student: a batch of images and captions to unit embeddings.

    Args:
        encoder: trained in place.
        trainable: "image" freezes the text tower, logit_scale and bias.
        unique_captions: encode captions that are the same tokens once; a GPU is waited for to know which are.
    """

    def __init__(self, encoder: DualEncoder, trainable: str = "all", unique_captions: bool = False):
        super().__init__()
        self.encoder, self.unique_captions = encoder, unique_captions
        if trainable == "image":
            for parameter in (*encoder.text_parameters(), *encoder.logit_parameters()):
                parameter.requires_grad_(False)

    def forward(self, batch: "Batch") -> Pairs:
        """(B, D) unit embeddings of both modalities, at least float32, the logit scale, and the bias if any."""
        encoder = self.encoder
        image, text = unit(encoder.image_features(batch.images)), unit(self.text_features(batch.tokens))
        if encoder.logit_bias is not None:
            return SigmoidEmbeddings(image, text, encoder.logit_scale, encoder.logit_bias)
        return Embeddings(image, text, encoder.logit_scale)

    def text_features(self, tokens: Tensor) -> Tensor:
        """(N, D) of (N, L) token ids, as the encoder has them."""
        if not self.unique_captions:
            return self.encoder.text_features(tokens)
        once, places = torch.unique(tokens, dim=0, return_inverse=True)
        return self.encoder.text_features(once)[places]


@hyperparameters
class TwoTowerHyper:
    """Fields that every two-tower method has."""

    cross_frobenius_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of ||W_v W_t^T||_F of both last projections; no unit, >= 0. CaRot and TRACER: 0.05; FLYP:
    none. A fair comparison gives it to all or to none."""
    cross_frobenius_form: Literal["norm", "half_squared"] = "norm"
    """"norm" is the code's (CaRot, TRACER); "half_squared" TRACER's paper (C.1): it needs another weight."""
    orthogonality_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of ||W_v^T W_v - I||_F of the image projection; no unit, >= 0. CaRot: 0.2; elsewhere none."""
    orthogonality_side: Literal["embedding", "width"] = "embedding"
    """Which Gram matrix that is. "embedding" (D x D): CaRot's for ViTs. "width" (width x width): what TRACER's
    code takes for ResNets; it has rank D at most, so the term cannot fall below sqrt(width - D), 32 for RN50."""
    clamp_logit_scale: bool = False
    """Keeps the log of logit_scale in [0, ln 100] after each step, as CLIP's pretraining does. FLYP, CaRot and
    TRACER do not: the scale may pass 100."""


class TwoTowerMethod(Method[TwoTower, Pairs]):
    """Both towers trained on class captions; the head is rebuilt from the finetuned text tower and logit
    scale."""

    Hyper = TwoTowerHyper
    sigmoid: ClassVar[str] = ""
    """What it takes of a backbone that was pretrained with a sigmoid for each pair: its loss, and how other terms read
    scale and bias; "" is nothing, and such a backbone is refused. A class with a `loss` of its own says it anew."""
    introduced = {"orthogonality_side": "embedding", "clamp_logit_scale": False}

    def __init_subclass__(cls, **options: Any) -> None:
        """A loss of its own is not known to be right for a sigmoid."""
        super().__init_subclass__(**options)
        if "loss" in vars(cls) and "sigmoid" not in vars(cls):
            cls.sigmoid = ""

    @classmethod
    def refuses(cls, hyper: Any, traits: Traits) -> str:
        """A backbone with a sigmoid loss, where the method does not say what it takes of it; and penalties or a clamp
        of what the backbone has not."""
        where = f"{cls.name}: {{}}, got {traits.name}, {{}}"
        if traits.sigmoid and not cls.sigmoid:
            return where.format(
                "takes the softmax loss of CLIP", "which was trained with a sigmoid; choose another method"
            )
        if traits.sigmoid and hyper.clamp_logit_scale:
            return where.format(
                "clamp_logit_scale is the limit of CLIP's pretraining", "which had none; set it to false"
            )
        lacking = [
            tower
            for tower, there in (("image", traits.image_projection), ("text", traits.text_projection))
            if not there
        ]
        if hyper.cross_frobenius_weight and lacking:
            return where.format(
                "cross_frobenius_weight is a weight of the product of both last projections",
                f"whose {' and '.join(lacking)} tower has none; set it to 0",
            )
        if hyper.orthogonality_weight and not traits.image_projection:
            return where.format(
                "orthogonality_weight is a weight of the image projection", "which has none; set it to 0"
            )
        return ""

    def student(self, context: Context) -> TwoTower:
        """The whole dual encoder."""
        return TwoTower(context.encoder, context.task.trainable, context.settings.unique_captions)

    def penalty(self, student: TwoTower, start: Start) -> LossTerms:
        """The projection penalties whose weight is not 0."""
        hyper = self.hyper
        terms: LossTerms = {}
        image, text = student.encoder.image_projection, student.encoder.text_projection
        if hyper.cross_frobenius_weight:
            assert image is not None and text is not None  # `refuses`
            term = cross_frobenius(image, text, hyper.cross_frobenius_form)
            terms["cross_frobenius"] = hyper.cross_frobenius_weight * term
        if hyper.orthogonality_weight:
            assert image is not None
            side = image if hyper.orthogonality_side == "embedding" else image.T
            terms["orthogonality"] = hyper.orthogonality_weight * orthogonality(side)
        return terms

    def after_step(self, student: TwoTower, start: Start, step: int) -> None:
        """The clamp, if asked for."""
        if self.hyper.clamp_logit_scale:
            student.encoder.clip.logit_scale.clamp_(0, MAX_LOG_LOGIT_SCALE)

    def finish(self, student: TwoTower, context: Context) -> Classifier:
        """The trained image tower and the head of the trained text tower and logit scale."""
        return zero_shot_classifier(student.encoder, context, trained=context.task.trainable == "all")


@hyperparameters
class DistillingHyper(TwoTowerHyper):
    """Fields that every method with a teacher has."""

    skip_first_step: bool = True
    """No distillation at step 0, where the teacher is the student, as in the code of CaRot and TRACER.
    TRACER's Algorithm 1 distils there too: FD, CRD and CrossKD are 0 then, ICL is InfoNCE once more."""


class DistillingMethod(TwoTowerMethod):
    """A two-tower method with a teacher."""

    Hyper = DistillingHyper

    def teaches(self, step: int) -> bool:
        """From the second step on, by default."""
        return step > 0 or not self.hyper.skip_first_step


def zero_shot_classifier(encoder: DualEncoder, context: Context, trained: bool = False) -> Classifier:
    """The encoder's current image tower under the head that its current text tower builds; zero bias.

    Args:
        trained: as in `Context.head`.
    """
    return Classifier(encoder, context.head(encoder, context.task.class_names, context.task.prompts, trained))


def unit(features: Tensor) -> Tensor:
    """Unit rows, at least float32, so that losses are, whatever the autocast type."""
    return normalize(at_least_float32(features), dim=-1)
