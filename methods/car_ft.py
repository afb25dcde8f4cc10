"""CAR-FT: cross-entropy finetuning that keeps in which context the pretrained model sees an image.

Source: Mao et al., Context-Aware Robust Fine-Tuning, IJCV 2023, arXiv:2211.16175; no code is released. A context is a
template ("a photo of a {}", "a sketch of a {}"); its weights are its unit prompt embeddings averaged over classes, as
the head of a class averages over templates. The term is KL(p_0 || p) of the softmax over contexts, pretrained model
first. Tower and head are trained, as in `ft`.
Departures: the contexts are the task's own templates; both softmaxes have the pretrained logit_scale; the weight's
default is ours. What could not be compared with the authors' code, for there is none, is the scale of the term.
"""

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from ..backbones.zero_shot import average_prompts
from .base import Context, LossTerms, Method, Settings, hyperparameters
from .classifier import Classifier
from .distillation import kl_of_logits
from .registry import register
from .teachers import StaticTeacher
from .two_tower import zero_shot_classifier

if TYPE_CHECKING:
    from ..datasets.loaders import Batch


@hyperparameters
class Hyper:
    """One field."""

    strength: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the divergence between context distributions; no unit, >= 0. Ours: 1, cross-entropy and divergence
    counted alike."""


class Outputs(NamedTuple):
    """What the student makes of a batch."""

    logits: Tensor
    """(B, C) of classes."""
    contexts: Tensor
    """(B, P) of templates, with the pretrained logit_scale."""


class ContextStudent(nn.Module):
    """A classifier whose features are also read by fixed context weights."""

    weights: Tensor
    """(P, D) context weights, logit_scale multiplied in."""

    def __init__(self, classifier: Classifier, weights: Tensor):
        super().__init__()
        self.classifier = classifier
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: "Batch") -> Outputs:
        features = self.classifier.features(batch.images)
        with torch.autocast(features.device.type, enabled=False):
            return Outputs(self.classifier.logits(features), linear(normalize(features, dim=-1), self.weights))


@register("car_ft")
class CARFT(Method[ContextStudent, Outputs]):
    """Label cross-entropy and the change of the context distribution."""

    Hyper = Hyper
    strength = "strength"

    def student(self, context: Context) -> ContextStudent:
        """Image tower, zero-shot head, and the templates' weights.

        Raises:
            ValueError: the task has one template, whose context distribution says nothing.
        """
        task = context.task
        if len(task.prompts) < 2:
            raise ValueError(
                "car_ft: needs two prompt templates or more, its contexts, got one; add prompts or run ft."
            )
        weights = context_weights(context)
        return ContextStudent(zero_shot_classifier(context.encoder, context), weights)

    def teacher(self, student: ContextStudent, settings: Settings) -> StaticTeacher:
        """The pretrained model."""
        return StaticTeacher(student)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: "Batch") -> LossTerms:
        """Nats, mean over the batch."""
        assert teacher is not None  # it teaches at every step
        return {
            "cross_entropy": cross_entropy(student.logits, batch.labels),
            "context": self.hyper.strength * kl_of_logits(teacher.contexts.detach(), student.contexts),
        }

    def finish(self, student: ContextStudent, context: Context) -> Classifier:
        """The trained tower and head."""
        return student.classifier


@torch.no_grad()
def context_weights(context: Context) -> Tensor:
    """(P, D) weights of the task's templates: unit embeddings of each with every class, averaged over classes, unit
    length again, times the logit scale."""
    encoder, class_names, prompts = context.encoder, context.task.class_names, context.task.prompts
    captions = [prompt.format(name) for prompt in prompts for name in class_names]
    embeddings = context.head(encoder, captions, ["{}"]).view(len(prompts), len(class_names), -1)
    return average_prompts(embeddings, encoder.logit_scale.detach().to(embeddings))
