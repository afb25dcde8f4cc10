"""What every method ends in: something that says which class an image is of, and can be kept in a file.

A kind of predictor registers with its class, `class Pair(Predictor, kind="pair")`. Files name the kind, and `restore`
makes the right one again; a file that names none holds a `Classifier`.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..backbones import DualEncoder

P = TypeVar("P", bound="Predictor")
_kinds: "dict[str, type[Predictor]]" = {}
USUAL = "classifier"
"""The kind of a file that names none."""


class PredictorError(ValueError):
    """A predictor that cannot be kept or restored; one sentence."""


class Predictor(nn.Module):
    """Logits of images. All that predictions depend on is in its parameters and buffers, and in `meta`.

    A subclass has a kind, `features` and `logits` (or, where nothing adapts, `forward` alone), and `restore`.

    Args:
        encoder: whose pixels it reads; registers nothing, a subclass keeps what it uses of it.
    """

    kind: ClassVar[str]

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.backbone = encoder.name
        self._pixels = encoder.pixels

    def __init_subclass__(cls, kind: str | None = None) -> None:
        """Registers the class as a kind.

        Raises:
            TypeError: a subclass of a kind without one of its own would be restored as what it is not.
            PredictorError: the kind is taken.
        """
        super().__init_subclass__()
        if kind is None:
            if hasattr(cls, "kind"):
                name = f"class {cls.__name__}({cls.__bases__[0].__name__}, kind=...)"
                raise TypeError(f"{cls.__name__}: must have a kind, or it is restored as {cls.kind!r}; write {name}.")
            return
        other = _kinds.get(kind, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            names = f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}"
            raise PredictorError(f"predictor kind {kind!r} is registered twice, by {names}; rename one.")
        cls.kind = kind
        _kinds[kind] = cls

    def features(self, images: Tensor) -> Tensor:
        """(B, ...), at least float32 or the images themselves, of (B, 3, H, W) uint8 images: what `logits` and `adapt`
        read."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """(B, C) float32 logits of features."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) float32 logits of (B, 3, H, W) uint8 images, whatever the autocast type."""
        return self.logits(self.features(images))

    def adapt(self, features: Tensor) -> Tensor:
        """(N, C) logits of one whole set from the features of all its N images; called instead of `logits` where a
        subclass has it.

        It sees one set and no label, is a function of its argument alone (random numbers: of seed 0 at each call), and
        leaves the predictor as it is. A run whose predictor adapts is transductive: flagged in its record, and ranked
        beside no other.
        """
        raise NotImplementedError

    @property
    def adapts(self) -> bool:
        """Whether it has an `adapt`."""
        return type(self).adapt is not Predictor.adapt

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, detached; what `restore` needs, with `meta`."""
        return {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}

    def meta(self) -> dict[str, str]:
        """What `restore` needs beside the tensors.

        Raises:
            PredictorError: the class has no kind.
        """
        if not hasattr(self, "kind"):
            name = type(self).__name__
            raise PredictorError(f"{name}: must have a kind to be kept; write class {name}(Predictor, kind=...).")
        return {"backbone": self.backbone} | ({} if self.kind == USUAL else {"kind": self.kind})

    @torch.no_grad()
    def overwrite(self: P, tensors: Iterable[tuple[str, Tensor]]) -> P:
        """Takes the values of all `tensors()`, (name, tensor) one at a time, in place; returns itself."""
        own = self.state_dict()
        for name, tensor in tensors:
            own[name].copy_(tensor)
        return self

    @classmethod
    def restore(cls, encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> "Predictor":
        """The predictor that was saved, on the encoder's device; `encoder` gives the architecture, and its weights may
        be overwritten. `filled` ends it.

        Raises:
            ValueError: if the tensors belong to another backbone or architecture.
        """
        raise NotImplementedError

    def filled(self: P, tensors: Mapping[str, Tensor]) -> P:
        """Takes the values of exactly these tensors; returns itself in eval mode.

        Raises:
            ValueError: names or shapes are others.
        """
        try:
            self.load_state_dict(dict(tensors))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.kind} weights do not fit backbone {self.backbone!r}: {reason}") from None
        return self.eval()


def restore(encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> Predictor:
    """The predictor that was saved, of whichever kind.

    Args:
        encoder: pretrained, of the same backbone; overwritten.
        tensors, meta: of `Predictor.tensors` and `Predictor.meta`.

    Raises:
        PredictorError: nothing here has this kind.
        ValueError: the tensors belong to another backbone or architecture.
    """
    kind = meta.get("kind", USUAL)
    if kind not in _kinds:
        raise PredictorError(
            f"final weights: are of kind {kind!r}, which nothing here defines (known: {', '.join(sorted(_kinds))}); "
            "load the file of the method that made them."
        )
    return _kinds[kind].restore(encoder, tensors, meta)
