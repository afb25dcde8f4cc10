"""How far a teacher is from its student while both move, on fixed images.

The gap is KL(teacher || student) / KL(theta_0 || student) over in-batch matching distributions: the distance
that the teacher still pulls over, as a share of the way that the student has come from the pretrained weights
theta_0. A teacher that never moves has gap 1, a teacher that is the student has 0.

Each distribution is a row of softmax(s U V^T), from image to text and from text to image, each model with its
own logit scale; every number is a mean over rows and both directions. KL is exact: differences of
log-softmax in float64, no epsilon. (The statistic that TRACER's code logs has one, and counts images alone.)
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ...datasets.loaders import Batch, length
from ..base import Settings
from ..distillation import Embeddings, Pairs, SigmoidEmbeddings

if TYPE_CHECKING:
    from ...datasets.card import EvalData

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Parts of a run after which the gap is measured."""
PROBE_IMAGES = 256
"""Images that it is measured on, at most."""
ROUNDING = 1e-9
"""Nats below which a divergence is that of rounded weights and features; those of the reference are above 0.1."""


def measured_steps(total_steps: int) -> dict[int, float]:
    """Steps done at which to measure, ceil(T f), with their fraction f; of equal steps the largest f.

    Example: 6 steps: {2: 0.25, 3: 0.5, 5: 0.75, 6: 1.0}; one step: {1: 1.0}.
    """
    return {math.ceil(total_steps * fraction): fraction for fraction in FRACTIONS}


def matching(embeddings: Pairs) -> Tensor:
    """Log-probabilities of the in-batch matching distributions, out of which a bias drops.

    Args:
        embeddings: of B pairs.

    Returns:
        (2, B, B) float64; [0]: rows are images over texts, [1]: rows are texts over images.
    """
    image, text, scale = (tensor.double() for tensor in embeddings[:3])
    logits = scale * image @ text.T
    return torch.stack([log_softmax(logits, dim=1), log_softmax(logits.T, dim=1)])


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row in nats, from log-probabilities.

    Args:
        p, q: (..., B) log-probabilities.

    Returns:
        (...) >= 0; what rounding leaves below 0 is 0.
    """
    return (p.exp() * (p - q)).sum(dim=-1).clamp_min(0)


def entropy(p: Tensor) -> Tensor:
    """Entropy of each row in nats, from (..., B) log-probabilities; log B where uniform."""
    return -(p.exp() * p).sum(dim=-1)


def compare(student: Sequence[Pairs], teacher: Sequence[Pairs], start: Sequence[Pairs]) -> Tensor:
    """The six measured numbers, means over all rows of all batches and both directions.

    Args:
        student, teacher, start: embeddings of the same batches.

    Returns:
        (6,) float64 in the order of `NAMES`.
    """
    sums, rows = torch.zeros(len(NAMES), dtype=torch.float64), 0
    for ours, theirs, first in zip(student, teacher, start, strict=True):
        s, t, zero = matching(ours), matching(theirs), matching(first)
        columns = [
            divergence(t, s),
            divergence(zero, s),
            entropy(t),
            entropy(s),
            t.amax(dim=-1).exp(),
            s.amax(dim=-1).exp(),
        ]
        sums = sums.to(s.device) + torch.stack(columns).sum(dim=(1, 2))
        rows += columns[0].numel()
    return sums / rows


NAMES = (
    "kl_teacher_student",
    "kl_start_student",
    "teacher_entropy",
    "student_entropy",
    "teacher_confidence",
    "student_confidence",
)
"""Of `compare`: nats, nats, nats, nats, mean largest probability (twice)."""


class Dynamics:
    """Measures teacher and student at a few steps of a run, always on the same captioned images.

    The first min(256, n) images of `probe`, in its order and in batches of the run's size; the caption of
    image i is template i % P of its class. Models are in eval mode and float32 whatever the run's precision.
    Nothing of the run is touched: neither random state, nor modes, nor statistics, nor gradients.

    Args:
        probe: fixed images with labels; ID validation.
        caption_tokens: (C, P, L) token ids.
        student: at the pretrained weights theta_0, whose embeddings are kept.
        settings: batch size and number of steps.
        views: pictures of a sample in the method's batches; here all are the same one.
        cut: whether captions are cut after their end, as in the batches.
    """

    def __init__(
        self,
        probe: "EvalData",
        caption_tokens: Tensor,
        student: nn.Module,
        settings: Settings,
        views: int = 1,
        cut: bool = True,
    ):
        device = next(student.parameters()).device
        self.steps = measured_steps(settings.total_steps)
        with _undisturbed(student):
            found = list(probe_batches(probe, caption_tokens, settings.batch_size, cut))
        found = [replace(batch, other_views=(batch.images,) * (views - 1)) for batch in found]
        self.batches = [batch.to(device) for batch in found]
        self.start = self._embed(student)

    def measure(self, step: int, student: nn.Module, teacher: nn.Module) -> dict[str, float | None] | None:
        """The row of a step, or None where there is nothing to measure.

        Args:
            step: updates done. student, teacher: models that give `Embeddings` for a batch.

        Returns:
            step, fraction, the values of `NAMES`, and gap = kl_teacher_student / kl_start_student. The gap is
            None up to a kl_start_student of ROUNDING: of a student that has not moved there is no share to state. None
            instead of the row for other steps, and for models that do not give `Embeddings`.
        """
        if step not in self.steps or not self.start:
            return None
        values = compare(self._embed(student), self._embed(teacher), self.start).tolist()
        named = dict(zip(NAMES, values, strict=True))
        way = named["kl_start_student"]
        gap = named["kl_teacher_student"] / way if way > ROUNDING else None
        return {"step": step, "fraction": self.steps[step], **named, "gap": gap}

    def _embed(self, model: nn.Module) -> list[Pairs]:
        """Embeddings of every batch; none if the model gives something else."""
        embeddings: list[Pairs] = []
        with _undisturbed(model):
            for batch in self.batches:
                outputs = model(batch)
                if not isinstance(outputs, (Embeddings, SigmoidEmbeddings)):
                    return []
                embeddings.append(type(outputs)(*(tensor.clone() for tensor in outputs)))  # never an alias
        return embeddings


def probe_batches(probe: "EvalData", caption_tokens: Tensor, batch_size: int, cut: bool = True) -> Iterator[Batch]:
    """Batches of the first images of `probe` with their captions; a last batch of one image is left out."""
    count, prompts = min(PROBE_IMAGES, len(probe)), caption_tokens.shape[1]
    for first in range(0, count, batch_size):
        last = min(first + batch_size, count)
        if last - first < 2:
            return
        indices = torch.arange(first, last)
        labels = torch.as_tensor(probe.labels[first:last]).long()
        tokens = caption_tokens[labels, indices % prompts]
        yield Batch(
            probe.images(first, last), labels, tokens[:, : length(tokens, cut)], indices, torch.zeros_like(indices)
        )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; random state and the modes of all submodules are put back."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
