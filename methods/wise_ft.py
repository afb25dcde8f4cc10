"""WiSE-FT: straight-line interpolation of the zero-shot classifier and a finished FT run, after training.

Source: Wortsman et al. 2022, arXiv:2109.01903; mlfoundations/wise-ft:src/wise_ft.py. Every entry is
interpolated: image tower, head (the zero-shot one has logit_scale in it and bias 0) and buffers.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from .base import Context, Line, Method, hyperparameters
from .classifier import Classifier, interpolated
from .predictor import Predictor
from .registry import register
from .two_tower import zero_shot_classifier

ALPHAS = tuple(k / 10 for k in range(11))
"""Where the whole line is evaluated; the grid of the released command."""


@hyperparameters
class Hyper:
    """One field."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the finetuned weights; [0, 1]: 0 is zero-shot, 1 the finetuned run. Paper: 0.5 where nothing is
    known of the shift."""


@register("wise_ft")
class WiSEFT(Method[None, None]):
    """Reads the FT run of the same backbone, seed and settings; never trains."""

    Hyper = Hyper
    trained = False
    strength = "alpha"
    path = "alpha"
    conservative = "smaller"
    finetuned: ClassVar[str] = "ft"
    """Whose run is the end of the line."""

    @classmethod
    def inputs(cls, hyper: Any) -> tuple[str, ...]:
        """The finetuned end of the line."""
        return (cls.finetuned,)

    def finish(self, student: None, context: Context) -> Predictor:
        """The classifier at `alpha` on the line."""
        return self.line(context).at(self.hyper.alpha)

    def line(self, context: Context) -> Line:
        """alpha = 0, 0.1, ... 1 in the encoder of the context, which must hold the pretrained weights."""
        encoder, finetuned = context.encoder, context.inputs[self.finetuned]
        device = encoder.logit_scale.device
        start = {name: tensor.clone() for name, tensor in zero_shot_classifier(encoder, context).tensors().items()}
        end = {name: tensor.to(device) for name, tensor in finetuned["tensors"].items()}
        classifier = Classifier.restore(encoder, start, finetuned["meta"])
        return Line(ALPHAS, lambda alpha: classifier.overwrite(interpolated(start, end, alpha)))
