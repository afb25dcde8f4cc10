"""`forgetting`: the paper's toy study (TRACER section 5.1.2, Figure 3) on the bundled digits.

Pretrain on grey digits, then finetune the image tower alone on coloured ones, 0-4 red and 5-9 blue at 95 %. `original`
is the old task: its accuracy before finetuning minus after is the forgetting rate. The paper uses MNIST; the images
here are `digits`' own, with its splits.
"""

import numpy as np
import torch

from .card import EvalSet
from .digit_rendering import COLOURS
from .digits import Digits, coloured, paint

_GREY = list(COLOURS).index("grey")


def grey(images: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """uint8 (B, 3, 32, 32): grey ink on a plain ground, the old task."""
    return paint(images, np.full(len(images), _GREY), "plain", keys)


class Forgetting(Digits):
    """The toy study's data: the coloured task is ID, the grey one is what may be forgotten."""

    name, version = "forgetting", "forgetting-v1"
    summary = "the forgetting study on bundled digits: pretrained on grey, finetuned on coloured"
    prompts = ("the digit {}", "a photo of the digit {}", "the number {}")
    sets = (
        EvalSet("validation", "validation", "coloured digits; every choice is made here", "no", "yes"),
        EvalSet("id", "id", "the new task: coloured digits", "no", "yes"),
        EvalSet("original", "shift", "the old task: grey digits; what is lost here is forgotten", "yes", "no"),
    )
    painters = {"validation": ("validation", coloured), "id": ("test", coloured), "original": ("test", grey)}
