"""The parts of an image tower in the order in which an image goes through them."""

from typing import Any, NamedTuple

from torch import nn


class Parts(NamedTuple):
    """An image tower, cut."""

    stem: nn.Module
    """What ends where the blocks begin."""
    blocks: list[nn.Module]
    """Transformer blocks, or bottlenecks of a ResNet."""
    end: list[nn.Parameter]
    """Trained tensors behind the last block: last norm and projection, or attention pool."""


def recomputes(visual: Any) -> bool:
    """Whether open_clip's switch for that does something: in a ViT as OpenAI's, and a trunk of timm that has one."""
    return hasattr(visual, "transformer") or hasattr(getattr(visual, "trunk", None), "set_grad_checkpointing")


def image_parts(visual: Any) -> Parts | None:
    """An image tower cut into blocks: a ViT or ResNet as OpenAI's, or a ViT of timm; None of all others.

    ConvNeXt, FastViT and Swin have stages of different widths and no row of equal blocks.
    """
    if hasattr(visual, "transformer") and hasattr(visual, "ln_post"):
        end = [*visual.ln_post.parameters(), *([visual.proj] if visual.proj is not None else [])]
        return Parts(visual.ln_pre, list(visual.transformer.resblocks), end)
    if hasattr(visual, "layer4") and hasattr(visual, "attnpool"):
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        return Parts(visual.avgpool, [block for stage in stages for block in stage], [*visual.attnpool.parameters()])
    trunk: Any = getattr(visual, "trunk", None)
    if hasattr(trunk, "blocks") and hasattr(trunk, "norm_pre") and all(hasattr(b, "attn") for b in trunk.blocks):
        behind = [
            name
            for name in ("norm", "attn_pool", "fc_norm", "head")
            if isinstance(getattr(trunk, name, None), nn.Module)
        ]
        end = [p for name in behind for p in getattr(trunk, name).parameters()] + [*visual.head.parameters()]
        return Parts(trunk.norm_pre, list(trunk.blocks), end)
    return None
