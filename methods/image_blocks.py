"""The parts of an image tower, for methods that treat its blocks in different ways."""

from ..backbones import DualEncoder
from ..backbones.image_parts import Parts
from ..backbones.image_parts import image_parts as cut
from ..backbones.traits import Traits


def image_parts(encoder: DualEncoder, who: str, needed: int = 0) -> Parts:
    """The image tower of an encoder, cut into blocks.

    Args:
        who: the method that asks, for messages.
        needed: how many blocks it must have, as `<who>.blocks` says.

    Raises:
        ValueError: it has no row of blocks, or fewer. A plan has refused that already (`refusal`).
    """
    parts, reason = cut(encoder.visual), refusal(who, encoder.traits(), needed)
    if parts is None or reason:
        raise ValueError(f"{reason}.")
    return parts


def refusal(who: str, traits: Traits, needed: int = 0) -> str:
    """Why a method that needs blocks cannot be meant on a backbone; "" where it can. Arguments as above."""
    if not traits.blocks:
        return (
            f"{who}: needs an image tower of equal blocks, as a ViT or OpenAI's ResNet, got {traits.name}, which is "
            "built otherwise; choose another backbone"
        )
    if needed > traits.blocks:
        return f"{who}.blocks: must be at most {traits.blocks}, the blocks of {traits.name}, got {needed}; lower it"
    return ""
