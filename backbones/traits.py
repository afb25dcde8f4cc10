"""What methods must know of a backbone before a run of them is planned."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """What a method must know of a backbone before it is planned; the defaults are CLIP's."""

    name: str
    sigmoid: bool = False
    """Whether it was pretrained with a sigmoid for each pair, and has a logit bias."""
    clip_tokens: bool = True
    """Whether its texts are CLIP's: made of its byte pairs, between the last two ids of the vocabulary."""
    image_projection: bool = True
    text_projection: bool = True
    """Whether the last layer of each tower is a matrix into the shared space."""
    recomputes: bool = True
    """Whether its image tower can compute blocks again on the way back, in place of keeping what is inside them."""
    blocks: int = 0
    """Blocks of its image tower, one after the other; 0 where it is built otherwise."""
