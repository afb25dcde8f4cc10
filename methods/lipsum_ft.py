"""Lipsum-FT: cross-entropy finetuning that keeps what the image tower says to random texts.

Source: Nam et al. 2024, arXiv:2404.00860; cs-giung/lipsum-ft:scripts/Lipsum-FT.py. The text tower is frozen; the head
starts as the zero-shot classes' directions, has no bias, and meets the pretrained logit_scale, which is fixed.
Departures: the random texts are a function of seed and step (ours), so that a resumed run sees the same ones.
"""

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, pad

from ..backbones import DualEncoder
from ..backbones.encoder import at_least_float32
from ..backbones.traits import Traits
from .base import Context, LossTerms, Method, Settings, hyperparameters
from .classifier import Classifier
from .registry import register
from .teachers import StaticTeacher
from .two_tower import zero_shot_classifier

if TYPE_CHECKING:
    from ..datasets.loaders import Batch


@hyperparameters
class Hyper:
    """Released values."""

    strength: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the regularisation; no unit, >= 0. Code: 1."""
    texts: Annotated[int, Field(ge=1)] = 80
    """Random texts a step, the same for all images; >= 1. Code: 80."""
    length: Annotated[int, Field(ge=1)] = 8
    """Random tokens a text, between start and end token; >= 1. Code: 8."""


class Outputs(NamedTuple):
    """What the student makes of a batch."""

    image: Tensor
    """(B, D), unit L2 norm."""
    logits: Tensor
    """(B, C), with the pretrained logit_scale."""


class LipsumStudent(nn.Module):
    """Image tower and a head without scale or bias."""

    scale: Tensor
    """The pretrained logit_scale, fixed."""

    def __init__(self, classifier: Classifier, logit_scale: Tensor):
        super().__init__()
        self.tower = classifier
        self.tower.bias.requires_grad_(False)  # stays 0
        self.tower.weight.data.div_(logit_scale)
        self.register_buffer("scale", logit_scale.detach().clone(), persistent=False)

    def forward(self, batch: "Batch") -> Outputs:
        image = self.tower.features(batch.images)
        with torch.autocast(image.device.type, enabled=False):
            return Outputs(image, self.scale * linear(image, self.tower.weight))


@register("lipsum_ft")
class LipsumFT(Method[LipsumStudent, Outputs]):
    """Label cross-entropy plus the change of the image's similarities to random texts."""

    Hyper = Hyper
    strength = "strength"

    @classmethod
    def refuses(cls, hyper: Any, traits: Traits) -> str:
        """A tokenizer whose ids are no text between CLIP's start and end."""
        if traits.clip_tokens:
            return ""
        return (
            f"lipsum_ft: draws random texts of CLIP's tokens, got {traits.name}, which has another tokenizer; choose "
            "another method or backbone"
        )

    def student(self, context: Context) -> LipsumStudent:
        """Image tower and zero-shot directions."""
        self._encoder = context.encoder
        scale = context.encoder.logit_scale.detach().clone()
        return LipsumStudent(zero_shot_classifier(context.encoder, context), scale)

    def teacher(self, student: LipsumStudent, settings: Settings) -> StaticTeacher:
        """The pretrained image tower."""
        return StaticTeacher(student)

    @torch.no_grad()
    def at_step(self, step: int, settings: Settings) -> None:
        """Draws this step's texts and embeds them with the frozen text tower."""
        tokens = random_texts(self._encoder, self.hyper.texts, self.hyper.length, settings.seed, step)
        embeddings = self._encoder.text_features(tokens.to(settings.device))
        self._texts = normalize(at_least_float32(embeddings), dim=-1)  # (M, D)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: "Batch") -> LossTerms:
        """Nats; the regularisation in squared logits, halved, mean over texts and batch."""
        assert teacher is not None  # it teaches at every step
        change = self._encoder.logit_scale.detach() * linear(student.image - teacher.image, self._texts)
        return {
            "cross_entropy": cross_entropy(student.logits, batch.labels),
            "lipsum": self.hyper.strength * change.square().mean() / 2,
        }

    def finish(self, student: LipsumStudent, context: Context) -> Classifier:
        """The trained tower and head, the scale multiplied in."""
        tower = student.tower
        return Classifier(context.encoder, tower.weight * student.scale, tower.bias)


def random_texts(encoder: DualEncoder, count: int, length: int, seed: int, step: int) -> Tensor:
    """(count, length + 2) token ids: start, `length` uniform ordinary ids, end; a function of seed and step.

    For a text tower that reads padding, padded with 0 to its context.
    """
    vocabulary = encoder.text.token_embedding.num_embeddings  # CLIP's last two ids are start and end
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    tokens = torch.empty(count, length + 2, dtype=torch.long)
    tokens[:, 0], tokens[:, -1] = vocabulary - 2, vocabulary - 1
    tokens[:, 1:-1] = torch.randint(0, vocabulary - 2, (count, length), generator=generator)
    return tokens if encoder.cuts_text else pad(tokens, (0, encoder.clip.context_length - length - 2))
