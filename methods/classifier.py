"""The usual predictor: an image tower and a linear head."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ..backbones import DualEncoder
from ..backbones.encoder import at_least_float32
from .predictor import USUAL, Predictor


class Classifier(Predictor, kind=USUAL):
    """Logits of an image tower's features under a linear head; also the student of one-tower methods.

    Args:
        encoder: whose image tower is used, shared and not copied; its text tower is not part of the
            classifier.
        weight: (C, D) head, logit_scale multiplied in where it comes from class embeddings.
        bias: (C,); zeros if None.
        normalise: whether the head sees unit-length features (all but LP-FT).
    """

    def __init__(self, encoder: DualEncoder, weight: Tensor, bias: Tensor | None = None, normalise: bool = True):
        super().__init__(encoder)
        self.visual = encoder.visual
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros_like(weight[:, 0]) if bias is None else bias.detach().clone())
        self.normalise = normalise

    def features(self, images: Tensor) -> Tensor:
        """(B, D) as the head sees them, of (B, 3, H, W) bytes or normalised floats; at least float32."""
        features = at_least_float32(self.visual(self._pixels(images)))
        return normalize(features, dim=-1) if self.normalise else features

    def logits(self, features: Tensor) -> Tensor:
        """(B, C) float32 of (B, D) features, whatever the autocast type."""
        with torch.autocast(features.device.type, enabled=False):
            return linear(features, self.weight, self.bias)

    def meta(self) -> dict[str, str]:
        """What `restore` needs beside the tensors."""
        return super().meta() | {"normalise": str(self.normalise).lower()}

    @classmethod
    def restore(cls, encoder: DualEncoder, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> "Classifier":
        """The classifier that was saved; `encoder` gives the architecture and its image tower's weights are
        overwritten.

        Raises:
            ValueError: if the tensors belong to another backbone, architecture or kind of predictor.
        """
        if (kind := meta.get("kind", USUAL)) != cls.kind:
            raise ValueError(f"final weights are of kind {kind!r}, not {cls.kind!r}; read a run that ends in one.")
        if meta.get("backbone", encoder.name) != encoder.name:
            made_with = meta["backbone"]
            raise ValueError(f"classifier weights belong to {made_with!r}, not {encoder.name!r}; load that backbone.")
        device = next(encoder.parameters()).device
        classifier = cls(encoder, tensors["weight"].to(device), normalise=meta["normalise"] == "true")
        return classifier.filled(tensors)


def interpolate(
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    alpha: float,
    fisher: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
    fisher_floor: float = 1e-8,
) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * end for every entry, buffers included; the inputs stay as they are.

    Args:
        start, end: tensors of equal names and shapes (float32 in, float32 out; differing integer entries
        become float32).
        alpha: share of `end`; 0 and 1 give the end points bit for bit.
        fisher: diagonal Fisher information F of start and of end. An entry that both name is then
        ((1 - alpha) F_0 start + alpha F_1 end) / ((1 - alpha) F_0 + alpha F_1); an option of the released code
        that no published number uses.
        fisher_floor: what F is at least.

    Raises:
        ValueError: if names or shapes differ, or an entry has a Fisher of one side only. (Of models that differ,
        wise-ft's code drops names that only `end` has and lets a broadcastable shape pass in silence; TRACER's
        copies what one side has.)

    Source: mlfoundations/wise-ft:src/wise_ft.py.
    """
    merged = {name: tensor.clone() for name, tensor in interpolated(start, end, alpha)}
    if fisher is None or not 0 < alpha < 1:
        return merged
    for name in {*fisher[0], *fisher[1]}:
        if name not in start or any(name not in side or side[name].shape != start[name].shape for side in fisher):
            raise ValueError(f"interpolate: the Fisher of {name!r} must be given for both models, in its shape.")
        first, second = (side[name].clamp(min=fisher_floor) for side in fisher)
        share = alpha * second / ((1 - alpha) * first + alpha * second)
        merged[name] = torch.lerp(start[name], end[name], share)
    return merged


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> Iterator[tuple[str, Tensor]]:
    """`interpolate`, one (name, tensor) at a time: no third model is held. At an end point, its own tensors."""
    if start.keys() != end.keys():
        odd = sorted(start.keys() ^ end.keys())
        raise ValueError(f"interpolate: {odd[0]!r} is in one of the two models only; interpolate equal architectures.")
    for name in start:
        if start[name].shape != end[name].shape:
            shapes = f"{tuple(start[name].shape)} and {tuple(end[name].shape)}"
            raise ValueError(f"interpolate: {name!r} has shapes {shapes}; interpolate equal architectures.")
    if alpha in (0, 1):
        yield from (end if alpha else start).items()
    else:
        yield from ((name, _between(start[name], end[name], alpha)) for name in start)


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    if start.is_floating_point():
        return torch.lerp(start, end.to(start), alpha)
    return start.clone() if torch.equal(start, end) else torch.lerp(start.float(), end.float(), alpha)
