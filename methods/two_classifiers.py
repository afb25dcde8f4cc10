"""What predictors share that hold the zero-shot classifier and a finetuned one, each with a tower of its own."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..backbones import DualEncoder
from .base import Context
from .classifier import Classifier
from .predictor import Predictor
from .two_tower import zero_shot_classifier


class TwoClassifiers(Predictor):
    """Zero-shot and finetuned classifier; a subclass has a kind and says what becomes of both.

    Args:
        encoder: whose pixels both read.
        zero_shot, finetuned: in eval mode, with towers of their own.
    """

    def __init__(self, encoder: DualEncoder, zero_shot: Classifier, finetuned: Classifier):
        super().__init__(encoder)
        self.zero_shot, self.finetuned = zero_shot, finetuned

    def meta(self) -> dict[str, str]:
        """What `restore` needs beside the tensors."""
        return super().meta() | {"normalise": str(self.finetuned.normalise).lower()}


def finished_pair(context: Context, method: str) -> tuple[Classifier, Classifier]:
    """The zero-shot classifier, in the encoder of the context, and that of the finished run of a method."""
    zero_shot = zero_shot_classifier(context.encoder, context)
    run, device = context.inputs[method], context.encoder.logit_scale.device
    tensors = {name: tensor.to(device) for name, tensor in run["tensors"].items()}
    finetuned = Classifier.restore(copy.deepcopy(context.encoder), tensors, run["meta"])
    return zero_shot.eval(), finetuned.eval()


def empty_pair(
    encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[Classifier, Classifier]:
    """Two classifiers of the right shapes, to be filled with what was saved."""
    head = tensors["zero_shot.weight"].to(encoder.logit_scale.device)
    return Classifier(encoder, head), Classifier(copy.deepcopy(encoder), head, normalise=meta["normalise"] == "true")
