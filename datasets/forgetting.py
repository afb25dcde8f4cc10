"""`forgetting`: the paper's toy study (TRACER section 5.1.2, Figure 3) on the characters of `glyphs`.

Pretrain on grey characters, then finetune the image tower alone on coloured ones, the first half of the classes red and
the second blue, at 95 %. `original` is the old task: its accuracy before finetuning minus after is the
forgetting rate. The paper uses MNIST; the families here are those of `glyphs`, in its splits.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from .card import DataError, EvalData, EvalSet
from .digit_rendering import COLOURS
from .glyph_rendering import GROUNDS, TEXTURES, paint
from .glyphs import CHARACTERS, JITTER, RENDERINGS, Glyphs, Painted, any_of, faces_of, masks_of
from .randomness import derive, stable_key, uniforms

COLOUR_CORRELATION = 0.95
"""How often a finetuning picture has the colour of its class."""
_GREY, _RED, _BLUE = (list(COLOURS).index(name) for name in ("grey", "red", "blue"))
_SOLID = list(TEXTURES).index("solid")
_PLAIN = [list(GROUNDS).index(name) for name in ("light", "dark")]
_STREET = list(GROUNDS).index("street")


def _solid(masks: np.ndarray, colours: np.ndarray, grounds: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(paint(masks, colours, np.full(len(masks), _SOLID), grounds, keys, JITTER))


def grey(masks: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """uint8 (B, 3, 32, 32): grey ink on a plain light or dark ground, the old task."""
    return _solid(masks, np.full(len(masks), _GREY), any_of(keys, 3, _PLAIN), keys)


def coloured(masks: np.ndarray, labels: np.ndarray, keys: np.ndarray) -> torch.Tensor:
    """uint8 (B, 3, 32, 32): ink on the street, the new task; the first half of the classes red, the second blue."""
    keeps = uniforms(derive(keys, 1), 1)[:, 0] < COLOUR_CORRELATION
    return _solid(
        masks, np.where((labels < len(CHARACTERS) / 2) == keeps, _RED, _BLUE), np.full(len(masks), _STREET), keys
    )


class Coloured(Painted):
    """Every class of every face, in the colours of the new task."""

    def __init__(self, name: str, key: int, faces: Sequence[int], renderings: int = 1):
        super().__init__(name, key, faces, grey, renderings)

    def anew(self, index: np.ndarray, keys: np.ndarray) -> torch.Tensor:
        """uint8 (B, 3, 32, 32)."""
        return coloured(masks_of(self._faces[index], self.labels[index]), self.labels[index], keys)


class Forgetting(Glyphs):
    """The toy study's data: the coloured task is ID, the grey one is what may be forgotten."""

    name = "forgetting"
    version = pictures = "forgetting-v2"
    summary = "the forgetting study on characters: pretrained on grey, finetuned on coloured"
    sets = (
        EvalSet("validation", "validation", "coloured characters; every choice is made here", "no", "yes"),
        EvalSet("id", "id", "the new task: coloured characters of unseen families", "no", "yes"),
        EvalSet("original", "shift", "the old task: the same in grey; what is lost here is forgotten", "yes", "no"),
    )

    @cached_property
    def _train(self) -> tuple[torch.Tensor, np.ndarray]:
        drawn = Coloured("train", stable_key(self.version, "finetune"), faces_of("finetune"), RENDERINGS)
        return drawn.images(0, len(drawn)), drawn.labels

    def eval_data(self, name: str) -> EvalData:
        """The evaluation set of that name; DataError where there is none."""
        key = stable_key(self.pictures, name)
        if name == "original":
            return Painted(name, key, faces_of("id"), grey)
        if name not in ("validation", "id"):
            raise DataError(f"{self.name} has no set {name!r}; it has {', '.join(s.name for s in self.sets)}.")
        return Coloured(name, key, faces_of(name))
