"""StarFT: FLYP that keeps what the pretrained model says of an image and captions with spurious contexts.

Source: Kim et al., StarFT: Robust Fine-tuning of Zero-shot Models via Spuriosity Alignment, IJCAI 2025;
alinlab/StarFT:clip/loss.py (StarReg), src/main.py, scripts/train.sh. Each image has a spurious caption, its class in a
random context ("a photo of a dog in the snow."). Over the captions of other classes in the batch, the pretrained
model's softmax for an image is the target of the student's, both with the pretrained logit_scale: KL(teacher ||
student), mean over images. Its weight falls to 0 over the run (--diminishing).
Departures: the pool of contexts is ours (the authors ask a language model for theirs, and have pools of textures and
resolutions too); the term is left out at the first step, where it is 0 and its gradient rounding alone, which AdamW
would turn into full steps of the words that only spurious captions have; the weight falls at every step, there by
epochs; the context of a visit is a function of seed, epoch and image, so that a resumed run sees the same.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..backbones import DualEncoder
from ..datasets.randomness import derive, stable_key, uniforms
from .base import Context, LossTerms, Settings, hyperparameters
from .distillation import Pairs, contrastive, kl_of_logits
from .registry import register
from .teachers import StaticTeacher
from .two_tower import TwoTower, TwoTowerHyper, TwoTowerMethod, unit

if TYPE_CHECKING:
    from ..datasets.loaders import Batch

CONTEXTS = (
    "in the snow", "on a beach", "in a forest", "on grass", "in a desert", "in a city street", "in the mountains",
    "on a road", "near a lake", "in a kitchen", "in an office", "on a farm", "in a garden", "in the rain", "at night",
    "at sunset", "under a blue sky", "in front of a building", "among rocks", "surrounded by flowers",
)  # fmt: skip
"""Where things are seen that have no say in what they are."""


@hyperparameters
class Hyper(TwoTowerHyper):
    """One field of its own."""

    strength: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the divergence at the first step; no unit, >= 0. Code: 0.5 (README.md, the argument of
    train.sh)."""


class Outputs(NamedTuple):
    """What the student makes of a batch."""

    pairs: Pairs
    """Of images and captions."""
    spurious: Tensor
    """(B, D) of the spurious captions, unit L2 norm."""


class StarStudent(TwoTower):
    """A dual encoder that also reads the spurious caption of each image.

    Args:
        encoder, trainable, unique_captions: as for `TwoTower`.
        tokens: (C, S, L) of every class in every context.
        seed: the run's.
    """

    tokens: Tensor

    def __init__(self, encoder: DualEncoder, trainable: str, tokens: Tensor, seed: int, unique_captions: bool = False):
        super().__init__(encoder, trainable, unique_captions)
        self.register_buffer("tokens", tokens, persistent=False)
        self._key = stable_key("spurious", seed)

    def forward(self, batch: "Batch") -> Outputs:  # type: ignore[override]
        pairs = super().forward(batch)
        visits = (column.cpu().numpy().astype(np.int64) for column in (batch.epoch, batch.sample_ids))
        drawn = uniforms(derive(self._key, *visits), 1)[:, 0] * self.tokens.shape[1]
        chosen = torch.from_numpy(drawn.astype(np.int64)).to(self.tokens.device)
        return Outputs(pairs, unit(self.text_features(self.tokens[batch.labels, chosen])))


@register("starft")
class StarFT(TwoTowerMethod):
    """InfoNCE and the divergence over spurious captions of other classes."""

    Hyper = Hyper
    strength = "strength"
    sigmoid = (
        "the sigmoid loss for the pairs; the divergence over spurious captions stays a softmax with the pretrained "
        "scale, out of which the bias drops"
    )

    def student(self, context: Context) -> StarStudent:
        """The whole dual encoder, and the spurious captions of its task."""
        encoder, names = context.encoder, context.task.class_names
        tokens = encoder.tokenize(spurious_captions(names)).view(len(names), len(CONTEXTS), -1)
        device = encoder.clip.logit_scale.device
        self._scale = encoder.logit_scale.detach().clone()
        settings, tokens = context.settings, tokens.to(device)
        return StarStudent(encoder, context.task.trainable, tokens, settings.seed, settings.unique_captions)

    def teacher(self, student: TwoTower, settings: Settings) -> StaticTeacher:
        """The pretrained model."""
        return StaticTeacher(student)

    def teaches(self, step: int) -> bool:
        """From the second step on."""
        return step > 0

    def at_step(self, step: int, settings: Settings) -> None:
        """How much of the weight is left."""
        self._left = 1 - step / settings.total_steps

    def loss(self, student: Outputs, teacher: Outputs | None, batch: "Batch") -> LossTerms:  # type: ignore[override]
        """Nats."""
        terms = {"contrastive": contrastive(student.pairs)}
        if teacher is None:
            return terms
        same = batch.labels[:, None] == batch.labels[None, :]
        now, then = (
            (self._scale * one.pairs.image @ one.spurious.T).masked_fill(same, -1e8) for one in (student, teacher)
        )
        return terms | {"spurious": self.hyper.strength * self._left * kl_of_logits(then.detach(), now)}


def spurious_captions(class_names: Sequence[str]) -> list[str]:
    """Every class in every context, classes first."""
    return [f"a photo of a {name} {context}." for name in class_names for context in CONTEXTS]
