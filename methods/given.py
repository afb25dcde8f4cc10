"""A checkpoint that somebody else trained: evaluated as it is, under a name of its own and never as a method.

It is not registered: `robustft evaluate` alone plans it.
"""

from .base import Context, Method
from .classifier import Classifier
from .two_tower import zero_shot_classifier

CHECKPOINT = "checkpoint"
"""Its key in `Context.inputs`: tensors, head, bias, normalise."""


class Given(Method[None, None]):
    """The checkpoint's image tower under its own head, or that which its own text tower builds of the prompts."""

    name = "given"  # in no registry; what a run is called is in its spec
    trained = False
    seeded = True  # several checkpoints of one name are its seeds
    needs_text = False

    def finish(self, student: None, context: Context) -> Classifier:
        """The given tensors, in the architecture of the backbone."""
        given = context.inputs[CHECKPOINT]
        if given["head"] is None:
            context.encoder.clip.load_state_dict(given["tensors"])
            return zero_shot_classifier(context.encoder, context)
        tower = {name.removeprefix("visual."): tensor for name, tensor in given["tensors"].items()}
        context.encoder.visual.load_state_dict(tower)
        device = context.settings.device
        bias = None if given["bias"] is None else given["bias"].to(device)
        return Classifier(context.encoder, given["head"].to(device), bias, given["normalise"])
