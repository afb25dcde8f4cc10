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


def image_parts(encoder: DualEncoder, who: str, needed: int = 0) -> Parts:
    """The image tower of an encoder, cut into blocks.

    Args:
        who: the method that asks, for messages.
        needed: how many blocks it must have, as `<who>.blocks` says.

    Raises:
        ValueError: it is neither OpenAI's ViT nor its ResNet, or has fewer blocks.
    """
    visual: Any = encoder.visual
    if hasattr(visual, "transformer") and hasattr(visual, "ln_post"):
        end = [*visual.ln_post.parameters(), *([visual.proj] if visual.proj is not None else [])]
        parts = Parts(visual.ln_pre, list(visual.transformer.resblocks), end)
    elif hasattr(visual, "layer4") and hasattr(visual, "attnpool"):
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        parts = Parts(visual.avgpool, [block for stage in stages for block in stage], [*visual.attnpool.parameters()])
    else:
        raise ValueError(f"{who}: needs a ViT or ResNet as OpenAI's, got {encoder.name}; choose another backbone.")
    if needed > len(parts.blocks):
        most = len(parts.blocks)
        raise ValueError(f"{who}.blocks: must be at most {most}, the blocks of {encoder.name}, got {needed}.")
    return parts
