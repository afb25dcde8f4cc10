"""Terms that hold a student near a teacher, as pure functions of both models' embeddings of one batch.

Every embedding has unit length and shape (B, D). The teacher's are constants: no gradient runs into them.
u, v are the student's image and text embeddings, s its logit scale; u', v', s' the teacher's. Equations are
those of TRACER, arXiv:2605.29380; "the code" is HesamAsad/TRACER:src/models/clip_knowledge_distillation.py.
Each model keeps its own logit scale, as in the code; the paper writes one temperature for both.

Of a backbone with a sigmoid loss (`SigmoidEmbeddings`), terms that compare distributions (CRD, CrossKD, CaRot's soft
targets) stay softmax distributions over the batch with each model's own scale: a bias that all pairs share drops out of
them. ICL, whose targets are the pairs themselves, is the sigmoid loss with the student's scale and bias, so that it
still equals the contrastive loss where teacher and student agree. FD reads neither.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from .objectives import info_nce, sigmoid_contrastive


class Embeddings(NamedTuple):
    """What a dual encoder makes of a batch of pairs."""

    image: Tensor
    """(B, D), unit L2 norm."""
    text: Tensor
    """(B, D), unit L2 norm."""
    logit_scale: Tensor
    """() multiplier on cosine similarity, after exp."""


class SigmoidEmbeddings(NamedTuple):
    """The same of a backbone that was pretrained with a sigmoid for each pair."""

    image: Tensor
    """(B, D), unit L2 norm."""
    text: Tensor
    """(B, D), unit L2 norm."""
    logit_scale: Tensor
    """() multiplier on cosine similarity, after exp."""
    logit_bias: Tensor
    """() added to every logit."""


Pairs = Embeddings | SigmoidEmbeddings


def contrastive(pairs: Pairs) -> Tensor:
    """() the loss that the backbone was pretrained with: `info_nce`, or `sigmoid_contrastive` where it has a bias."""
    return sigmoid_contrastive(*pairs) if isinstance(pairs, SigmoidEmbeddings) else info_nce(*pairs)


def feature_distillation(student: Pairs, teacher: Pairs, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """Squared distance between student's and teacher's embeddings, both modalities added (FD, Eq. 20).

    Args:
        student: its unit-length embeddings of a batch.
        teacher: those of the same batch.
        reduction: over the D dimensions; the batch is always averaged. "sum" is Eq. 20, per sample. "mean"
            is the code: D times smaller, which its weight of 2000 makes up for (2000 x mean over 512
            dimensions = 3.906 x sum).

    Returns:
        () scalar; 8 when the student is minus the teacher (reduction "sum").

    Raises:
        ValueError: if the shapes differ, or the reduction is unknown.
    """
    _check(student, teacher)
    if reduction not in ("sum", "mean"):
        raise ValueError(f"feature_distillation: reduction must be 'sum' or 'mean', got {reduction!r}.")
    image, text = teacher.image.detach(), teacher.text.detach()
    distance = (student.image - image).square().sum(dim=1) + (student.text - text).square().sum(dim=1)
    return distance.mean() / (student.image.shape[1] if reduction == "mean" else 1)


def contrastive_relational_distillation(student: Pairs, teacher: Pairs, *, half: bool = False) -> Tensor:
    """KL from the teacher's in-batch matching distributions to the student's (CRD, Eq. 23).

    Mean over rows of KL(softmax(s' U' V'^T) || softmax(s U V^T)), plus the same from text to image.

    Args:
        student: its unit-length embeddings of a batch.
        teacher: those of the same batch.
        half: the code averages the two directions; Eq. 23 adds them (default).

    Returns:
        () nats; 0 when both matching distributions agree.

    Raises:
        ValueError: if the batches differ in size; the widths D may.
    """
    _check(student, teacher, widths=False)
    ours, theirs = _logits(student), _logits(teacher).detach()
    total = kl_of_logits(theirs, ours) + kl_of_logits(theirs.T, ours.T)
    return total / 2 if half else total


def interactive_contrastive(student: Pairs, teacher: Pairs) -> Tensor:
    """InfoNCE of each student modality against the teacher's other modality (ICL, Eq. 24).

    Mean of CE(s U V'^T, diagonal) and CE(s V U'^T, diagonal), student's scale; equal to InfoNCE when
    teacher = student. With a bias, the mean of the sigmoid losses of both, equal to the sigmoid loss then.

    Returns:
        () nats, mean over the batch and over both directions.

    Raises:
        ValueError: if the shapes differ.
    """
    _check(student, teacher)
    if isinstance(student, SigmoidEmbeddings):
        scale, bias = student.logit_scale, student.logit_bias
        with_texts = sigmoid_contrastive(student.image, teacher.text.detach(), scale, bias)
        return (with_texts + sigmoid_contrastive(student.text, teacher.image.detach(), scale, bias)) / 2
    image, text = _cross_logits(student, teacher)
    targets = torch.arange(len(image), device=image.device)
    return (cross_entropy(image, targets) + cross_entropy(text, targets)) / 2


def cross_knowledge_distillation(student: Pairs, teacher: Pairs) -> Tensor:
    """KL from the teacher's matching distributions to the student-against-teacher ones (CrossKD, Eq. 27).

    Mean over rows and over both directions of KL(softmax(s' u'_i V'^T) || softmax(s u_i V'^T)) and its
    mirror image, student's scale in the second distribution.

    Returns:
        () nats; 0 when the teacher equals the student.

    Raises:
        ValueError: if the shapes differ.
    """
    _check(student, teacher)
    image, text = _cross_logits(student, teacher)
    theirs = _logits(teacher).detach()
    return (kl_of_logits(theirs, image) + kl_of_logits(theirs.T, text)) / 2


def soft_cross_entropy(student: Pairs, teacher: Pairs) -> Tensor:
    """Cross-entropy with the teacher's in-batch matching distributions as targets: CaRot's self-distillation.

    Mean over rows; image to text **plus** text to image, no 1/2. Equals the KL of Eq. 23 plus the teacher's
    entropies, so its gradient is that of `contrastive_relational_distillation`.

    Returns:
        () nats; the sum of the teacher's two mean row entropies when the teacher equals the student.

    Raises:
        ValueError: if the batches differ in size; the widths D may.

    Source: MLAI-Yonsei/CaRot:src/models/carot_loss.py; CaRot, NeurIPS 2024.
    """
    _check(student, teacher, widths=False)
    ours, theirs = _logits(student), _logits(teacher).detach()
    return cross_entropy(ours, theirs.softmax(dim=1)) + cross_entropy(ours.T, theirs.T.softmax(dim=1))


def _check(student: Pairs, teacher: Pairs, widths: bool = True) -> None:
    """ValueError where a teacher of one pair, say, would be spread over the batch in silence."""
    shapes = [tuple(tensor.shape[: 1 + widths]) for model in (student, teacher) for tensor in model[:2]]
    if len(set(shapes)) > 1:
        raise ValueError(f"distillation: student and teacher must embed one batch in equal shapes, got {shapes}.")


def _logits(embeddings: Pairs) -> Tensor:
    return embeddings.logit_scale * embeddings.image @ embeddings.text.T  # (B, B), rows: images


def _cross_logits(student: Pairs, teacher: Pairs) -> tuple[Tensor, Tensor]:
    """Student images against teacher texts, and student texts against teacher images; both (B, B), rows:
    student."""
    scale = student.logit_scale
    return scale * student.image @ teacher.text.detach().T, scale * student.text @ teacher.image.detach().T


def kl_of_logits(targets: Tensor, logits: Tensor) -> Tensor:
    """Mean over rows of KL(softmax(targets) || softmax(logits)), in nats."""
    return kl_div(log_softmax(logits, dim=1), log_softmax(targets, dim=1), reduction="batchmean", log_target=True)
