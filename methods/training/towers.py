"""How the towers of a model compute while it is trained: as usual, or in less memory.

That is switched on when a training begins and off when it ends, so that nothing else (validation, heads, the final
evaluation) computes in another way than it did before.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from ...backbones import DualEncoder
from ...backbones.image_parts import recomputes
from ..classifier import Classifier
from .parallel import UnsupportedSettings


def keep_activations(model: nn.Module, keep: bool) -> None:
    """Whether the towers keep what is between a block's input and its output for the way back, or compute it again.

    Raises:
        UnsupportedSettings: nothing would be computed again, as in a ResNet, for which open_clip has no such switch.
    """
    for owner in _owners(model):
        visual: Any = owner.visual
        if not keep and not recomputes(visual):
            raise UnsupportedSettings(
                "checkpoint_activations: is for towers of transformer blocks, got an image tower that cannot compute "
                "a block again; leave it out."
            )
        visual.set_grad_checkpointing(not keep)
        if isinstance(owner, DualEncoder):
            owner.clip.set_grad_checkpointing(not keep)  # both towers


def _owners(model: nn.Module) -> Iterator[DualEncoder | Classifier]:
    """The parts of a student or teacher that have towers."""
    return (module for module in model.modules() if isinstance(module, (DualEncoder, Classifier)))
