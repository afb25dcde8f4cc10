"""The parts of an image tower in the order in which an image goes through them."""

from typing import Any, NamedTuple

from torch import nn

from ..backbones import DualEncoder


class Parts(NamedTuple):
    """An image tower, cut."""

    stem: nn.Module
    """What ends where the blocks begin."""
    blocks: list[nn.Module]
    """Transformer blocks, or bottlenecks of a ResNet."""
    end: list[nn.Parameter]
    """Trained tensors behind the last block: last norm and projection, or attention pool."""


def image_parts(encoder: DualEncoder, who: str) -> Parts:
    """The image tower of an encoder, cut into blocks.

    Raises:
        ValueError: it is neither OpenAI's ViT nor its ResNet; `who` asks, for the message.
    """
    visual: Any = encoder.visual
    if hasattr(visual, "transformer") and hasattr(visual, "ln_post"):
        end = [*visual.ln_post.parameters(), *([visual.proj] if visual.proj is not None else [])]
        return Parts(visual.ln_pre, list(visual.transformer.resblocks), end)
    if hasattr(visual, "layer4") and hasattr(visual, "attnpool"):
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        return Parts(visual.avgpool, [block for stage in stages for block in stage], [*visual.attnpool.parameters()])
    raise ValueError(f"{who}: needs a ViT or ResNet as OpenAI's, got that of {encoder.name}; choose another backbone.")
