"""Partial finetuning: cross-entropy on the last blocks of the image tower and the head; what is below stays.

Source: the protocol of He et al., Masked Autoencoders, CVPR 2022, arXiv:2111.06377, section 4.3 (the last k blocks,
with the last norm and the head), here on CLIP with the head of `ft`; no code is released for it.
Departures: the tower's projection into the shared space is trained with the last norm; a ResNet (ours) has its
bottlenecks as blocks and its attention pool behind them. With bn=released, statistics of frozen layers still follow
the batches.
"""

from typing import Annotated, Any

from pydantic import Field

from ..backbones.traits import Traits
from .base import Context, hyperparameters
from .ft import FT, ImageStudent
from .image_blocks import image_parts, refusal
from .registry import register


@hyperparameters
class Hyper:
    """One field."""

    blocks: Annotated[int, Field(ge=0)] = 1
    """Last blocks of the image tower that are trained; >= 0, at most as many as it has. Ours: 1, the first step of
    MAE's Figure 9."""


@register("partial_ft")
class PartialFT(FT):
    """FT of the last blocks."""

    Hyper = Hyper
    strength = "blocks"
    conservative = "smaller"

    @classmethod
    def refuses(cls, hyper: Any, traits: Traits) -> str:
        """A tower without so many blocks."""
        return refusal("partial_ft", traits, hyper.blocks)

    def student(self, context: Context) -> ImageStudent:
        """Image tower and zero-shot head; only the last blocks, what follows them, and the head require gradients.

        Raises:
            ValueError: the tower has fewer blocks.
        """
        student = super().student(context)
        count = self.hyper.blocks
        parts = image_parts(context.encoder, "partial_ft", count)
        student.classifier.visual.requires_grad_(False)
        for block in parts.blocks[len(parts.blocks) - count :]:
            block.requires_grad_(True)
        for parameter in parts.end:
            parameter.requires_grad_(True)
        return student
