"""Losses of the student alone: contrastive loss, and penalties on weights. Pure functions that return
scalars."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid

SameClass = Literal["negative", "positive", "ignored", "odds"]


def info_nce(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    *,
    label_smoothing: float = 0.0,
    labels: Tensor | None = None,
    same_class: SameClass = "negative",
    odds_floor: float = 0.0,
) -> Tensor:
    """Symmetric image-text cross-entropy over a batch of matched pairs.

    Row i of both inputs describes one example; every other row is a negative, same class or not.

    Args:
        image: (B, D) image embeddings, unit L2 norm.
        text: (B, D) text embeddings, unit L2 norm.
        logit_scale: () multiplier on cosine similarity, after exp, > 0; 100 in released CLIP weights.
        label_smoothing: share of the target spread evenly over the batch, in [0, 1].
        labels: (B,) classes; needed unless `same_class` is "negative".
        same_class: what another pair of the same class is. "negative": the loss of FLYP and TRACER.
            "positive": it shares the target evenly. "ignored": it leaves the denominator. "odds": it is a
            target of its own, and what counts is the mean of -log(p / (1 - p)) over all targets of a row. The
            last three are options of the released code that no published number uses.
        odds_floor: added to p and to 1 - p; 0 in FLYP's code, 1e-8 in TRACER's, where a target costs between
            -18.42 and 18.42 nats.

    Returns:
        () mean loss in nats per pair, mean of both directions; log(B) when all similarities are equal ("odds":
        log(B - 1), and below 0 where a target has most of the mass).

    Raises:
        ValueError: if the shapes differ, B < 2, labels are missing, or `same_class` is unknown.

    Source: Radford et al. 2021, arXiv:2103.00020, Figure 3; FLYP, arXiv:2212.00638;
    locuslab/FLYP:clip/loss.py.
    """
    if image.shape != text.shape or image.ndim != 2 or len(image) < 2:
        raise ValueError(
            f"info_nce: image and text must be (B, D) with B >= 2, got {tuple(image.shape)} and {tuple(text.shape)}."
        )
    if same_class not in get_args(SameClass):
        known = ", ".join(map(repr, get_args(SameClass)))
        raise ValueError(f"info_nce: same_class must be one of {known}, got {same_class!r}.")
    logits = logit_scale * image @ text.T  # (B, B), rows: images
    if same_class == "negative":
        targets = torch.arange(len(logits), device=logits.device)
        return (
            cross_entropy(logits, targets, label_smoothing=label_smoothing)
            + cross_entropy(logits.T, targets, label_smoothing=label_smoothing)
        ) / 2
    if labels is None:
        raise ValueError(f"info_nce: same_class={same_class!r} needs labels; pass the (B,) class indices.")
    same = labels[:, None] == labels[None, :]
    if same_class == "positive":
        targets = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
        return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2
    if same_class == "odds":
        return (_odds(logits, same, odds_floor) + _odds(logits.T, same, odds_floor)) / 2
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(others, -torch.inf)
    log_p, log_q = log_softmax(logits, dim=1), log_softmax(logits, dim=0)
    return -(log_p.diagonal().mean() + log_q.diagonal().mean()) / 2


def sigmoid_contrastive(image: Tensor, text: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float) -> Tensor:
    """Sigmoid loss of a batch of matched pairs: each of the B x B pairs is a question of its own, does it match or not.

    Args:
        image: (B, D) image embeddings, unit L2 norm.
        text: (B, D) text embeddings, unit L2 norm.
        logit_scale: () multiplier on cosine similarity, after exp, > 0.
        logit_bias: () added to every logit; about -10 at the start of SigLIP's training, where most pairs do not match.

    Returns:
        () sum over all pairs divided by B, in nats per image; B log 2 when all logits are 0.

    Raises:
        ValueError: if the shapes differ or B < 2.

    Source: Zhai et al. 2023, arXiv:2303.15343, Algorithm 1; open_clip's SigLipLoss.
    """
    if image.shape != text.shape or image.ndim != 2 or len(image) < 2:
        shapes = f"{tuple(image.shape)} and {tuple(text.shape)}"
        raise ValueError(f"sigmoid_contrastive: image and text must be (B, D) with B >= 2, got {shapes}.")
    logits = logit_scale * image @ text.T + logit_bias  # (B, B), rows: images
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -logsigmoid(signs * logits).sum() / len(logits)


def _odds(logits: Tensor, same: Tensor, floor: float) -> Tensor:
    """() mean over rows, then over the row's targets `same`, of -log((p + floor) / (1 - p + floor)).

    log(1 - p) has no digits left where p is nearly 1, which only a row's largest entry can be: there the others
    are summed without it.
    """
    log_p = log_softmax(logits, dim=1)
    top = log_p.argmax(dim=1, keepdim=True)
    is_top = torch.zeros_like(same).scatter_(1, top, True)
    rest = torch.logsumexp(log_p.masked_fill(is_top, -torch.inf), dim=1, keepdim=True)
    others = torch.where(is_top, rest, torch.log1p(-log_p.masked_fill(is_top, -torch.inf).exp()))
    if floor:
        log_p, others = (torch.logaddexp(x, torch.full_like(x, math.log(floor))) for x in (log_p, others))
    log_odds = log_p - others
    return -(log_odds * same).sum(dim=1).div(same.sum(dim=1)).mean()


def cross_frobenius(
    image_projection: Tensor, text_projection: Tensor, form: Literal["norm", "half_squared"] = "norm"
) -> Tensor:
    """Size of the product of both last projections.

    Args:
        image_projection: (image width, D) weights of the image tower's last layer.
        text_projection: (text width, D) weights of the text tower's last layer.
        form: "norm": ||W_v W_t^T||_F, as CaRot's and TRACER's code have it (coefficient 0.05).
            "half_squared": ||W_v W_t^T||_F^2 / 2, as TRACER's appendix C.1 prints it; it grows with the
            square of the weights, so the same coefficient means something else.

    Returns:
        () scalar >= 0.

    Raises:
        ValueError: if the form is unknown.

    Source: HesamAsad/TRACER:src/models/tracer_loss.py; arXiv:2605.29380, appendix C.1.
    """
    if form not in ("norm", "half_squared"):
        raise ValueError(f"cross_frobenius: form must be 'norm' or 'half_squared', got {form!r}.")
    norm = torch.linalg.matrix_norm(image_projection @ text_projection.T)
    return norm if form == "norm" else norm.square() / 2


def orthogonality(projection: Tensor) -> Tensor:
    """||W^T W - I||_F, not squared: how far the columns of W are from orthonormal.

    Args:
        projection: (width, D). For CaRot's ViT term, the image projection. The released ResNet code takes
            the wide side, i.e. `orthogonality(projection.T)`, which cannot fall below sqrt(width - D).

    Returns:
        () scalar >= 0; 3 sqrt(D) for W = 2 I.

    Source: MLAI-Yonsei/CaRot:src/models/carot_loss.py.
    """
    gram = projection.T @ projection
    return torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device))


def l2_to_start(parameters: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor:
    """Half the squared distance of parameters to where they started: 1/2 sum_p ||theta_p - theta_0,p||^2.

    Args:
        parameters: the current tensors. start: constants of the same shapes, in the same order.

    Returns:
        () scalar >= 0; its gradient is theta - theta_0 (the convention lambda/2 of arXiv:2605.29380,
        Theorem 3.2; papers that write lambda ||.||^2 mean twice this).
    """
    distances = torch._foreach_norm(torch._foreach_sub(list(parameters), list(start)))
    return torch.stack(distances).square().sum() / 2
