"""The zero-shot head: class embeddings from prompts (spec.md 0.2; mlfoundations/wise-ft:src/models/zeroshot.py)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .encoder import DualEncoder


def average_prompts(embeddings: Tensor, logit_scale: Tensor) -> Tensor:
    """(C, D) head of (C, P, D) prompt embeddings: normalise each, average over P, normalise, multiply by the scale."""
    return normalize(normalize(embeddings, dim=-1).mean(dim=1), dim=-1) * logit_scale


@torch.no_grad()
def build_head(
    encoder: DualEncoder, class_names: Sequence[str], prompts: Sequence[str], batch_size: int = 1024
) -> Tensor:
    """(C, D) weights of a linear layer on unit image features; logit_scale is multiplied in, so there is no bias.

    Runs the encoder's current text tower in eval mode, many prompts at a time.

    Args:
        encoder: whose text tower and logit_scale are used.
        class_names: C names.
        prompts: P templates, each with one "{}".
        batch_size: prompts a forward pass; changes nothing but speed.
    """
    tokens = encoder.tokenize([prompt.format(name) for name in class_names for prompt in prompts])
    tokens = tokens.to(encoder.clip.logit_scale.device)
    training = encoder.training
    encoder.eval()
    features = torch.cat([encoder.text_features(part).float() for part in tokens.split(batch_size)])
    encoder.train(training)
    return average_prompts(features.view(len(class_names), len(prompts), -1), encoder.logit_scale.float())
