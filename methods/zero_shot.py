"""Zero-shot CLIP: the pretrained towers and the head built from class prompts; nothing is trained.

Source: Radford et al. 2021, arXiv:2103.00020; head as in mlfoundations/wise-ft:src/models/zeroshot.py.
"""

from .base import Context, Method
from .classifier import Classifier
from .registry import register
from .two_tower import zero_shot_classifier


@register("zero_shot")
class ZeroShot(Method[None, None]):
    """The pretrained model as it is."""

    trained = False

    def finish(self, student: None, context: Context) -> Classifier:
        """The pretrained image tower under the prompts' head."""
        return zero_shot_classifier(context.encoder, context)
